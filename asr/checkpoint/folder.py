"""Checkpoint folders: ours (NeMo's config beside safetensors) and Hugging Face's.

Does: read the files of a folder into config, tensors and pieces.
Does not know: archives, hubs, engines. safetensors hold no code and are memory-mapped.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from asr.checkpoint.config import MAX_CONFIG_BYTES
from asr.checkpoint.spec import UnreadableCheckpoint

CONFIG_YAML, CONFIG_JSON = "model_config.yaml", "config.json"
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_SMALL_BYTES = 64 << 20
_LICENCE_LINES = 60


def read_small(folder: Path, name: str, *, limit_bytes: int = MAX_SMALL_BYTES) -> bytes | None:
    """Bytes of a small file of the folder, None when it is not there."""
    path = folder / name
    if not path.is_file():
        return None
    if path.stat().st_size > limit_bytes:
        raise UnreadableCheckpoint(f"{name} is larger than {limit_bytes} bytes")
    return path.read_bytes()


def read_json(folder: Path, name: str) -> Mapping[str, Any]:
    """Return a JSON object of the folder, empty when the file is not there."""
    text = read_small(folder, name, limit_bytes=MAX_CONFIG_BYTES)
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableCheckpoint(f"{name} is not JSON") from error
    if not isinstance(value, dict):
        raise UnreadableCheckpoint(f"{name} is not a JSON object")
    return value


def read_safetensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder, from one file or from the shards an index lists."""
    names = [WEIGHTS]
    if not (folder / WEIGHTS).is_file() and (folder / WEIGHTS_INDEX).is_file():
        names = _shards(read_json(folder, WEIGHTS_INDEX))
    tensors = dict[str, Tensor]()
    for name in names:
        if not (folder / name).is_file():
            raise UnreadableCheckpoint(f"{folder.name} holds no {name}")
        try:
            tensors |= load_file(folder / name)
        except (SafetensorError, ValueError, OSError, RuntimeError, KeyError) as error:
            raise UnreadableCheckpoint(f"{name} is damaged ({type(error).__name__})") from error
    return tensors


def licence_of(folder: Path) -> str | None:
    """Licence named in the head of the folder's model card."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    with card.open(encoding="utf-8", errors="replace") as lines:
        head = [line for line, _ in zip(lines, range(_LICENCE_LINES), strict=False)]
    found = {
        key.strip(): value.strip().strip("\"'")
        for key, colon, value in (line.partition(":") for line in head)
        if colon
    }
    name = found.get("license_name") or found.get("license")
    return name or None


def _shards(index: Mapping[str, Any]) -> list[str]:
    listed = index.get("weight_map")
    names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
    # A name with a folder in it could point outside.
    if not names or any(Path(name).name != name for name in names):
        raise UnreadableCheckpoint(f"{WEIGHTS_INDEX} does not list plain file names")
    return names
