"""Tensors of a stream as bytes and back: versioned, checked, no pickle.

Does: pack and unpack with a checksum and the identity of the model.
Does not know: what the tensors mean.
"""

import json
import zlib
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from asr.interface import BadSnapshot

MAGIC = b"RVS2"


def pack(tensors: Mapping[str, Tensor], identity: Mapping[str, str]) -> bytes:
    """Return magic, crc32 of the rest, length of the identity, identity, tensors."""
    head = json.dumps(dict(identity), sort_keys=True).encode()
    body = len(head).to_bytes(4, "little") + head
    body += save({name: t.contiguous() for name, t in tensors.items()})
    return MAGIC + zlib.crc32(body).to_bytes(4, "little") + body


def unpack(blob: bytes, identity: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors. Raises BadSnapshot when damaged or of another model."""
    if blob[:4] != MAGIC:
        raise BadSnapshot("not a snapshot of this version")
    body = blob[8:]
    if zlib.crc32(body) != int.from_bytes(blob[4:8], "little"):
        raise BadSnapshot("the snapshot is damaged (checksum)")
    size = int.from_bytes(body[:4], "little")
    if json.loads(body[4 : 4 + size]) != dict(identity):
        raise BadSnapshot("the snapshot belongs to another model, precision or decoder")
    try:
        tensors = load(body[4 + size :])
    except SafetensorError as error:
        raise BadSnapshot("the snapshot is damaged (tensors)") from error
    return {name: tensor.to(torch.device("cpu")) for name, tensor in tensors.items()}
