"""``python -m tests.bench.turns``: from the end of speech to the final, and ends of turn.

Does: dialogues with known turns through a server at the pace of speech, twice: a client's own voice
detection with finalize, then the server's endpoint and eager end; write results/turns.json.
Does not know: how dialogues are made (dialogue), how turns are found.
"""

import argparse
import asyncio
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clients.connection import Connection, connect
from clients.demo import SAMPLES, url_of
from clients.live import both
from clients.load.host import machine
from clients.load.plan import RATE_HZ
from clients.serving import ServerProcess
from server.wire.messages import AudioFormat, Done, Endpointing, Final, Finalized, Turn
from tests.bench.dialogue import FRAME, Dialogue, VoiceDetector, clips_of, compose, judge

PORT = 8798
RESULTS = Path(__file__).parent / "results"
SILENCE_MS = Endpointing().silence_ms
EAGER_MS = 200
PAUSE_CLASSES_MS = ((0, 300), (300, 600), (600, 1_500))
QUIET_AFTER_MS = 500
"""An end decided late in a pause may be dated after it: decoding is a chunk and a word behind."""
LATE_MS = 5.0
"""A client that wakes later than this for its packets (p99) measures itself."""
DEFINITION = (
    "eos_to_final: from the last sample with voice to the last final that answers `finalize`, "
    "which the client sends when its detector has heard 0.2 s without voice (included); "
    "own_end, eager_end: from the end of a turn to the server's announcement; false end: "
    "announced while the turn had speech to come, or twice; missed: not announced before the "
    "next turn; pauses inside a turn are log-normal (median 0.25 s), between turns 0.9 to 3 s"
)


@dataclass(slots=True)
class Stop:
    """One end of speech that the client detected."""

    ended_s: float
    final_s: float | None = None
    answered_s: float | None = None

    @property
    def delay_s(self) -> float | None:
        """From the end of speech to the last word; without words, to the answer."""
        seen = self.final_s or self.answered_s
        return None if seen is None else seen - self.ended_s


@dataclass(slots=True)
class Seen:
    """What one stream saw."""

    dialogue: Dialogue
    zero_s: float
    stops: list[Stop] = field(default_factory=list)
    ends: list[tuple[int, float]] = field(default_factory=list)
    """Announced ends: moment of the media in ms, arrival."""
    eager: list[tuple[int, float]] = field(default_factory=list)
    resumed: int = 0
    late_s: list[float] = field(default_factory=list)


async def stream(url: str, seen: Seen, *, is_client_led: bool) -> None:
    """Play one dialogue."""
    rules = (
        Endpointing(mode="manual", max_turn_ms=120_000)
        if is_client_led
        else Endpointing(eager_ms=EAGER_MS)
    )
    audio = AudioFormat(encoding="pcm_s16le", rate=RATE_HZ)
    async with connect(url, audio=audio, latency="low", endpointing=rules) as connection:
        await both(_send(connection, seen, is_client_led=is_client_led), _hear(connection, seen))


async def _send(connection: Connection, seen: Seen, *, is_client_led: bool) -> None:
    clock, detector, pcm = asyncio.get_running_loop().time, VoiceDetector(), seen.dialogue.pcm
    for begin in range(0, len(pcm), 2 * FRAME):
        frame = pcm[begin : begin + 2 * FRAME]
        due = seen.zero_s + (begin + len(frame)) / 2 / RATE_HZ
        await asyncio.sleep(max(0.0, due - clock()))
        seen.late_s.append(clock() - due)
        await connection.send(frame)
        ended = detector.hear(frame)
        if is_client_led and ended is not None and ended > 0:
            seen.stops.append(Stop(seen.zero_s + ended / RATE_HZ))
            await connection.finalize()
    await connection.stop()


async def _hear(connection: Connection, seen: Seen) -> None:
    clock, answered = asyncio.get_running_loop().time, 0
    async for message in connection:
        match message:
            case Final(text=text) if text.strip() and answered < len(seen.stops):
                seen.stops[answered].final_s = clock()
            case Finalized():
                seen.stops[answered].answered_s = clock()
                answered += 1
            case Turn(event="end", at_ms=at_ms):
                seen.ends.append((at_ms, clock()))
            case Turn(event="eager_end", at_ms=at_ms):
                seen.eager.append((at_ms, clock()))
            case Turn(event="resumed"):
                seen.resumed += 1
            case Done():
                return


async def play(url: str, dialogues: list[Dialogue], *, is_client_led: bool) -> list[Seen]:
    """Play all at once; they begin at moments spread over a second."""
    began = asyncio.get_running_loop().time() + 1.0
    streams = [Seen(d, began + n / len(dialogues)) for n, d in enumerate(dialogues)]
    async with asyncio.TaskGroup() as group:
        for one in streams:
            group.create_task(stream(url, one, is_client_led=is_client_led))
    return streams


def finals(streams: list[Seen]) -> dict[str, Any]:
    """Return the figures of the client's own voice detection."""
    stops = [stop for seen in streams for stop in seen.stops]
    delays = [stop.delay_s for stop in stops if stop.delay_s is not None]
    return {
        "stops": len(stops),
        "without_words": sum(stop.final_s is None for stop in stops),
        "unanswered": sum(stop.answered_s is None for stop in stops),
        **_percentiles("eos_to_final", delays),
        **_percentiles("client_late", [late for seen in streams for late in seen.late_s]),
    }


def turns(streams: list[Seen]) -> dict[str, Any]:
    """Return the figures of the server's ends of turn."""
    own, eager, pauses = list[float](), list[float](), list[tuple[int, bool]]()
    true = false = missed = 0
    for seen in streams:
        found = judge(seen.dialogue.turns, [at_ms for at_ms, _ in seen.ends])
        true, missed = true + len(seen.dialogue.turns), missed + found.missed
        false += len(found.false)
        ends = {turn: seen.zero_s + end / 1000 for turn, (_, end) in enumerate(seen.dialogue.turns)}
        own += [seen.ends[number][1] - ends[turn] for turn, number in found.right.items()]
        eagerly = judge(seen.dialogue.turns, [at_ms for at_ms, _ in seen.eager])
        eager += [seen.eager[number][1] - ends[turn] for turn, number in eagerly.right.items()]
        for begin, end in seen.dialogue.pauses:
            is_ended = any(begin < at_ms <= end + QUIET_AFTER_MS for at_ms in found.false)
            pauses.append((end - begin, is_ended))
    hours = sum(seen.dialogue.hours for seen in streams)
    announced = sum(len(seen.ends) for seen in streams)
    return {
        "hours": round(hours, 4),
        "turns": true,
        "false_ends": false,
        "missed_ends": missed,
        "false_ends_per_hour": round(false / hours, 2),
        "missed_ends_per_hour": round(missed / hours, 2),
        "false_share": round(false / announced, 4) if announced else None,
        "false_by_pause_ms": {
            f"{low}-{high}": _share([ended for ms, ended in pauses if low <= ms < high])
            for low, high in PAUSE_CLASSES_MS
        },
        "resumed": sum(seen.resumed for seen in streams),
        **_percentiles("own_end", own),
        **_percentiles("eager_end", eager),
    }


def _share(ended: list[bool]) -> dict[str, int]:
    return {"pauses": len(ended), "ended": sum(ended)}


def _percentiles(name: str, seconds: list[float]) -> dict[str, float | None]:
    def at(share: float) -> float | None:
        return round(1000 * float(np.percentile(seconds, share)), 1) if seconds else None

    return {f"{name}_{key}_ms": at(share) for key, share in (("p50", 50), ("p95", 95), ("p99", 99))}


def measure(streams: int, seconds: float, port: int, options: list[str]) -> dict[str, Any]:
    """Start a server with the embedded model and play everything twice."""
    clips = clips_of(SAMPLES)
    dialogues = [compose(clips, seconds, seed) for seed in range(streams)]
    with ServerProcess(port, options) as server:
        server.wait_ready()
        url = url_of(port)
        led = asyncio.run(play(url, dialogues, is_client_led=True))
        own = asyncio.run(play(url, dialogues, is_client_led=False))
    said = finals(led)
    return {
        "machine": machine(),
        "is_void": (said["client_late_p99_ms"] or 0.0) > LATE_MS,
        "streams": streams,
        "seconds": seconds,
        "look_ahead": 1,
        "silence_ms": SILENCE_MS,
        "eager_ms": EAGER_MS,
        "definition": DEFINITION,
        **said,
        **turns(own),
    }


def options_of(streams: int, workers: int = 1) -> list[str]:
    """Return the options of the server: all streams are let in and may finalize at once."""
    slots = str(max(16, 2 * streams))
    return ["--workers", str(workers), "--slots", slots, "--admission", "slots"]


def main() -> int:
    """Measure; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two streams of 20 s, writes nothing")
    parser.add_argument("--streams", type=int, help="default 20; 2 with --quick")
    parser.add_argument("--seconds", type=float, help="of each stream; default 180")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--port", type=int, default=PORT)
    args = parser.parse_args()
    streams = args.streams or (2 if args.quick else 20)
    seconds = args.seconds or (20.0 if args.quick else 180.0)
    result = measure(streams, seconds, args.port, options_of(streams, args.workers))
    if not args.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "turns.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
