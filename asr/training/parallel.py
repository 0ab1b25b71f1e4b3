"""Several processes training one model: gradients are averaged after each step.

Does: start the processes, average gradients, share what the first process knows.
Does not know: losses, data, schedules.

On CPU two processes of one thread do nearly twice what one process of two threads does: the steps
are many small operations, and threads mostly wait for each other.
"""

import datetime
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

PATIENCE = datetime.timedelta(minutes=30)
"""The others wait this long while the first one evaluates and saves."""


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of a run, and which of them this is."""

    rank: int = 0
    size: int = 1
    parent: int | None = None
    """Who started this process, where that matters."""

    @property
    def leads(self) -> bool:
        """Whether this process writes files and log lines."""
        return self.rank == 0

    def orphaned(self) -> bool:
        """Whether the starter is gone: a run must not go on writing beside its successor."""
        return self.parent is not None and os.getppid() != self.parent

    def average(self, gradients: Iterable[Tensor]) -> None:
        """Replace gradients by their mean over the processes."""
        if self.size == 1:
            return
        parts = list(gradients)
        flat = torch.cat([g.flatten() for g in parts])
        dist.all_reduce(flat)
        flat /= self.size
        torch._foreach_copy_(
            parts, [f.view_as(g) for f, g in zip(_split(flat, parts), parts, strict=True)]
        )

    def total(self, value: float) -> float:
        """Sum of a number over the processes."""
        if self.size == 1:
            return value
        box = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(box)
        return float(box)

    def told(self, value: float) -> float:
        """Take the first process's number."""
        return self.total(value if self.leads else 0.0)


def _split(flat: Tensor, parts: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.split(flat, [p.numel() for p in parts])


def launch(size: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Call ``work(group, *arguments)`` in ``size`` processes (in this one if it is alone)."""
    if size == 1:
        work(Group(), *arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        mp.spawn(_join, (os.getpid(), size, meeting, work, arguments), nprocs=size)  # type: ignore[attr-defined, no-untyped-call]


def _join(
    rank: int,
    parent: int,
    size: int,
    meeting: str,
    work: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    dist.init_process_group("gloo", meeting, PATIENCE, world_size=size, rank=rank)
    try:
        work(Group(rank, size, parent), *arguments)
    finally:
        dist.destroy_process_group()
