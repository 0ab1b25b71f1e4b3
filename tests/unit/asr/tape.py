"""A CUDA graph played on a CPU: what a function did is written down and done again by address.

Does: record every operation of torch with its memory, replay it whatever Python thinks by then;
refuse, as a capture would, what asks the host for a value or has a shape that depends on data.
Does not know: what is computed. C++ called past torch is not seen: use plain parts.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WARMING = 2
ASKS_THE_HOST = (
    "_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "unique", "bincount",
    "repeat_interleave", "lift_fresh", "equal", "allclose",
)  # fmt: skip


class CannotBeRecorded(Exception):
    """A capture on a GPU would fail here, or wait for the host."""


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down what runs under it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        refuse(func.overloadpacket.__name__, args, kwargs)
        out = func(*args, **kwargs)
        self._calls.append((func, args, kwargs, out))
        return out

    def replay(self) -> None:
        """Do it again on the same memory."""
        for func, args, kwargs, out in self._calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)

    def story(self) -> list[tuple[str, list[torch.Size]]]:
        """Say what ran, without the numbers."""
        return [
            (str(func), [x.shape for x in tree_leaves((args, out)) if isinstance(x, Tensor)])
            for func, args, _, out in self._calls
        ]


def refuse(name: str, args: Any, kwargs: Any) -> None:
    """Raise CannotBeRecorded where a capture would break."""
    if any(name.startswith(forbidden) for forbidden in ASKS_THE_HOST):
        raise CannotBeRecorded(name)
    if name.startswith(("index", "_index_put", "_unsafe_index")) and len(args) > 1:
        indices = [x for x in tree_leaves(args[1]) if isinstance(x, Tensor)]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            raise CannotBeRecorded(f"{name} by a mask")
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    places = {str(tensor.device) for tensor in tensors if tensor.dim()}
    if kwargs.get("device") is not None:
        places.add(str(kwargs["device"]))
    if len(places) > 1:
        raise CannotBeRecorded(f"{name} between {sorted(places)}")


def record(act: Callable[[], None]) -> Callable[[], None]:
    """Take the place of ``asr.graphs.CudaRecorder``."""
    for _ in range(WARMING):
        act()
    tape = Tape()
    with tape:
        act()
    return tape.replay
