"""One connection of a foreign wire: frames in, adapter, sessions, worker commands; and back.

Does: run the sessions of an adapter one after another, hold audio back that is beyond the flow
window (foreign clients know none), mix channels where the wire has none, write from a bounded
queue by one task, free slots at once.
Does not know: what frames mean (adapter), what carries them (line), which worker (keeper).
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec

from asr.audio import AudioError, decode
from asr.events import Event
from server.config import ServerConfig
from server.keeper import Keeper
from server.keys import Account
from server.ledger import SMALL_BYTES
from server.metrics import Conversation, Metrics
from server.negotiation import class_of, writable
from server.session import Identity, Session
from server.wire.adapter import Adapter, Frame, Request
from server.wire.conversation import Audio
from server.wire.errors import (
    IdleTimeout,
    InternalError,
    LocalProtocolError,
    ServiceError,
    TooFarAhead,
    UnsupportedAudio,
    WireError,
)
from server.wire.messages import AudioFormat, Configure, Error, Start
from server.worker import link

logger = logging.getLogger(__name__)

MAX_BACKLOG_BYTES = 64 * 1024 * 1024
"""Requests of one client that wait for the flow window, nearly all of them audio."""
REQUEST_BYTES, PHRASE_BYTES = 1_024, 128
"""What a request that is no audio is counted as, and each phrase in it."""
MAX_FRAMES = 2_048
"""Frames that wait for one client to read them."""
IDLE_TICK_S = 3_600.0


class Line(Protocol):
    """What carries frames: a WebSocket, a TCP stream, a POST, a gRPC call."""

    may_half_close: bool
    """Whether a client that ended its input still reads."""

    def frames(self) -> AsyncIterator[Frame]:
        """Yield what the client sends until it ends; raises ConnectionError when it is gone."""
        ...

    async def send(self, frame: Frame) -> None:
        """Write a frame; raises ConnectionError when nobody reads."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Close politely."""
        ...

    def abort(self) -> None:
        """Close now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What every talk of a server shares."""

    config: ServerConfig
    keeper: Keeper
    metrics: Metrics
    identify: Callable[[], Identity]


class Talk:
    """Carries one adapter over one line (server.listener.Listener of the session under way)."""

    def __init__(
        self, adapter: Adapter, line: Line, house: House, account: Account | None = None
    ) -> None:
        self._account = account
        self._adapter = adapter
        self._line = line
        self._house = house
        limits = house.config.limits
        if adapter.idle_ms is not None:
            limits = msgspec.structs.replace(limits, idle_ms=adapter.idle_ms)
        self._config = replace(house.config, limits=limits)
        self._session: Session | None = None
        self._mixed: AudioFormat | None = None
        """What comes, where the session is given one channel of it."""
        self._is_attached = False
        self._waiting: deque[Request] = deque()
        self._waiting_bytes = 0
        self._has_dropped = False
        """Whether there will be no more audio of what is long known."""
        self._frames: deque[Frame] = deque()
        self._wake = asyncio.Event()
        self._is_over = False
        """Nothing more will be put into the queue of frames."""
        self._is_leaving = False
        """Over as soon as no session is under way."""
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Serve the client until it, we or the engine end it."""
        writer = asyncio.create_task(self._write())
        is_gone = True
        try:
            self._adapter.begin()
            self.pump()
            async for frame in self._line.frames():
                self._adapter.receive(frame)
                self.pump()
            if self._line.may_half_close:
                self._adapter.hang_up()
                self._is_leaving = True  # it asks for nothing more
                self.pump()
                await writer  # the rest is on its way
                is_gone = False
        except ConnectionError:
            pass  # however it went, it is gone
        finally:
            self._release()
            self._over()
            if self._timer is not None:
                self._timer.cancel()
            if is_gone:
                writer.cancel()
        try:
            await writer
        except asyncio.CancelledError:
            if not writer.cancelled():
                raise

    def conversation(self) -> Conversation | None:
        """Return the figures of the session under way."""
        session = self._session
        agreed = session.agreement if session else None
        if session is None or agreed is None or not self._is_attached:
            return None
        waiting_s = self._waiting_bytes / agreed.audio.frame_bytes / agreed.audio.rate
        backlog_s = max(0, session.at - session.done) / agreed.audio.rate + waiting_s
        return Conversation(
            class_of(agreed.look_ahead), agreed.audio.channels, backlog_s, len(self._frames)
        )

    def leave(self) -> None:
        """Flush what is in flight, then close: the server goes."""
        self._is_leaving = True
        self._drop_waiting()
        if self._session is not None:
            self._session.leave(now=self._loop.time())
        self.pump()

    def abort(self) -> None:
        """Give up on it now."""
        self._release()
        self._over()
        self._line.abort()

    # ---- what the keeper says

    def opened(self) -> None:
        """Tell the session that its slots are taken."""
        if self._session is not None:
            self._session.opened(now=self._loop.time())
        self.pump()

    def happened(self, channel: int, event: Event) -> None:
        """Tell the session of an event."""
        if self._session is not None:
            self._session.happened(channel, event, now=self._loop.time())
        self.pump()

    def failed(self, code: link.FailureCode, message: str) -> None:
        """Tell the session that its worker gave up."""
        if self._session is not None:
            self._session.failed(code, message)
        self.pump()

    # ---- moving things on

    def pump(self) -> None:
        """Carry everything as far as it goes now."""
        if self._is_over:
            return
        self._collect()
        while self._serve() | self._carry():
            self._collect()
        for frame in self._adapter.frames_to_send():
            self._frames.append(frame)
        if self._frames:
            self._wake.set()
        if len(self._frames) > MAX_FRAMES:
            logger.info("client dropped", extra={"reason": "it does not read"})
            self.abort()
        elif self._adapter.ending is not None or (self._is_leaving and self._session is None):
            self._release()
            self._over()
        else:
            self._arm()

    def _collect(self) -> None:
        """Queue what the adapter asks for."""
        requests = self._adapter.requests_to_serve()
        if not requests and not self._waiting and not self._has_dropped:
            requests = self._adapter.more()
        for request in requests:
            self._waiting_bytes += _bytes_of(request)
            last = self._waiting[-1] if self._waiting else None
            match last, request:
                case Audio(data=before), Audio(data=data) if len(before) < SMALL_BYTES:
                    self._waiting[-1] = Audio(before + data)
                case _:
                    self._waiting.append(request)
        if self._waiting_bytes > MAX_BACKLOG_BYTES:
            self._drop_waiting()
            self._refuse(TooFarAhead("more audio waits than this server keeps"))

    def _serve(self) -> bool:
        """Give the session what it may have now; whether it got anything."""
        count = len(self._waiting)
        while self._waiting and self._may_serve(self._waiting[0]):
            request = self._waiting.popleft()
            self._waiting_bytes -= _bytes_of(request)
            request = self._heeded(request)
            if isinstance(request, Start):
                self._open(request)
            elif self._session is not None:
                self._give(request, self._session)
            # else: it follows a session that failed
        return len(self._waiting) < count

    def _may_serve(self, request: Request) -> bool:
        session = self._session
        if isinstance(request, Start):
            return session is None  # the one before it is still being flushed
        if not isinstance(request, Audio) or session is None or session.agreement is None:
            return True
        window = self._config.limits.window_ms * session.agreement.audio.rate // 1000
        return session.at - session.done < window

    def _heeded(self, request: Request) -> Request:
        """Leave out phrases that the model cannot write: a foreign client knows no alphabet."""
        model = self._house.keeper.model
        if not isinstance(request, Start | Configure) or not request.boost or model is None:
            return request
        return msgspec.structs.replace(request, boost=writable(request.boost, model))

    def _open(self, start: Start) -> None:
        now = self._loop.time()
        identity = self._house.identify()
        self._mixed = None
        if start.audio.channels > 1 and not self._adapter.has_channels:
            self._mixed = start.audio
            one = AudioFormat(encoding="pcm_f32le", rate=start.audio.rate)
            start = msgspec.structs.replace(start, audio=one)
        self._session = Session(identity, self._config, now=now)
        self._session.receive(start, now=now, model=self._house.keeper.model)

    def _give(self, request: Request, session: Session) -> None:
        if isinstance(request, Audio) and self._mixed is not None:
            try:
                request = _mix(request, self._mixed)
            except AudioError as error:
                session.fail(UnsupportedAudio(str(error)))
                return
        session.receive(request, now=self._loop.time())
        if isinstance(request, Audio) and (agreed := session.agreement):
            length_s = len(request.data) / agreed.audio.frame_bytes / agreed.audio.rate
            self._house.metrics.received(class_of(agreed.look_ahead), length_s)

    def _carry(self) -> bool:
        """Take what the session says to worker and adapter; whether that may lead to more."""
        session = self._session
        if session is None:
            return False
        for command in session.commands_to_send():
            self._command(command, session)
        messages = session.messages_to_send()
        for message in messages:
            if isinstance(message, Error):
                self._house.metrics.refused(message.code)
            self._tell(message)
        if agreed := session.agreement:
            for lag_s in session.lags_to_report():
                self._house.metrics.lagged(class_of(agreed.look_ahead), lag_s)
                self._house.keeper.lagged(agreed.look_ahead, lag_s)
        if session.close_code is not None:
            self._release()
            self._session, self._since = None, self._loop.time()
            return True
        return bool(messages)

    def _tell(self, message: object) -> None:
        try:
            self._adapter.tell(message)  # type: ignore[arg-type]
        except LocalProtocolError as error:
            logger.error("illegal message", extra={"error": error.message})
            self._adapter.tell(InternalError("an answer could not be sent").to_message())

    def _command(self, command: link.Command, session: Session) -> None:
        if not isinstance(command, link.Open):
            self._house.keeper.send(command, session.identity.number)
            return
        try:
            self._house.keeper.attach(command, self, self._account)
            self._is_attached = True
        except ServiceError as error:
            session.fail(error)

    def _refuse(self, error: WireError) -> None:
        """End the session, or the connection where there is none, with an error."""
        if self._session is not None:
            self._session.fail(error)
        else:
            self._adapter.tell(error.to_message())

    def _drop_waiting(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0
        self._has_dropped = True

    def _release(self) -> None:
        if self._is_attached and self._session is not None:
            self._is_attached = False
            self._house.keeper.release(self._session.identity.number)

    def _over(self) -> None:
        self._is_over = True
        self._wake.set()

    # ---- the writer and the timer

    async def _write(self) -> None:
        try:
            while self._frames or not self._is_over:
                if not self._frames:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                async with asyncio.timeout(self._config.stalled_reader_s):
                    await self._line.send(self._frames.popleft())
            ending = self._adapter.ending
            await self._line.close(*(ending or (1001, "")))
        except TimeoutError:
            logger.info("client dropped", extra={"reason": "stalled reader"})
            self.abort()
        except ConnectionError:
            self._release()

    def _next_deadline(self) -> float:
        if self._session is not None:
            return self._session.next_deadline()
        own_s = self._adapter.start_s
        return self._since + (self._config.start_timeout_s if own_s is None else own_s)

    def _arm(self) -> None:
        """Have the timer fire no later than the next deadline."""
        deadline = min(self._next_deadline(), self._loop.time() + IDLE_TICK_S)
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        if self._session is not None:
            self._session.handle_timer(now=now)
        elif now >= self._next_deadline():
            self._adapter.tell(IdleTimeout("nothing came for too long").to_message())
            self._adapter.end(1011, "nothing came for too long")
        self.pump()


def _mix(audio: Audio, form: AudioFormat) -> Audio:
    """Return one channel of 32-bit floats; raises AudioError."""
    samples = decode(audio.data, form.encoding, channels=form.channels)
    return Audio(samples.mean(axis=0).astype("<f4").tobytes())


def _bytes_of(request: Request) -> int:
    """Return what a request takes while it waits."""
    if isinstance(request, Audio):
        return len(request.data)
    return REQUEST_BYTES + PHRASE_BYTES * len(getattr(request, "boost", None) or ())
