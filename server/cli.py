"""What the verbs of the command ``rivulet`` need from the engine and the server, as plain values.

Does: load models, transcribe and score files, look into checkpoints, serve; errors in one sentence.
Does not know: arguments, terminals, how results are drawn. The command loads this module by name,
only when a verb needs it.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from asr.interface import FRAME_MS, Biasing, EngineError, Phrase, StreamingEngine

Progress = Callable[[float], None]


class CliError(Exception):
    """The verb cannot do what was asked; the message is one sentence for a person."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelChoice:
    """The options that every verb with a model has."""

    model: str = ""
    """Path or name; empty: the embedded model."""
    look_ahead: int | None = None
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    backend: Literal["own", "nemo"] = "own"
    lm: str = "auto"
    """File of a language model for the model's vocabulary; auto: the model's own, if any; none."""
    lm_weight: float | None = None
    beam: int | None = None
    """Hypotheses of a search over a CTC head; 1: greedy; None: 24 with a language model."""
    boost: tuple[str, ...] = ()
    """Phrases to favour."""
    slots: int = 16


def load(choice: ModelChoice) -> StreamingEngine:
    """Load the chosen model. Raises CliError."""
    import torch

    from asr.checkpoint import DEFAULT_MODEL, CheckpointError
    from asr.engine import EngineConfig, load_engine
    from server.config import check_look_ahead

    torch.set_num_threads(1)  # two OpenMP threads collapse on a busy machine (measured 7 times)
    try:
        config = EngineConfig(
            slots=choice.slots,
            precision=choice.precision,
            lm=choice.lm,
            lm_weight=choice.lm_weight,
            beam=choice.beam,
        )
        engine = load_engine(choice.model or DEFAULT_MODEL, config, backend=choice.backend)
        check_look_ahead(choice.look_ahead, engine.info.model, engine.info.look_aheads)
    except (CheckpointError, EngineError, ValueError) as error:
        raise CliError(str(error)) from error
    return engine


class _Watched:
    """An engine whose decoded seconds somebody watches."""

    def __init__(self, engine: StreamingEngine, on_seconds: Progress) -> None:
        self._engine, self._on_seconds = engine, on_seconds
        self._frames: dict[int, int] = {}
        self._total = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def step(self) -> Any:
        emissions = self._engine.step()
        for emission in emissions:
            self._total += emission.frames - self._frames.get(emission.stream, 0)
            self._frames[emission.stream] = emission.frames
            if emission.finished:
                del self._frames[emission.stream]
        self._on_seconds(self._total * FRAME_MS / 1000)
        return emissions


def transcribe(
    paths: Sequence[Path], choice: ModelChoice, on_seconds: Progress
) -> Iterator[dict[str, Any]]:
    """Yield ``{"index", "text", "words", "duration_s"}`` of each file, in the order they finish."""
    from asr.offline import ManifestError, Recording, read_audio
    from asr.offline import transcribe as run

    engine = load(choice)
    # Latency means nothing for a whole file: the longest look-ahead hears best.
    look_ahead = max(engine.info.look_aheads) if choice.look_ahead is None else choice.look_ahead
    watched = cast(StreamingEngine, _Watched(engine, on_seconds))
    try:
        recordings = (Recording(str(i), read_audio(path)) for i, path in enumerate(paths))
        biasing = Biasing(phrases=tuple(map(Phrase, choice.boost)))
        for result in run(watched, recordings, look_ahead, biasing=biasing):
            yield {
                "index": int(result.name),
                "text": result.text,
                "words": [(w.text, w.start_ms, w.end_ms, w.confidence) for w in result.words],
                "duration_s": result.duration_s,
            }
    except (ManifestError, EngineError) as error:
        raise CliError(str(error)) from error


def evaluate(
    manifest: Path, choice: ModelChoice, *, every: int, on_progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Score a manifest through the streaming engine."""
    from asr.offline import ManifestError
    from asr.offline import evaluate as run

    engine = load(choice)
    look_ahead = engine.info.look_aheads[0] if choice.look_ahead is None else choice.look_ahead
    try:
        result = run(engine, manifest, look_ahead, every=every, on_progress=on_progress)
    except (ManifestError, EngineError) as error:
        raise CliError(str(error)) from error
    about = {
        "manifest": str(manifest),
        "model": engine.info.model,
        "look_ahead": look_ahead,
        "precision": engine.info.precision,
        "decoder": engine.info.decoder,
    }
    return about | result.as_json()


def listener_of_voices(most: int | None = None) -> Callable[[int], Any]:
    """Load the encoder of voices; return what makes a listener for a channel of a sample rate."""
    import torch

    from asr.speakers.encoder import load_voice_encoder
    from asr.speakers.labels import Speakers
    from asr.speakers.listener import Listener

    torch.set_num_threads(1)
    try:
        encoder = load_voice_encoder()
    except EngineError as error:
        raise CliError(str(error)) from error
    return lambda rate: Listener(encoder.embed, Speakers(most=most), rate)


def list_models() -> list[dict[str, Any]]:
    """Sum up the embedded models; one that cannot be read says why."""
    from asr.checkpoint import CheckpointError, embedded_models, inspect

    found = list[dict[str, Any]]()
    for name in embedded_models():
        try:
            found.append(inspect(name))
        except CheckpointError as error:
            found.append({"name": name, "error": str(error)})
    return found


def inspect_model(source: str) -> dict[str, Any]:
    """Look into a checkpoint: plain values, no engine."""
    from asr.checkpoint import CheckpointError, inspect

    try:
        return inspect(source)
    except CheckpointError as error:
        raise CliError(str(error)) from error


def serve(settings: dict[str, Any], on_ready: Callable[[Any], None]) -> int:
    """Run a server until it is told to end; ``on_ready`` gets its ``websocket`` and ``page``."""
    from server import app, gateways, logs
    from server.app import StartError
    from server.config import ConfigError, ServerConfig, default_workers

    logs.configure()
    try:
        most = max(default_workers(), settings.get("gateways", 1))
        config = ServerConfig(**{"workers": most, **settings})
        run = app.serve if config.gateways == 1 else gateways.serve
        return asyncio.run(run(config, on_ready=on_ready))
    except (ConfigError, StartError) as error:
        raise CliError(str(error)) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """What a worker that registers itself runs on."""

    device: str = "cpu"
    decoder_device: str = ""
    """Empty: the same."""
    audio_hour_cost: float | None = None
    """None: the default of the device's kind."""


def work(
    choice: ModelChoice,
    hardware: Hardware,
    where: str,
    secret_file: str,
    on_joined: Callable[[Any], None],
) -> None:
    """Serve a gateway elsewhere until it says that we are of no use.

    ``on_joined`` gets the engine's ``model``, ``precision`` and ``slots`` each time it has us.
    """
    from asr.checkpoint import CheckpointError
    from server import logs
    from server.config import LOOK_AHEAD_OF_CLASS, ConfigError, check_look_ahead
    from server.worker import join
    from server.worker.engines import EngineSpec, build
    from server.worker.registration import SecretError, shared_secret

    logs.configure()
    first = LOOK_AHEAD_OF_CLASS["balanced"] if choice.look_ahead is None else choice.look_ahead
    spec = EngineSpec(
        model=choice.model,
        device=hardware.device,
        decoder_device=hardware.decoder_device,
        audio_hour_cost=hardware.audio_hour_cost,
        backend=choice.backend,
        precision=choice.precision,
        slots=choice.slots,
        lm=choice.lm,
        lm_weight=choice.lm_weight,
        beam=choice.beam,
        look_ahead=first,
    )
    try:
        address, secret = join.Address.of(where), shared_secret(secret_file)
        engine = build(spec)
        check_look_ahead(choice.look_ahead, engine.info.model, engine.info.look_aheads)
        join.serve(engine, spec, address, secret, on_joined=lambda: on_joined(engine.info))
    except (join.JoinError, SecretError, CheckpointError, EngineError, ConfigError) as error:
        raise CliError(str(error)) from error


def add_key(path: Path, name: str, scopes: Sequence[str], streams: int | None) -> str:
    """Make a key and return it, this once."""
    from server import keys

    unknown = set(scopes) - set(keys.SCOPES)
    if unknown:
        raise CliError(f"a scope is one of {', '.join(keys.SCOPES)}")
    chosen = tuple(scope for scope in keys.SCOPES if scope in (scopes or ("stream", "files")))
    try:
        return keys.add_key(path, name, chosen, streams)
    except keys.KeyFileError as error:
        raise CliError(str(error)) from error


def remove_key(path: Path, name: str) -> None:
    """Forget a key."""
    from server import keys

    try:
        keys.remove_key(path, name)
    except keys.KeyFileError as error:
        raise CliError(str(error)) from error


def list_keys(path: Path) -> list[dict[str, Any]]:
    """Return what is known of each key: nothing that opens anything."""
    from server import keys

    try:
        return [
            {"name": key.name, "scopes": list(key.scopes), "streams": key.streams}
            for key in keys.read(path).keys
        ]
    except keys.KeyFileError as error:
        raise CliError(str(error)) from error


def train(config: Path, *, out: Path, resume: bool) -> int:
    """Train a model; returns an exit status."""
    from asr.offline import ManifestError
    from asr.training.config import BadConfig
    from asr.training.train import run

    if not config.is_file():
        raise CliError(f"{config}: there is no such file")
    try:
        return run(config, out=out, resume=resume)
    except (BadConfig, ManifestError) as error:
        raise CliError(str(error)) from error


def export_run(run: Path, out: Path) -> None:
    """Write the best weights of a run as a ``.nemo``, or as a folder that ``--model`` takes."""
    from asr.training.config import BadConfig
    from asr.training.export import read, save_folder, save_nemo

    try:
        (save_nemo if out.suffix == ".nemo" else save_folder)(read(run), out)
    except BadConfig as error:
        raise CliError(str(error)) from error


def calibrate(
    model: Path, manifest: Path, lm: str, on_progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Measure a checkpoint's confidence and delay, and write them where it is loaded from."""
    from asr.checkpoint import CheckpointError
    from asr.judging import calibrate as run
    from asr.offline import ManifestError

    try:
        return run(model, manifest, lm, on_progress=on_progress)
    except (CheckpointError, EngineError, ManifestError) as error:
        raise CliError(str(error)) from error
    except OSError as error:
        raise CliError(f"{error.filename}: {error.strerror}") from error


def train_lm(
    texts: Sequence[Path], model: str, out: Path, *, order: int, most: int | None = None
) -> dict[str, Any]:
    """Make a language model of text files for the vocabulary of a checkpoint."""
    from asr.checkpoint import DEFAULT_MODEL, CheckpointError, load_checkpoint
    from asr.decoder.counting import TextError, encode_lines, estimate, read_lines

    try:
        tokenizer = load_checkpoint(model or DEFAULT_MODEL).tokenizer
        lines = list(read_lines(texts))
        sentences = encode_lines(lines, tokenizer)
    except (CheckpointError, TextError) as error:
        raise CliError(str(error)) from error
    if not sentences:
        raise CliError("no line of the texts can be spelled in the vocabulary of the model")
    lm = estimate(sentences, len(tokenizer.pieces), order=order, most=most)
    lm.save(out, tokenizer.pieces, ", ".join(path.name for path in texts))
    return {
        "file": str(out),
        "sentences": len(sentences),
        "left_out": len(lines) - len(sentences),
        "pieces": sum(map(len, sentences)),
        "ngrams": lm.nodes,
        "bytes": out.stat().st_size,
    }
