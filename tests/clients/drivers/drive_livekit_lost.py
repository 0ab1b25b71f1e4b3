"""Our LiveKit plugin and a session that is lost: ``python drive_livekit_lost.py HOST:PORT FILE``.

Between them is a relay that is cut in mid-speech, for longer than the session is dialled again: the
next session hears on. While that runs the silence behind a turn is shortened. Prints one JSON line.
"""

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from livekit import rtc
from livekit.agents import stt

from clients.plugins import livekit as plugin
from tests.clients.drivers.relay import Relay

RATE = 16_000
SIZE = RATE // 10 * 2


async def main(host: str, path: str) -> None:
    plugin.COME_BACK_S = 0.1
    data, relay = Path(path).read_bytes(), Relay(host)
    await relay.open()
    service = plugin.RivuletSTT(f"ws://127.0.0.1:{relay.port}/v1/stream", silence_ms=5_000)
    events = []

    async with asyncio.timeout(60), service.stream() as stream:

        def say(audio: bytes) -> None:
            for at in range(0, len(audio) - SIZE + 1, SIZE):
                stream.push_frame(rtc.AudioFrame(audio[at : at + SIZE], RATE, 1, SIZE // 2))

        async def hear(kind: stt.SpeechEventType) -> None:
            async for event in stream:
                events.append(event.type.value)
                if event.type is kind:
                    return

        say(data)
        await hear(stt.SpeechEventType.INTERIM_TRANSCRIPT)
        relay.cut()
        await hear(stt.SpeechEventType.END_OF_SPEECH)
        await relay.open()
        say(data)
        await hear(stt.SpeechEventType.INTERIM_TRANSCRIPT)
        service.update_options(silence_ms=300)
        say(bytes(2 * RATE))
        await hear(stt.SpeechEventType.END_OF_SPEECH)
    print(json.dumps(events))


asyncio.run(main(*sys.argv[1:]))
