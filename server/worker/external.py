"""Workers that others start (Kubernetes, systemd, a person) and that dial us.

Does: listen for them, speak TLS, have each prove the secret, check what it runs, give it a free
place; carry commands and reports; close the place when its link ends.
Does not know: engines, sessions, what starts a worker and starts it again.

The link is the lease: a process that ends breaks it, one that falls silent misses its beats
(worker.heart) and is cut off. What was cut off is heard by nobody; it dials again and is new.
"""

import asyncio
import contextlib
import itertools
import logging
import ssl
from collections import deque
from dataclasses import dataclass

from server.worker import link, registration
from server.worker.handle import OnExit, OnReport
from server.worker.handshake import ANSWER_BYTES, Gateway, HandshakeError
from server.worker.line import Line
from server.worker.registration import Admitted, Refused, Register
from server.worker.tcp import end_with_its_machine
from server.worker.tls import Identity

logger = logging.getLogger(__name__)

GREET_S = 10.0
"""Whoever has not registered by then is gone."""
MAX_GREETED = 64
"""Strangers at once; more are turned away."""


@dataclass(frozen=True, slots=True)
class Seated:
    """A registered worker."""

    line: Line
    about: Register
    epoch: int


class Registry:
    """Where external workers register."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._server: asyncio.Server | None = None
        self._identity: Identity | None = None
        self._free = deque[asyncio.Future[Seated]]()
        """Places that wait for a worker."""
        self._lines: dict[str, Line] = {}
        """The link of each process."""
        self._epochs = itertools.count(1)
        self._first: Register | None = None
        """Whoever came first says which model is served."""
        self._greeted = 0

    async def open(self, host: str, port: int) -> None:
        """Listen; raises OSError, TlsError."""
        self._identity = Identity.fresh()
        self._server = await asyncio.start_server(self._serve, host, port)

    @property
    def port(self) -> int:
        """The port we listen on."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Listen no more, cut all links."""
        if self._server is not None:
            self._server.close()
        for line in list(self._lines.values()):
            line.cut()

    async def seat(self) -> Seated:
        """Wait for a worker."""
        place = asyncio.get_running_loop().create_future()
        self._free.append(place)
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                place.result().line.cut()
            raise

    def left(self, seated: Seated) -> None:
        """Forget a link that ended."""
        if self._lines.get(seated.about.process) is seated.line:
            del self._lines[seated.about.process]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = (writer.get_extra_info("peername") or ("somebody",))[0]
        try:
            about = await self._greet(reader, writer)
        except (OSError, EOFError, ValueError, HandshakeError) as error:
            writer.transport.abort() if isinstance(error, OSError) else writer.close()
            logger.warning("worker refused", extra={"peer": peer, "reason": _why(error)})
            return
        if refused := self._refusal(about):
            writer.write(registration.frame(refused))
            writer.close()
            if refused.is_final:
                logger.warning("worker refused", extra={"peer": peer, "reason": refused.reason})
            return
        self._seat(about, Line(reader, writer), writer)

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Register:
        if self._greeted >= MAX_GREETED:
            raise ConnectionRefusedError
        self._greeted += 1
        try:
            async with asyncio.timeout(GREET_S):
                assert self._identity is not None
                # Before anything is awaited: what comes first belongs to TLS, not to the reader.
                await writer.start_tls(self._identity.context)
                gateway = Gateway(self._secret, self._identity.binding)
                writer.write(gateway.hello)
                answer = await reader.readexactly(ANSWER_BYTES)
                writer.write(gateway.answered(answer))
                size = registration.length(await reader.readexactly(registration.HEAD_BYTES))
                about = registration.register_of(await reader.readexactly(size))
        finally:
            self._greeted -= 1
        end_with_its_machine(writer.get_extra_info("socket"))
        return about

    def _refusal(self, about: Register) -> Refused | None:
        first = self._first
        if first is not None and first.fingerprint != about.fingerprint:
            return Refused(
                f"it runs the model {about.model} ({about.fingerprint[:12]}), "
                f"the other workers run {first.model} ({first.fingerprint[:12]})",
                is_final=True,
            )
        if (older := self._lines.pop(about.process, None)) is not None:
            older.cut()  # it came back before we noticed that it was gone
        while self._free and self._free[0].done():
            self._free.popleft()
        return None if self._free else Refused("every place for workers is taken", is_final=False)

    def _seat(self, about: Register, line: Line, writer: asyncio.StreamWriter) -> None:
        self._first = self._first or about
        epoch = next(self._epochs)
        writer.write(registration.frame(Admitted(epoch)))
        self._lines[about.process] = line
        self._free.popleft().set_result(Seated(line, about, epoch))
        logger.info(
            "worker joined",
            extra={"machine": about.machine, "device": about.device, "epoch": epoch},
        )


def _why(error: Exception) -> str:
    """Return why somebody is no worker of ours."""
    if isinstance(error, HandshakeError):
        return str(error)
    return "it does not speak TLS" if isinstance(error, ssl.SSLError) else "it did not register"


class ExternalWorker:
    """A place for a worker that registers itself (server.worker.handle.Worker)."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._seated: Seated | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False

    @property
    def about(self) -> Register | None:
        """Who is here."""
        return None if self._seated is None else self._seated.about

    @property
    def epoch(self) -> int:
        """Which registration this is; 0: nobody is here."""
        return 0 if self._seated is None else self._seated.epoch

    async def start(self, on_report: OnReport, on_exit: OnExit) -> None:
        """Wait for a worker behind; it may take as long as none comes."""
        self._task = asyncio.create_task(self._live(on_report, on_exit))

    def send(self, command: link.Command) -> None:
        """Write a command."""
        if self._seated is not None:
            self._seated.line.send(command)

    @property
    def queued_bytes(self) -> int:
        """Bytes the process has not taken yet."""
        return 0 if self._seated is None else self._seated.line.queued_bytes

    def kill(self) -> None:
        """Cut the link: whatever the process still does is heard by nobody."""
        self._is_closing = True
        if self._seated is not None:
            self._seated.line.cut()

    async def close(self) -> None:
        """Cut the link; the process is not ours to end, and looks for a gateway again."""
        self.kill()
        if self._task is None:
            return
        if self._seated is None:
            self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _live(self, on_report: OnReport, on_exit: OnExit) -> None:
        seated = self._seated = await self._registry.seat()
        await seated.line.read(on_report)
        seated.line.cut()
        self._registry.left(seated)
        if not self._is_closing:
            on_exit(f"the link to the external worker on {seated.about.machine} ended")
