"""deepgram-sdk: ``python drive_deepgram.py MODE HOST FILE RATE`` prints one JSON line.

Runs in an environment of its own: nothing of ours can be imported here.
"""

import asyncio
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deepgram import AsyncDeepgramClient
from deepgram.core.events import EventType
from deepgram.environment import DeepgramClientEnvironment
from deepgram.listen.v1.types import ListenV1CloseStream, ListenV1Finalize
from deepgram.listen.v2.types import ListenV2CloseStream

PACKET_BYTES = 3_200


def client(host: str) -> AsyncDeepgramClient:
    http, ws = f"http://{host}", f"ws://{host}"
    where = DeepgramClientEnvironment(base=http, production=ws, agent=ws, agent_rest=http)
    return AsyncDeepgramClient(api_key="key", environment=where)


class Heard:
    """Messages of one stream."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.errors: list[str] = []
        self.finalized = asyncio.Event()

    def listen(self, socket: Any) -> asyncio.Task[None]:
        socket.on(EventType.MESSAGE, self._take)
        socket.on(EventType.ERROR, lambda error: self.errors.append(repr(error)))
        return asyncio.create_task(socket.start_listening())

    def _take(self, message: Any) -> None:
        self.messages.append(message)
        if getattr(message, "from_finalize", False):
            self.finalized.set()


async def send(socket: Any, data: bytes) -> None:
    for begin in range(0, len(data), PACKET_BYTES):
        await socket.send_media(data[begin : begin + PACKET_BYTES])


async def v1(host: str, data: bytes, rate: str, *, finalize: bool) -> tuple[str, Heard]:
    heard = Heard()
    options = {"encoding": "linear16", "sample_rate": rate, "interim_results": "true"}
    async with client(host).listen.v1.connect(
        model="nova-3", vad_events="true", utterance_end_ms="1000", **options
    ) as socket:
        listening = heard.listen(socket)
        await send(socket, data)
        if finalize:  # the last words must come without closing
            await socket.send_finalize(ListenV1Finalize(type="Finalize"))
            await asyncio.wait_for(heard.finalized.wait(), 60)
        await socket.send_close_stream(ListenV1CloseStream(type="CloseStream"))
        await listening
    finals = [m for m in heard.messages if m.type == "Results" and m.is_final]
    assert heard.messages[-1].type == "Metadata"
    return " ".join(m.channel.alternatives[0].transcript for m in finals), heard


async def v2(host: str, data: bytes, rate: str) -> tuple[str, Heard]:
    heard = Heard()
    async with client(host).listen.v2.connect(
        model="flux-general-en", encoding="linear16", sample_rate=rate, eager_eot_threshold="0.5"
    ) as socket:
        listening = heard.listen(socket)
        await send(socket, data)
        await socket.send_close_stream(ListenV2CloseStream(type="CloseStream"))
        await listening
    assert [m.sequence_id for m in heard.messages] == list(range(len(heard.messages)))
    ends = [m for m in heard.messages if getattr(m, "event", "") == "EndOfTurn"]
    return " ".join(m.transcript for m in ends), heard


async def file(host: str, data: bytes) -> tuple[str, Heard]:
    heard = Heard()
    answer = await client(host).listen.v1.media.transcribe_file(
        request=data, model="nova-3", utterances=True
    )
    heard.messages.append(answer)
    return answer.results.channels[0].alternatives[0].transcript, heard


async def main(mode: str, host: str, path: str, rate: str) -> None:
    data = Path(path).read_bytes()
    match mode:
        case "v2":
            text, heard = await v2(host, data, rate)
        case "file":
            text, heard = await file(host, data)
        case _:
            text, heard = await v1(host, data, rate, finalize=mode == "finalize")
    assert not heard.errors, heard.errors
    about = {"text": text, "messages": len(heard.messages)}
    print(json.dumps(about | {"client": f"deepgram-sdk {version('deepgram-sdk')}"}))


asyncio.run(main(*sys.argv[1:]))
