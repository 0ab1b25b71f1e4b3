"""Our Pipecat service and a server that goes: ``python drive_pipecat_lost.py HOST:PORT FILE``.

Between them is a relay that is cut. First for longer than the session is dialled again: the next
session hears on. Then for good: the pipeline is cancelled in mid-stream. Prints one JSON line.
"""

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    STTUpdateSettingsFrame,
    TextFrame,
    TranscriptionFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.settings import STTSettings

from clients.plugins import pipecat as plugin
from tests.clients.drivers.relay import Relay

RATE = 16_000


class Watched(plugin.RivuletSTTService):
    """Says whether it has a session."""

    def __init__(self, url: str) -> None:
        self.is_there, self.is_gone = asyncio.Event(), asyncio.Event()
        super().__init__(url)

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "_connection":
            now, no = (
                (self.is_gone, self.is_there) if value is None else (self.is_there, self.is_gone)
            )
            now.set()
            no.clear()


class Ear(FrameProcessor):
    """Keeps what comes out of the service."""

    def __init__(self) -> None:
        super().__init__()
        self.texts, self.heard, self.passed = list[str](), asyncio.Event(), asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            self.texts.append(frame.text)
            self.heard.set()
        elif isinstance(frame, TextFrame):
            self.passed.set()
        await self.push_frame(frame, direction)


async def main(host: str, path: str) -> None:
    plugin.COME_BACK_S, plugin.AGAIN_S = 0.1, 0.1
    data, relay, ear = Path(path).read_bytes(), Relay(host), Ear()
    await relay.open()
    service = Watched(f"ws://127.0.0.1:{relay.port}/v1/stream")
    task = PipelineTask(Pipeline([service, ear]), params=PipelineParams(audio_in_sample_rate=RATE))

    async def speak() -> None:
        for at in range(0, len(data), 3_200):
            await task.queue_frame(InputAudioRawFrame(data[at : at + 3_200], RATE, 1))

    async def drive() -> bool:
        await asyncio.wait_for(service.is_there.wait(), 30)
        await task.queue_frame(STTUpdateSettingsFrame(delta=STTSettings(language="en")))
        await speak()
        await asyncio.wait_for(ear.heard.wait(), 30)
        relay.cut()
        await asyncio.wait_for(service.is_gone.wait(), 30)
        await relay.open()
        await asyncio.wait_for(service.is_there.wait(), 30)
        ear.heard.clear()
        await speak()
        await asyncio.wait_for(ear.heard.wait(), 30)
        relay.cut()
        await asyncio.wait_for(service.is_gone.wait(), 30)
        plugin.COME_BACK_S = 600.0
        await relay.open()
        await asyncio.wait_for(service.is_there.wait(), 30)
        relay.cut()
        await speak()
        await task.queue_frame(TextFrame("others go on"))
        await asyncio.wait_for(ear.passed.wait(), 30)
        await task.cancel()
        return True

    async with asyncio.timeout(100):
        _, is_passed = await asyncio.gather(PipelineRunner(handle_sigint=False).run(task), drive())
    language = service._wish["language"]
    print(json.dumps({"texts": ear.texts, "passed": is_passed, "language": language}))


asyncio.run(main(*sys.argv[1:]))
