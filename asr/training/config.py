"""What a training run is: frozen values read from one TOML file.

Does: types, defaults and reading of a run's settings.
Does not know: tensors, files other than the TOML, the loop that obeys it.
"""

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


class BadConfig(Exception):
    """The file names a setting that does not exist, or misses one it must have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape of the network; the names of its parameters are NeMo's."""

    width: int = 192
    layers: int = 12
    heads: int = 4
    kernel: int = 9
    channels: int = 64
    """Of the subsampling; the dearest part of a step on CPU."""
    left: int = 70
    look_aheads: tuple[int, ...] = (13, 6, 1, 0)
    vocabulary: int = 256
    predictor: int = 320
    joint: int = 320


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One manifest: where its clips are and how they are used."""

    manifest: Path
    """JSON lines with text and audio_filepath, or shard and member of a tar beside it."""
    split: str = "train"
    """train, dev, or synthetic."""
    weight: float = 1.0
    """Chance of each clip to be in an epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What is trained on, and how it is cut into batches."""

    sources: tuple[Source, ...]
    texts: tuple[Path, ...] = ()
    """Sentences (.txt.gz) for the tokenizer only."""
    lexicon: Path | None = None
    """word, tab, sounds (one character each); words without an entry are spelled."""
    batch_seconds: float = 40.0
    longest_s: float = 20.0
    short_longest_s: float = 12.0
    """Longest clip during the first ``short_hours``."""
    short_hours: float = 12.0
    timed_hours: float = 2.0
    """At first only clips with word times, as frame targets."""
    synthetic_ratio: float = 1.0
    """At most this many synthetic hours for each real one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """How much the audio is changed, once the model listens at all."""

    from_hours: float = 40.0
    gain_db: float = 8.0
    """Always on: the features are not normalized."""
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    noise: float = 0.4
    """Share of clips with noise added."""
    snr_db: tuple[float, float] = (5.0, 30.0)
    rooms: float = 0.0
    """Share of clips heard in a room."""
    warp: float = 0.0
    """Most by which mel bands are stretched or pressed, as a share."""
    telephone: float = 0.1
    """Share of clips heard through 300-3400 Hz."""
    frequency_masks: int = 2
    frequency_width: int = 20
    time_masks_per_s: float = 0.4
    time_width: int = 25
    dropout: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """Weights of the losses; a weight of zero leaves its part out."""

    ctc: float = 1.0
    middle: float = 0.3
    """CTC of pieces on an inner layer."""
    sounds: float = 0.5
    """CTC of sounds (or letters) at 50 Hz on an inner layer, by a head that is not exported."""
    frames: float = 1.0
    """Cross-entropy on frame targets, where a clip has word times."""
    frame_hours: float = 30.0
    teacher: float = 0.0
    """Squared error against a teacher's states, where the run keeps them (``teacher.py``)."""
    agree: float = 0.0
    """Two differently masked views of each clip shall say the same (CR-CTC); doubles a step."""
    rnnt: float = 0.0
    rnnt_hours: float = 1e9
    """Hours seen before the transducer joins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """How long, how fast, how often."""

    minutes: float = 60.0
    """Wall time over all sittings."""
    steps: int = 1_000_000
    """A run also ends here; what ends first sets the learning rate."""
    hours: float = 1e9
    """And here: of audio seen."""
    start: Path | None = None
    """An exported model of any depth to begin with, a folder, instead of random weights."""
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    decay: float = 0.3
    """Share of the run over which the learning rate falls, at its end; constant before."""
    weight_decay: float = 1e-3
    clip_norm: float = 5.0
    ema: float = 0.998
    bf16: bool = True
    device: str = "cpu"
    processes: int = 1
    threads: int = 2
    """Of each process."""
    seed: int = 1
    save_minutes: float = 4.0
    evaluate_minutes: float = 8.0
    dev_look_ahead: int = 6
    dev_every: int = 3
    """Every n-th dev clip while training; all of them at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """A whole run."""

    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    run: RunConfig = field(default_factory=RunConfig)


def load(path: Path) -> TrainingConfig:
    """Read a run from TOML; paths in it are relative to the file's folder."""
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadConfig(f"{path} is no TOML: {error}") from error
    root = path.parent.resolve()
    data = dict(table.pop("data", {}))
    sources = tuple(_source(root, row) for row in data.pop("sources", []))
    if not sources:
        raise BadConfig("data.sources names no manifest")
    data["texts"] = tuple(sorted(p for t in data.get("texts", []) for p in _paths(root, t)))
    if "lexicon" in data:
        data["lexicon"] = root / data["lexicon"]
    parts = {
        "model": ModelConfig,
        "augment": AugmentConfig,
        "loss": LossConfig,
        "run": RunConfig,
    }
    unknown = set(table) - set(parts)
    if unknown:
        raise BadConfig(f"unknown sections: {', '.join(sorted(unknown))}")
    if "start" in table.get("run", {}):
        table["run"]["start"] = root / table["run"]["start"]
    made = {name: _build(kind, table.get(name, {})) for name, kind in parts.items()}
    return TrainingConfig(data=_build(DataConfig, {**data, "sources": sources}), **made)


def _source(root: Path, row: dict[str, Any]) -> Source:
    return _build(Source, {**row, "manifest": root / row["manifest"]})


def _paths(root: Path, pattern: str) -> list[Path]:
    folder = (root / pattern).parent
    return list(folder.glob(Path(pattern).name))


def _build(kind: Any, values: dict[str, Any]) -> Any:
    known = {f.name for f in fields(kind)}
    unknown = set(values) - known
    if unknown:
        raise BadConfig(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
