"""Whole recordings through the streaming engine, many at once, faster than real time.

Does: recordings -> transcripts; a manifest -> WER. The same steps as live, in catch-up passes.
Does not know: sockets, sessions, turns, how results are printed.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from asr.audio import MAX_RATE_HZ, AudioError, Resampler
from asr.events import Word
from asr.interface import (
    FRAME_MS,
    NO_BIASING,
    SAMPLE_RATE_HZ,
    Biasing,
    Samples,
    StreamingEngine,
    Token,
)
from asr.scoring import Score, score
from asr.tokenizer import Tokenizer
from asr.transcript import earlier

UNREADABLE = (ValueError, KeyError, TypeError, OverflowError, RecursionError)
"""What a line of a manifest that says something else, or is nested too deep, may raise."""
PASS_SECONDS = 30.0
"""Audio handed to a stream at a time: bounds what waits in memory."""


class ManifestError(Exception):
    """A manifest cannot be read; the message names the line."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A 16 kHz mono recording under a name of the caller's."""

    name: str
    samples: Samples


@dataclass(frozen=True, slots=True)
class Transcription:
    """What was said in a recording."""

    name: str
    text: str
    words: tuple[Word, ...]
    duration_s: float


@dataclass(frozen=True, slots=True)
class Utterance:
    """A line of a JSON-lines manifest."""

    audio: Path
    text: str
    duration_s: float
    offset_s: float | None
    """Where in the file it begins, and has ``duration_s``; None: it is the whole file."""
    starts_s: tuple[float, ...] = ()
    """Of its words, where the line has ``words``: start and end of each."""

    def samples(self) -> Samples:
        """Read its audio."""
        return read_part(self.audio, self.offset_s, self.duration_s)


@dataclass(slots=True)
class Evaluation:
    """Errors of a manifest and the speed they were made at."""

    score: Score = field(default_factory=Score)
    utterances: int = 0
    audio_s: float = 0.0
    wall_s: float = 0.0

    def as_json(self) -> dict[str, float | int]:
        """Return the figures; ``wer`` and ``cer`` are fractions."""
        return {
            "wer": round(self.score.wer, 5),
            "cer": round(self.score.cer, 5),
            "words": self.score.words,
            "utterances": self.utterances,
            "audio_s": round(self.audio_s, 2),
            "rtf": round(self.wall_s / self.audio_s, 5) if self.audio_s else 0.0,
        }


@dataclass(slots=True)
class _Running:
    recording: Recording
    fed: int = 0
    is_finished: bool = False
    tokens: list[Token] = field(default_factory=list)


def words_of(tokens: Iterable[Token], tokenizer: Tokenizer) -> tuple[Word, ...]:
    """Group tokens into words with times (ms) and the confidence of their least sure token."""
    tokens = tuple(tokens)
    words = []
    for group in tokenizer.words([token.id for token in tokens]):
        first, last = tokens[group[0]], tokens[group[-1]]
        text = tokenizer.decode(tokens[i].id for i in group)
        if text:
            sure = min(tokens[i].confidence for i in group)
            words.append(Word(text, first.frame * FRAME_MS, (last.frame + 1) * FRAME_MS, sure))
    return tuple(words)


def transcribe(
    engine: StreamingEngine,
    recordings: Iterable[Recording],
    look_ahead: int,
    *,
    biasing: Biasing = NO_BIASING,
) -> Iterator[Transcription]:
    """Yield transcriptions as they finish; as many recordings run at once as there are slots."""
    waiting = iter(recordings)
    running: dict[int, _Running] = {}

    def open_stream() -> int:
        return engine.open(look_ahead, biasing=biasing)

    try:
        while _admit(engine, waiting, running, open_stream) or running:
            for stream, job in running.items():
                _feed(engine, stream, job)
            for emission in engine.step():
                running[emission.stream].tokens += emission.tokens
                if emission.finished:
                    job = running.pop(emission.stream)
                    words = earlier(words_of(job.tokens, engine.tokenizer), engine.info.late_ms)
                    duration = len(job.recording.samples) / SAMPLE_RATE_HZ
                    text = " ".join(word.text for word in words)
                    yield Transcription(job.recording.name, text, words, duration)
    finally:
        for stream in running:
            engine.drop(stream)


def evaluate(
    engine: StreamingEngine,
    manifest: Path,
    look_ahead: int,
    *,
    every: int = 1,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Evaluation:
    """Transcribe a manifest through the streaming engine and score it.

    ``every`` takes each n-th utterance only (for a quick look).
    """
    utterances = read_manifest(manifest)[::every]
    result, began = Evaluation(), time.perf_counter()
    recordings = (Recording(str(i), u.samples()) for i, u in enumerate(utterances))
    for transcription in transcribe(engine, recordings, look_ahead):
        result.score += score(utterances[int(transcription.name)].text, transcription.text)
        result.utterances += 1
        result.audio_s += transcription.duration_s
        on_progress(result.utterances, len(utterances))
    result.wall_s = time.perf_counter() - began
    return result


def read_manifest(path: Path) -> list[Utterance]:
    """Read a NeMo-style JSON-lines manifest; audio paths are relative to its folder."""
    utterances = []
    for number, line in enumerate(manifest_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            audio = path.parent / row["audio_filepath"]
            text, offset_s, duration_s = spoken(row)
            starts_s = _starts_s(row.get("words"))
            utterances.append(Utterance(audio, text, duration_s, offset_s, starts_s))
        except UNREADABLE as error:
            raise ManifestError(
                f"{path} line {number} is not an object with audio_filepath and text: {error}"
            ) from error
    if not utterances:
        raise ManifestError(f"{path} lists no utterance")
    return utterances


def spoken(row: dict[str, Any]) -> tuple[str, float | None, float]:
    """Return text, offset (None: the whole file) and duration of a line. Raises UNREADABLE."""
    text, offset, duration = row["text"], row.get("offset"), row.get("duration")
    if not isinstance(text, str):
        raise TypeError("its text is no string")
    seconds = [float(number or 0.0) for number in (offset, duration)]
    if not all(0.0 <= number < math.inf for number in seconds):
        raise ValueError("offset and duration are seconds from 0 on")
    return text, None if offset is None else seconds[0], seconds[1]


def _starts_s(words: Any) -> tuple[float, ...]:
    """Return when each word begins; others' manifests may have other things under that name."""
    try:
        starts = tuple(float(start) for start, _ in words or ())
    except UNREADABLE:
        return ()
    return starts if all(map(math.isfinite, starts)) else ()


def manifest_lines(path: Path) -> list[str]:
    """Return the lines of a manifest, of which some may be blank. Raises ManifestError."""
    if path.is_char_device():  # it may have no end
        raise ManifestError(f"cannot read manifest {path}: it is a device, no file")
    try:
        # A text may hold characters at which ``splitlines`` would cut.
        return path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"cannot read manifest {path}: {error}") from error


def read_audio(path: Path | BinaryIO) -> Samples:
    """Read any file libsndfile knows as 16 kHz mono (channels are averaged)."""
    return read_part(path, None, 0.0)


def read_part(path: Path | BinaryIO, offset_s: float | None, duration_s: float) -> Samples:
    """Read these seconds from an offset on (to the end, if none); without an offset the file."""
    import soundfile  # not on every machine that trains or benchmarks

    try:
        source = os.fsencode(path) if isinstance(path, Path) else path  # any name that is a file's
        with soundfile.SoundFile(source) as file:
            rate, most = file.samplerate, -1
            if offset_s is not None:
                if offset_s * rate > file.frames:
                    raise ManifestError(f"cannot read audio {path}: it ends before {offset_s:g} s")
                file.seek(round(offset_s * rate))
                most = round(duration_s * rate) or -1
            samples = file.read(most, dtype="float32", always_2d=True)
    except (OSError, UnicodeEncodeError, soundfile.LibsndfileError) as error:
        raise ManifestError(f"cannot read audio {path}: {error}") from error
    mono = np.nan_to_num(samples.mean(1), nan=0.0, posinf=1.0, neginf=-1.0)  # no number is silence
    if rate == SAMPLE_RATE_HZ:
        return mono
    keep = -(-rate // MAX_RATE_HZ)
    if rate % keep == 0:  # a recorder's 96 kHz: means of neighbours, as our client sends them
        mono, rate = mono[: len(mono) // keep * keep].reshape(-1, keep).mean(1), rate // keep
    try:
        resampler = Resampler(rate)
    except AudioError as error:
        raise ManifestError(f"cannot read audio {path}: {error}") from error
    return np.concatenate([resampler.push(mono), resampler.flush()])


def _admit(
    engine: StreamingEngine,
    waiting: Iterator[Recording],
    running: dict[int, _Running],
    open_stream: Callable[[], int],
) -> bool:
    """Open streams while slots are free; whether any is running."""
    while engine.slots_in_use < engine.info.slots:
        recording = next(waiting, None)
        if recording is None:
            break
        running[open_stream()] = _Running(recording)
    return bool(running)


def _feed(engine: StreamingEngine, stream: int, job: _Running) -> None:
    """Hand over the next part of the recording."""
    if job.is_finished:
        return
    end = job.fed + int(PASS_SECONDS * SAMPLE_RATE_HZ)
    engine.feed(stream, job.recording.samples[job.fed : end])
    job.fed = end
    if end >= len(job.recording.samples):
        engine.finish(stream)
        job.is_finished = True
