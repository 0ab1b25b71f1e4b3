"""An engine host in a thread of the gateway's process, for tests and embedding.

Does: launch the host of server.worker.loop behind the interface of server.worker.handle.
Does not know: processes, sockets, sessions.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable

from asr.interface import StreamingEngine
from server.worker import link
from server.worker.handle import OnExit, OnReport
from server.worker.loop import Host, MailboxClosed

logger = logging.getLogger(__name__)


class _Mailbox:
    def __init__(self, deliver: Callable[[link.Report], None]) -> None:
        self.commands: queue.SimpleQueue[link.Command | None] = queue.SimpleQueue()
        self._deliver = deliver

    def receive(self, *, may_wait: bool) -> list[link.Command]:
        commands = list[link.Command]()
        while True:
            try:
                command = self.commands.get(block=may_wait and not commands)
            except queue.Empty:
                return commands
            if command is None:
                raise MailboxClosed
            commands.append(command)

    def send(self, report: link.Report) -> None:
        self._deliver(report)


class ThreadWorker:
    """A worker that shares our process (and its GIL)."""

    def __init__(
        self, make_engine: Callable[[], StreamingEngine], *, first_look_ahead: int | None = None
    ) -> None:
        self._make_engine = make_engine
        self._first = first_look_ahead
        self._mailbox: _Mailbox | None = None
        self._thread: threading.Thread | None = None
        self._is_closing = False

    async def start(self, on_report: OnReport, on_exit: OnExit) -> None:
        """Launch the thread."""
        loop = asyncio.get_running_loop()

        def call(function: Callable[..., None], *values: object) -> None:
            try:
                loop.call_soon_threadsafe(function, *values)
            except RuntimeError:  # the gateway's loop is closed: nobody listens
                self._is_closing = True

        mailbox = self._mailbox = _Mailbox(lambda report: call(on_report, report))

        def host() -> None:
            reason = "the engine thread ended"
            try:
                Host(self._make_engine(), mailbox, first_look_ahead=self._first).run()
            except Exception as error:
                logger.exception("engine thread failed")
                reason = f"the engine failed ({type(error).__name__})"
            if not self._is_closing:
                call(on_exit, reason)

        self._thread = threading.Thread(target=host, name="engine", daemon=True)
        self._thread.start()

    def send(self, command: link.Command) -> None:
        """Put a command into the thread's mailbox."""
        if self._mailbox is not None:
            self._mailbox.commands.put(command)

    @property
    def queued_bytes(self) -> int:
        """Not known for a thread's queue."""
        return 0

    def kill(self) -> None:
        """Hear of it no more: a thread cannot be killed."""
        self._is_closing = True

    async def close(self) -> None:
        """End the thread."""
        self._is_closing = True
        if self._thread is None or self._mailbox is None:
            return
        self._mailbox.commands.put(None)
        await asyncio.to_thread(self._thread.join)
