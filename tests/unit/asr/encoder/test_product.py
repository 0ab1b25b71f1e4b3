"""Products from packed weights against oneDNN's, which are their specification."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr.encoder import linear
from asr.encoder.linear import ACTIVATIONS, DTYPES, Activation, make_linear
from asr.encoder.product import DOTS, INNER, LARGEST, Numbers, PackedLinear, can_pack, way_of
from asr.native import library


def _numbers(numbers: Numbers) -> object:
    needs = pytest.mark.skipif(
        way_of(numbers) is None, reason=f"no {numbers} in this processor, or no C++ compiler"
    )
    return pytest.param(numbers, marks=needs)


each_kind = pytest.mark.parametrize("numbers", [_numbers("fp32"), _numbers("bf16")])
every_kind = pytest.mark.parametrize(
    "numbers", [_numbers("fp32"), _numbers("bf16"), _numbers("int8")]
)
TOLERANCE = {"fp32": 2e-5, "bf16": 2e-2, "int8": 2e-2}
SEEDS = st.integers(0, 2**31)


def normal(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=random) for shape in shapes]


@each_kind
@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 70),
    outer=st.integers(1, 100),
    inner=st.sampled_from([INNER, 2 * INNER, 7 * INNER]),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    has_bias=st.booleans(),
    seed=SEEDS,
)
def test_they_are_the_products_of_onednn(
    numbers: Numbers,
    rows: int,
    outer: int,
    inner: int,
    activation: Activation,
    *,
    has_bias: bool,
    seed: int,
) -> None:
    weight, bias, x = (
        t.to(DTYPES[numbers]) for t in normal(seed, (outer, inner), (outer,), (rows, inner))
    )
    ours = PackedLinear(weight / inner**0.5, bias if has_bias else None, numbers, activation)(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "can_pack", lambda *_: False)
        theirs = make_linear(weight / inner**0.5, bias if has_bias else None, numbers, activation)(
            x
        )
    assert ours.dtype == DTYPES[numbers] and ours.shape == theirs.shape
    bound = TOLERANCE[numbers]
    torch.testing.assert_close(ours.float(), theirs.float(), atol=bound, rtol=bound)


@pytest.mark.parametrize("numbers", [_numbers("int8")])
@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 40),
    outer=st.integers(1, 100),
    inner=st.sampled_from([INNER, 2 * INNER, 7 * INNER]),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    loudness=st.sampled_from([1e-20, 1e-3, 1.0, 1e4]),
    seed=SEEDS,
)
def test_eight_bits_have_a_scale_for_each_row_and_each_output(
    numbers: Numbers,
    rows: int,
    outer: int,
    inner: int,
    activation: Activation,
    loudness: float,
    seed: int,
) -> None:
    weight, bias, x, loud = normal(seed, (outer, inner), (outer,), (rows, inner), (rows, 1))
    weight[seed % outer] = 0
    x = (x * loud.exp() * loudness).bfloat16()
    ours = PackedLinear(weight, bias, numbers, activation)(x)
    scale, row_scale = (t.float().abs().amax(1) / LARGEST for t in (weight, x))
    whole = (weight / scale.clamp_min(1e-30)[:, None]).round()
    whole_x = (x.float() / row_scale[:, None]).round()
    exact = (whole_x.double() @ whole.double().T) * row_scale[:, None] * scale + bias
    theirs = ACTIVATIONS[activation](exact.float())
    # A number in the middle between two whole ones may be rounded to either.
    bound = TOLERANCE[numbers] + row_scale.max().item() * scale.max().item() * LARGEST
    torch.testing.assert_close(ours.float(), theirs, atol=bound, rtol=TOLERANCE[numbers])


@every_kind
@settings(max_examples=40, deadline=None)
@given(rows=st.integers(2, 120), seed=SEEDS)
def test_batch_mates_change_no_bit(numbers: Numbers, rows: int, seed: int) -> None:
    weight, bias, x = normal(seed, (70, 96), (70,), (rows, 96))
    run, row = PackedLinear(weight, bias, numbers, "swish"), seed % rows
    alone, louder = x[row : row + 1], 100 * x
    louder[row] = x[row]
    louder[row - 1] = torch.nan
    assert torch.equal(run(x)[row], run(alone)[0])
    assert torch.equal(run(louder)[row], run(alone)[0])


@every_kind
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_no_number_stays_none(numbers: Numbers, bad: float) -> None:
    weight, x = normal(5, (40, 64), (3, 64))
    x[1, 7] = bad
    result = PackedLinear(weight, None, numbers, "none")(x)
    assert not result[1].isfinite().any()
    assert result[[0, 2]].isfinite().all()


@every_kind
def test_rows_of_any_shape_and_order_in_memory_are_taken(numbers: Numbers) -> None:
    weight, x = normal(3, (40, 64), (5, 64, 3))
    run = PackedLinear(weight, None, numbers, "none")
    across = x.to(DTYPES[numbers]).transpose(1, 2)
    assert torch.equal(run(across), run(across.contiguous().view(15, 64)).view(5, 3, 40))
    assert torch.equal(run(across.float()), run(across))


@every_kind
def test_no_rows_are_no_work(numbers: Numbers) -> None:
    run = PackedLinear(torch.ones(40, 64), None, numbers, "none")
    assert run(torch.empty(0, 64)).shape == (0, 40)


def test_bf16_by_dot_products_is_right_beside_tiles_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A core with AMX has both ways and uses one."""
    functions = library(DOTS)
    if functions is None or not hasattr(functions, "product_bf16"):
        pytest.skip("no AVX512-BF16 in this processor, or no C++ compiler")
    monkeypatch.setattr("asr.encoder.product.has_tiles", lambda: False)
    way_of.cache_clear()
    try:
        weight, x = (t.bfloat16() for t in normal(6, (70, 96), (19, 96)))
        result = PackedLinear(weight, None, "bf16", "none")(x)
    finally:
        way_of.cache_clear()
    theirs = x.float() @ weight.float().T
    torch.testing.assert_close(result.float(), theirs, atol=0.1, rtol=TOLERANCE["bf16"])


def test_inputs_that_are_not_taken_whole_are_left_to_onednn() -> None:
    assert not any(can_pack(torch.zeros(64, INNER + 1), x) for x in ("fp32", "bf16", "int8"))
    weight, x = (t.bfloat16() for t in normal(4, (8, INNER + 1), (2, INNER + 1)))
    result = make_linear(weight, None, "bf16")(x)
    torch.testing.assert_close(result.float(), x.float() @ weight.float().T, atol=0.1, rtol=0.1)
