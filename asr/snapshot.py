"""Tensors of a stream as bytes and back: versioned, checked, no pickle.

Does: pack and unpack with a checksum and the identity of the model.
Does not know: what the tensors mean.
"""

import json
import zlib
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from asr.interface import BadSnapshot

MAGIC = b"RVS2"
_KINDS = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What streams are made of, as safetensors calls it."""


def pack(tensors: Mapping[str, Tensor], identity: Mapping[str, str]) -> bytes:
    """Return magic, crc32 of the rest, length of the identity, identity, tensors."""
    head = json.dumps(dict(identity), sort_keys=True).encode()
    parts = [len(head).to_bytes(4, "little"), head, *_safetensors(tensors)]
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return b"".join([MAGIC, crc.to_bytes(4, "little"), *parts])


def unpack(blob: bytes, identity: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors. Raises BadSnapshot when damaged or of another model."""
    if blob[:4] != MAGIC:
        raise BadSnapshot("not a snapshot of this version")
    body = blob[8:]
    if zlib.crc32(body) != int.from_bytes(blob[4:8], "little"):
        raise BadSnapshot("the snapshot is damaged (checksum)")
    size = int.from_bytes(body[:4], "little")
    if json.loads(body[4 : 4 + size]) != dict(identity):
        raise BadSnapshot("the snapshot belongs to another model or decoder")
    try:
        tensors = load(body[4 + size :])
    except SafetensorError as error:
        raise BadSnapshot("the snapshot is damaged (tensors)") from error
    return {name: tensor.to(torch.device("cpu")) for name, tensor in tensors.items()}


def _safetensors(tensors: Mapping[str, Tensor]) -> list[bytes | memoryview]:
    """Return the parts of a safetensors file; its own writer takes longer than all else here."""
    head, parts, end = dict[str, object](), list[memoryview](), 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        kind, shape = _KINDS[tensor.dtype], list(tensor.shape)
        head[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
        parts += _pieces(tensor.cpu())
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin where they are aligned
    return [len(text).to_bytes(8, "little"), text, *parts]


def _pieces(tensor: Tensor) -> list[memoryview]:
    """Return a tensor's bytes without a copy where its rows lie together."""
    if tensor.ndim > 1 and not tensor.is_contiguous() and tensor[0].is_contiguous():
        return [piece for row in tensor for piece in _pieces(row)]
    return [tensor.contiguous().view(-1).view(torch.uint8).numpy().data]
