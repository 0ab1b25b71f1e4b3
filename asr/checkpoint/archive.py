"""Members of a ``.nemo`` file, read in memory; nothing is extracted and no code runs.

Does: tar (plain or gzip) -> config text, state dict, small members by base name.
Does not know: what the config or the tensors mean.
"""

import gzip
import io
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from asr.checkpoint.config import MAX_CONFIG_BYTES
from asr.checkpoint.spec import UnreadableCheckpoint

CONFIG_MEMBER, WEIGHTS_MEMBER = "model_config.yaml", "model_weights.ckpt"
MAX_WEIGHTS_BYTES = 16 << 30
MAX_SMALL_BYTES = 64 << 20
MAX_MEMBERS = 256
MAX_PICKLE_BYTES = 64 << 20
"""The pickle of a state dict holds names and shapes only: 0.3 MB for 600M parameters."""
_GZIP_RATIO = 20
"""Weights hardly compress; a file that unpacks to more than this times its size is a bomb."""
_GZIP_MAGIC = b"\x1f\x8b"
_DAMAGE = (
    tarfile.TarError,
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    RecursionError,
    OverflowError,
    MemoryError,
)


@dataclass(slots=True)
class NemoArchive:
    """What a ``.nemo`` holds."""

    config: bytes = b""
    weights: dict[str, Tensor] = field(default_factory=dict)
    small: dict[str, bytes] = field(default_factory=dict)


def read_nemo(path: Path) -> NemoArchive:
    """Read a ``.nemo``; damaged or hostile ones are refused with one sentence."""
    try:
        with path.open("rb") as raw, _opened(raw) as tar:
            archive = _read_members(tar, path)
    except _DAMAGE as error:
        raise UnreadableCheckpoint(
            f"{path.name} is not a whole .nemo archive ({type(error).__name__})"
        ) from error
    if not archive.config or not archive.weights:
        missing = WEIGHTS_MEMBER if archive.config else CONFIG_MEMBER
        raise UnreadableCheckpoint(f"{path.name} holds no {missing}")
    return archive


def state_dict(source: IO[bytes]) -> dict[str, Tensor]:
    """Tensors of a torch checkpoint, weights only: a pickle that calls anything is refused."""
    try:
        _check_zip(source)
        source.seek(0)
        loaded = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnreadableCheckpoint(
            "the weights hold code or foreign objects, not only tensors; nothing was run"
        ) from error
    except (zipfile.BadZipFile, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableCheckpoint(f"the weights are damaged ({type(error).__name__})") from error
    plain = isinstance(loaded, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) and _is_plain(tensor)
        for name, tensor in loaded.items()
    )
    if not plain:
        raise UnreadableCheckpoint("the weights are not a plain dict of tensors")
    return dict(loaded)


def _is_plain(tensor: Tensor) -> bool:
    """Whether it holds its numbers: sparse and nested ones hold other things, meta none."""
    is_here = tensor.layout == torch.strided and tensor.device.type == "cpu"
    return is_here and not tensor.is_nested


def _opened(raw: IO[bytes]) -> tarfile.TarFile:
    if raw.read(2) != _GZIP_MAGIC:
        raw.seek(0)
        return tarfile.open(fileobj=raw, mode="r:")
    size = raw.seek(0, io.SEEK_END)
    raw.seek(0)
    unpacked = _Bounded(gzip.GzipFile(fileobj=raw), (size + (1 << 16)) * _GZIP_RATIO)
    return tarfile.open(fileobj=unpacked, mode="r:")


class _Bounded(io.RawIOBase):
    """A seekable stream that refuses to go on after a number of bytes."""

    def __init__(self, source: gzip.GzipFile, limit_bytes: int) -> None:
        self._source, self._limit_bytes = source, limit_bytes

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET and offset > self._limit_bytes:
            raise ValueError("the archive unpacks to far more than its size")
        return self._source.seek(offset, whence)

    def tell(self) -> int:
        return self._source.tell()

    def read(self, size: int | None = -1) -> bytes:
        left = self._limit_bytes - self._source.tell()
        if left <= 0:
            raise ValueError("the archive unpacks to far more than its size")
        return self._source.read(left if size is None or size < 0 else min(size, left))


def _read_members(tar: tarfile.TarFile, path: Path) -> NemoArchive:
    archive = NemoArchive()
    for name, member in _members(tar, path):
        limit = {CONFIG_MEMBER: MAX_CONFIG_BYTES, WEIGHTS_MEMBER: MAX_WEIGHTS_BYTES}.get(
            name, MAX_SMALL_BYTES
        )
        if member.size > limit:
            raise UnreadableCheckpoint(f"{path.name} holds a member larger than {limit} bytes")
        content = tar.extractfile(member)
        if content is None:
            raise UnreadableCheckpoint(f"{path.name} holds an unreadable member")
        if name == WEIGHTS_MEMBER:
            archive.weights = state_dict(content)
        elif name == CONFIG_MEMBER:
            archive.config = _exactly(content, member.size)
        else:
            archive.small[name] = _exactly(content, member.size)
    return archive


def _members(tar: tarfile.TarFile, path: Path) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Regular members under their base names; anything a .nemo never holds is refused."""
    seen = set[str]()
    for count, member in enumerate(tar):
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        if count >= MAX_MEMBERS:
            raise UnreadableCheckpoint(f"{path.name} holds more than {MAX_MEMBERS} members")
        if ".." in parts or member.name.startswith("/") or "\\" in member.name:
            raise UnreadableCheckpoint(f"{path.name} holds a member that points outside of it")
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise UnreadableCheckpoint(f"{path.name} holds a link or special file")
        name = parts[-1] if parts else ""
        if name in seen or not name:
            raise UnreadableCheckpoint(f"{path.name} holds two members of one name")
        seen.add(name)
        yield name, member


def _exactly(content: IO[bytes], size: int) -> bytes:
    data = content.read(size)
    if len(data) != size:
        raise EOFError("member cut short")
    return data


def _check_zip(source: IO[bytes]) -> None:
    """Only the zip form, stored uncompressed: what torch.save writes, and no bomb."""
    with zipfile.ZipFile(source) as records:
        for record in records.infolist():
            if record.compress_type != zipfile.ZIP_STORED:
                raise UnreadableCheckpoint("the weights are compressed, which torch never does")
            if record.filename.endswith(".pkl") and record.file_size > MAX_PICKLE_BYTES:
                raise UnreadableCheckpoint("the index of the weights is too large")
