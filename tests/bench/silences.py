"""``python -m tests.bench.silences``: which silence ends a turn best, on the media's clock.

Does: dialogues through the engine once, their ends of turn by several rules at once: false and
missed ends, how long after a turn its end is decided; results/silences.json.
Does not know: servers, sockets, delays of a machine (``turns`` measures those).

Two sets. Dialogues as in ``turns``: pauses inside a turn lie between whole sentences, so words
cannot tell them from ends. Hesitant ones: a pause at any place between two words of a sentence.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from asr.channel import Channel
from asr.checkpoint import DEFAULT_MODEL
from asr.engine import EngineConfig, load_engine
from asr.events import EagerEnd, TurnEnd, TurnResumed
from asr.interface import Samples, StreamingEngine
from asr.options import ChannelOptions
from asr.turns import Endpointing
from clients.console import table
from clients.demo import SAMPLES
from clients.load.host import machine
from tests.bench.dialogue import Dialogue, Hesitant, clips_of, compose, hesitate, judge
from tests.bench.tools import TIMED, timed_clips

RESULTS = Path(__file__).parent / "results" / "silences.json"
LOOK_AHEAD, PIECE, CLIPS, EAGER_MS = 1, 16_000, 300, 200
OWN_PAUSE_S = 0.3
"""Clips with such a pause of their own are left out: it may lie between two sentences."""
RULES = {
    f"{silence_ms} + {hesitation_ms}": Endpointing(
        silence_ms=silence_ms, hesitation_ms=hesitation_ms, eager_ms=EAGER_MS
    )
    for silence_ms in (600, 700)
    for hesitation_ms in (0, 400)
}
"""Silence + what is waited longer behind a word that ends no sentence, in ms."""


@dataclass(slots=True)
class Heard:
    """What one rule made of one dialogue, in ms of the media."""

    channel: Channel
    ends: list[int] = field(default_factory=list)
    eager: int = 0
    resumed: int = 0

    def read(self) -> None:
        """Take what the channel has to say."""
        for event in self.channel.read():
            match event:
                case TurnEnd(at_ms=at_ms):
                    self.ends.append(at_ms)
                case EagerEnd():
                    self.eager += 1
                case TurnResumed():
                    self.resumed += 1


def listen(engine: StreamingEngine, dialogues: Sequence[Dialogue]) -> list[list[Heard]]:
    """Play the dialogues, all at once; one result per rule and dialogue."""
    played = {engine.open(LOOK_AHEAD): dialogue for dialogue in dialogues}
    heard = {
        stream: [
            Heard(
                Channel(
                    stream,
                    ChannelOptions(look_ahead=LOOK_AHEAD, endpointing=rule),
                    engine.tokenizer,
                    late_ms=engine.info.late_ms,
                )
            )
            for rule in RULES.values()
        ]
        for stream in played
    }
    longest = max(len(dialogue.pcm) for dialogue in dialogues) // 2
    for begin in range(0, longest, PIECE):
        for stream, dialogue in played.items():
            piece = np.frombuffer(dialogue.pcm, "<i2")[begin : begin + PIECE]
            if len(piece):
                samples: Samples = (piece / np.float32(32768)).astype(np.float32)
                audio = [one.channel.audio(samples) for one in heard[stream]]
                engine.feed(stream, audio[0])
        while engine.is_ready():
            for emission in engine.step():
                for one in heard[emission.stream]:
                    one.channel.receive(emission)
                    one.read()
    for stream in played:
        engine.drop(stream)
    return [list(of_rule) for of_rule in zip(*heard.values(), strict=True)]


def figures(dialogues: Sequence[Dialogue], heard: Sequence[Heard]) -> dict[str, Any]:
    """Return what a rule was worth on a set."""
    false, missed, announced, delays = 0, 0, 0, list[int]()
    for dialogue, one in zip(dialogues, heard, strict=True):
        found = judge(dialogue.turns, one.ends)
        false, missed = false + len(found.false), missed + found.missed
        announced += len(one.ends)
        delays += [one.ends[n] - dialogue.turns[turn][1] for turn, n in found.right.items()]
    at = {f"delay_p{p}_ms": round(float(np.percentile(delays, p))) for p in (50, 90, 95, 99)}
    return {
        "turns": sum(len(dialogue.turns) for dialogue in dialogues),
        "false_ends": false,
        "false_share": round(false / max(1, announced), 4),
        "missed_ends": missed,
        **at,
        "eager_ends": sum(one.eager for one in heard),
        "resumed": sum(one.resumed for one in heard),
    }


def sets(count: int, seconds: float) -> Iterator[tuple[str, list[Dialogue]]]:
    """Yield the sets that can be made here."""
    clips = clips_of(SAMPLES)
    yield "whole sentences", [compose(clips, seconds, seed) for seed in range(count)]
    if TIMED.exists():
        timed = [
            Hesitant((32767 * samples).astype("<i2"), tuple((a, b) for a, b in spans))
            for _, spans, samples in timed_clips(CLIPS)
            if all(begin - end < OWN_PAUSE_S for (_, end), (begin, _) in pairwise(spans))
        ]
        yield "hesitant", [hesitate(timed, seconds, seed) for seed in range(count)]


def main() -> int:
    """Measure and print; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two dialogues, writes nothing")
    parser.add_argument("--seconds", type=float, default=180.0, help="of each dialogue")
    args = parser.parse_args()
    count = 2 if args.quick else 20
    engine = load_engine(DEFAULT_MODEL, EngineConfig(slots=count))
    result: dict[str, Any] = {"machine": machine(), "look_ahead": LOOK_AHEAD, "sets": {}}
    for name, dialogues in sets(count, args.seconds):
        heard = listen(engine, dialogues)
        rules = {rule: figures(dialogues, ones) for rule, ones in zip(RULES, heard, strict=True)}
        result["sets"][name] = rules
        rows = [(rule, *map(str, row.values())) for rule, row in rules.items()]
        print(name)
        print(table(("rule", *next(iter(rules.values()))), rows, width=150, flexible=0))
    if not args.quick:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
