"""``python -m tests.bench.speakers``: whose words they are, where several share a channel.

Does: conversations made of clips whose speakers are known, labels with the true borders and with
the finals of the embedded model; errors after the best mapping; results/speakers.json. The
threshold is chosen on half of the speakers (--choose), the other half is reported.
Does not know: how voices are told apart, servers.
"""

import argparse
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from asr.checkpoint import DEFAULT_MODEL
from asr.engine import EngineConfig, load_engine
from asr.events import Final
from asr.interface import SAMPLE_RATE_HZ, Samples
from asr.live import ChannelOptions, Recognizer
from asr.offline import read_audio
from asr.speakers.encoder import Voice, load_voice_encoder, voiced
from asr.speakers.labels import THRESHOLD, Speakers
from asr.speakers.listener import PAUSE_MS, Listener
from clients.console import table
from clients.load.host import machine
from clients.load.material import pause

HERE = Path(__file__).resolve()
RESULTS = HERE.parent / "results" / "speakers.json"
DEV = HERE.parents[3] / "shared" / "speech" / "dev"
SOURCES = ("LibriSpeech", "speechocean762")
"""The speakers of the third source, Common Voice, are guesses."""
TURN_S, GAP_S = (2.0, 8.0), (0.3, 1.0)
COUNTS, EACH, TURNS = (2, 3, 4), 20, 4
"""Speakers of a conversation, conversations, turns of a speaker at most."""
LOOK_AHEAD, PIECE, SLOTS = 6, 32_000, 12
THRESHOLDS = [round(0.5 + 0.025 * n, 3) for n in range(14)]
WHOLE = 1 << 30
"""As a pause: finals are not cut."""
Embed = Callable[[Samples], Voice]
Weighed = tuple[str, int | None, float]
"""Who spoke, whose label, how much of it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Who speaks from where to where, in samples."""

    speaker: str
    begin: int
    end: int


@dataclass(slots=True)
class Conversation:
    """Audio, the truth about it, and what the model made of it."""

    audio: Samples
    turns: list[Turn]
    finals: list[Final] = field(default_factory=list)

    @property
    def speakers(self) -> int:
        """How many there are."""
        return len({turn.speaker for turn in self.turns})

    def at(self, ms: float) -> str:
        """Return who speaks, or whose turn is nearest."""
        sample = ms * SAMPLE_RATE_HZ / 1000
        away = (max(turn.begin - sample, sample - turn.end) for turn in self.turns)
        return min(zip(away, self.turns, strict=True), key=lambda pair: pair[0])[1].speaker


def material() -> dict[str, dict[str, list[Samples]]]:
    """Return source -> speaker -> turns of 2 to 8 s, none of them twice."""
    found: dict[str, dict[str, list[Samples]]] = {source: defaultdict(list) for source in SOURCES}
    for line in (DEV / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        source = next((source for source in SOURCES if row["source"].startswith(source)), None)
        if source is not None and len(found[source][row["speaker"]]) < 2 * TURNS:
            audio = read_audio(DEV / row["audio_filepath"])
            found[source][row["speaker"]] += turns_of(audio)
    return {
        source: {name: turns for name, turns in sorted(of.items()) if len(turns) >= 2}
        for source, of in found.items()
    }


def turns_of(audio: Samples) -> list[Samples]:
    """Cut a clip at its quietest moments into pieces of 2 to 8 s."""
    least, most = (round(seconds * SAMPLE_RATE_HZ) for seconds in TURN_S)
    sound = np.flatnonzero(np.abs(audio) > 0.05 * np.abs(audio).max())
    audio, turns = audio[sound[0] : sound[-1] + 1], []
    while len(audio) > most:
        power = np.convolve(np.square(audio[least:most]), np.ones(1_600), mode="same")[800:-800]
        border = least + 800 + int(power.argmin())
        turns.append(audio[:border])
        audio = audio[border:]
    return [*turns, audio] if len(audio) >= least else turns


def conversations(of: dict[str, dict[str, list[Samples]]], each: int) -> list[Conversation]:
    """Make conversations of 2, 3 and 4 speakers of one source; the seed is fixed."""
    dice, made = random.Random(7), list[Conversation]()
    for count in COUNTS:
        for number in range(each):
            turns = of[SOURCES[number % len(SOURCES)]]
            names = dice.sample(sorted(turns), count)
            drawn = {name: dice.sample(turns[name], len(turns[name])) for name in names}
            made.append(converse(drawn, dice))
    return made


def converse(of: dict[str, list[Samples]], dice: random.Random) -> Conversation:
    """Let speakers take turns; nobody follows himself, so some have something left."""
    left = {name: list(turns[:TURNS]) for name, turns in of.items()}
    parts, turns, at, last = list[Samples](), list[Turn](), 0, ""
    while ready := [name for name, rest in left.items() if rest and name != last]:
        name = dice.choice(ready)
        gap = np.frombuffer(pause(round(dice.uniform(*GAP_S) * SAMPLE_RATE_HZ), dice), "<i2")
        parts += [(gap / np.float32(32768)).astype(np.float32), left[name].pop()]
        begin = at + len(parts[-2])
        at = begin + len(parts[-1])
        turns.append(Turn(name, begin, at))
        last = name
    parts.append(np.zeros(SAMPLE_RATE_HZ, np.float32))
    return Conversation(np.concatenate(parts), turns)


def recognise(made: Sequence[Conversation]) -> None:
    """Give every conversation its finals, as a server with its own endpointing would."""
    recognizer = Recognizer(load_engine(DEFAULT_MODEL, EngineConfig(slots=SLOTS)))
    for begin in range(0, len(made), recognizer.capacity):
        open_now = {
            recognizer.open(ChannelOptions(look_ahead=LOOK_AHEAD)): one
            for one in made[begin : begin + recognizer.capacity]
        }
        for at in range(0, max(len(one.audio) for one in open_now.values()), PIECE):
            for number, one in open_now.items():
                if at < len(one.audio):
                    recognizer.feed(number, one.audio[at : at + PIECE])
                    if at + PIECE >= len(one.audio):
                        recognizer.stop(number)
            while recognizer.is_ready():
                for number, event in recognizer.step():
                    if isinstance(event, Final):
                        open_now[number].finals.append(event)


class Remembered:
    """An encoder that embeds the same audio once, for many thresholds; counts what it costs."""

    def __init__(self, embed: Embed) -> None:
        self._embed, self._known = embed, dict[bytes, Voice]()
        self.cpu_s = self.audio_s = 0.0

    def __call__(self, samples: Samples) -> Voice:
        """Return the voice."""
        if (key := samples.tobytes()) not in self._known:
            began = time.process_time()
            self._known[key] = self._embed(samples)
            self.cpu_s += time.process_time() - began
            self.audio_s += len(samples) / SAMPLE_RATE_HZ
        return self._known[key]


def with_borders(one: Conversation, embed: Embed, speakers: Speakers) -> list[Weighed]:
    """Label the true turns; a turn weighs its seconds."""
    found = list[Weighed]()
    for turn in one.turns:
        heard = voiced(one.audio[turn.begin : turn.end])
        label = speakers.label(embed(heard), len(heard) / SAMPLE_RATE_HZ)
        found.append((turn.speaker, label, (turn.end - turn.begin) / SAMPLE_RATE_HZ))
    return found


def with_finals(
    one: Conversation, embed: Embed, speakers: Speakers, *, pause_ms: int = PAUSE_MS
) -> list[Weighed]:
    """Label the words of the model's finals; a word weighs one."""
    listener, at, found = Listener(embed, speakers, SAMPLE_RATE_HZ, pause_ms=pause_ms), 0, []
    pcm = np.clip(np.rint(one.audio * 32768), -32768, 32767).astype("<i2")
    for final in one.finals:
        until = max(at, (final.end_ms + 1_000) * SAMPLE_RATE_HZ // 1000)
        listener.hear(pcm[at:until].tobytes())
        at = until
        runs = listener.label([(word.start_ms, word.end_ms) for word in final.words])
        labels = [label for count, label in runs for _ in range(count)]
        for word, label in zip(final.words, labels, strict=True):
            found.append((one.at((word.start_ms + word.end_ms) / 2), label, 1.0))
    return found


def wrong(weighed: Iterable[Weighed]) -> tuple[float, float]:
    """Return what has the wrong label after the best mapping of labels to speakers, and all."""
    together = defaultdict[tuple[str, int], float](float)
    names, labels, total = dict[str, None](), dict[int, None](), 0.0
    for name, label, weight in weighed:
        names[name], total = None, total + weight
        if label is not None:
            together[name, label] += weight
            labels[label] = None
    wide = [*labels, *range(-1, -1 - max(0, len(names) - len(labels)), -1)]
    best = max(
        sum(together[pair] for pair in zip(names, chosen, strict=True))
        for chosen in permutations(wide, len(names))
    )
    return total - best, total


def figures(
    made: Sequence[Conversation],
    label: Callable[[Conversation, Speakers], list[Weighed]],
    threshold: float,
) -> dict[str, Any]:
    """Return errors and how many speakers were found, for each number of speakers and for all."""
    rows = dict[str, dict[str, Any]]()
    for count in (*COUNTS, 0):
        errors = total = 0.0
        found, right = list[int](), 0
        for one in (one for one in made if count in (0, one.speakers)):
            speakers = Speakers(threshold=threshold)
            some, of = wrong(label(one, speakers))
            errors, total = errors + some, total + of
            found.append(len(speakers))
            right += len(speakers) == one.speakers
        rows[str(count or "all")] = {
            "conversations": len(found),
            "wrong": round(errors / max(1.0, total), 4),
            "found_mean": round(float(np.mean(found)), 2),
            "found_right": round(right / len(found), 3),
        }
    return rows


def main() -> int:
    """Measure and print; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few conversations, writes nothing")
    parser.add_argument("--choose", action="store_true", help="only: thresholds on the first half")
    parser.add_argument("--each", type=int, default=EACH, help="conversations of each size")
    args = parser.parse_args()
    half = 0 if args.choose else 1
    of = {source: dict(list(speakers.items())[half::2]) for source, speakers in material().items()}
    made = conversations(of, 2 if args.quick else args.each)
    recognise(made)
    embed = Remembered(load_voice_encoder().embed)
    ways: dict[str, Callable[[Conversation, Speakers], list[Weighed]]] = {
        "true borders, of the time": lambda one, who: with_borders(one, embed, who),
        "finals, of the words": lambda one, who: with_finals(one, embed, who),
        "finals not cut": lambda one, who: with_finals(one, embed, who, pause_ms=WHOLE),
    }
    result: dict[str, Any] = {
        "machine": machine(),
        "half": "chosen on" if args.choose else "reported",
        "speakers": {source: len(names) for source, names in of.items()},
        "minutes": round(sum(len(one.audio) for one in made) / SAMPLE_RATE_HZ / 60, 1),
        "threshold": THRESHOLD,
    }
    for way, label in ways.items():
        result[way] = {
            str(threshold): figures(made, label, threshold)
            for threshold in (THRESHOLDS if args.choose else [THRESHOLD])
        }
        rows = [
            (threshold, count, *map(str, row.values()))
            for threshold, counts in result[way].items()
            for count, row in counts.items()
        ]
        print(f"{way}:")
        header = ("threshold", "speakers", "conversations", "wrong", "found", "right number")
        print(table(header, rows, width=100, flexible=0))
    result["embedding_cpu_ms_per_audio_s"] = round(1000 * embed.cpu_s / embed.audio_s, 1)
    if not args.quick and not args.choose:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
