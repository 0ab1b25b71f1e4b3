"""The openai package: ``python drive_openai.py MODE HOST FILE RATE`` prints one JSON line."""

import asyncio
import base64
import json
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI, OpenAI

PACKET_BYTES = 4_800


def http(host: str, path: str, form: str) -> tuple[str, int]:
    client = OpenAI(base_url=f"http://{host}/v1", api_key="key", max_retries=0)
    with Path(path).open("rb") as file:
        if form == "stream":
            events = list(
                client.audio.transcriptions.create(
                    file=file, model="gpt-4o-transcribe", stream=True
                )
            )
            deltas = "".join(e.delta for e in events if e.type == "transcript.text.delta")
            assert deltas == events[-1].text
            return deltas, len(events)
        options: dict[str, Any] = {}
        if form == "verbose_json":
            options["timestamp_granularities"] = ["word", "segment"]
        answer = client.audio.transcriptions.create(
            file=file, model="whisper-1", response_format=form, language="en", **options
        )
    if form == "verbose_json":
        assert " ".join(word.word for word in answer.words) == answer.text
    if form in ("json", "verbose_json"):
        return answer.text, 1
    if form == "text":
        return answer.strip(), 1
    lines = [line for line in answer.splitlines() if not re.fullmatch(r"WEBVTT|\d*|.*-->.*", line)]
    return " ".join(lines), 1


async def realtime(host: str, data: bytes, mode: str) -> tuple[str, int]:
    is_beta = mode == "beta"
    where = {"websocket_base_url": f"ws://{host}/v1"} if is_beta else {}
    client = AsyncOpenAI(base_url=f"http://{host}/v1", api_key="key", **where)
    wire = client.beta.realtime if is_beta else client.realtime
    turns = None if mode == "manual" else {"type": "server_vad", "silence_duration_ms": 600}
    opened = wire.connect(model="gpt-4o-transcribe", extra_query={"intent": "transcription"})
    async with opened as connection:
        events = [await connection.recv()]
        if is_beta:
            wish = {"input_audio_format": "pcm16", "turn_detection": turns}
            await connection.transcription_session.update(session=wish)
        else:
            heard = {
                "format": {"type": "audio/pcm", "rate": 24_000},
                "transcription": {"model": "gpt-4o-transcribe", "language": "en"},
                "turn_detection": turns,
            }
            wish = {"type": "transcription", "audio": {"input": heard}}
            await connection.session.update(session=wish)
        events.append(await connection.recv())
        for begin in range(0, len(data), PACKET_BYTES):
            audio = base64.b64encode(data[begin : begin + PACKET_BYTES]).decode()
            await connection.input_audio_buffer.append(audio=audio)
        await connection.input_audio_buffer.commit()
        return await collect(connection, events)


async def collect(connection: Any, events: list[Any]) -> tuple[str, int]:
    """Read until nothing comes any more: the wire has no last message."""
    texts, deltas = list[str](), dict[str, str]()
    try:
        while True:
            wait_s = 4 if texts else 60
            event = await asyncio.wait_for(connection.recv(), wait_s)
            events.append(event)
            assert event.type != "error", event
            if event.type.endswith("transcription.delta"):
                deltas[event.item_id] = deltas.get(event.item_id, "") + event.delta
            elif event.type.endswith("transcription.completed"):
                assert deltas.get(event.item_id, "") == event.transcript
                texts.append(event.transcript)
    except TimeoutError:
        return " ".join(text for text in texts if text), len(events)


def main(mode: str, host: str, path: str, rate: str) -> None:
    if mode in ("ga", "manual", "beta"):
        text, messages = asyncio.run(realtime(host, Path(path).read_bytes(), mode))
    else:
        text, messages = http(host, path, mode)
    about = {"text": text, "messages": messages, "client": f"openai {version('openai')}"}
    print(json.dumps(about))


main(*sys.argv[1:])
