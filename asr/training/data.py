"""Clips of a run: prepared once into one file of samples, then drawn as batches.

Does: decode manifests and tar shards, train the tokenizer, cut epochs into batches of like length.
Does not know: features, augmentation, the network. soundfile is needed to prepare, not to train.
"""

import io
import json
import logging
import random
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from torch import Tensor

from asr.decoder.counting import TextError, read_lines
from asr.offline import UNREADABLE, ManifestError, manifest_lines, read_part, spoken
from asr.training.config import BadConfig, DataConfig, Source
from asr.training.losses import Labels
from asr.training.teacher import rows_of
from asr.training.texts import FOLDED, UNSPOKEN

RATE = 16_000
FRAME_S = 0.08
SHORTEST_S = 0.4
PCM_SCALE = 32_768.0
NO_TARGET = -100
ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz' ")
SENTENCES_A_TEXT = 20_000
PCM, INDEX, TOKENIZER = "pcm.i16", "index.jsonl", "tokenizer.model"
_logger = logging.getLogger("rivulet.training")


class _UnfitError(Exception):
    """A clip cannot be used."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One utterance; samples are [start, start + length) of the prepared file."""

    split: str
    source: str
    start: int
    length: int
    weight: float
    words: tuple[str, ...]
    times: tuple[tuple[float, float], ...] | None
    """Seconds of each word, where the synthesiser told them."""
    states: int
    """Where the teacher's states of it begin, if the run keeps them."""

    @property
    def seconds(self) -> float:
        """Length of the audio."""
        return self.length / RATE

    @property
    def text(self) -> str:
        """Transcript, words separated by one space."""
        return " ".join(self.words)


def prepare(config: DataConfig, out: Path, *, vocabulary: int, start: Path | None = None) -> None:
    """Write samples, index and tokenizer into ``out``; does nothing where they are.

    A run that begins with the model in the folder ``start`` writes that model's pieces.
    Raises BadConfig and ManifestError.
    """
    if not (out / INDEX).exists():
        _look(config, start)
        out.mkdir(parents=True, exist_ok=True)
        _decode(config, out)
    index = (out / INDEX).read_text(encoding="utf-8").splitlines()
    clips = [json.loads(line) for line in index]
    _compare(config, clips, out)
    if not (out / TOKENIZER).exists():
        if start is None:
            _train_tokenizer(config, clips, out, vocabulary=vocabulary)
        else:
            _put(out / TOKENIZER, (start / TOKENIZER).read_bytes())


def _look(config: DataConfig, start: Path | None) -> None:
    """Say what is missing before hours are decoded."""
    of_start = [] if start is None else [start / "model.safetensors", start / TOKENIZER]
    lexicon = [] if config.lexicon is None else [config.lexicon]
    for path in [*(s.manifest for s in config.sources), *config.texts, *lexicon, *of_start]:
        if not path.exists():
            raise BadConfig(f"{path}, which the config needs, is not there")


def _compare(config: DataConfig, clips: list[dict[str, Any]], out: Path) -> None:
    """Warn of a config that names other data than was prepared."""
    wanted = {(s.manifest.stem, s.split, s.weight) for s in config.sources if s.split != "dev"}
    has = {(c["source"], c["split"], c["weight"]) for c in clips if c["split"] != "dev"}
    for name, split, weight in sorted(wanted ^ has):
        _logger.warning(
            "%s: %s (%s, weight %g) is only in %s; the run hears what was prepared, until you"
            " delete %s", out, name, split, weight,
            "the config" if (name, split, weight) in wanted else "what was prepared", out / INDEX,
        )  # fmt: skip


def _decode(config: DataConfig, out: Path) -> None:
    clips, position = [], 0
    with (out / PCM).open("wb") as pcm:
        for source in config.sources:
            for row, samples in _decoded(source):
                pcm.write(samples.tobytes())
                clips.append({**row, "start": position, "length": len(samples)})
                position += len(samples)
            _logger.info("%s: %.1f h are ready", source.manifest, position / RATE / 3_600)
    _put(out / INDEX, "".join(json.dumps(row) + "\n" for row in clips).encode())


def _put(path: Path, content: bytes) -> None:
    """Write beside and rename: what is there is whole, however the preparation ends."""
    draft = path.with_suffix(".tmp")
    draft.write_bytes(content)
    draft.replace(path)


def _decoded(source: Source) -> Iterator[tuple[dict[str, object], np.ndarray]]:
    """Yield the clips of a manifest; those that cannot be used are counted and named."""
    left_out, first, clips = Counter[str](), dict[str, int](), 0
    for number, row, file in _members(source.manifest):
        clips += 1
        try:
            if (words := spelled(row["text"])) is None:
                raise _UnfitError("have text that can be read in many ways (figures, signs)")
            samples = read_part(file, row["offset"], row["duration"])
        except (_UnfitError, ManifestError) as error:
            why = str(error) if isinstance(error, _UnfitError) else "cannot be read as audio"
            left_out[why] += 1
            first.setdefault(why, number)
            continue
        times = row.get("words")
        name = row.get("source", source.manifest.stem) if source.split == "dev" else ""
        yield (
            {
                "split": source.split,
                "source": name or source.manifest.stem,
                "weight": source.weight,
                "words": words,
                "times": times if times and len(times) == len(words) else None,
            },
            (samples * PCM_SCALE).round().clip(-PCM_SCALE, PCM_SCALE - 1).astype(np.int16),
        )
    for why, count in left_out.items():
        _logger.warning(
            "%s: %d of %d clips %s: left out, the first is line %d",
            source.manifest, count, clips, why, first[why],
        )  # fmt: skip


def _members(manifest: Path) -> Iterator[tuple[int, dict[str, Any], Path | io.BytesIO]]:
    """Yield number and content of each line with its audio: a file, or a member of a tar shard.

    Raises ManifestError, which names the line.
    """
    with ExitStack() as stack:
        shards: dict[str, tarfile.TarFile] = {}
        for number, line in enumerate(manifest_lines(manifest), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                row["text"], row["offset"], row["duration"] = spoken(row)
                if "shard" not in row:
                    file: Path | io.BytesIO = manifest.parent / row["audio_filepath"]
                else:
                    name = row["shard"]
                    if name not in shards:
                        shards[name] = stack.enter_context(tarfile.open(manifest.parent / name))
                    member = shards[name].extractfile(row["member"])
                    if member is None:
                        raise ValueError(f"{row['member']} is no file")
                    file = io.BytesIO(member.read())
            except (*UNREADABLE, OSError, tarfile.TarError) as error:
                raise ManifestError(
                    f"{manifest} line {number} is not an object with text and audio_filepath "
                    f"(or shard and member) that exist: {error}"
                ) from error
            yield number, row, file


def spelled(text: str) -> list[str] | None:
    """Return the words of a transcript in the model's letters; none: nobody speaks.

    None: it has figures, signs or letters of which nobody knows how they were read.
    """
    folded = unicodedata.normalize("NFKD", text.lower().translate(FOLDED))
    plain = "".join(c for c in folded if not unicodedata.combining(c))
    if UNSPOKEN.search(plain) or any(c.isalnum() and c not in ALPHABET for c in plain):
        return None
    marked = "".join(c if c in ALPHABET else " " for c in plain)
    words = [word for word in marked.split() if word.strip("'")]
    return words if words or not text.strip() else None


def _train_tokenizer(
    config: DataConfig, clips: list[dict[str, object]], out: Path, *, vocabulary: int
) -> None:
    sentences = [" ".join(c["words"]) for c in clips if c["words"] and c["split"] != "dev"]  # type: ignore[arg-type]
    for path in config.texts:
        try:
            lines = (spelled(line) for line in islice(read_lines([path]), SENTENCES_A_TEXT))
            sentences += [" ".join(words) for words in lines if words]
        except TextError as error:
            raise BadConfig(f"data.texts: {error}") from error
    if not sentences:
        raise BadConfig(f"{out}: there is no text to train on in the sources, nor in data.texts")
    made = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences), model_writer=made,
            vocab_size=vocabulary, model_type="bpe", character_coverage=1.0,
            bos_id=-1, eos_id=-1, unk_id=0, minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:  # its message says how many are possible
        why = str(error).rpartition("] ")[2]
        raise BadConfig(f"vocabulary = {vocabulary} does not fit the texts: {why}") from error
    _put(out / TOKENIZER, made.getvalue())


class Sounds:
    """What the inner head writes: sounds by a lexicon, letters for words it lacks."""

    def __init__(self, lexicon: Path | None, words: Sequence[str]) -> None:
        self._of: dict[str, str] = {}
        if lexicon is not None:
            rows = lexicon.read_text(encoding="utf-8").splitlines()
            self._of = dict(row.split("\t", 1) for row in rows if "\t" in row)
            if not self._of:
                raise BadConfig(f"{lexicon} has no line of a word, a tab and its sounds")
        used = {c for word in words for c in self.spell(word)}
        self.inventory = tuple(sorted(used))
        self._ids = {c: i for i, c in enumerate(self.inventory)}

    def spell(self, word: str) -> str:
        """Give the sounds of a word, one character each."""
        return self._of.get(word, word)

    def ids(self, word: str) -> list[int]:
        """Give the sounds of a word as ids."""
        return [self._ids[c] for c in self.spell(word) if c in self._ids]


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """What of the clips an epoch uses, given how far the run is."""

    longest_s: float
    timed: bool
    """Only clips with word times."""


class Corpus:
    """The prepared clips, and their targets."""

    def __init__(self, config: DataConfig, folder: Path) -> None:
        self._config = config
        self._pcm = np.memmap(folder / PCM, np.int16, "r")
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / TOKENIZER))
        lines = (folder / INDEX).read_text(encoding="utf-8").splitlines()
        clips, states = [], 0
        for line in lines:
            clips.append(_clip(json.loads(line), states))
            states += rows_of(clips[-1].length)
        self.dev = [c for c in clips if c.split == "dev"]
        self.train, self.unfit = list[Clip](), list[Clip]()
        """Clips to learn from, and those that are too short or too long for it."""
        for clip in (c for c in clips if c.split != "dev"):
            fits = SHORTEST_S < clip.seconds < config.longest_s
            (self.train if fits else self.unfit).append(clip)
        if not self.train or not self.dev:
            kind = "train on" if self.dev else 'judge a run by (split = "dev")'
            raise BadConfig(
                f"{folder} has no clip to {kind}; {len(self.unfit)} are shorter than {SHORTEST_S}"
                f" or longer than longest_s = {config.longest_s:g} s"
            )
        self.sounds = Sounds(config.lexicon, sorted({w for c in self.train for w in c.words}))

    def samples(self, clip: Clip) -> Tensor:
        """Read samples, in -1..1."""
        cut = self._pcm[clip.start : clip.start + clip.length]
        return torch.from_numpy(cut.astype(np.float32) / PCM_SCALE)

    def epoch(self, plan: EpochPlan, rng: random.Random) -> list[list[Clip]]:
        """Shuffled batches of clips of like length; synthetic ones at most at their ratio."""
        timed = plan.timed and any(c.times for c in self.train)
        fits = [
            c
            for c in self.train
            if c.seconds < plan.longest_s and (c.times or not timed) and rng.random() < c.weight
        ] or list(self.train)  # none is so short, or none was drawn
        chosen = fits if timed else self._balanced(fits, rng)
        chosen.sort(key=lambda c: c.length * rng.uniform(0.9, 1.1))
        batches: list[list[Clip]] = [[]]
        top = 0.0
        for clip in chosen:
            top = max(top, clip.seconds)
            if batches[-1] and top * (len(batches[-1]) + 1) > self._config.batch_seconds:
                batches.append([])
                top = clip.seconds
            batches[-1].append(clip)
        rng.shuffle(batches)
        return [b for b in batches if b]

    def _balanced(self, clips: list[Clip], rng: random.Random) -> list[Clip]:
        chosen = [c for c in clips if c.split == "train"]
        room = sum(c.seconds for c in chosen) * self._config.synthetic_ratio
        if not chosen:
            return clips
        synthetic = [c for c in clips if c.split == "synthetic"]
        for clip in rng.sample(synthetic, len(synthetic)):
            if room <= 0:
                break
            chosen.append(clip)
            room -= clip.seconds
        return chosen

    def piece_labels(self, clips: Sequence[Clip]) -> Labels:
        """Pieces of the transcripts."""
        return _padded([self.pieces.encode(c.text) for c in clips])

    def sound_labels(self, clips: Sequence[Clip]) -> Labels:
        """Sounds of the transcripts."""
        return _padded([[i for w in c.words for i in self.sounds.ids(w)] for c in clips])

    def piece_frames(self, clip: Clip, steps: int, *, late: float, speed: float = 1.0) -> Tensor:
        """Piece of each encoder frame of a clip with word times, played at a speed."""
        grid = (steps, FRAME_S * speed, late * speed, len(self.pieces))
        return _spread(clip, [self.pieces.encode(w) for w in clip.words], grid)

    def sound_frames(self, clip: Clip, steps: int, *, late: float, speed: float = 1.0) -> Tensor:
        """Sound of each 20 ms of a clip with word times, played at a speed."""
        grid = (steps, FRAME_S / 4 * speed, late * speed, len(self.sounds.inventory))
        return _spread(clip, [self.sounds.ids(w) for w in clip.words], grid)


def _clip(row: dict[str, object], states: int) -> Clip:
    times = row["times"]
    return Clip(
        split=str(row["split"]), source=str(row["source"]),
        start=int(row["start"]), length=int(row["length"]), weight=float(row["weight"]),  # type: ignore[call-overload, arg-type]
        words=tuple(row["words"]),  # type: ignore[arg-type]
        times=tuple((a, b) for a, b in times) if times else None,  # type: ignore[attr-defined]
        states=states,
    )  # fmt: skip


def _padded(rows: Sequence[Sequence[int]]) -> Labels:
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(r, dtype=torch.long) for r in rows], True)
    return Labels(ids, torch.tensor([len(r) for r in rows]))


def _spread(
    clip: Clip, labels: Sequence[Sequence[int]], grid: tuple[int, float, float, int]
) -> Tensor:
    """Each word's labels in equal parts over its time, ``late`` seconds later; else the blank.

    Steps and lateness are in the clip's own seconds, whatever speed it is played at.
    """
    steps, step_s, late, blank = grid
    if clip.times is None:
        return torch.full((steps,), NO_TARGET)
    frames = [blank] * steps
    for ids, (start, end) in zip(labels, clip.times, strict=True):
        if not ids:
            continue
        first = (start + late) / step_s
        span = max((end - start) / step_s, float(len(ids)))
        for f in range(max(0, int(first + 0.999)), min(steps, int(first + span + 0.999))):
            frames[f] = ids[min(len(ids) - 1, int((f - first) / span * len(ids)))]
    return torch.tensor(frames)
