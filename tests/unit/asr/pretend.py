"""A GPU that is not there: tensors of the host that say they are on a device, and behave so.

Does: run an engine's way over a device on a CPU, with the same numbers; refuse what mixes host and
device; copy where a device copies, late where it copies late; write down each wait for the device.
Does not know: what is computed, kernels, graphs (``tape`` refuses what a capture refuses).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("cuda", 0)
NOT_YET = 0xAB
"""Bytes of the host that a copy has still to reach."""
WAITS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero", "unique",
         "masked_select", "equal", "allclose", "cpu"}  # fmt: skip
READS_MEMORY = {"numpy", "data_ptr"}


class OnDevice(Tensor):
    """Memory of the device, which only the device reads."""

    device = property(lambda _: DEVICE)
    is_cuda = True


class Mixed(Exception):
    """Host and device in one operation: a GPU refuses it."""


class PretendGpu(TorchFunctionMode):
    """Takes the place of a device while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        """What waited for the device, in order."""
        self._sent: list[tuple[Tensor, Tensor]] = []
        self._fetched: list[tuple[Tensor, Tensor]] = []
        self._pinned: set[int] = set()

    def synchronize(self) -> None:
        """Wait for all that was asked of the device."""
        self.waits.append("synchronize")
        self._settle()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if name in ("to", "copy_"):
            return (self._to if name == "to" else self._copy)(func, args, kwargs)
        target = kwargs.get("device")
        if target is not None and torch.device(target).type == "cuda":
            return self._made(func, args, kwargs)
        is_pinned = kwargs.pop("pin_memory", False)
        if isinstance(args[0] if args else None, OnDevice):
            self._watch(name, args)
        self._check(name, args, kwargs)
        out = func(*args, **kwargs)
        if is_pinned:
            self._pinned.add(out.untyped_storage().data_ptr())
        return _on_host(out) if name == "cpu" else out

    def _made(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
        """Make a tensor on the device; values of the host take a copy that waits."""
        if func is torch.tensor:
            self.waits.append("tensor")
        return func(*args, **kwargs | {"device": "cpu"}).as_subclass(OnDevice)

    def _watch(self, name: str, args: Any) -> None:
        if name in READS_MEMORY:
            raise Mixed(f"{name} of a tensor on the device")
        by_mask = name in ("__getitem__", "index") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool
            for index in tree_leaves(args[1])
        )
        if name in WAITS or by_mask:
            self.waits.append(name)
            self._settle()

    def _to(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
        me = args[0]
        places = [
            x for x in (*args[1:], kwargs.get("device")) if isinstance(x, (str, torch.device))
        ]
        if not places:
            return func(*args, **kwargs)
        place = torch.device(places[0])
        if place.type == me.device.type:
            return me
        self.waits.append("to")
        self._settle()
        copy = me.clone()
        return copy.as_subclass(OnDevice) if place.type == "cuda" else _on_host(copy)

    def _copy(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
        into, source = args[:2]
        if into.device == source.device:
            return func(*args)
        host = source if isinstance(into, OnDevice) else into
        if not kwargs.get("non_blocking"):
            self.waits.append("copy_")
            self._settle()
            return func(*args)
        assert host.untyped_storage().data_ptr() in self._pinned, (
            "only pinned memory is not waited for"
        )
        if host is source:
            self._sent.append((source, source.clone()))
            return func(*args)
        self._fetched.append((into, _on_host(source.clone())))
        return into.fill_(NOT_YET)

    def _check(self, name: str, args: Any, kwargs: Any) -> None:
        """Numbers without dimensions may come from the host."""
        if name.startswith("__get__") or name == "__set__":
            return
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.dim()]
        if len({isinstance(tensor, OnDevice) for tensor in tensors}) > 1:
            raise Mixed(f"{name} of {[(x.device.type, *x.shape) for x in tensors]}")

    def _settle(self) -> None:
        for host, then in self._sent:
            assert torch.equal(host, then), "the host wrote what was still being sent"
        for host, what in self._fetched:
            host.copy_(what)
        self._sent, self._fetched = [], []


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Tensor).clone()


class _Stream:
    def __init__(self, gpu: PretendGpu) -> None:
        self.synchronize = gpu.synchronize


@contextmanager
def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendGpu]:
    """Have a device ``cuda``; nothing is recorded on it."""
    gpu = PretendGpu()
    stream: Callable[..., _Stream] = lambda *_: _Stream(gpu)  # noqa: E731
    monkeypatch.setattr("torch.cuda.current_stream", stream)
    monkeypatch.setattr("asr.engine.recorder", lambda _: None)
    numbers = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = [part.fp32_precision for part in numbers]
    with gpu:
        yield gpu
    for part, precision in zip(numbers, before, strict=True):
        part.fp32_precision = precision
