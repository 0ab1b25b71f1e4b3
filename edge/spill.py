"""Audio of a long cut on the node's disk, readable by this process only.

Does: encrypt blocks into one nameless file per leg (AES-256-GCM, a key that lives in memory only),
give them back, keep a budget for the whole node.
Does not know: legs, offsets, what a block means. The file has no name from its first byte on: after
a crash nothing is left, and what is left on the medium cannot be read.
"""

import errno
import math
import os
import tempfile
from bisect import bisect
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
    """Blocks of one leg. A leg that stays in arrears goes round in its file, which takes about as
    much as it held at once and shrinks as soon as what lies at its end is freed.
    """

    def __init__(self, folder: Path, budget: SpillBudget) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(AESGCM.generate_key(256))
        self._budget = budget
        self._free: list[tuple[int, float]] = [(0, math.inf)]
        """Begin and end of each hole, in order; the last one is all that follows the file."""
        self._written = 0
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)
        except OSError as error:
            raise SpillFull(os.strerror(error.errno or errno.EIO)) from error

    @property
    def size_bytes(self) -> int:
        """Bytes the file takes."""
        return self._free[-1][0]

    def write(self, block: bytes) -> Place:
        """Keep a block; raises SpillFull."""
        number, size = self._written, len(block) + _TAG_BYTES
        index = next(i for i, (begin, end) in enumerate(self._free) if end - begin >= size)
        at, end = self._free[index]
        grown = size if end == math.inf else 0
        self._budget.take(grown)
        self._written += 1  # no nonce seals two blocks, written or not
        sealed = self._cipher.encrypt(_nonce(number), block, None)
        try:
            self._write_all(sealed, at)
        except OSError as error:
            self._budget.used_bytes -= grown
            raise SpillFull(os.strerror(error.errno or errno.EIO)) from error
        self._free[index : index + 1] = [(at + size, end)] if at + size < end else []
        return Place(number, at, size)

    def read(self, place: Place) -> bytes:
        """Give a block back; raises SpillDamaged."""
        from cryptography.exceptions import InvalidTag

        try:
            sealed = os.pread(self._file.fileno(), place.size, place.at)
            return self._cipher.decrypt(_nonce(place.number), sealed, None)
        except (OSError, InvalidTag) as error:
            raise SpillDamaged("a spilled block cannot be read") from error

    def free(self, place: Place) -> None:
        """Forget a block: its room and the holes beside it are one hole, the last is cut off."""
        begin, end, before = place.at, float(place.at + place.size), self.size_bytes
        index = bisect(self._free, (begin, end))
        if self._free[index][0] == end:
            end = self._free.pop(index)[1]
        if index and self._free[index - 1][1] == begin:
            index -= 1
            begin = self._free.pop(index)[0]
        self._free.insert(index, (begin, end))
        if end == math.inf:
            os.ftruncate(self._file.fileno(), begin)
            self._budget.used_bytes -= before - begin

    def close(self) -> None:
        """Give everything back. Idempotent."""
        if not self._file.closed:
            self._budget.used_bytes -= self.size_bytes
            self._free = [(0, math.inf)]
            self._file.close()

    def _write_all(self, sealed: bytes, at: int) -> None:
        rest = memoryview(sealed)
        while rest:
            written = os.pwrite(self._file.fileno(), rest, at)
            at, rest = at + written, rest[written:]


def _nonce(number: int) -> bytes:
    return number.to_bytes(_NONCE_BYTES, "big")


OpenSpill = Callable[[], SpillFile]
