"""The host's end of a link: reads between two steps, writes at any time, and a heart's beats.

Does: non-blocking reads of commands, buffered writes of reports, waiting when there is no work.
What the socket does not take at once is written by a thread while the engine computes: a snapshot
is many times what a socket holds, and the words behind it would wait a step for each part of it.
A beat may come from another thread; nothing else may.
Does not know: engines, what commands mean.
"""

import contextlib
import select
import threading
from types import TracebackType
from typing import Protocol, Self

from server.worker import link
from server.worker.loop import MailboxClosed

_READ_BYTES = 256 * 1024
_FLUSH_S = 2.0
_LOOK_S = 0.5
"""Until the thread looks whether it is to end though the gateway reads nothing."""


class Peer(Protocol):
    """A stream socket: plain (a pair on one machine) or TLS (server.worker.tls)."""

    def fileno(self) -> int: ...  # noqa: D102 - these are socket.socket's
    def setblocking(self, flag: bool, /) -> None: ...  # noqa: D102, FBT001
    def recv(self, count: int, /) -> bytes: ...  # noqa: D102
    def send(self, data: bytearray, /) -> int: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class SocketMailbox:
    """Commands in, reports out over a stream socket.

    What waits to be written is bounded by the audio that was read: no events without audio.
    """

    def __init__(self, peer: Peer) -> None:
        peer.setblocking(False)
        self._peer = peer
        self._reader = link.CommandReader()
        self._unsent = bytearray()
        self._changed = threading.Condition()
        """Of what is not sent."""
        self._is_over = False
        self._writer = threading.Thread(target=self._write_on, name="reports", daemon=True)
        self._writer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._writer.join()
        self._peer.close()

    def receive(self, *, may_wait: bool) -> list[link.Command]:
        """Return the commands that came."""
        while True:
            commands = self._read()
            if commands or not may_wait:
                return commands
            select.select([self._peer], [], [])

    def send(self, report: link.Report) -> None:
        """Write what the socket takes now, leave the rest to the thread."""
        frame = link.frame(report)
        with self._changed:
            self._unsent += frame
            self._write()

    def beat(self, pulse: link.Pulse) -> None:
        """Send a sign of life, unless older reports wait: they are one when they are read."""
        with self._changed:
            if not self._unsent:
                self._unsent += link.frame(pulse)
                with contextlib.suppress(MailboxClosed):  # the host's own read ends it
                    self._write()

    def give_up(self, reason: str) -> None:
        """Say why there will be no engine."""
        self.send(link.Unfit(reason))
        self.flush()

    def flush(self) -> None:
        """Wait for the last writes, two seconds at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._unsent or self._is_over, _FLUSH_S)

    def _read(self) -> list[link.Command]:
        found = list[link.Command]()
        while True:
            try:
                data = self._peer.recv(_READ_BYTES)
            except BlockingIOError:
                return found
            except OSError:  # reset, or over a network no answer for too long
                data = b""
            if not data:
                raise MailboxClosed
            found += self._reader.feed(data)

    def _write(self) -> None:
        """Write what the socket takes; the lock is held."""
        try:
            while self._unsent:
                del self._unsent[: self._peer.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError as error:
            raise MailboxClosed from error
        finally:
            self._changed.notify_all()

    def _write_on(self) -> None:
        """Write as soon as the socket takes more, until all is over: the thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._unsent or self._is_over)
                if self._is_over:
                    return
            select.select([], [self._peer], [], _LOOK_S)
            with self._changed:
                try:
                    self._write()
                except MailboxClosed:  # the host's own read ends it
                    self._is_over = True
                    self._changed.notify_all()
                    return
