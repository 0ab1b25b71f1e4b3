"""One client's conversation with an engine, without I/O: time comes in as ``now``.

Does: requests + events of the engine -> wire messages + worker commands; owns the sample counters
(at, done, durable), acks, lag, requests in flight.
Does not know: sockets, JSON, which worker serves it, how speech becomes words.
Legal order and the flow window are the wire's; what comes here is legal.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from asr.events import Event, Finalized, Partial, Progress, Stopped
from server import negotiation, translation
from server.asked import Asked
from server.config import ServerConfig
from server.lag import Lag
from server.negotiation import Agreement
from server.patience import RETRY_AFTER_S, Patience, Phase
from server.readable import Writer
from server.wire import messages as wire
from server.wire.conversation import Audio
from server.wire.errors import (
    BadRequest,
    InternalError,
    OverCapacity,
    Quarantined,
    UnsupportedAudio,
    WireError,
)
from server.worker import link

ACK_MS = 80
"""Progress is acknowledged at most this often, in audio time."""
ACK_AT_LEAST_MS = 1_000

Request = wire.ClientMessage | Audio

_FAILURES: dict[link.FailureCode, type[WireError]] = {
    "bad_request": BadRequest,
    "unsupported_audio": UnsupportedAudio,
    "quarantined": Quarantined,
    "internal": InternalError,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Names of a session: ours, the client's, and the secret that resumes it."""

    number: int
    name: str
    token: str


class Session:
    """Paired verbs: ``receive``/``happened``/``failed`` in, ``messages_to_send``/
    ``commands_to_send`` out, ``next_deadline``/``handle_timer`` for time.
    """

    def __init__(self, identity: Identity, config: ServerConfig, *, now: float) -> None:
        self.identity = identity
        self.phase = Phase.NEW
        self.close_code: int | None = None
        """Set once all is said; the socket closes with it behind the last message."""
        self.agreement: Agreement | None = None
        self.at = 0
        """Samples per channel received, lost ones included."""
        self.done = 0
        """Samples decoded; a gap counts as decoded with what was before it."""
        self.durable = 0
        """Samples that need not be sent again, whatever happens to this server."""
        self._config = config
        self._limits = config.limits
        self._model: link.Model | None = None
        self._ignored: tuple[str, ...] = ()
        self._out: list[wire.ServerMessage] = []
        self._held: list[wire.ServerMessage] = []
        """Said before ``ready`` is."""
        self._commands: list[link.Command] = []
        self._patience = Patience(config, now=now)
        self._is_leaving = False
        self._acked_at = self._acked_done = 0
        self._decoded: list[int] = []
        self._stopped: dict[int, int] = {}
        self._is_stop_heard = False
        """By the client that is here now: it would not understand ``done`` otherwise."""
        self._asked = Asked()
        self._lag = Lag()
        self._is_ready = False
        self._writer: Writer | None = None
        """Makes the text readable where the client asked for it."""

    # ---- out

    def messages_to_send(self) -> list[wire.ServerMessage]:
        """Return what is to be said, once."""
        messages, self._out = self._out, []
        return messages

    def commands_to_send(self) -> list[link.Command]:
        """Return what the worker is to do, once."""
        commands, self._commands = self._commands, []
        return commands

    def lags_to_report(self) -> list[float]:
        """Return the chunk lags measured since the last call, in seconds."""
        lags, self._lag.measured_s = self._lag.measured_s, []
        return lags

    # ---- in: the client

    def receive(self, request: Request, *, now: float, model: link.Model | None = None) -> None:
        """Take a legal request. ``model`` is what serves a ``start``; None: nothing does yet.

        The engine was told to stop when we leave: what comes behind that is not heard here.
        """
        if self.phase is Phase.CLOSED or self._is_leaving:
            return
        self._patience.heard(now)
        try:
            if isinstance(request, Audio):
                self._audio(request.data, now)
            elif isinstance(request, wire.Start):
                self._start(request, model, now)
            else:
                self._control(request, now)
        except WireError as error:
            self.fail(error)

    def ignore(self, fields: tuple[str, ...]) -> None:
        """Remember fields of ``start`` that nobody knows, to tell them in ``ready``."""
        self._ignored = fields

    def fail(self, error: WireError) -> None:
        """Tell the client; after a fatal error nothing follows."""
        if self.phase is Phase.CLOSED:
            return
        if error.is_fatal:
            self._out.append(error.to_message())
            self._end(error.close_code)
        else:
            self._say(error.to_message())

    def drain(self, *, deadline_ms: int) -> None:
        """Ask the client to leave: the server is going."""
        if self.phase is Phase.NEW:
            self._end(1001)
        elif self.phase is not Phase.CLOSED:
            token = self.identity.token
            self._say(wire.GoAway(reason="drain", deadline_ms=deadline_ms, token=token))

    def leave(self, *, now: float) -> None:
        """Flush what is in flight, then close: the server goes now."""
        self._is_leaving = True
        if self.phase in (Phase.STREAMING, Phase.PAUSED, Phase.OPENING):
            self._command(link.Stop(self.identity.number))
            self._enter(Phase.FLUSHING, now)
        elif self.phase is Phase.NEW:
            self._end(1001)

    # ---- in: the engine

    def opened(self, *, now: float) -> None:
        """Go on: the worker has a place for us, and the store knows of us where it has to."""
        if self.agreement is None or self._model is None or self.phase is Phase.CLOSED:
            return
        if self.phase is Phase.OPENING:
            self._enter(Phase.STREAMING, now)
        self._out.append(self._ready(is_resumed=False))
        self._out += self._held
        self._held.clear()
        self._is_ready = True

    def take_up(
        self, start: wire.Start, model: link.Model, opening: link.Open, stopped: Mapping[int, int]
    ) -> None:
        """Be a session that began elsewhere, as it was when the worker is given ``opening``."""
        self._model = model
        self._agree(negotiation.taken_up(start, model, self._config, opening))
        self.at = self.done = self.durable = opening.at
        self._acked_at = self._acked_done = opening.at
        self._decoded = [opening.at] * opening.channels
        self._stopped = dict(stopped)
        self._is_ready = True
        self.phase = Phase.STREAMING

    def born(self, at: float) -> None:
        """Know when the session began: no return makes it younger."""
        self._patience.born(at)

    def resumed(self, token: str, *, now: float) -> None:
        """Go on with a client that came back; it sends again from ``at``."""
        assert self.agreement is not None and self._model is not None
        self.identity = replace(self.identity, token=token)
        if len(self._stopped) == len(self._decoded):
            self._enter(Phase.FLUSHING, now)  # all was said, and did not arrive
        elif self.phase is not Phase.FLUSHING:
            self._enter(Phase.STREAMING, now)
        self.close_code, self._is_stop_heard = None, False
        self._patience.entered(now)
        self._patience.heard(now)
        self._agree(self.agreement)  # finals are said again: the text begins anew
        self._out, self._held = [self._ready(is_resumed=True)], []
        self._is_ready = True

    def say_again(
        self,
        log: Iterable[Sequence[tuple[int, Event]]],
        have: Sequence[int],
        partials: Iterable[tuple[int, Partial]],
    ) -> None:
        """Tell the finals of a log that the client lacks, with their turns, and what is open.

        ``have`` counts the finals of each channel that the client has.
        """
        for message in translation.again(log, have):
            self._say(message)
        for channel, partial in partials:
            self._say(translation.to_wire(channel, partial))
        self._ack()

    def happened(self, channel: int, event: Event, *, now: float) -> None:
        """Take an event of one channel."""
        if self.phase is Phase.CLOSED:
            return
        if isinstance(event, Progress):
            self._progress(channel, event.done_samples, now)
        elif isinstance(event, Finalized):
            if (answer := self._asked.answered(event.req)) is not None:
                self._say(answer)
        elif isinstance(event, Stopped):
            self._stopped[channel] = event.finals
            self._finish()
        else:
            self._say(translation.to_wire(channel, event))

    def refused(self, error: WireError) -> None:
        """Wish for less where there is no room and the client bears it; else end."""
        slower = None
        if isinstance(error, OverCapacity) and self.agreement and self._model:
            slower = negotiation.slower(self.agreement, self._model)
        if slower is None:
            self.fail(error)
        else:
            self.agreement = slower
            self._command(slower.to_open(self.identity.number))

    def failed(self, code: link.FailureCode, message: str) -> None:
        """End: the worker gave us up, or is gone."""
        if code == "over_capacity":
            self.fail(OverCapacity(message, retry_after=RETRY_AFTER_S))
        else:
            self.fail(_FAILURES[code](message))

    # ---- in: time

    def next_deadline(self) -> float:
        """When ``handle_timer`` has something to do, at the latest."""
        return self._patience.deadline(self.phase)

    def handle_timer(self, *, now: float) -> None:
        """Act on the deadlines that have passed."""
        due = self._patience.due(self.phase, now)
        if isinstance(due, WireError):
            self.fail(due)
        elif due is not None:
            token = self.identity.token
            self._say(wire.GoAway(reason="session_limit", deadline_ms=due, token=token))

    # ---- requests

    def _start(self, start: wire.Start, model: link.Model | None, now: float) -> None:
        if model is None:
            raise OverCapacity("the model is still loading", retry_after=RETRY_AFTER_S)
        self._model = model
        self._agree(agreed := negotiation.agree(start, model, self._config))
        self._decoded = [0] * start.audio.channels
        if start.boost and not model.alphabet:
            self._ignored += ("boost",)
        self._command(agreed.to_open(self.identity.number))
        self._enter(Phase.OPENING, now)

    def _audio(self, data: bytes, now: float) -> None:
        assert self.agreement is not None
        audio = self.agreement.audio
        self.at += len(data) // audio.frame_bytes
        self._lag.received(self.at, audio.rate, now)
        self._command(link.Audio(self.identity.number, data, now))
        if (self.at - self._acked_at) * 1000 >= ACK_AT_LEAST_MS * audio.rate:
            self._ack()

    def _control(self, request: wire.ClientMessage, now: float) -> None:
        number = self.identity.number
        match request:
            case wire.ClientGap(samples=samples):
                self._gap(samples)
            case wire.Configure():
                self._configure(request)
            case wire.Finalize(req=req):
                self._finalize(req)
            case wire.Pause():
                self._enter(Phase.PAUSED, now)
                self._say(wire.StateChanged(state="paused", at=self.at))
            case wire.Resume():
                self._enter(Phase.STREAMING, now)
                self._say(wire.StateChanged(state="streaming", at=self.at))
            case wire.Stop():
                self._is_stop_heard = True
                if self.phase is Phase.FLUSHING:  # a client that came back says it again
                    self._finish()
                else:
                    self._command(link.Stop(number))
                    self._enter(Phase.FLUSHING, now)

    def _gap(self, samples: int) -> None:
        self._say(wire.Gap(at=self.at, samples=samples, reason="client"))
        self.at += samples
        # Time passes undecoded: what waits for the engine is as much audio as before the gap.
        self.done += samples
        self._command(link.Gap(self.identity.number, samples))
        self._ack()

    def _configure(self, wish: wire.Configure) -> None:
        assert self.agreement is not None and self._model is not None
        try:
            self.agreement = negotiation.change(self.agreement, wish, self._model)
        except WireError as error:
            error.req = wish.req
            raise
        rules = wish.endpointing
        turns = None if rules is None else negotiation.to_turns(rules)
        boost = None if wish.boost is None else self.agreement.boost
        self._command(link.Configure(self.identity.number, turns, wish.partials, boost))
        applied = self.agreement.to_wire()
        self._say(wire.Configured(req=wish.req, at=self.at, applied=applied))

    def _finalize(self, req: str | None) -> None:
        key = self._asked.ask(req, channels=len(self._decoded), at=self.at)
        self._command(link.Finalize(self.identity.number, key))

    # ---- events

    def _progress(self, channel: int, done: int, now: float) -> None:
        assert self.agreement is not None
        self._decoded[channel] = max(self._decoded[channel], done)
        done = min(self._decoded)
        if done <= self.done:
            return
        self.done = done
        self._patience.heard(now)  # who waits for acks is not idle
        rate = self.agreement.audio.rate
        if level := self._lag.decoded(done, now):
            self._say(wire.Lag(ms=self._lag.ms, level=level))
        if (self.done - self._acked_done) * 1000 >= ACK_MS * rate:
            self._ack()

    def _finish(self) -> None:
        """End when every channel has stopped and the client knows that it asked for it."""
        if len(self._stopped) < len(self._decoded):
            return
        if self._is_stop_heard:
            self._say(wire.Done(samples=self.at, finals=sum(self._stopped.values())))
            self._end(1000)
        elif self._is_leaving:
            self._end(1001)

    def _ready(self, *, is_resumed: bool) -> wire.Ready:
        assert self.agreement is not None and self._model is not None
        return wire.Ready(
            v=1,
            session=self.identity.name,
            token=self.identity.token,
            model=self._model.name,
            resumed=is_resumed,
            at=self.at if is_resumed else 0,
            chunk_ms=self.agreement.chunk_ms,
            limits=self._limits,
            chunks=self.agreement.chunks,
            applied=self.agreement.to_wire(),
            ignored=self._ignored,
        )

    # ---- ends

    def _ack(self) -> None:
        self._acked_at, self._acked_done = self.at, self.done
        self._say(wire.Ack(at=self.at, done=self.done, durable=self.durable))

    def _agree(self, agreement: Agreement) -> None:
        self.agreement = agreement
        self._writer = Writer(agreement.readable) if agreement.readable else None

    def _say(self, message: wire.ServerMessage) -> None:
        if self._writer is not None:
            message = self._writer.write(message)
        (self._out if self._is_ready else self._held).append(message)

    def _command(self, command: link.Command) -> None:
        self._commands.append(command)

    def _enter(self, phase: Phase, now: float) -> None:
        self.phase = phase
        self._patience.entered(now)

    def _end(self, close_code: int) -> None:
        self.phase, self.close_code = Phase.CLOSED, close_code
        self._held.clear()
