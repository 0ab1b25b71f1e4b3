"""Several processes training one model: gradients are averaged after each step.

Does: start the processes, average gradients, share what the first process knows; Ctrl+C and
SIGTERM become a wish that the work asks for.
Does not know: losses, data, schedules.

On CPU two processes of one thread do nearly twice what one process of two threads does: the steps
are many small operations, and threads mostly wait for each other.
"""

import datetime
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

PATIENCE = datetime.timedelta(minutes=30)
"""The others wait this long while the first one evaluates and saves."""
STOPPED = 130


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of a run, and which of them this is."""

    rank: int = 0
    size: int = 1
    parent: int | None = None
    """Who started this process, where that matters."""
    asked: threading.Event = field(default_factory=threading.Event)
    """Set once somebody wants this process to stop."""

    @property
    def leads(self) -> bool:
        """Whether this process writes files and log lines."""
        return self.rank == 0

    def orphaned(self) -> bool:
        """Whether the starter is gone: a run must not go on writing beside its successor."""
        return self.parent is not None and os.getppid() != self.parent

    def stopped(self) -> bool:
        """Whether any of the processes was asked to stop: all do so behind the same step."""
        return self.total(float(self.asked.is_set())) > 0

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


def launch(size: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> int:
    """Call ``work(group, *arguments)`` in ``size`` processes (in this one if it is alone).

    Returns an exit status; that of a run that was asked to stop (Ctrl+C, SIGTERM) is 130.
    """
    if size == 1:
        group = Group()
        with _asked(group.asked.set):
            work(group, *arguments)
        return STOPPED if group.asked.is_set() else 0
    asked = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        given = (os.getpid(), size, meeting, work, arguments)
        # Ctrl+C reaches every process of a terminal: it is for this one alone to pass it on.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        context = mp.spawn(_join, given, nprocs=size, join=False)  # type: ignore[attr-defined, no-untyped-call]
        signal.signal(signal.SIGINT, before)

        def stop() -> None:
            asked.set()
            for process in context.processes:
                process.terminate()

        with _asked(stop):
            try:
                while not context.join():
                    pass
            except mp.ProcessExitedException as ended:  # type: ignore[attr-defined]
                if not asked.is_set():  # else it had not begun yet
                    return max(1, ended.exit_code)
    return STOPPED if asked.is_set() else 0


@contextmanager
def _asked(stop: Callable[[], None]) -> Iterator[None]:
    """Call this at the first Ctrl+C or SIGTERM; the next one does what it always does."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(_number: int, _frame: object) -> None:
        restore()
        stop()

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()


def _join(
    rank: int,
    parent: int,
    size: int,
    meeting: str,
    work: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    group = Group(rank, size, parent)
    signal.signal(signal.SIGTERM, lambda *_: group.asked.set())
    dist.init_process_group("gloo", meeting, PATIENCE, world_size=size, rank=rank)
    try:
        work(group, *arguments)
    finally:
        dist.destroy_process_group()
