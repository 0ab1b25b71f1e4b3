"""One call from what a user typed to a checked Checkpoint.

Does: choose the reader by what lies there, check the tensors, sum up for ``rivulet models``.
Does not know: how files are read, engines.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.calibration import Calibration, Curve
from asr.checkpoint import transformers_names
from asr.checkpoint.archive import read_nemo
from asr.checkpoint.config import Config
from asr.checkpoint.folder import (
    CONFIG_JSON,
    CONFIG_YAML,
    licence_of,
    read_json,
    read_safetensors,
    read_small,
)
from asr.checkpoint.hub import DEFAULT_MODEL, checkpoint_in, locate
from asr.checkpoint.nemo_config import spec_from_nemo
from asr.checkpoint.pieces import (
    pieces_from_tokenizer_json,
    sentencepiece_pieces,
    tokenizer_from_nemo,
)
from asr.checkpoint.spec import (
    Checkpoint,
    ModelSpec,
    UnreadableCheckpoint,
    bytes_per_stream,
)
from asr.checkpoint.weights import checked_tensors, fingerprint
from asr.tokenizer import Tokenizer

CALIBRATION, LANGUAGE_MODEL = "calibration.json", "lm.safetensors"
TRAINED = "best.pt"
"""What a training run has where a model should be."""
LATEST_MS = 2_000
_TYPICAL = "encoder.pre_encode.out.weight"
_HEADS = ("joint.joint_net.2.weight", "joint.joint_net.1.weight")
_CTC_HEADS = ("ctc_decoder.decoder_layers.0.weight", "decoder.decoder_layers.0.weight")


def load_checkpoint(source: str | Path = DEFAULT_MODEL) -> Checkpoint:
    """Load a ``.nemo`` file, a checkpoint folder, an embedded model or a Hugging Face name.

    Raises UnreadableCheckpoint or UnsupportedModel, each with one sentence.
    """
    found, place = _place(source)
    name = str(source) if found != Path(source).expanduser() else found.stem
    if place.is_file():
        checkpoint = _load_nemo(place, name)
    elif (place / CONFIG_YAML).is_file():
        checkpoint = _load_own(place, name)
    else:
        checkpoint = _load_transformers(place, name)
    return replace(checkpoint, calibration=_calibration(_beside(place)))


def calibration_of(source: str | Path) -> Path:
    """Return the file of what was measured of a checkpoint. Raises UnreadableCheckpoint."""
    return _beside(_place(source)[1])


def _place(source: str | Path) -> tuple[Path, Path]:
    """Return what a source names, and the file or folder there that is the checkpoint."""
    found = locate(source)
    place = checkpoint_in(found) if found.is_dir() else found
    if place is None:
        if (found / TRAINED).is_file():
            raise UnreadableCheckpoint(
                f"{found.name} is a training run: `rivulet models export` makes a model of it"
            )
        raise UnreadableCheckpoint(
            f"{found.name} holds neither a config beside model.safetensors nor one .nemo file"
        )
    return found, place


def _beside(place: Path) -> Path:
    return place / CALIBRATION if place.is_dir() else place.with_suffix(f".{CALIBRATION}")


def inspect(source: str | Path = DEFAULT_MODEL) -> dict[str, Any]:
    """Sum a checkpoint up in plain values."""
    checkpoint = load_checkpoint(source)
    spec = checkpoint.spec
    heads = [name for name, has in (("rnnt", spec.has_rnnt), ("ctc", spec.has_ctc)) if has]
    return {
        "name": checkpoint.name,
        "parameters": sum(tensor.numel() for tensor in checkpoint.tensors.values()),
        "layers": spec.layers,
        "d_model": spec.d_model,
        "heads": spec.heads,
        "mel_bins": spec.mel_bins,
        "decoders": heads,
        "pred_layers": spec.pred_layers,
        "left_context_frames": spec.left_context,
        "look_aheads": list(spec.look_aheads),
        "dropped_look_aheads": list(spec.dropped_look_aheads),
        "vocabulary": spec.vocab_size,
        "turn_tokens": [checkpoint.tokenizer.pieces[i] for i in checkpoint.tokenizer.turn_tokens],
        "prompts": sorted(spec.prompts),
        "languages": list(checkpoint.languages),
        "bytes_per_stream": {
            "fp32": bytes_per_stream(spec),
            "bf16": bytes_per_stream(spec, torch.bfloat16),
        },
        "stored_as": str(checkpoint.tensors[_TYPICAL].dtype).removeprefix("torch."),
        "licence": checkpoint.licence,
        "fingerprint": checkpoint.fingerprint,
    }


def _load_nemo(path: Path, name: str) -> Checkpoint:
    archive = read_nemo(path)
    config = Config.parse(archive.config)
    tokenizer = tokenizer_from_nemo(config, archive.small.get)
    spec = _nemo_spec(config, tokenizer, archive.weights)
    return _checkpoint(name, spec, archive.weights, tokenizer, config, licence_of(path.parent))


def _load_own(folder: Path, name: str) -> Checkpoint:
    config = Config.parse(read_small(folder, CONFIG_YAML) or b"")
    tokenizer = tokenizer_from_nemo(config, lambda member: read_small(folder, member))
    stored = read_safetensors(folder)
    spec = _nemo_spec(config, tokenizer, stored)
    checkpoint = _checkpoint(name, spec, stored, tokenizer, config, licence_of(folder))
    lm = folder / LANGUAGE_MODEL
    own = str(lm) if lm.is_file() else ""
    return replace(checkpoint, lm=own)


def _calibration(file: Path) -> Calibration:
    measured = read_json(file.parent, file.name)
    try:
        curve = Curve(tuple((float(x), float(y)) for x, y in measured.get("confidence", [])))
        late_ms = int(measured.get("late_ms", 0))
    except (TypeError, ValueError) as error:
        raise UnreadableCheckpoint(f"{file.name} holds no rising curve or no delay") from error
    if not 0 <= late_ms <= LATEST_MS:
        raise UnreadableCheckpoint(f"{file.name}: late_ms must be 0 to {LATEST_MS}")
    return Calibration(curve, late_ms)


def _load_transformers(folder: Path, name: str) -> Checkpoint:
    model = read_json(folder, CONFIG_JSON)
    spec = transformers_names.spec_from_transformers(
        model, read_json(folder, "processor_config.json")
    )
    stored = transformers_names.nemo_names(read_safetensors(folder))
    tokenizer = _folder_tokenizer(folder, spec)
    return _checkpoint(name, spec, stored, tokenizer, Config(model), licence_of(folder))


def _folder_tokenizer(folder: Path, spec: ModelSpec) -> Tokenizer:
    listed = read_small(folder, "tokenizer.json")
    if listed is not None:
        return Tokenizer(pieces=pieces_from_tokenizer_json(listed, spec.vocab_size))
    proto = read_small(folder, "tokenizer.model")
    if proto is None:
        raise UnreadableCheckpoint(f"{folder.name} holds no tokenizer.json")
    return Tokenizer(pieces=sentencepiece_pieces(proto), model_proto=proto)


def _nemo_spec(config: Config, tokenizer: Tokenizer, stored: dict[str, Tensor]) -> ModelSpec:
    """Build the spec; the output layers say how many pieces there are."""
    heads = [stored[name] for name in (*_HEADS, *_CTC_HEADS) if name in stored]
    if not heads or heads[0].dim() == 0 or heads[0].shape[0] < 2:
        raise UnreadableCheckpoint("the weights hold no output layer")
    return spec_from_nemo(config, vocab_size=heads[0].shape[0] - 1)


def _checkpoint(
    name: str,
    spec: ModelSpec,
    stored: dict[str, Tensor],
    tokenizer: Tokenizer,
    config: Config,
    card_licence: str | None,
) -> Checkpoint:
    if len(tokenizer.pieces) != spec.vocab_size:
        raise UnreadableCheckpoint(
            f"the tokenizer has {len(tokenizer.pieces)} pieces, the model {spec.vocab_size}"
        )
    tensors = checked_tensors(spec, stored)
    listed = config.sequence("languages") or sorted(spec.prompts)
    aggregate = list(config.mapping("tokenizer.langs"))
    return Checkpoint(
        name=name,
        spec=spec,
        tensors=tensors,
        tokenizer=tokenizer,
        fingerprint=fingerprint(spec, tensors),
        licence=config.text("licence") or config.text("license") or card_licence,
        languages=tuple(map(str, listed or aggregate or ("en",))),
    )
