"""Telephony calls through a node with the embedded model: their words against the clean audio's.

Does: the same half a minute as an AudioSocket call, a Twilio-format call and an RTP call that loses
3 % of its packets, all at the pace of speech at once; then straight to the server.
Does not know: the report (tests.bench.edge). Peers are of our own, written from the protocols.
"""

import asyncio
import base64
import json
import random
import struct
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from websockets.asyncio.client import connect as open_socket

from asr.audio import decode
from asr.interface import Samples
from asr.scoring import score
from clients.connection import connect
from edge.adapters import twilio
from edge.listeners import FeedConfig, Listeners
from server.wire.messages import AudioFormat, Final
from tests.edge_rig import PACKET, RATE_HZ, Rig, mulaw, rig

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
LOSS = 0.03
URL, SECRET = "wss://edge.example/twilio", "not a secret"
PACKET_S = PACKET / RATE_HZ
END_S = 60.0


def call(seconds: float) -> tuple[bytes, str]:
    """So much of the samples as mu-law at 8 kHz, and what was said."""
    parts, texts, length = list[Samples](), list[str](), 0.0
    for line in (SAMPLES / "manifest.jsonl").read_text().splitlines():
        entry = json.loads(line)
        audio, rate = soundfile.read(SAMPLES / entry["audio_filepath"], dtype="float32")
        if rate != 2 * RATE_HZ or audio.ndim != 1 or length >= seconds:
            continue
        even = audio[: len(audio) // 2 * 2].reshape(-1, 2).mean(axis=1)
        parts += [even, np.zeros(RATE_HZ, np.float32)]
        texts.append(entry["text"])
        length += len(even) / RATE_HZ + 1
    heard = mulaw(np.concatenate(parts))
    return heard[: len(heard) // PACKET * PACKET], " ".join(texts)


async def telephony(seconds: float) -> dict[str, Any]:
    """Return transcripts and word error rates, against the clean call and against what was said."""
    audio, said = call(seconds)
    async with rig(has_model=True, slots=16) as r:
        clean = await _straight(r, audio)
        config = FeedConfig(
            audiosocket_port=0,
            web_port=0,
            rtp_port=0,
            twilio_url=URL,
            twilio_secret=SECRET,
            idle_s=2.0,
        )
        async with Listeners(config, r.node, respond=lambda _: None).listening() as ports:
            heard = {
                "audiosocket": _audiosocket(r, audio, ports.audiosocket or 0),
                "twilio": _twilio(r, audio, ports.web or 0),
                "rtp_loss_3": _rtp(r, audio, ports.rtp or 0),
            }
            texts = dict(zip(heard, await asyncio.gather(*heard.values()), strict=True))
    result: dict[str, Any] = {
        "engine": "embedded model",
        "seconds": round(len(audio) / RATE_HZ, 1),
        "clean": {"transcript": clean, "wer_said": _wer(said, clean)},
    }
    for name, text in texts.items():
        rates = {"wer_clean": _wer(clean, text), "wer_said": _wer(said, text)}
        result[name] = {"transcript": text, **rates}
    return result


def _wer(reference: str, heard: str) -> float:
    return round(score(reference, heard).wer, 4)


async def _straight(r: Rig, audio: bytes) -> str:
    """Say it to the server itself, as fast as it takes it."""
    form = AudioFormat(encoding="mulaw", rate=RATE_HZ)
    async with connect(r.server.addresses.websocket, audio=form, latency="low") as connection:
        sending = asyncio.create_task(_send(connection.send, connection.stop, audio))
        words = [message.text async for message in connection if isinstance(message, Final)]
        await sending
    return " ".join(filter(None, words))


async def _send(
    send: Callable[[bytes], Awaitable[None]], stop: Callable[[], Awaitable[None]], audio: bytes
) -> None:
    for at in range(0, len(audio), RATE_HZ):
        await send(audio[at : at + RATE_HZ])
    await stop()


async def _paced(audio: bytes) -> AsyncIterator[tuple[int, bytes]]:
    """Yield packets when they are due."""
    clock = asyncio.get_running_loop().time
    born = clock()
    for number in range(len(audio) // PACKET):
        await asyncio.sleep(max(0.0, born + (number + 1) * PACKET_S - clock()))
        yield number, audio[number * PACKET : (number + 1) * PACKET]


async def _words(r: Rig, encoding: str, name: str) -> str:
    """Wait for the end of the leg whose name begins so; its words."""
    found = [
        leg
        for leg in r.node.legs.values()
        if leg.leg.opening.encoding == encoding and leg.leg.opening.name.startswith(name)
    ]
    async with asyncio.timeout(END_S):
        await found[0].is_over.wait()
    return found[0].leg.transcript.final_text()


async def _audiosocket(r: Rig, audio: bytes, port: int) -> str:
    number = uuid.uuid4()
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(struct.pack(">BH", 1, 16) + number.bytes)
    async for _, packet in _paced(audio):
        linear = (decode(packet, "mulaw")[0] * 32768).astype("<i2").tobytes()
        writer.write(struct.pack(">BH", 0x10, len(linear)) + linear)
    writer.write(struct.pack(">BH", 0, 0))
    words = await _words(r, "pcm_s16le", str(number))
    writer.close()
    return words


async def _twilio(r: Rig, audio: bytes, port: int) -> str:
    headers = {"X-Twilio-Signature": twilio.signature(URL, SECRET)}
    async with open_socket(f"ws://127.0.0.1:{port}/twilio", additional_headers=headers) as socket:
        form = {"encoding": "audio/x-mulaw", "sampleRate": RATE_HZ, "channels": 1}
        start = {"callSid": "CA7", "tracks": ["inbound"], "mediaFormat": form}
        await socket.send(json.dumps({"event": "start", "streamSid": "MZ1", "start": start}))
        async for number, packet in _paced(audio):
            payload = base64.b64encode(packet).decode()
            media = {"track": "inbound", "timestamp": str(number * 20), "payload": payload}
            await socket.send(json.dumps({"event": "media", "media": media}))
        await socket.send('{"event":"stop"}')
        return await _words(r, "mulaw", "CA7")


async def _rtp(r: Rig, audio: bytes, port: int) -> str:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=("127.0.0.1", port)
    )
    rng = random.Random(7)
    async for number, packet in _paced(audio):
        head = struct.pack(">BBHII", 0x80, 0, number & 0xFFFF, number * PACKET, 7)
        if number == 0 or rng.random() >= LOSS:
            transport.sendto(head + packet)
    try:
        return await _words(r, "mulaw", "127.0.0.1:")
    finally:
        transport.close()
