"""A server in a process of its own, for the time of a ``with`` block.

Does: refuse a taken port, start ``rivulet serve``, wait for ready, end it however the block ends.
Does not know: what the server is made of.
"""

import http.client
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Self

from clients.errors import CommandError

READY_TIMEOUT_S = 180.0
END_TIMEOUT_S = 15.0
LOG_LINES = 15


class ServerProcess:
    """``rivulet serve`` on 127.0.0.1."""

    def __init__(self, port: int, options: Sequence[str] = ()) -> None:
        """Start it; raises CommandError when the port is taken."""
        if not 0 < port <= 65_535:
            raise CommandError(f"--port is 1 to 65535, not {port}")
        self.port = port
        if is_taken(port):
            raise CommandError(
                f"port {port} of 127.0.0.1 is taken: end what listens there, or take another with "
                f"--port N (make run ARGS='--port {port + 1}')"
            )
        # A pipe that nobody reads would fill and stop the server; a file does not.
        self._log = tempfile.TemporaryFile()
        command = [sys.executable, "-m", "clients", "serve", "--port", str(port), *options]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def wait_ready(self) -> None:
        """Return when /readyz says yes; raises CommandError when the server ends instead."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not is_ready(self.port):
            if self._process.poll() is not None:
                raise CommandError(f"the server did not start:\n{self._last_lines()}")
            if time.monotonic() > deadline:
                raise CommandError(f"the server was not ready within {READY_TIMEOUT_S:.0f} s")
            time.sleep(0.1)

    def wait_end(self) -> None:
        """Return when the server ends of its own; raises CommandError when it crashed."""
        if self._process.wait() not in (0, -2, -15):
            raise CommandError(f"the server ended:\n{self._last_lines()}")

    def _last_lines(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-LOG_LINES:])


def is_taken(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def is_ready(port: int) -> bool:
    """Whether the server there takes sessions."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
