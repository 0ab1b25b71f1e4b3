"""What a training run is: frozen values read from one TOML file.

Does: types, defaults and reading of a run's settings.
Does not know: tensors, files other than the TOML, the loop that obeys it.
"""

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

SPLITS = ("train", "synthetic", "dev")


class BadConfig(Exception):
    """A run cannot be as its file says; the message is a sentence for who wrote it."""


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
    """JSON lines with text and audio_filepath (with offset, a part of duration seconds of it), or
    shard and member of a tar beside it."""
    split: str = "train"
    """train, dev, or synthetic."""
    weight: float = 1.0
    """Chance of each clip to be in an epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What is trained on, and how it is cut into batches."""

    sources: tuple[Source, ...]
    texts: tuple[Path, ...] = ()
    """Sentences (plain or .gz) for the tokenizer only."""
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
    """Read a run from TOML; paths in it are relative to the file's folder. Raises BadConfig."""
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadConfig(f"{path} is no TOML: {error}") from error
    root = path.parent.resolve()
    for name, values in table.items():
        if not isinstance(values, dict):
            raise BadConfig(f"{path}: {name} stands in no section")
    data = table.pop("data", {})
    rows = data.pop("sources", [])
    if not rows or not isinstance(rows, list):
        raise BadConfig("data.sources names no manifest: it needs [[data.sources]]")
    sources = tuple(_source(root, row) for row in rows)
    if {s.split for s in sources} - set(SPLITS) or "dev" not in {s.split for s in sources}:
        raise BadConfig(
            f"the split of a source is one of {', '.join(SPLITS)}, and one source must be dev: a"
            " run is judged by it, and its best weights are chosen"
        )
    texts = data.get("texts", [])
    if not isinstance(texts, list):
        raise BadConfig("data.texts is a list of files")
    data["texts"] = tuple(sorted(p for t in texts for p in _paths(root, t)))
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
    config = TrainingConfig(data=_build(DataConfig, {**data, "sources": sources}), **made)
    check(config)
    return config


def check(config: TrainingConfig) -> None:
    """Raise BadConfig for numbers that cannot be."""
    model, run = config.model, config.run
    if model.heads < 1 or model.width % model.heads:
        raise BadConfig(f"width = {model.width} is no multiple of heads = {model.heads}")
    for part, names in (
        (model, ("width", "layers", "channels", "vocabulary")),
        (run, ("minutes", "steps", "hours", "processes", "threads", "warmup_steps", "dev_every")),
        (config.data, ("batch_seconds", "longest_s")),
    ):
        for name in names:
            if getattr(part, name) <= 0:
                raise BadConfig(f"{name} must be more than 0")
    if not model.look_aheads or min(*model.look_aheads, run.dev_look_ahead, 0) < 0:
        raise BadConfig("look-aheads are 0 or more frames, and look_aheads names at least one")


def _source(root: Path, row: dict[str, Any]) -> Source:
    if "manifest" not in row:
        raise BadConfig("a source has no manifest")
    return _build(Source, {**row, "manifest": root / row["manifest"]})


def _paths(root: Path, pattern: str) -> list[Path]:
    found = list((root / pattern).parent.glob(Path(pattern).name))
    return found or [root / pattern]  # that it is not there is said where it is read


def _build(kind: Any, values: dict[str, Any]) -> Any:
    known = {f.name for f in fields(kind)}
    unknown = set(values) - known
    if unknown:
        raise BadConfig(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for field_ in fields(kind):
        if field_.name in values and not _is(values[field_.name], field_.type):
            kind_ = getattr(field_.type, "__name__", field_.type)
            raise BadConfig(f"{field_.name} = {values[field_.name]!r} is no {kind_}")
    return kind(**values)


def _is(value: Any, wanted: Any) -> bool:
    """Whether a value of the file is of the type that a setting has."""
    if isinstance(wanted, UnionType):
        return any(_is(value, kind) for kind in get_args(wanted))
    if get_origin(wanted) is tuple:
        kind = get_args(wanted)[0]
        return isinstance(value, tuple) and all(_is(one, kind) for one in value)
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
