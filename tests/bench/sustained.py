"""How many live streams a server holds at the pace of speech, and what delay they see.

Does: open loop through real WebSockets, phases spread over a chunk, more streams until one of the
limits of N* breaks: p99 chunk lag <= min(period, 200 ms), p99 finalize delay <= 300 ms.
Does not know: engines.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from clients.audiofile import open_audio
from clients.demo import SAMPLES, url_of
from clients.lag import percentile
from clients.live import Heard, Session, stream_file
from server.wire.messages import AudioFormat, Chunk

PACKET_MS = 80
RATE = 16_000
CLIENT_LATE_S = 0.05
"""A point in which a packet left later than this says more of the client than of the server."""
FINALIZE_LIMIT_MS = 300.0
LAG_LIMIT_MS = 200.0


@dataclass(frozen=True, slots=True)
class Point:
    """What N streams saw."""

    streams: int
    lag_p50_ms: float
    lag_p95_ms: float
    lag_p99_ms: float
    finalize_p50_ms: float
    finalize_p99_ms: float
    client_late_ms: float
    errors: int

    def is_held(self, chunk_ms: int) -> bool:
        """Whether the limits of N* hold."""
        lag_limit = min(chunk_ms, LAG_LIMIT_MS)
        in_time = self.lag_p99_ms <= lag_limit and self.finalize_p99_ms <= FINALIZE_LIMIT_MS
        return in_time and self.errors == 0


class _Mute:
    """Captions that nobody reads."""

    def partial(self, name: str, text: str) -> None:
        """Nothing."""

    def final(self, name: str, text: str) -> None:
        """Nothing."""


def speech(seconds: float) -> bytes:
    """Return the samples one after another, again and again, as s16 at 16 kHz."""
    parts = []
    for path in sorted(SAMPLES.glob("0*.ogg")):
        packets = b"".join(open_audio(path).packets())
        parts.append(np.frombuffer(packets, "<i2"))
    whole = np.concatenate(parts)
    need = int(seconds * RATE)
    return np.tile(whole, -(-need // len(whole)))[:need].tobytes()


async def measure(port: int, streams: int, chunk_ms: int, seconds: float) -> Point:
    """Run ``streams`` for ``seconds`` each and collect their lags."""
    audio = speech(seconds + streams)
    heard = await asyncio.gather(
        *(_one(port, audio, i, streams, chunk_ms, seconds) for i in range(streams))
    )
    warm = int(2000 / chunk_ms) + 1  # the first two seconds belong to the opening of sessions
    lags = [1000 * lag for h in heard for lag in h.lags_s[warm:]]
    ends = [1000 * h.finalize_delay_s for h in heard if h.finalize_delay_s is not None]
    nothing = [float("inf")]
    lags, ends = lags or nothing, ends or nothing
    return Point(
        streams=streams,
        lag_p50_ms=round(percentile(lags, 50), 1),
        lag_p95_ms=round(percentile(lags, 95), 1),
        lag_p99_ms=round(percentile(lags, 99), 1),
        finalize_p50_ms=round(percentile(ends, 50), 1),
        finalize_p99_ms=round(percentile(ends, 99), 1),
        client_late_ms=round(1000 * max(h.late_s for h in heard), 1),
        errors=sum(bool(h.error) for h in heard),
    )


async def search(port: int, chunk_ms: int, seconds: float, most: int) -> list[Point]:
    """Measure 1, 2, 4 ... streams until a limit breaks, then halve the gap twice."""
    points: list[Point] = []
    good, bad, streams = 0, most + 1, 1
    while streams <= most and streams > good and (bad > most or bad - good > max(1, good // 8)):
        point = await measure(port, streams, chunk_ms, seconds)
        if point.client_late_ms > 1000 * CLIENT_LATE_S and not point.is_held(chunk_ms):
            point = await measure(port, streams, chunk_ms, seconds)  # the client stumbled: again
        points.append(point)
        if point.is_held(chunk_ms):
            good = streams
        else:
            bad = streams
        streams = min(most, streams * 2) if bad > most else (good + bad) // 2
    return points


def best(points: list[Point], chunk_ms: int) -> Point:
    """Return the held point with the most streams, or the smallest point when none held."""
    held = [p for p in points if p.is_held(chunk_ms)]
    return max(held, key=lambda p: p.streams) if held else min(points, key=lambda p: p.streams)


def as_row(model: str, precision: str, chunk_ms: int, points: list[Point]) -> dict[str, object]:
    """Return one line of the table, with every point measured."""
    point = best(points, chunk_ms)
    sustained = point.streams if point.is_held(chunk_ms) else 0
    return {
        "model": model,
        "precision": precision,
        "chunk_ms": chunk_ms,
        "look_ahead": chunk_ms // 80 - 1,
        "streams": sustained,
        "at": asdict(point),
        "points": [asdict(p) for p in points],
    }


async def _one(
    port: int, audio: bytes, index: int, streams: int, chunk_ms: int, seconds: float
) -> Heard:
    # Streams that all start together would share every batch and look better than life.
    await asyncio.sleep(index * max(chunk_ms / 1000 / streams, 0.01))
    session = Session(
        url=url_of(port),
        audio=AudioFormat(encoding="pcm_s16le", rate=RATE),
        latency=Chunk(chunk_ms=chunk_ms),
    )
    first = 2 * RATE * index
    mine = audio[first : first + int(2 * RATE * seconds)]
    return await stream_file(_packets(mine), len(mine) // 2, session, _Mute())


def _packets(audio: bytes) -> Iterator[bytes]:
    size = 2 * RATE * PACKET_MS // 1000
    return (audio[i : i + size] for i in range(0, len(audio), size))
