"""Our LiveKit plugin, event by event: ``python drive_livekit_plugin.py URL FILE`` (16 kHz PCM).

The recording is said, nothing is sent for a while (the session pauses), it is said again; then it
is recognised as a whole, and a server that is not there is tried. Prints one JSON line.
"""

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from livekit import rtc
from livekit.agents import APIConnectionError, APIConnectOptions

from clients.plugins import livekit as plugin

RATE = 16_000
SIZE = RATE // 10 * 2
NO_RETRY = APIConnectOptions(max_retry=0, timeout=5)


async def main(url: str, path: str) -> None:
    plugin.QUIET_S = 0.2
    data = Path(path).read_bytes()
    frames = [
        rtc.AudioFrame(data[at : at + SIZE], RATE, 1, SIZE // 2)
        for at in range(0, len(data) - SIZE + 1, SIZE)
    ]
    service = plugin.RivuletSTT(url, eager_ms=160, silence_ms=400)
    events = []

    async def feed(stream: plugin.RivuletStream) -> None:
        for time in (1, 2):
            for frame in frames:
                stream.push_frame(frame)
            await asyncio.sleep(1.0 * (time == 1))
        stream.end_input()

    async with service.stream() as stream:
        feeding = asyncio.create_task(feed(stream))
        async for event in stream:
            said = event.alternatives[0].text if event.alternatives else ""
            events.append((event.type.value, said))
        await feeding
    whole = await service.recognize(frames)
    nowhere = plugin.RivuletSTT("ws://127.0.0.1:9/v1/stream")
    try:
        await nowhere.recognize(frames, conn_options=NO_RETRY)
        failure = ""
    except APIConnectionError as error:
        failure = type(error).__name__
    print(json.dumps({"events": events, "whole": whole.alternatives[0].text, "failure": failure}))


asyncio.run(main(*sys.argv[1:]))
