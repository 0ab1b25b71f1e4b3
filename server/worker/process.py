"""An engine host in a process of its own: a crash takes one device, the GIL is not shared.

Does: spawn ``python -m server.worker`` with one end of a socket pair, carry commands and reports.
Does not know: engines, sessions, placement, restarts (server.manager).
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from dataclasses import asdict
from pathlib import Path

from server.worker import link
from server.worker.engines import EngineSpec
from server.worker.handle import OnExit, OnReport
from server.worker.line import Line

_QUIT_S = 3.0
"""A step in progress may end before the process must."""
_ROOT = Path(__file__).resolve().parents[2]


class ProcessWorker:
    """A worker in a child process, spawned (a threaded parent must not fork)."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._process: Process | None = None
        self._line: Line | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return None if self._process is None else self._process.pid

    async def start(self, on_report: OnReport, on_exit: OnExit) -> None:
        """Spawn the child."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *command(self._spec, "--fd", str(theirs.fileno())),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    env=environment(),
                    start_new_session=True,  # Ctrl-C is for the gateway, which drains first
                )
            except BaseException:
                ours.close()
                raise
        self._line = Line(*await asyncio.open_connection(sock=ours))
        self._task = asyncio.create_task(self._read(self._line, on_report, on_exit))

    def send(self, command: link.Command) -> None:
        """Write a command."""
        if self._line is not None:
            self._line.send(command)

    @property
    def queued_bytes(self) -> int:
        """Bytes the child has not taken yet."""
        return 0 if self._line is None else self._line.queued_bytes

    def kill(self) -> None:
        """End the child with SIGKILL, which also ends one that is stopped."""
        self._is_closing = True
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)  # not process.kill(): see _end

    async def close(self) -> None:
        """Ask it to quit, then insist."""
        self._is_closing = True
        if self._process is None or self._line is None or self._task is None:
            return
        self.send(link.Quit())
        await _end(self._process)
        await self._task
        self._line.close()

    async def _read(self, line: Line, on_report: OnReport, on_exit: OnExit) -> None:
        process = self._process
        assert process is not None
        await line.read(on_report)
        status = await _end(process)  # without its link it serves nobody
        if not self._is_closing:
            on_exit(_reason(status))


async def _end(process: Process) -> int:
    """Wait for a process that should end by itself, then insist; return its status."""
    try:
        return await asyncio.wait_for(process.wait(), _QUIT_S)
    except TimeoutError:
        # not before: kill() polls, and would take the status away from asyncio's own wait
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        return await process.wait()


def command(spec: EngineSpec, *link_end: str) -> list[str]:
    """Return the command line of an engine process; ``link_end`` says how it is reached."""
    arguments = [sys.executable, "-m", "server.worker", *link_end]
    for name, value in asdict(spec).items():
        if value is not None:
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    return arguments


def environment() -> dict[str, str]:
    """Return the environment of an engine process."""
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def _reason(status: int) -> str:
    how = f"by signal {-status}" if status < 0 else f"with status {status}"
    return f"an engine process ended {how}"
