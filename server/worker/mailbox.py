"""The host's end of a link: reads between two steps, writes at any time, and a heart's beats.

Does: non-blocking reads of commands, buffered writes of reports, waiting when there is no work.
A snapshot is many times what a socket holds, and words and audio behind it would wait a step for
each part of it: while the engine computes one thread writes on, another empties a full socket.
A beat may come from another thread; nothing else may.
Does not know: engines, what commands mean.
"""

import contextlib
import fcntl
import select
import sys
import termios
import threading
import time
from types import TracebackType
from typing import Protocol, Self

from server.worker import link
from server.worker.loop import MailboxClosed

_READ_BYTES = 256 * 1024
_FLUSH_S = 2.0
_LOOK_S = 0.5
"""Until the writing thread looks whether it is to end though the gateway reads nothing."""
_AHEAD_S = 0.003
"""How often the reading thread looks during a step; with each look a socket's content passes."""
_FULL_BYTES = 64 * 1024
"""So much in the socket is taken out during a step; less is left to the next turn."""
_MOST_AHEAD_BYTES = 16 * 1024 * 1024
"""Beyond it the gateway keeps what comes, and sees that it does."""


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
        self._ahead = bytearray()
        """Read during a step."""
        self._reading = threading.Lock()
        self._computing = threading.Event()
        threads = (("reports", self._write_on), ("commands", self._read_ahead))
        self._threads = [threading.Thread(target=f, name=n, daemon=True) for n, f in threads]
        for thread in self._threads:
            thread.start()

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
        self._computing.set()
        for thread in self._threads:
            thread.join()
        self._peer.close()

    def receive(self, *, may_wait: bool) -> list[link.Command]:
        """Return the commands that came."""
        self._computing.clear()
        while True:
            commands = self._read()
            if commands or not may_wait:
                self._computing.set()
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
        """Return all that is there."""
        with self._reading:
            found, self._ahead = self._reader.feed(self._ahead), bytearray()
            with contextlib.suppress(BlockingIOError):
                while True:
                    found += self._reader.feed(self._take())
            return found

    def _take(self) -> bytes:
        """Return what the socket holds; raises BlockingIOError, MailboxClosed."""
        try:
            data = self._peer.recv(_READ_BYTES)
        except BlockingIOError:
            raise
        except OSError as error:  # reset, or over a network no answer for too long
            raise MailboxClosed from error
        if not data:
            raise MailboxClosed
        return data

    def _read_ahead(self) -> None:
        """Empty the socket when it is full during a step: the thread."""
        while self._computing.wait() and not self._is_over:
            if _waiting_bytes(self._peer) >= _FULL_BYTES and len(self._ahead) < _MOST_AHEAD_BYTES:
                # the end of the link is for the host's own read to find
                with self._reading, contextlib.suppress(BlockingIOError, MailboxClosed):
                    self._ahead += self._take()
            time.sleep(_AHEAD_S)

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


def _waiting_bytes(peer: Peer) -> int:
    """Return how much a socket holds for us."""
    count = bytearray(4)
    fcntl.ioctl(peer.fileno(), termios.FIONREAD, count)
    return int.from_bytes(count, sys.byteorder)
