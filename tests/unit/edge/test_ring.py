"""The ring gives back what was put in, at the offset it was put, or names what is lost."""

import os
import secrets
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.ring import MAX_BLOCK_SAMPLES, AudioRing, Loss
from edge.spill import Place, SpillBudget, SpillDamaged, SpillFile, SpillFull

SECOND = 8_000


def read_all(ring: AudioRing, offset: int, limit: int = 3_000) -> bytes:
    """All audio from an offset on; silence reads as zero bytes."""
    heard = bytearray()
    while (span := ring.read(offset, limit)) is not None:
        assert span.offset == offset
        heard += bytes(span.samples) if span.data is None else span.data
        offset = span.end
    return bytes(heard)


def spilling(tmp_path: Path, *, limit: int = 10**9, memory: int = 2 * SECOND) -> AudioRing:
    budget = SpillBudget(limit)
    return AudioRing(
        sample_bytes=1, memory_bytes=memory, open_spill=lambda: SpillFile(tmp_path, budget)
    )


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.tuples(st.booleans(), st.integers(1, 3 * MAX_BLOCK_SAMPLES)), max_size=12),
    cut=st.integers(1, 4_000),
    start=st.floats(0, 1),
    released=st.floats(0, 1),
)
def test_any_offset_not_released_reads_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    pieces: list[tuple[bool, int]],
    cut: int,
    start: float,
    released: float,
) -> None:
    ring, said = spilling(tmp_path_factory.getbasetemp()), bytearray()
    for is_heard, samples in pieces:
        data = secrets.token_bytes(samples) if is_heard else None
        ring.append(samples, data)
        said += bytes(samples) if data is None else data
    begin = int(start * len(said))
    ring.release(int(released * begin))
    assert ring.head == len(said)
    assert read_all(ring, begin, cut) == bytes(said[begin:])
    ring.close()


def test_memory_stays_bounded_and_the_rest_is_on_disk(tmp_path: Path) -> None:
    ring = spilling(tmp_path)
    said = secrets.token_bytes(20 * SECOND)
    for at in range(0, len(said), 160):
        ring.append(160, said[at : at + 160])
        assert ring.memory_bytes <= 2 * SECOND + 160
    assert ring.spilled_bytes >= 17 * SECOND
    assert not ring.losses
    assert read_all(ring, 0) == said


def test_the_spill_file_has_no_name_and_holds_no_plain_audio(tmp_path: Path) -> None:
    ring = spilling(tmp_path)
    ring.append(10 * SECOND, b"\x55" * (10 * SECOND))
    assert list(tmp_path.iterdir()) == []
    assert ring._spill is not None
    raw = os.pread(ring._spill._file.fileno(), 10 * SECOND, 0)
    assert raw and b"\x55" * 16 not in raw


def test_a_full_disk_loses_the_oldest_by_name_and_time_goes_on(tmp_path: Path) -> None:
    ring = spilling(tmp_path, limit=3 * SECOND)
    said = secrets.token_bytes(10 * SECOND)
    ring.append(len(said), said)
    assert [loss.cause for loss in ring.losses] == ["spill_full"]
    (begin, end, _) = ring.losses[0]
    heard = read_all(ring, 0)
    assert len(heard) == len(said)
    assert heard[begin:end] == bytes(end - begin)
    assert heard[:begin] == said[:begin] and heard[end:] == said[end:]


def test_a_disk_that_refuses_is_a_full_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spill = SpillFile(tmp_path, budget := SpillBudget(10**6))

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(SpillFull, match="No space left"):
        spill.write(b"audio")
    assert budget.used_bytes == 0


def test_a_block_that_could_not_be_written_has_spent_its_nonce(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spill = SpillFile(tmp_path, SpillBudget(10**6))
    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(SpillFull):
            spill.write(b"first")
    place = spill.write(b"second")
    assert (place.number, spill.read(place)) == (1, b"second")


def test_a_spill_folder_that_is_missing_is_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(SpillFull):
        SpillFile(tmp_path / "missing", SpillBudget(1))


def test_without_a_spill_file_the_oldest_audio_is_lost_by_name() -> None:
    ring = AudioRing(sample_bytes=1, memory_bytes=SECOND)
    ring.append(5 * SECOND, bytes(5 * SECOND))
    assert ring.losses == [Loss(0, 4 * SECOND, "memory_full")]
    assert ring.memory_bytes <= SECOND


def test_a_damaged_block_is_silence_and_told(tmp_path: Path) -> None:
    ring = spilling(tmp_path)
    ring.append(5 * SECOND, b"\x01" * (5 * SECOND))
    assert ring._spill is not None
    os.pwrite(ring._spill._file.fileno(), b"XXXX", 10)
    heard = read_all(ring, 0)
    assert len(heard) == 5 * SECOND
    assert ring.losses == [Loss(0, MAX_BLOCK_SAMPLES, "spill_damaged")]
    with pytest.raises(SpillDamaged):
        ring._spill.read(ring._blocks[1].place._replace(number=99))  # type: ignore[union-attr]


def test_disk_and_budget_come_back_when_all_is_released(tmp_path: Path) -> None:
    budget = SpillBudget(10**9)
    ring = AudioRing(
        sample_bytes=1, memory_bytes=SECOND, open_spill=lambda: SpillFile(tmp_path, budget)
    )
    ring.append(10 * SECOND, bytes(10 * SECOND))
    assert budget.used_bytes > 8 * SECOND
    ring.release(9 * SECOND)
    assert budget.used_bytes == ring.spilled_bytes == 0
    ring.append(10 * SECOND, bytes(10 * SECOND))
    ring.close()
    assert budget.used_bytes == 0


@pytest.mark.parametrize("sizes", [(1_000,), (40, 160, 90, 61)], ids=["equal", "packets"])
def test_a_leg_that_is_always_in_arrears_goes_round_in_its_file(
    tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    budget, waiting = SpillBudget(10**9), deque[bytes]()
    ring = AudioRing(
        sample_bytes=0, memory_bytes=2_000, open_spill=lambda: SpillFile(tmp_path, budget)
    )
    behind, peak = 0, 0
    for number in range(3_000):
        waiting.append(secrets.token_bytes(sizes[number % len(sizes)]))
        ring.append(10, waiting[-1])
        if len(waiting) > 200:
            behind += 10
            ring.release(behind)
            waiting.popleft()
        peak = max(peak, ring.spilled_bytes)
        assert ring.spilled_bytes == budget.used_bytes
    held = sum(len(packet) + 16 for packet in waiting)
    assert peak < 1.1 * held
    spans = [ring.read(behind + 10 * number, 10) for number in range(len(waiting))]
    assert [span.data for span in spans if span] == list(waiting)
    ring.release(ring.head - 20)
    assert ring.spilled_bytes == budget.used_bytes == 0


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.one_of(st.integers(1, 99).map(bytes), st.integers(0, 30)), min_size=1, max_size=60
    )
)
def test_no_block_is_written_over_whatever_is_freed_in_whatever_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[bytes | int]
) -> None:
    spill = SpillFile(tmp_path_factory.getbasetemp(), budget := SpillBudget(10**6))
    kept = list[tuple[Place, bytes]]()
    for step in steps:
        if isinstance(step, bytes):
            block = secrets.token_bytes(len(step))
            kept.append((spill.write(block), block))
        elif kept:
            spill.free(kept.pop(step % len(kept))[0])
        assert all(spill.read(place) == block for place, block in kept)
        end = max((place.at + place.size for place, _ in kept), default=0)
        assert spill.size_bytes == budget.used_bytes == end
        assert os.fstat(spill._file.fileno()).st_size == end
    spill.close()
    assert budget.used_bytes == 0


def test_packets_of_a_codec_are_never_cut_or_joined() -> None:
    ring = AudioRing(sample_bytes=0, memory_bytes=10**6)
    for size in (60, 61, 62):
        ring.append(960, bytes(size))
    assert ring.head == 2_880
    spans = [ring.read(at, 100) for at in (0, 960, 1_920)]
    assert [len(span.data or b"") for span in spans if span] == [60, 61, 62]


def test_a_reader_who_fell_behind_gets_silence_up_to_what_is_held() -> None:
    ring = AudioRing(sample_bytes=1, memory_bytes=10**6)
    ring.append(2 * SECOND, bytes(2 * SECOND))
    ring.append(10, b"0123456789")
    ring.release(2 * SECOND)
    assert ring.base == 2 * SECOND
    span = ring.read(0, 10**9)
    assert span is not None and (span.samples, span.data) == (2 * SECOND, None)


def test_bytes_that_are_no_whole_samples_are_refused() -> None:
    ring = AudioRing(sample_bytes=2, memory_bytes=10**6)
    with pytest.raises(ValueError, match="3 bytes are not 2 samples"):
        ring.append(2, b"abc")
