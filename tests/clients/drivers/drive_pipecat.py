"""Our Pipecat service in a Pipecat pipeline: ``python drive_pipecat.py MODE HOST FILE RATE``.

Modes: ``rivulet`` ends the pipeline after the audio; ``finalize`` sends what a voice detector says
and waits for the transcript that is marked as finalized.
"""

import asyncio
import json
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from clients.plugins.pipecat import RivuletSTTService

PACKET_S = 0.02


class Ear(FrameProcessor):
    """Keeps what comes out of the service."""

    def __init__(self) -> None:
        super().__init__()
        self.texts, self.interim = list[str](), 0
        self.finalized = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            self.texts.append(frame.text)
            if frame.finalized:
                self.finalized.set()
        elif isinstance(frame, InterimTranscriptionFrame):
            self.interim += 1
        await self.push_frame(frame, direction)


async def speak(task: PipelineTask, data: bytes, rate: int) -> None:
    size = round(rate * PACKET_S) * 2
    for begin in range(0, len(data), size):
        await task.queue_frame(InputAudioRawFrame(data[begin : begin + size], rate, 1))
        await asyncio.sleep(PACKET_S)


async def main(mode: str, host: str, path: str, rate: str) -> None:
    data, turns = Path(path).read_bytes(), list[str]()
    service, ear = RivuletSTTService(f"ws://{host}/v1/stream", latency="balanced"), Ear()

    @service.event_handler("on_turn")
    async def on_turn(_: RivuletSTTService, turn: object) -> None:
        turns.append(turn.event)

    params = PipelineParams(audio_in_sample_rate=int(rate))
    task = PipelineTask(Pipeline([service, ear]), params=params)

    async def drive() -> None:
        if mode == "finalize":
            await task.queue_frame(VADUserStartedSpeakingFrame())
        await speak(task, data, int(rate))
        if mode == "finalize":
            await task.queue_frame(VADUserStoppedSpeakingFrame(stop_secs=0.2))
            await asyncio.wait_for(ear.finalized.wait(), 30)
        await task.queue_frame(EndFrame())

    await asyncio.gather(PipelineRunner(handle_sigint=False).run(task), drive())
    assert turns[0] == "start", turns
    count = len(ear.texts) + ear.interim
    client = f"pipecat-ai {version('pipecat-ai')}, our plugin"
    print(json.dumps({"text": " ".join(ear.texts), "messages": count, "client": client}))


asyncio.run(main(*sys.argv[1:]))
