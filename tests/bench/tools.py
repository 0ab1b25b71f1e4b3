"""``python -m tests.bench.tools``: what confidence, word times, fusion and boosting are worth.

Does: run the embedded model (or --model) over the sets beside this checkout and over sounds made
here; results/tools.json. Language models are made of the texts there, never of an evaluation set.
Does not know: how the tools work.
"""

import argparse
import json
import os
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr.calibration import expected_calibration_error, fit
from asr.checkpoint import DEFAULT_MODEL, load_checkpoint
from asr.decoder.counting import read_lines
from asr.decoder.decoding import BEAM
from asr.engine import EngineConfig, load_engine
from asr.events import Word
from asr.interface import NO_BIASING, Biasing, Phrase, Samples
from asr.judging import judge
from asr.offline import Recording, Utterance, read_audio, read_manifest, transcribe
from asr.scoring import Score, matches, plain_words, score
from clients.console import table
from clients.load.host import machine
from server.cli import train_lm

SPEECH = Path(__file__).resolve().parents[3] / "shared" / "speech"
RESULTS = Path(__file__).parent / "results" / "tools.json"
DEV = SPEECH / "dev" / "manifest.jsonl"
CLEAN = SPEECH / "eval" / "eval_librispeech_clean" / "manifest.jsonl"
TIMED = SPEECH / "synthetic" / "kokoro.jsonl"
RATE, LOOK_AHEAD = 16_000, 6
MINUTES, TIMED_CLIPS, RARE = 10, 300, 3
"""Of each sound; clips with known word times; how often the texts have a rare word at most."""
PHRASE_WEIGHT = Phrase("").weight


@dataclass(frozen=True, slots=True)
class Job:
    """A measurement and what it may take."""

    name: str
    model: str
    lm: str
    every: int


def main() -> int:
    """Measure and print; the last line is one JSON object."""
    args = _arguments()
    if not DEV.exists():
        print("there is no speech beside this checkout (../shared/speech)")
        return 1
    every = 10 if args.quick else 1
    with tempfile.TemporaryDirectory() as folder:
        lm = load_checkpoint(args.model).lm
        if not lm:  # none came with the model
            lm = str(Path(folder) / "texts.lm")
            train_lm(sorted((SPEECH / "text").glob("*.txt.gz")), args.model, Path(lm), order=6)
        jobs = [Job(name, args.model, lm, every) for name in MEASURES]
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            figures = dict(zip(MEASURES, pool.map(_measure, jobs), strict=True))
    result = {"machine": machine(), "model": args.model, "look_ahead": LOOK_AHEAD, **figures}
    if not args.quick:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    rows = [(name, key, str(value)) for name in figures for key, value in figures[name].items()]
    print(table(("measure", "figure", "value"), rows, width=110, flexible=2))
    print(json.dumps(result))
    return 0


def _measure(job: Job) -> dict[str, Any]:
    torch.set_num_threads(1)
    figures = MEASURES[job.name](job)
    print(json.dumps({job.name: figures}), file=sys.stderr, flush=True)
    return figures


def nothing(job: Job) -> dict[str, Any]:
    """Words heard in ten minutes of silence, of a fan and of music; none is right."""
    minutes = MINUTES / job.every
    sounds = {"silence": silence, "fan": fan, "music": music}
    recordings = [Recording(name, make(minutes)) for name, make in sounds.items()]
    engine = load_engine(job.model, EngineConfig(slots=4))
    heard = {t.name: len(t.words) for t in transcribe(engine, recordings, LOOK_AHEAD)}
    return {"minutes": minutes, **{f"words_in_{name}": heard[name] for name in sounds}}


def confidence(job: Job) -> dict[str, Any]:
    """Expected calibration error of word confidence on dev, and how well it sorts (AUC)."""
    engine = load_engine(job.model, EngineConfig(slots=16))
    pairs = judge(engine, DEV, LOOK_AHEAD, every=job.every).words
    sure = np.array([c for c, _ in pairs])
    correct = np.array([ok for _, ok in pairs])
    curve = fit(pairs[::2])  # of every other word; the error is that of the rest
    mapped = [(curve(c), ok) for c, ok in pairs[1::2]]
    order = np.argsort(np.argsort(sure)) + 1
    good, bad = int(correct.sum()), int((~correct).sum())
    auc = (order[correct].sum() - good * (good + 1) / 2) / max(1, good * bad)
    return {
        "words": len(pairs),
        "correct": round(float(correct.mean()), 4),
        "mean_confidence": round(float(sure.mean()), 4),
        "expected_calibration_error": round(expected_calibration_error(pairs), 4),
        "refitted_on_half": round(expected_calibration_error(mapped), 4),
        "curve": fit(pairs).points,
        "auc": round(float(auc), 4),
    }


def times(job: Job) -> dict[str, Any]:
    """Start and end of rightly heard words against what the synthesiser says, in ms."""
    starts, ends = [], []
    clips = list(timed_clips(TIMED_CLIPS // job.every))
    recordings = [Recording(str(i), samples) for i, (_, _, samples) in enumerate(clips)]
    engine = load_engine(job.model, EngineConfig(slots=16))
    for heard in transcribe(engine, recordings, LOOK_AHEAD):
        words, spans, _ = clips[int(heard.name)]
        for i, j in matches(words, _texts(heard.words)):
            starts.append(heard.words[j].start_ms - 1000 * spans[i][0])
            ends.append(heard.words[j].end_ms - 1000 * spans[i][1])
    return {
        "words": len(starts),
        "start_median_ms": round(float(np.median(starts))),
        "start_median_error_ms": round(float(np.median(np.abs(starts)))),
        "end_median_ms": round(float(np.median(ends))),
        "end_median_error_ms": round(float(np.median(np.abs(ends)))),
    }


def fusion(job: Job) -> dict[str, Any]:
    """Errors on the clean set: greedy, with the language model, with a beam and both."""
    found: dict[str, float] = {}
    for name, lm, beam in (
        ("greedy", "none", 1), ("lm", job.lm, 1), ("beam", "none", BEAM), ("beam_lm", job.lm, BEAM),
    ):  # fmt: skip
        config = EngineConfig(slots=16, lm=lm, beam=beam)
        found[name] = round(_total(job, config, CLEAN, lambda _: NO_BIASING).wer, 4)
    best = min(found.values())
    return found | {"fewer_errors": round(1 - best / found["greedy"], 4)}


def boosting(job: Job) -> dict[str, Any]:
    """Errors on rare words of the clean set, all boosted at once, and on the other words."""
    utterances = read_manifest(CLEAN)[:: job.every]
    texts = sorted((SPEECH / "text").glob("*.txt.gz"))
    known = Counter(word for line in read_lines(texts) for word in line.split())
    said = Counter(word for u in utterances for word in plain_words(u.text))
    rare = {word for word in said if known[word] <= RARE and len(word) > 3}
    phrases = tuple(Phrase(word, PHRASE_WEIGHT) for word in sorted(rare)[:1000])
    total = sum(count for word, count in said.items() if word in rare)
    others = sum(said.values()) - total
    found: dict[str, Any] = {"phrases": len(phrases), "rare_words": total}
    for name, biasing in (("plain", NO_BIASING), ("boosted", Biasing(phrases=phrases))):
        missed = wrong = false = 0
        engine = load_engine(job.model, EngineConfig(slots=16))
        recordings = (Recording(str(i), read_audio(u.audio)) for i, u in enumerate(utterances))
        for heard in transcribe(engine, recordings, LOOK_AHEAD, biasing=biasing):
            words, ours = plain_words(utterances[int(heard.name)].text), _texts(heard.words)
            pairs = matches(words, ours)
            hit = {i for i, _ in pairs}
            mine = {j for _, j in pairs}
            missed += sum(w in rare and i not in hit for i, w in enumerate(words))
            wrong += sum(w not in rare and i not in hit for i, w in enumerate(words))
            false += sum(w in rare and j not in mine for j, w in enumerate(ours))
        found |= {
            f"{name}_rare_missed": round(missed / max(1, total), 4),
            f"{name}_rare_invented": false,
            f"{name}_others_missed": round(wrong / max(1, others), 4),
        }
    gone = 1 - found["boosted_rare_missed"] / max(1e-9, found["plain_rare_missed"])
    return found | {"rare_errors_gone": round(gone, 4)}


def _total(
    job: Job, config: EngineConfig, manifest: Path, biasing: Callable[[Utterance], Biasing]
) -> Score:
    utterances, total = read_manifest(manifest)[:: job.every], Score()
    engine = load_engine(job.model, config)
    recordings = (Recording(str(i), read_audio(u.audio)) for i, u in enumerate(utterances))
    for heard in transcribe(engine, recordings, LOOK_AHEAD):
        total += score(utterances[int(heard.name)].text, heard.text)
    return total


def _texts(words: Sequence[Word]) -> list[str]:
    return ["".join(plain_words(word.text)) for word in words]


def timed_clips(count: int) -> Iterator[tuple[list[str], list[list[float]], Samples]]:
    """Yield words, their spans in seconds and the audio of synthetic clips."""
    import soundfile

    rows = (json.loads(line) for line in TIMED.read_text(encoding="utf-8").splitlines())
    shards: dict[str, tarfile.TarFile] = {}
    for row in rows:
        words = row["text"].split()
        if not row.get("words") or len(row["words"]) != len(words):
            continue
        if count == 0:
            break
        count -= 1
        shard = shards.setdefault(row["shard"], tarfile.open(TIMED.parent / row["shard"]))
        member = shard.extractfile(row["member"])
        assert member is not None
        samples, rate = soundfile.read(BytesIO(member.read()), dtype="float32")
        assert rate == RATE
        yield words, row["words"], samples


def silence(minutes: float) -> Samples:
    """The noise of a good converter: 80 dB below full scale."""
    return _noise(minutes, 1e-4)


def fan(minutes: float) -> Samples:
    """Brown noise with the hum of blades, 30 dB below full scale."""
    count = int(minutes * 60 * RATE)
    noise = np.cumsum(_noise(minutes, 1.0))
    noise -= np.convolve(noise, np.ones(RATE // 20) / (RATE // 20), "same")
    at = np.arange(count) / RATE
    hum = sum(np.sin(2 * np.pi * 95 * k * at + k) / k for k in (1, 2, 3))
    return _at_level(noise / noise.std() + 0.5 * hum, 0.03)


def music(minutes: float) -> Samples:
    """Chords of plucked tones over a beat, 20 dB below full scale."""
    random, beat = np.random.default_rng(3), RATE // 2
    whole = np.zeros(int(minutes * 60 * RATE))
    at = np.arange(2 * RATE) / RATE
    for number, begin in enumerate(range(0, len(whole) - len(at), beat)):
        root = 110 * 2 ** (random.choice([0, 3, 5, 7, 10]) / 12)
        for interval in (0, 4, 7, 12):
            pitch = root * 2 ** (interval / 12)
            tone = sum(np.sin(2 * np.pi * pitch * k * at) / k**1.5 for k in range(1, 7))
            whole[begin : begin + len(at)] += tone * np.exp(-3 * at)
        drum = random.standard_normal(RATE // 10) * np.exp(-np.arange(RATE // 10) / 300)
        whole[begin : begin + len(drum)] += (3 if number % 2 else 1) * drum
    return _at_level(whole, 0.1)


def _noise(minutes: float, level: float) -> Samples:
    count = int(minutes * 60 * RATE)
    return (level * np.random.default_rng(1).standard_normal(count)).astype(np.float32)


def _at_level(samples: np.ndarray, level: float) -> Samples:
    return (samples * (level / samples.std())).astype(np.float32)


MEASURES: dict[str, Callable[[Job], dict[str, Any]]] = {
    "fusion": fusion,
    "boosting": boosting,
    "nothing": nothing,
    "confidence": confidence,
    "times": times,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tools", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
