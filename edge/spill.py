"""Audio of a long cut on the node's disk, readable by this process only.

Does: encrypt blocks into one nameless file per leg (AES-256-GCM, a key that lives in memory only),
give them back, keep a budget for the whole node.
Does not know: legs, offsets, what a block means. The file has no name from its first byte on: after
a crash nothing is left, and what is left on the medium cannot be read.
"""

import errno
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_TAG_BYTES = 16
_NONCE_BYTES = 12


class SpillFull(Exception):
    """No more fits: the disk is full, or the budget is spent."""


class SpillDamaged(Exception):
    """What was read back is not what was written."""


class Place(NamedTuple):
    """Where a block lies in its file."""

    number: int
    at: int
    size: int


@dataclass(slots=True)
class SpillBudget:
    """Bytes that all files of a node may take together."""

    limit_bytes: int
    used_bytes: int = 0

    def take(self, size: int) -> None:
        """Reserve; raises SpillFull."""
        if self.used_bytes + size > self.limit_bytes:
            raise SpillFull("the spill budget is spent")
        self.used_bytes += size


class SpillFile:
    """Blocks of one leg. Space is given back when the last block is freed."""

    def __init__(self, folder: Path, budget: SpillBudget) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(AESGCM.generate_key(256))
        self._budget = budget
        self._end = 0
        self._live = 0
        self._written = 0
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)
        except OSError as error:
            raise SpillFull(os.strerror(error.errno or errno.EIO)) from error

    @property
    def size_bytes(self) -> int:
        """Bytes the file takes."""
        return self._end

    def write(self, block: bytes) -> Place:
        """Keep a block; raises SpillFull."""
        number, size = self._written, len(block) + _TAG_BYTES
        self._budget.take(size)
        self._written += 1  # no nonce seals two blocks, written or not
        sealed = self._cipher.encrypt(_nonce(number), block, None)
        try:
            self._write_all(sealed)
        except OSError as error:
            self._budget.used_bytes -= size
            raise SpillFull(os.strerror(error.errno or errno.EIO)) from error
        place = Place(number, self._end, size)
        self._end, self._live = self._end + size, self._live + 1
        return place

    def read(self, place: Place) -> bytes:
        """Give a block back; raises SpillDamaged."""
        from cryptography.exceptions import InvalidTag

        try:
            sealed = os.pread(self._file.fileno(), place.size, place.at)
            return self._cipher.decrypt(_nonce(place.number), sealed, None)
        except (OSError, InvalidTag) as error:
            raise SpillDamaged("a spilled block cannot be read") from error

    def free(self) -> None:
        """Forget one block."""
        self._live -= 1
        if self._live == 0:
            os.ftruncate(self._file.fileno(), 0)
            self._budget.used_bytes -= self._end
            self._end = 0

    def close(self) -> None:
        """Give everything back. Idempotent."""
        if not self._file.closed:
            self._budget.used_bytes -= self._end
            self._end = self._live = 0
            self._file.close()

    def _write_all(self, sealed: bytes) -> None:
        at, rest = self._end, memoryview(sealed)
        while rest:
            written = os.pwrite(self._file.fileno(), rest, at)
            at, rest = at + written, rest[written:]


def _nonce(number: int) -> bytes:
    return number.to_bytes(_NONCE_BYTES, "big")


OpenSpill = Callable[[], SpillFile]
