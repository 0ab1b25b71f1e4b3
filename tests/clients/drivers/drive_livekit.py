"""LiveKit agents' plugins: ``python drive_livekit.py MODE HOST FILE RATE`` prints one JSON line."""

import asyncio
import json
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from livekit import rtc
from livekit.agents import stt
from livekit.agents.utils import http_context
from livekit.plugins import deepgram, openai

from clients.plugins.livekit import RivuletStream, RivuletSTT

FRAME_S = 0.05
SILENCE_S = 3.0
LAST_WAIT_S = 8.0
"""No message says that nothing more will come."""


def plugin(mode: str, host: str) -> stt.STT:
    match mode:
        case "deepgram":
            return deepgram.STT(base_url=f"ws://{host}/v1/listen", api_key="key", model="nova-3")
        case "flux":
            return deepgram.STTv2(base_url=f"ws://{host}/v2/listen", api_key="key")
        case "rivulet":
            return RivuletSTT(f"ws://{host}/v1/stream", latency="balanced", eager_ms=200)
        case _:
            return openai.STT(
                base_url=f"http://{host}/v1", api_key="key", use_realtime=True, model="m"
            )


async def feed(stream: stt.SpeechStream, data: bytes, rate: int) -> None:
    """Push the recording, then silence, at the pace of speech: turns must end by themselves."""
    size = round(rate * FRAME_S) * 2
    data += bytes(round(rate * SILENCE_S) * 2)
    for begin in range(0, len(data) // size * size, size):
        frame = rtc.AudioFrame(data[begin : begin + size], rate, 1, size // 2)
        stream.push_frame(frame)
        await asyncio.sleep(FRAME_S)
    if isinstance(stream, RivuletStream):
        stream.end_input()


async def main(mode: str, host: str, path: str, rate: str) -> None:
    data = Path(path).read_bytes()
    async with http_context.open():
        stream = plugin(mode, host).stream()
        feeding = asyncio.create_task(feed(stream, data, int(rate)))
        texts, events = list[str](), 0
        try:
            while True:
                wait_s = LAST_WAIT_S if feeding.done() else 60
                event = await asyncio.wait_for(anext(stream), wait_s)
                events += 1
                if event.type is stt.SpeechEventType.FINAL_TRANSCRIPT:
                    texts.append(event.alternatives[0].text)
        except (TimeoutError, StopAsyncIteration):
            pass
        await stream.aclose()
    client = f"livekit-agents {version('livekit-agents')}"
    print(json.dumps({"text": " ".join(texts), "messages": events, "client": client}))


asyncio.run(main(*sys.argv[1:]))
