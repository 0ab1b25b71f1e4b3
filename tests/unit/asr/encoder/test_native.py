"""The C++ parts of an encoder step against the plain ones, which are their specification."""

import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr.encoder.kit import AttentionWeights, DepthwiseWeights, Kit, Norm, Place, StageWeights
from asr.encoder.native import SOURCE, NativeKit
from asr.encoder.plain import PlainKit
from asr.encoder.pool import OVERRUN
from asr.native import library

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="no C++ compiler: apt install g++"
)
SLOTS, HEADS, LEFT, KERNEL = 5, 2, 12, 5
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 4e-2}
DTYPES = st.sampled_from([torch.float32, torch.bfloat16])
SEEDS = st.integers(0, 2**31)


def kits(dtype: torch.dtype) -> tuple[Kit, Kit]:
    functions = library(SOURCE)
    assert functions is not None
    return PlainKit(dtype), NativeKit(functions, dtype)


def assert_close(plain: Tensor, ours: Tensor, dtype: torch.dtype) -> None:
    assert plain.dtype == ours.dtype
    bound = TOLERANCE[dtype]
    torch.testing.assert_close(ours.float(), plain.float(), atol=bound, rtol=bound)


@st.composite
def places(draw: st.DrawFn) -> Place:
    """Rows of any age, whole chunks behind them, the last one perhaps short."""
    chunk = draw(st.sampled_from([1, 2, 4]))
    steps = chunk * draw(st.integers(1, 8))
    rows = draw(st.integers(1, 3))
    slots = draw(st.permutations(range(SLOTS)))[:rows]
    frames = [chunk * draw(st.integers(0, 40)) for _ in range(rows)]
    valid = [draw(st.integers(0, steps)) for _ in range(rows)]
    return Place(
        slots_B=torch.tensor(slots),
        frames_B=torch.tensor(frames),
        valid_B=torch.tensor(valid),
        steps=steps,
        left=LEFT,
        chunk=chunk,
    )


@settings(max_examples=120, deadline=None)
@given(place=places(), width=st.sampled_from([16, 32, 48, 64]), dtype=DTYPES, seed=SEEDS)
def test_attention_sees_the_same_keys_and_leaves_the_same_ring(
    place: Place, width: int, dtype: torch.dtype, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    zero = LEFT + place.steps + 2
    weights = AttentionWeights(
        normal(HEADS, width, zero + 5), zero, normal(HEADS, width), normal(HEADS, width)
    )
    rows = len(place.slots_B)
    qkv = normal(rows, place.steps, 3 * HEADS * width).to(dtype)
    size = SLOTS * HEADS * width * LEFT
    rings = []
    for _ in range(2):
        keys = torch.zeros(size + OVERRUN, dtype=dtype)[:size].view(SLOTS, HEADS, width, LEFT)
        rings.append((keys, torch.zeros(SLOTS, HEADS, LEFT, width, dtype=dtype)))
    keys, values = normal(size), normal(size)
    for ring in rings:
        ring[0].copy_(keys.view_as(ring[0]))
        ring[1].copy_(values.view_as(ring[1]))
    plain, ours = (
        kit.attention(weights)(qkv, *ring, place)
        for kit, ring in zip(kits(dtype), rings, strict=True)
    )
    exists = torch.arange(place.steps) < place.valid_B[:, None]
    assert_close(plain[exists], ours[exists], dtype)
    assert torch.equal(rings[0][0], rings[1][0])
    assert torch.equal(rings[0][1], rings[1][1])


@settings(max_examples=40, deadline=None)
@given(place=places(), width=st.sampled_from([16, 64]), dtype=DTYPES, seed=SEEDS)
def test_batch_mates_change_no_bit_of_attention(
    place: Place, width: int, dtype: torch.dtype, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    zero = LEFT + place.steps + 2
    weights = AttentionWeights(
        normal(HEADS, width, zero + 5), zero, normal(HEADS, width), normal(HEADS, width)
    )
    size = SLOTS * HEADS * width * LEFT
    rings = normal(size + OVERRUN).to(dtype), normal(size).to(dtype)
    qkv = normal(len(place.slots_B), place.steps, 3 * HEADS * width).to(dtype)
    row = seed % len(qkv)
    alone = replace(
        place,
        **{n: getattr(place, n)[[row]] for n in ("slots_B", "frames_B", "valid_B")},
    )
    louder = 100 * qkv
    louder[row] = qkv[row]
    outs = []
    for x, where in ((louder, place), (qkv[[row]], alone)):
        keys, values = (ring.clone() for ring in rings)
        keys, values = (
            keys[:size].view(SLOTS, HEADS, width, LEFT),
            values.view(SLOTS, HEADS, LEFT, -1),
        )
        outs.append(kits(dtype)[1].attention(weights)(x, keys, values, where))
    exists = int(place.valid_B[row])
    assert torch.equal(outs[0][row, :exists], outs[1][0, :exists])


@settings(max_examples=60, deadline=None)
@given(place=places(), width=st.sampled_from([7, 16, 40]), dtype=DTYPES, seed=SEEDS)
def test_convolution_and_its_cache_are_the_same(
    place: Place, width: int, dtype: torch.dtype, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    weights = DepthwiseWeights(
        normal(KERNEL, width), normal(width), Norm(normal(width), normal(width))
    )
    gated = normal(len(place.slots_B), place.steps, 2 * width).to(dtype)
    caches = [normal(SLOTS, KERNEL - 1, width)] * 2
    caches = [cache.clone() for cache in caches]
    plain, ours = (
        kit.convolution(weights)(gated, cache, place)
        for kit, cache in zip(kits(dtype), caches, strict=True)
    )
    assert_close(plain, ours, dtype)
    torch.testing.assert_close(caches[0], caches[1])


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 3),
    steps=st.sampled_from([2, 8, 14]),
    bands=st.sampled_from([5, 8, 41]),
    channels=st.sampled_from([3, 16, 20]),
    dtype=DTYPES,
    seed=SEEDS,
)
def test_subsampling_stages_and_their_columns_are_the_same(
    rows: int, steps: int, bands: int, channels: int, dtype: torch.dtype, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    slots = torch.randperm(SLOTS, generator=random)[:rows]
    weights = StageWeights(
        torch.randn(9, channels, generator=random), torch.randn(channels, generator=random)
    )
    mel = torch.randn(rows, steps, bands, generator=random)
    x = torch.randn(rows, steps, bands, channels, generator=random).to(dtype)
    inside = (
        torch.randint(0, 3, (rows,), generator=random),
        torch.randint(0, steps, (rows,), generator=random),
    )
    column, columns = torch.randn(SLOTS, bands), torch.randn(SLOTS, bands, channels).to(dtype)
    results = []
    for kit in kits(dtype):
        first, later = column.clone(), columns.clone()
        one = kit.first_stage(weights)(mel, first, slots, inside)
        two = kit.stage(weights)(x, later, slots)
        results.append((one, two, first.to(dtype), later))
    for plain, ours in zip(*results, strict=True):
        assert_close(plain, ours, dtype)


@settings(max_examples=40, deadline=None)
@given(width=st.integers(2, 70), scale=st.sampled_from([0.5, 1.0]), dtype=DTYPES, seed=SEEDS)
def test_norms_add_in_place_and_round_once(
    width: int, scale: float, dtype: torch.dtype, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    x, y, weight, bias = (
        torch.randn(s, generator=random) for s in [(3, 2, width)] * 2 + [width] * 2
    )
    norm, results = Norm(weight, bias), []
    for kit in kits(dtype):
        stream = x.clone()
        outs = [kit.norm(stream, norm), kit.add_norm(stream, y.to(dtype), scale, norm)]
        added = stream.clone()
        kit.settle(stream, y.to(dtype), scale, norm)
        results.append((*outs, added, stream))
    for plain, ours in zip(*results, strict=True):
        assert_close(plain, ours, dtype)
