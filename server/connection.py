"""One WebSocket: bytes in, session, worker commands; events, session, text out.

Does: read always, write from a bounded outbox by one task, close stalled readers, free the slots
of a client the moment it is gone or done.
Does not know: what messages mean (session), which worker (manager), JSON (wire).
"""

import asyncio
import logging

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from asr.events import Event
from server.config import ServerConfig
from server.manager import Manager
from server.metrics import Conversation, Metrics
from server.negotiation import class_of
from server.outbox import Outbox, OutboxFull
from server.session import Session
from server.wire.conversation import Audio
from server.wire.errors import LocalProtocolError, OverCapacity, RemoteProtocolError
from server.wire.messages import Error, Start
from server.wire.native import NativeServer
from server.worker import link

logger = logging.getLogger(__name__)

IDLE_TICK_S = 3_600.0


class Connection:
    """Carries one session over one socket (server.manager.Listener)."""

    def __init__(
        self,
        socket: ServerConnection,
        session: Session,
        *,
        config: ServerConfig,
        manager: Manager,
        metrics: Metrics,
    ) -> None:
        self.session = session
        self._socket = socket
        self._config = config
        self._manager = manager
        self._metrics = metrics
        self._wire = NativeServer(limits=config.limits)
        self._outbox = Outbox()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._is_attached = False

    async def run(self) -> None:
        """Serve the client until it, we or the engine end it."""
        writer = asyncio.create_task(self._write())
        self.pump()
        try:
            await self._read()
        except ConnectionClosed:
            pass  # however it went, it is gone
        finally:
            self._release()
            if self._timer is not None:
                self._timer.cancel()
            self._outbox.close()
            if self._socket.close_code is not None:
                writer.cancel()
        try:
            await writer
        except asyncio.CancelledError:
            if not writer.cancelled():
                raise

    def conversation(self) -> Conversation | None:
        """Return the figures of a session that was agreed on; None before."""
        agreed = self.session.agreement
        if agreed is None or not self._is_attached:
            return None
        backlog_s = max(0, self.session.at - self.session.done) / agreed.audio.rate
        latency = class_of(agreed.look_ahead)
        return Conversation(latency, agreed.audio.channels, backlog_s, len(self._outbox))

    def close(self) -> None:
        """Give up on it now."""
        self._abort("server ends")

    # ---- what the manager says

    def opened(self) -> None:
        """Tell the session that its slots are taken."""
        self.session.opened(now=self._loop.time())
        self.pump()

    def happened(self, channel: int, event: Event) -> None:
        """Tell the session of an event."""
        self.session.happened(channel, event, now=self._loop.time())
        self.pump()

    def failed(self, code: link.FailureCode, message: str) -> None:
        """Tell the session that its worker gave up."""
        self.session.failed(code, message)
        self.pump()

    # ---- moving things on

    def pump(self) -> None:
        """Carry what the session wants to where it belongs."""
        for command in self.session.commands_to_send():
            self._command(command)
        try:
            for message in self.session.messages_to_send():
                if isinstance(message, Error):
                    self._metrics.refused(message.code)
                self._outbox.put(message)
        except OutboxFull:
            self._abort("outbox full")
        if agreed := self.session.agreement:
            latency = class_of(agreed.look_ahead)
            for seconds in self.session.lags_to_report():
                self._metrics.lagged(latency, seconds)
        if self.session.close_code is None:
            self._arm()
        else:
            self._release()
            self._outbox.close()

    def _command(self, command: link.Command) -> None:
        if not isinstance(command, link.Open):
            self._manager.send(command, self.session.identity.number)
            return
        try:
            self._manager.attach(command, self)
            self._is_attached = True
        except OverCapacity as error:
            self.session.fail(error)

    def _release(self) -> None:
        if self._is_attached:
            self._is_attached = False
            self._manager.release(self.session.identity.number)

    def _abort(self, reason: str) -> None:
        logger.info(
            "client dropped", extra={"session": self.session.identity.name, "reason": reason}
        )
        self._release()
        self._outbox.close()
        self._socket.transport.abort()

    # ---- the two tasks and the timer

    async def _read(self) -> None:
        async for data in self._socket:
            try:
                if isinstance(data, str):
                    requests = self._wire.receive_text(data)
                else:
                    requests = self._wire.receive_binary(data)
            except RemoteProtocolError as error:
                self.session.fail(error)
                requests = []
            for request in requests:
                if isinstance(request, Start):
                    self.session.ignore(self._wire.ignored)
                self.session.receive(request, now=self._loop.time(), model=self._manager.model)
                if isinstance(request, Audio) and (agreed := self.session.agreement):
                    seconds = len(data) / agreed.audio.frame_bytes / agreed.audio.rate
                    self._metrics.received(class_of(agreed.look_ahead), seconds)
            self.pump()

    async def _write(self) -> None:
        try:
            while await self._outbox.wait():
                message = self._outbox.pop()
                if message is not None:
                    text = self._wire.render(message)
                    async with asyncio.timeout(self._config.stalled_reader_s):
                        await self._socket.send(text)
            code = self.session.close_code
            await self._socket.close(1001 if code is None else code)
        except TimeoutError:
            self._abort("stalled reader")
        except ConnectionClosed:
            pass
        except LocalProtocolError as error:
            logger.error("illegal message", extra={"error": error.message})
            self._release()
            await self._socket.close(1011)

    def _arm(self) -> None:
        """Have the timer fire no later than the session's next deadline."""
        deadline = min(self.session.next_deadline(), self._loop.time() + IDLE_TICK_S)
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return  # it fires earlier and arms itself again: cheaper than a timer per packet
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.session.handle_timer(now=self._loop.time())
        self.pump()
