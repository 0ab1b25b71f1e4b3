"""NeMo models, opened by NeMo's own classes, and what they are asked.

Does: ``.nemo`` files as NeMo restores them; folders with NeMo's config beside safetensors.
Does not know: our engine, audio. NeMo is imported when a model is opened, not before.
"""

import copy
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from asr.checkpoint import DEFAULT_MODEL
from asr.checkpoint.config import Config
from asr.checkpoint.folder import CONFIG_YAML, read_safetensors, read_small
from asr.checkpoint.hub import checkpoint_in, locate
from asr.checkpoint.pieces import artefact, sentencepiece_pieces
from asr.checkpoint.spec import UnreadableCheckpoint, UnsupportedModel
from asr.interface import EngineError, UnsupportedLookAhead

_JOINT_OUT = re.compile(r"^joint\.joint_net\.\d+\.")
"""Numbered by what stands in front of it: with or without dropout."""
_COMPUTED = "preprocessor."
"""Tensors a model makes itself, and a checkpoint may leave out."""


def open_nemo_model(source: str | Path = DEFAULT_MODEL) -> Any:
    """Open a path, an embedded model or a hub name in NeMo, in eval mode.

    A ``.nemo`` file is restored by NeMo's own code, which trusts the file.
    """
    try:
        from nemo.collections.asr.models import ASRModel
        from nemo.utils import logging
    except ImportError as error:
        raise EngineError("the nemo backend needs the extra: pip install -e '.[nemo]'") from error
    found = locate(source)
    place = checkpoint_in(found) if found.is_dir() else found
    if place is None or (place.is_dir() and not (place / CONFIG_YAML).is_file()):
        raise UnsupportedModel(
            f"{found.name} is neither a .nemo file nor a folder with a {CONFIG_YAML},"
            " the forms NeMo reads"
        )
    logging.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if place.is_dir():
            return _built(place, ASRModel).eval()
        return ASRModel.restore_from(str(place), map_location="cpu").eval()


def pieces_of(model: Any) -> tuple[str, ...]:
    """Vocabulary of a NeMo model, id = index."""
    inner = model.tokenizer.tokenizer
    if hasattr(inner, "id_to_piece"):
        return tuple(inner.id_to_piece(i) for i in range(model.tokenizer.vocab_size))
    return tuple(model.tokenizer.ids_to_tokens(list(range(model.tokenizer.vocab_size))))


def has_transducer(model: Any) -> bool:
    """Whether the model has an RNN-T head."""
    return hasattr(model, "joint")


def ctc_head(model: Any) -> Any:
    """Return the CTC decoder of a hybrid or pure CTC model, else None."""
    if hasattr(model, "ctc_decoder"):
        return model.ctc_decoder
    return None if has_transducer(model) else model.decoder


def attention_context(model: Any, look_ahead: int) -> list[int]:
    """Return the [left, right] context of a look-ahead; NeMo itself would take any number."""
    for left, right in model.encoder.att_context_size_all:
        if right == look_ahead:
            return [left, right]
    raise UnsupportedLookAhead(f"the model was not trained for look-ahead {look_ahead}")


def decode_greedily(model: Any) -> None:
    """Make RNN-T decoding the one greedy search of NeMo that goes on from a bare decoder state."""
    if not has_transducer(model):
        return
    decoding = copy.deepcopy(model.cfg.decoding)
    greedy = decoding.get("greedy") or {}
    if decoding.get("strategy") != "greedy_batch" or not greedy.get("loop_labels", True):
        decoding.strategy = "greedy_batch"
        decoding.greedy = {**greedy, "loop_labels": True}
        model.change_decoding_strategy(decoding)


def prompted(model: Any, encoded: Tensor, prompt: int | None) -> Tensor:
    """Send encoder output [1, d_model, frames] through the model's own prompt kernel."""
    if prompt is None:
        return encoded
    model._inference_prompt_index = prompt  # noqa: SLF001  NeMo's own way to set it by id
    applied: Tensor = model._apply_prompt_to_encoded(encoded)  # noqa: SLF001
    return applied


def _built(folder: Path, kind: Any) -> Any:
    """Build the class the config names, and give it the folder's tensors."""
    from omegaconf import OmegaConf

    text = read_small(folder, CONFIG_YAML) or b""
    checked = Config.parse(text)
    config = OmegaConf.create(text.decode())
    with TemporaryDirectory() as scratch:
        if checked.text("tokenizer.type").lower() == "agg":
            for language in checked.mapping("tokenizer.langs"):
                place = f"tokenizer.langs.{language}"
                config.tokenizer.langs[language] = _tokenizer(
                    checked, place, folder, Path(scratch) / str(language)
                )
        else:
            config.tokenizer = _tokenizer(checked, "tokenizer", folder, Path(scratch) / "one")
        model = kind.from_config_dict(config)
    _fill(model, read_safetensors(folder))
    return model


def _tokenizer(config: Config, where: str, folder: Path, scratch: Path) -> dict[str, str]:
    """NeMo's tokenizer section; NeMo takes paths only, and wants the vocabulary as files too."""
    proto = artefact(config, where, lambda member: read_small(folder, member))
    scratch.mkdir()
    (scratch / "tokenizer.model").write_bytes(proto)
    listed = "\n".join(sentencepiece_pieces(proto))
    for name in ("vocab.txt", "tokenizer.vocab"):
        (scratch / name).write_text(listed, encoding="utf-8")
    return {"type": "bpe", "dir": str(scratch)}


def _fill(model: Any, stored: Mapping[str, Tensor]) -> None:
    """Load tensors by name, the features' constants where they are stored."""
    names = model.state_dict().keys()
    out = "".join(name for name in names if _JOINT_OUT.match(name) and name.endswith("weight"))
    renamed = {_JOINT_OUT.sub(out.removesuffix("weight"), name): t for name, t in stored.items()}
    try:
        missing, unknown = model.load_state_dict(renamed, strict=False)
    except RuntimeError as error:
        raise UnreadableCheckpoint("the weights do not fit the config in shape") from error
    lacking = [name for name in missing if not name.startswith(_COMPUTED)]
    if lacking or unknown:
        wrong = (lacking or unknown)[0]
        raise UnreadableCheckpoint(
            f"the weights {'lack' if lacking else 'hold an unknown'} {wrong}"
        )
