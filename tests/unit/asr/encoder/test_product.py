"""Products in tiles against oneDNN's, which are their specification."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr.encoder import linear
from asr.encoder.linear import ACTIVATIONS, Activation, make_linear
from asr.encoder.product import INNER, TiledLinear, can_tile

needs_tiles = pytest.mark.skipif(
    not can_tile(torch.zeros(1, INNER)), reason="this processor has no AMX, or no C++ compiler"
)
TOLERANCE = 2e-2
SEEDS = st.integers(0, 2**31)


def normal(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=random).bfloat16() for shape in shapes]


@needs_tiles
@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 70),
    outer=st.integers(1, 100),
    inner=st.sampled_from([INNER, 2 * INNER, 7 * INNER]),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    has_bias=st.booleans(),
    seed=SEEDS,
)
def test_tiles_give_the_products_of_onednn(
    rows: int, outer: int, inner: int, activation: Activation, *, has_bias: bool, seed: int
) -> None:
    weight, bias, x = normal(seed, (outer, inner), (outer,), (rows, inner))
    ours = TiledLinear(weight / inner**0.5, bias if has_bias else None, activation)(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "can_tile", lambda _: False)
        theirs = make_linear(weight / inner**0.5, bias if has_bias else None, "bf16", activation)(x)
    assert ours.dtype == torch.bfloat16 and ours.shape == theirs.shape
    torch.testing.assert_close(ours.float(), theirs.float(), atol=TOLERANCE, rtol=TOLERANCE)


@needs_tiles
@settings(max_examples=40, deadline=None)
@given(rows=st.integers(2, 120), seed=SEEDS)
def test_batch_mates_change_no_bit(rows: int, seed: int) -> None:
    weight, bias, x = normal(seed, (70, 96), (70,), (rows, 96))
    run, row = TiledLinear(weight, bias, "swish"), seed % rows
    alone, louder = x[row : row + 1], 100 * x
    louder[row] = x[row]
    louder[row - 1] = torch.nan
    assert torch.equal(run(x)[row], run(alone)[0])
    assert torch.equal(run(louder)[row], run(alone)[0])


@needs_tiles
def test_rows_of_any_shape_and_order_in_memory_are_taken() -> None:
    weight, x = normal(3, (40, 64), (5, 64, 3))
    run = TiledLinear(weight, None, "none")
    across = x.transpose(1, 2)
    assert torch.equal(run(across), run(across.contiguous().view(15, 64)).view(5, 3, 40))
    assert torch.equal(run(across.float()), run(across))


def test_weights_that_do_not_fill_tiles_are_left_to_onednn() -> None:
    assert not can_tile(torch.zeros(64, INNER + 1))
    weight, x = normal(4, (8, INNER + 1), (2, INNER + 1))
    result = make_linear(weight, None, "bf16")(x)
    torch.testing.assert_close(result.float(), x.float() @ weight.float().T, atol=0.1, rtol=0.1)
