"""An engine process on another machine, whoever started it there.

Does: have one started (Places), dial it, carry commands and reports, end it.
Does not know: Ray, engines, sessions, restarts (server.manager).

Until the link stands, whoever places engine processes watches this one; from then on the link does:
a process that ends breaks it, and a machine that falls silent misses its beats (worker.heart).
What was killed cannot come back: its link is closed, and only over its link is it heard.
"""

import asyncio
import contextlib
import secrets
from dataclasses import dataclass
from typing import Protocol

from server.worker import link
from server.worker.engines import EngineSpec
from server.worker.handle import OnExit, OnReport
from server.worker.handshake import SECRET_BYTES, HandshakeError
from server.worker.line import Line
from server.worker.tcp import dial

_QUIT_S = 3.0
"""A step in progress may end before the process must."""


class PlacementError(Exception):
    """No engine process could be started; the text is one sentence."""


class Post(Protocol):
    """An engine process that was started somewhere."""

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        ...

    def remove(self) -> None:
        """End it at once, if it has not ended, and give its place back. Never waits."""
        ...


class Places(Protocol):
    """Where engine processes can be started."""

    async def start(self, spec: EngineSpec, secret: bytes) -> Post:
        """Start one where there is room, when there is; raises PlacementError."""
        ...


@dataclass(slots=True)
class _Posting:
    post: Post
    line: Line


class RemoteWorker:
    """A worker in a process that others started (server.worker.handle.Worker)."""

    def __init__(self, spec: EngineSpec, places: Places) -> None:
        self._spec = spec
        self._places = places
        self._posting: _Posting | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False

    @property
    def address(self) -> tuple[str, int] | None:
        """Where it listens, once there is a link to it."""
        return None if self._posting is None else self._posting.post.address

    async def start(self, on_report: OnReport, on_exit: OnExit) -> None:
        """Ask for a process; it may take as long as there is no room."""
        self._task = asyncio.create_task(self._live(on_report, on_exit))

    def send(self, command: link.Command) -> None:
        """Write a command."""
        if self._posting is not None:
            self._posting.line.send(command)

    @property
    def queued_bytes(self) -> int:
        """Bytes the process has not taken yet."""
        return 0 if self._posting is None else self._posting.line.queued_bytes

    def kill(self) -> None:
        """Cut the link, then have the process ended: it ends itself when it sees the cut."""
        self._is_closing = True
        if self._posting is not None:
            self._posting.line.cut()
            self._posting.post.remove()

    async def close(self) -> None:
        """Ask it to quit, then insist."""
        self._is_closing = True
        task = self._task
        if task is None:
            return
        if self._posting is None:
            task.cancel()
        else:
            self.send(link.Quit())
            await asyncio.wait((task,), timeout=_QUIT_S)
            self.kill()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _live(self, on_report: OnReport, on_exit: OnExit) -> None:
        try:
            reason = await self._serve(on_report)
        except (PlacementError, HandshakeError) as error:
            reason = str(error)
        except OSError as error:
            reason = f"an engine process could not be reached ({error.strerror or 'no answer'})"
        if not self._is_closing:
            on_exit(reason)

    async def _serve(self, on_report: OnReport) -> str:
        secret = secrets.token_bytes(SECRET_BYTES)
        post = await self._places.start(self._spec, secret)
        try:
            line = await dial(*post.address, secret)
            self._posting = _Posting(post, line)
            await line.read(on_report)
            line.close()
        finally:
            post.remove()
        return f"the link to an engine process on {post.address[0]} ended"
