"""A step as a function over fixed memory: recorded once as a CUDA graph, replayed ever after.

Does: blocks of memory at fixed addresses, on the host and on the device; record and replay.
Does not know: what is computed, engines, streams. On a CPU a function is simply called: the layer
is off and the same code runs. What is recorded asks the host for nothing: no value of a tensor
decides what runs, no shape depends on data, no tensor of the host is made inside.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

ALIGNED = 64
"""Bytes; a view begins at a multiple."""
WARMING = 2
"""Calls before a recording: libraries choose their kernels and take their memory in them."""

Act = Callable[[], None]
"""Reads and writes fixed memory and nothing else."""
Record = Callable[[Act], Act]
"""Returns what does the same to the same memory when it is called, the sooner."""
Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Block:
    """Tensors by name in one piece of memory on the device, and its twin on the host.

    On a CPU both are the same memory.
    """

    here: dict[str, Tensor]
    there: dict[str, Tensor]
    _host: Tensor
    _device: Tensor

    def send(self) -> None:
        """Copy to the device; the host must not write before the next ``fetch`` of any block."""
        if self._host is not self._device:
            self._device.copy_(self._host, non_blocking=True)

    def fetch(self) -> None:
        """Copy to the host, and wait: the only time a step waits for the device."""
        if self._host is not self._device:
            self._host.copy_(self._device, non_blocking=True)
            torch.cuda.current_stream(self._device.device).synchronize()


@dataclass(slots=True)
class Arena:
    """Memory that blocks of all shapes share: one step is under way at a time.

    Who asks for the largest block first wastes none; older blocks keep the memory they have.
    """

    device: torch.device
    _host: Tensor = field(init=False)
    _device: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._allocate(ALIGNED)

    def block(self, layout: Layout) -> Block:
        """Return tensors of these types and shapes."""
        places, end = dict[str, int](), 0
        for name, (dtype, shape) in layout.items():
            places[name] = end
            end += -(-prod(shape) * dtype.itemsize // ALIGNED) * ALIGNED
        if end > len(self._host):
            self._allocate(end)
        host, device = self._host[:end], self._device[:end]

        def views(memory: Tensor) -> dict[str, Tensor]:
            return {
                name: memory[begin : begin + prod(shape) * dtype.itemsize].view(dtype).view(shape)
                for begin, (name, (dtype, shape)) in zip(
                    places.values(), layout.items(), strict=True
                )
            }

        return Block(views(host), views(device), host, host if self._is_one else device)

    @property
    def _is_one(self) -> bool:
        return self.device.type == "cpu"

    def _allocate(self, size: int) -> None:
        self._host = torch.zeros(size, dtype=torch.uint8, pin_memory=not self._is_one)
        self._device = self._host if self._is_one else self._host.to(self.device)


class CudaRecorder:
    """Records CUDA graphs that share their memory: only one of them may run at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        # One stream for all: libraries take working memory for each that they meet.
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, act: Act) -> Act:
        """Run ``act`` on the side until all it needs is there, then record it."""
        with torch.cuda.device(self._device):
            side, here = self._side, torch.cuda.current_stream()
            side.wait_stream(here)
            with torch.cuda.stream(side):
                for _ in range(WARMING):
                    act()
            here.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # torch stays on the side where a capture breaks: ``here`` is put back. What engines in
            # other threads ask of their devices meanwhile breaks neither them nor this.
            with (
                torch.cuda.stream(here),
                torch.cuda.graph(
                    graph, pool=self._pool, stream=side, capture_error_mode="thread_local"
                ),
            ):
                act()
        return graph.replay


def recorder(device: torch.device) -> Record | None:
    """Return what records on this device; None where functions are simply called."""
    return CudaRecorder(device) if device.type == "cuda" else None
