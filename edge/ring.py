"""Audio of one leg by sample offset, from the oldest that may be asked for again to the newest.

Does: append, read from any offset, forget; keep the newest in memory and spill the oldest; say by
name what was lost when neither holds more.
Does not know: encodings (bytes pass through as they came), links, clocks.
Offsets count samples and always advance: lost audio and silence take time but no bytes.
"""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal, NamedTuple

from edge.spill import OpenSpill, Place, SpillDamaged, SpillFile, SpillFull

MAX_BLOCK_SAMPLES = 8_000
"""A block is what is spilled at once: a second of telephony, half a second of wide-band."""

LossCause = Literal["memory_full", "spill_full", "spill_damaged"]


class Span(NamedTuple):
    """Audio without a hole; ``data`` None: time passed and nothing was heard."""

    offset: int
    samples: int
    data: bytes | None

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.offset + self.samples


class Loss(NamedTuple):
    """Audio that nobody will hear, and why."""

    begin: int
    end: int
    cause: LossCause


@dataclass(slots=True)
class _Block:
    offset: int
    samples: int
    data: bytearray | None
    place: Place | None = None

    @property
    def end(self) -> int:
        return self.offset + self.samples


class AudioRing:
    """``sample_bytes`` 0: packets of a codec, which are never cut or joined."""

    def __init__(
        self,
        *,
        sample_bytes: int,
        memory_bytes: int,
        base: int = 0,
        open_spill: OpenSpill | None = None,
    ) -> None:
        self.head = base
        """The offset behind the newest sample."""
        self.is_ended = False
        """Nothing will be appended any more."""
        self.losses: list[Loss] = []
        self._sample_bytes = sample_bytes
        self._memory_limit = memory_bytes
        self._open_spill = open_spill
        self._spill: SpillFile | None = None
        self._blocks: list[_Block] = []
        self._in_memory = 0
        """Index of the oldest block that is not spilled."""
        self._memory_bytes = 0

    @property
    def base(self) -> int:
        """The oldest offset that is still held."""
        return self._blocks[0].offset if self._blocks else self.head

    @property
    def memory_bytes(self) -> int:
        """Audio in memory."""
        return self._memory_bytes

    @property
    def spilled_bytes(self) -> int:
        """Audio on disk."""
        return self._spill.size_bytes if self._spill else 0

    def begin_at(self, offset: int) -> None:
        """Say where the first sample will be; only while nothing was appended."""
        if self._blocks:
            raise ValueError("audio is here already")
        self.head = offset

    def append(self, samples: int, data: bytes | None) -> None:
        """Add what follows the newest sample."""
        if samples <= 0:
            return
        if self._sample_bytes and data is not None and len(data) != samples * self._sample_bytes:
            raise ValueError(f"{len(data)} bytes are not {samples} samples")
        while samples:
            samples, data = self._append_some(samples, data)
        self._make_room()

    def read(self, offset: int, limit: int) -> Span | None:
        """Give at most ``limit`` samples from an offset on; None: there is nothing yet.

        What is no longer held is a span without data.
        """
        if offset >= self.head:
            return None
        if offset < self.base:
            return Span(offset, min(self.base - offset, limit), None)
        block = self._blocks[bisect_right(self._blocks, offset, key=lambda b: b.offset) - 1]
        skip, data = offset - block.offset, self._data(block)
        size = self._sample_bytes
        if data is None or not size:
            count = block.samples - skip
            count = min(count, limit) if data is None else count
            return Span(offset, count, None if skip and not size else data)
        count = min(block.samples - skip, limit)
        return Span(offset, count, data[skip * size : (skip + count) * size])

    def release(self, offset: int) -> None:
        """Forget whole blocks before an offset: nobody will ask for them again."""
        gone = 0
        while gone < len(self._blocks) and self._blocks[gone].end <= offset:
            self._forget(self._blocks[gone])
            gone += 1
        self._drop_first(gone)

    def end(self) -> None:
        """Say that nothing follows."""
        self.is_ended = True

    def close(self) -> None:
        """Give memory and disk back. Idempotent."""
        self.is_ended = True
        self._blocks.clear()
        self._in_memory = self._memory_bytes = 0
        if self._spill:
            self._spill.close()
            self._spill = None

    def _append_some(self, samples: int, data: bytes | None) -> tuple[int, bytes | None]:
        """Fill the last block or begin another; return what is left."""
        last = self._blocks[-1] if self._blocks else None
        if data is None:
            if last and last.data is None and last.place is None:
                last.samples += samples
            else:
                self._blocks.append(_Block(self.head, samples, None))
            self.head += samples
            return 0, None
        count, size = samples, self._sample_bytes
        if size and last and last.data is not None and last.samples < MAX_BLOCK_SAMPLES:
            count = min(samples, MAX_BLOCK_SAMPLES - last.samples)
            last.data += data[: count * size]
            last.samples += count
        else:
            count = min(samples, MAX_BLOCK_SAMPLES) if size else samples
            part = data[: count * size] if size else data
            self._blocks.append(_Block(self.head, count, bytearray(part)))
        used = count * size if size else len(data)
        self._memory_bytes += used
        self.head += count
        return samples - count, data[used:]

    def _make_room(self) -> None:
        """Spill the oldest blocks, or lose them by name."""
        while self._memory_bytes > self._memory_limit and self._in_memory < len(self._blocks) - 1:
            block = self._blocks[self._in_memory]
            if block.data is not None:
                try:
                    self._spill_block(block)
                except SpillFull:
                    cause: LossCause = "spill_full" if self._open_spill else "memory_full"
                    self._lose(block, cause)
            self._in_memory += 1

    def _spill_block(self, block: _Block) -> None:
        assert block.data is not None
        if self._spill is None:
            if self._open_spill is None:
                raise SpillFull("there is no spill file")
            self._spill = self._open_spill()
        block.place = self._spill.write(bytes(block.data))
        self._memory_bytes -= len(block.data)
        block.data = None

    def _data(self, block: _Block) -> bytes | None:
        if block.place is None:
            return None if block.data is None else bytes(block.data)
        assert self._spill is not None
        try:
            return self._spill.read(block.place)
        except SpillDamaged:
            self._lose(block, "spill_damaged")
            return None

    def _lose(self, block: _Block, cause: LossCause) -> None:
        """Keep the time of a block and forget its sound."""
        self._forget(block)
        block.data = block.place = None
        if self.losses and self.losses[-1].end == block.offset and self.losses[-1].cause == cause:
            self.losses[-1] = Loss(self.losses[-1].begin, block.end, cause)
        else:
            self.losses.append(Loss(block.offset, block.end, cause))

    def _forget(self, block: _Block) -> None:
        if block.place is not None:
            assert self._spill is not None
            self._spill.free(block.place)
        elif block.data is not None:
            self._memory_bytes -= len(block.data)

    def _drop_first(self, count: int) -> None:
        del self._blocks[:count]
        self._in_memory = max(0, self._in_memory - count)
