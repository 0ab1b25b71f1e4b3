"""The host's end of a link: reads and writes between two steps, and a heart's beats.

Does: non-blocking reads of commands, buffered writes of reports, waiting when there is no work.
A beat may come from another thread; nothing else may.
Does not know: engines, what commands mean.
"""

import contextlib
import select
import socket
import threading
from types import TracebackType
from typing import Self

from server.worker import link
from server.worker.loop import MailboxClosed

_READ_BYTES = 256 * 1024
_FLUSH_S = 2.0


class SocketMailbox:
    """Commands in, reports out over a stream socket.

    What waits to be written is bounded by the audio that was read: no events without audio.
    """

    def __init__(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        self._peer = peer
        self._reader = link.CommandReader()
        self._unsent = bytearray()
        self._lock = threading.Lock()
        """Of what is not sent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._peer.close()

    def receive(self, *, may_wait: bool) -> list[link.Command]:
        """Return the commands that came."""
        while True:
            self._write()
            commands = self._read()
            if commands or not may_wait:
                return commands
            select.select([self._peer], [self._peer] if self._unsent else [], [])

    def send(self, report: link.Report) -> None:
        """Write what the socket takes now, keep the rest."""
        frame = link.frame(report)
        with self._lock:
            self._unsent += frame
        self._write()

    def beat(self, pulse: link.Pulse) -> None:
        """Send a sign of life, unless older reports wait: they are one when they are read."""
        with self._lock:
            if not self._unsent:
                self._unsent += link.frame(pulse)
        with contextlib.suppress(MailboxClosed, OSError):  # the host's own read ends it
            self._write()

    def give_up(self, reason: str) -> None:
        """Say why there will be no engine."""
        self.send(link.Unfit(reason))
        self.flush()

    def flush(self) -> None:
        """Wait for the last writes, two seconds at most."""
        while self._unsent and any(select.select([], [self._peer], [], _FLUSH_S)):
            self._write()

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
        try:
            with self._lock:
                while self._unsent:
                    del self._unsent[: self._peer.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError as error:
            raise MailboxClosed from error
