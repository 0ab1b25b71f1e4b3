"""Memory in large pages: tensors that share blocks but no byte."""

import gc
import mmap

import pytest
import torch

from asr.encoder.pages import ALIGNMENT, BLOCK, Pages

SHAPES = [(3,), (40, 64), (1, 1), (BLOCK // 4,), (7, 5)]


@pytest.mark.parametrize("has_large_pages", [True, False])
def test_tensors_keep_what_they_hold_when_others_are_written_or_gone(
    monkeypatch: pytest.MonkeyPatch, *, has_large_pages: bool
) -> None:
    if not has_large_pages:
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    pages = Pages()
    tensors = [pages.empty(*shape, dtype=torch.bfloat16) for shape in SHAPES]
    for number, (tensor, shape) in enumerate(zip(tensors, SHAPES, strict=True)):
        assert tensor.shape == shape and tensor.is_contiguous()
        assert tensor.data_ptr() % ALIGNMENT == 0
        tensor.fill_(number)
    last = tensors[-1]
    assert all(bool((t == number).all()) for number, t in enumerate(tensors))
    del pages, tensors, tensor
    gc.collect()
    assert bool((last == len(SHAPES) - 1).all())
