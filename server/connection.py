"""One WebSocket: bytes in, session, worker commands; events, session, text out.

Does: read always, write from a bounded outbox by one task, close stalled readers, free the slots
of a client the moment it is gone or done; give a session back to a client that comes back.
Does not know: what messages mean (session), which worker or store (keeper), JSON (wire).
"""

import asyncio
import contextlib
import logging

import msgspec
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from asr.events import Event
from server.config import ServerConfig
from server.inbox import messages_of
from server.keeper import Keeper
from server.keys import Account
from server.metrics import Conversation, Metrics
from server.negotiation import class_of
from server.outbox import Outbox, OutboxFull
from server.patience import RETRY_AFTER_S, Phase
from server.rooms import Rooms, Voice
from server.session import Session
from server.store.base import StoreUnavailable
from server.ticket import Ticket
from server.wire.conversation import Audio
from server.wire.errors import (
    BadRequest,
    InternalError,
    LocalProtocolError,
    OverCapacity,
    RemoteProtocolError,
    ResumeUnknown,
    ServiceError,
)
from server.wire.messages import Error, ResumeFrom, ServerMessage, Start
from server.wire.native import NativeServer, Request
from server.worker import link

logger = logging.getLogger(__name__)

IDLE_TICK_S = 3_600.0
ATTACHED_ELSEWHERE = 4409
GOING_AWAY = 1001
WENT_AWAY = (1000, 1001)
"""A client that closes so does not mean to come back."""


class Absent:
    """Holds a session whose client is gone, for when it comes back (server.keeper.Holder)."""

    def __init__(self, session: Session, keeper: Keeper) -> None:
        self._session = session
        self._keeper = keeper
        self._clock = asyncio.get_running_loop().time

    def opened(self) -> None:
        """Nobody is waiting for it."""

    def happened(self, channel: int, event: Event) -> None:
        """Keep the session's counts; the finals are in the log."""
        self._session.happened(channel, event, now=self._clock())
        self._session.messages_to_send()

    def failed(self, code: link.FailureCode, message: str) -> None:
        """Forget it: the client will be told that there is no such session."""
        self._keeper.release(self._session.identity.number)

    def kept(self, at: int) -> None:
        """Know what is safe."""
        self._session.durable = at

    def surrender(self) -> Session:
        """Give the session to the client that came back."""
        return self._session

    def fenced(self) -> None:
        """Nobody is to be told."""

    def logged(self) -> None:
        """Nobody is told: it was before its client was gone."""

    def unlogged(self) -> None:
        """Forget it: nobody can come back."""
        self._keeper.release(self._session.identity.number)


class Connection:
    """Carries one session over one socket (server.keeper.Holder)."""

    def __init__(
        self,
        socket: ServerConnection,
        session: Session,
        *,
        config: ServerConfig,
        keeper: Keeper,
        metrics: Metrics,
        rooms: Rooms,
    ) -> None:
        self.session = self._fresh = session
        self._rooms = rooms
        self._voice: Voice | None = None
        """Where the session speaks in a meeting."""
        self._socket = socket
        self._config = config
        self._keeper = keeper
        self._account: Account | None = getattr(socket, "account", None)
        self._metrics = metrics
        self._wire = NativeServer(limits=config.limits)
        self._outbox = Outbox()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._is_attached = False
        self._is_logged = False
        """Whether the client may come back to the session."""
        self._is_new_token_unused = False
        self._is_asking = False
        """Whether an engine or the store is waited for: there is a patience of its own for that."""
        self._close_code: int | None = None
        """Our own reason to close; else the session's."""

    async def run(self) -> None:
        """Serve the client until it, we or the engine end it."""
        writer = asyncio.create_task(self._write())
        self.pump()
        try:
            await self._read()
        except ConnectionClosed:
            pass  # however it went, it is gone
        finally:
            self._leave()
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

    @property
    def may_come_back(self) -> bool:
        """Whether the client can go on with its session elsewhere."""
        is_open = self._is_attached and self._is_logged and self.session.close_code is None
        return is_open and self.session.phase in (Phase.STREAMING, Phase.PAUSED)

    def hand_over(self) -> None:
        """Leave the session in the store and close."""
        self._is_attached = False
        number = self.session.identity.number
        self._keeper.put_away(number, Absent(self.session, self._keeper))
        self._close_code = GOING_AWAY
        self._outbox.close()

    # ---- what the keeper says

    def opened(self) -> None:
        """Have the session written down, now that its slots are taken."""
        identity, start = self.session.identity, msgspec.json.encode(self._wire.start)
        ticket = Ticket.read(identity.token)
        assert ticket is not None
        self._keeper.log(identity.number, ticket, start, self)

    def logged(self) -> None:
        """Tell the session that it is open: the token that the client learns now is good."""
        self._is_logged = True
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

    def kept(self, at: int) -> None:
        """Know what is safe: the next ack tells it."""
        self.session.durable = at

    def surrender(self) -> Session:
        """Let another connection have the session."""
        self.fenced()
        return self.session

    def fenced(self) -> None:
        """Close and say nothing more: the session is attached elsewhere."""
        self._is_attached = self._is_logged = False
        self._close_code = ATTACHED_ELSEWHERE
        self._outbox.clear()
        self._outbox.close()

    def unlogged(self) -> None:
        """Go on as long as the client is here."""
        self._is_logged = False
        if self.session.close_code is not None:  # it was kept until all is read
            self._release()

    # ---- moving things on

    def pump(self) -> None:
        """Carry what the session wants to where it belongs."""
        if self._close_code is not None:
            return
        while commands := self.session.commands_to_send():
            for command in commands:
                self._command(command)
        self._say(self.session.messages_to_send())
        if agreed := self.session.agreement:
            latency = class_of(agreed.look_ahead)
            for seconds in self.session.lags_to_report():
                self._metrics.lagged(latency, seconds)
                self._keeper.lagged(agreed.look_ahead, seconds)
        if self.session.close_code is None:
            self._arm()
        else:
            if self.session.close_code != 1000 or not self._is_logged:
                self._release()
            # else: forgotten when the client has read that it is done
            self._outbox.close()

    def _say(self, messages: list[ServerMessage]) -> None:
        try:
            for message in messages:
                if isinstance(message, Error):
                    self._metrics.refused(message.code)
                self._outbox.put(message)
                if self._voice is not None:
                    self._voice.hear(message)
        except OutboxFull:
            self._abort("outbox full")

    def _command(self, command: link.Command) -> None:
        if not isinstance(command, link.Open):
            self._keeper.send(command, self.session.identity.number)
            return
        try:
            self._keeper.attach(command, self, self._account)
            self._is_attached = True
        except ServiceError as error:
            self.session.refused(error)

    def _release(self) -> None:
        if self._is_attached:
            self._is_attached = False
            self._keeper.release(self.session.identity.number)

    def _leave(self) -> None:
        """Give the session up, or have it kept for a client that was cut off."""
        is_cut_off = self._socket.close_code not in WENT_AWAY
        is_open = self.session.close_code in (None, 1000)
        is_kept = self._is_attached and self._is_logged and is_cut_off and is_open
        if self._voice is not None:
            self._rooms.leave(self._voice, is_for_good=not is_kept)
            self._voice = None
        if is_kept:
            self._is_attached = False
            number = self.session.identity.number
            self._keeper.put_away(number, Absent(self.session, self._keeper))
        else:
            self._release()

    def _abort(self, reason: str) -> None:
        logger.info(
            "client dropped", extra={"session": self.session.identity.name, "reason": reason}
        )
        self._outbox.close()
        self._socket.transport.abort()

    # ---- the two tasks and the timer

    async def _read(self) -> None:
        async for data in messages_of(self._socket):
            try:
                if isinstance(data, str):
                    requests = self._wire.receive_text(data)
                else:
                    requests = self._wire.receive_binary(data)
            except RemoteProtocolError as error:
                self.session.fail(error)
                requests = []
            for request in requests:
                if isinstance(request, Start) and request.resume is not None:
                    await self._come_back(request, request.resume)
                elif self._close_code is None:
                    self._hear(request, len(data))
            self.pump()

    def _hear(self, request: Request, size: int) -> None:
        if isinstance(request, Start):
            self.session.ignore(self._wire.ignored)
            try:
                self._enter_meeting(request)
            except (OverCapacity, BadRequest) as error:
                self.session.fail(error)
                return
        if self._is_new_token_unused:
            self._is_new_token_unused = False
            self._keeper.confirm(self.session.identity.number)
        self.session.receive(request, now=self._loop.time(), model=self._keeper.model)
        if isinstance(request, Audio) and (agreed := self.session.agreement):
            seconds = size / agreed.audio.frame_bytes / agreed.audio.rate
            self._metrics.received(class_of(agreed.look_ahead), seconds)

    def _enter_meeting(self, start: Start, *, age_s: float = 0.0) -> None:
        if start.meeting is not None:
            name = self.session.identity.name
            self._voice = self._rooms.enter(start.meeting, name, age_s=age_s)

    async def _come_back(self, start: Start, resume: ResumeFrom) -> None:
        """Take up the session of a token, from wherever it is."""
        number = self.session.identity.number
        self._is_asking = True
        try:
            model = await self._loaded()
            if model is None:
                self.session.fail(OverCapacity("no engine is ready", retry_after=RETRY_AFTER_S))
                return
            found = await self._keeper.come_back(resume.token, self, number, self._account)
        except StoreUnavailable:
            text = "the store of sessions does not answer"
            self.session.fail(InternalError(text, retry_after=RETRY_AFTER_S))
            return
        finally:
            self._is_asking = False
        if found is None:
            text = "no session goes on with this token"
            self.session.fail(ResumeUnknown(text, param="resume.token"))
            return
        if found.session is not None:
            self.session = found.session
            self._voice = self._rooms.back(self.session.identity.name)
        else:
            began = msgspec.json.decode(found.start, type=Start)
            self.session.take_up(began, model, found.opening, found.stopped)
            self.session.born(self._loop.time() - found.age_s)
            with contextlib.suppress(OverCapacity, BadRequest):  # it goes on without its readers
                self._enter_meeting(began, age_s=found.age_s)
        self._is_attached = self._is_logged = self._is_new_token_unused = True
        agreed = self.session.agreement
        is_over = self._fresh.close_code is not None  # we closed while the store was asked
        if is_over or agreed is None or agreed.audio != start.audio:
            self.session, lost = self._fresh, self.session
            self._is_attached = False
            self._keeper.put_away(lost.identity.number, Absent(lost, self._keeper))
            self.session.fail(BadRequest("not the audio of the session", param="audio"))
            return
        self.session.resumed(found.ticket.token, now=self._loop.time())
        have = resume.have(agreed.audio.channels)
        self.session.say_again(found.finals, have, found.partials)
        self._keeper.resume(self.session.identity.number)

    async def _loaded(self) -> link.Model | None:
        """Wait a while for an engine: to a server that starts again its clients are back first."""
        if self._keeper.model is None:
            loaded = asyncio.create_task(self._keeper.loaded())
            gone = asyncio.create_task(self._socket.wait_closed())
            try:
                await asyncio.wait(
                    (loaded, gone),
                    timeout=self._config.start_timeout_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                loaded.cancel()
                gone.cancel()
        return self._keeper.model

    async def _write(self) -> None:
        try:
            while await self._outbox.wait():
                message = self._outbox.pop()
                if message is not None:
                    text = self._wire.render(message)
                    async with asyncio.timeout(self._config.stalled_reader_s):
                        await self._socket.send(text)
            code = self._close_code or self.session.close_code
            await self._socket.close(1001 if code is None else code)
        except TimeoutError:
            self._abort("stalled reader")
        except ConnectionClosed:
            pass
        except LocalProtocolError as error:
            logger.error("illegal message", extra={"error": error.message})
            self._is_logged = False
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
        if self._close_code is not None or self._is_asking:
            return
        self.session.handle_timer(now=self._loop.time())
        self.pump()
