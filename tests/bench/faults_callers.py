"""Clients of the fault laboratory: they speak, keep what they hear, and are compared.

Does: what each stream says, one client after the rules, the longest stillness it saw, a run held
against the undisturbed one.
Does not know: servers, what is done to them.
"""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from asr.scripted import silence, utter
from clients.audiofile import open_audio
from clients.connection import Connection, RivuletError, connect
from server.wire.messages import Ack, AudioFormat, Final

SAMPLES = Path(__file__).parents[2] / "samples"
TEXT = "turn on the kitchen light please thank you now we are here and there it is good day"
RATE = 16_000
PACKET_S = 0.1
COME_BACK_S = 90.0
NEAR_S = 0.4
"""Decoded is decoded up to this: a chunk and the right context of the last words."""

FinalSeen = tuple[str, int, int]
"""Text, beginning and end in ms."""


@dataclass(slots=True)
class Stream:
    """What one client did and saw."""

    finals: list[FinalSeen] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    acks: list[tuple[float, int]] = field(default_factory=list)
    """When, and how many samples were decoded then."""
    sent: int = 0
    """Samples."""
    sent_at_blow: int = 0
    returns: int = 0
    error: str = ""

    @property
    def gap_s(self) -> float:
        """Longest time without progress, the usual time between two acks included."""
        times = [when for when, _ in self.steps()]
        return max((b - a for a, b in itertools.pairwise(times)), default=0.0)

    def steps(self) -> list[tuple[float, int]]:
        """Return the acks that told of progress."""
        found: list[tuple[float, int]] = []
        for when, done in self.acks:
            if not found or done > found[-1][1]:
                found.append((when, done))
        return found

    def reached(self, sample: int) -> float | None:
        """Return when all before a sample was decoded."""
        return next((when for when, done in self.acks if done >= sample), None)


def spoken(count: int, *, clips: int = 2) -> list[bytes]:
    """Return what each stream says: some samples of the repository in a row."""
    files = sorted(SAMPLES.glob("0*.ogg"))
    sounds = [b"".join(open_audio(path).packets()) for path in files]
    turns = range(len(sounds))
    voices = [b"".join(sounds[(n + k) % len(sounds)] for k in range(clips)) for n in turns]
    return [voices[number % len(voices)] for number in range(count)]


def scripted(count: int) -> list[bytes]:
    """Return what each stream says to the scripted engine."""
    words, pause = TEXT.split(), silence(640)
    groups = [" ".join(words[i : i + 3]) for i in range(0, len(words), 3)]
    parts = [part for group in groups for part in (utter(group), pause)]
    return [(np.concatenate(parts) * 32767).astype("<i2").tobytes()] * count


async def talk(
    url: str,
    sound: bytes,
    stream: Stream,
    connections: dict[int, Connection],
    speed: float = 1.0,
) -> None:
    """Be one client: speak, come back when the line breaks, wait for the last word."""
    clock = asyncio.get_running_loop().time
    audio = AudioFormat(encoding="pcm_s16le", rate=RATE)
    try:
        async with connect(url, come_back_s=COME_BACK_S, audio=audio, latency="low") as connection:
            connections[id(stream)] = connection
            reading = asyncio.create_task(_listen(connection, stream))
            began, size = clock(), round(RATE * PACKET_S) * 2
            try:
                for number, begin in enumerate(range(0, len(sound), size)):
                    await asyncio.sleep(max(0.0, began + number * PACKET_S / speed - clock()))
                    await connection.send(sound[begin : begin + size])
                    stream.sent += len(sound[begin : begin + size]) // 2
                await connection.stop()
            finally:
                await reading
                stream.returns = connection.returns
    except RivuletError as error:
        stream.error = str(error)


async def _listen(connection: Connection, stream: Stream) -> None:
    clock = asyncio.get_running_loop().time
    async for message in connection:
        if isinstance(message, Final):
            stream.finals.append((message.text, message.start_ms, message.end_ms))
            stream.ids.append(message.id)
        elif isinstance(message, Ack):
            stream.acks.append((clock(), message.done))


def compare(
    row: dict[str, Any], streams: Sequence[Stream], whole: Sequence[Sequence[FinalSeen]]
) -> None:
    """Hold the streams of one run against the undisturbed ones; count into a row."""
    pairs = list(zip(streams, whole, strict=True))
    row["identical"] += all(stream.finals == list(wanted) for stream, wanted in pairs)
    row["same_words"] += all(words_of(stream.finals) == words_of(w) for stream, w in pairs)
    row["differences"] += [
        (got, wanted)
        for stream, finals in pairs
        for got, wanted in itertools.zip_longest(stream.finals, finals)
        if got != wanted
    ]
    row["duplicate_finals"] += sum(len(s.ids) - len(set(s.ids)) for s in streams)
    row["lost_finals"] += sum(max(0, len(wanted) - len(set(s.ids))) for s, wanted in pairs)
    row["errors"] += sum(bool(stream.error) for stream in streams)
    row["error_codes"] = sorted({*row["error_codes"], *(s.error for s in streams if s.error)})
    row["returns"] += sum(stream.returns for stream in streams)


def words_of(finals: Sequence[FinalSeen]) -> str:
    """Return the words of all finals."""
    return " ".join(text for text, _, _ in finals if text)


def empty_row(name: str, runs: int, streams: int) -> dict[str, Any]:
    """Return a row in which nothing is counted yet."""
    counted = ("identical", "same_words", "duplicate_finals", "lost_finals", "leaked_slots")
    row: dict[str, Any] = {"case": name, "runs": runs, "streams": streams}
    return row | dict.fromkeys((*counted, "errors", "returns"), 0) | {
        "differences": [],
        "error_codes": [],
    }  # fmt: skip


def p95(values: Sequence[float]) -> float | None:
    """Return the 95th percentile; None of nothing."""
    return round(float(np.percentile(values, 95)), 3) if values else None


def p50(values: Sequence[float]) -> float | None:
    """Return the median; None of nothing."""
    return round(float(np.percentile(values, 50)), 3) if values else None
