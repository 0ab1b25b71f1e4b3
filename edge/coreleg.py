"""One leg as the core holds it: audio in by offset, words out by number; it outlives connections.

Does: take each sample once whatever is repeated, ask for what is missing, grant credit, number the
finals and keep those that the node has not acknowledged, or that its caller may not have and asks
for at another node. Under the policy ``edge`` it takes the node's finals instead, each once, and no
audio at all.
Does not know: sockets, TLS, which node may come.
"""

import asyncio
import contextlib
import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable

from edge import handover, wire
from edge.handover import Ahead, Assembly, Handover
from edge.inbox import Inbox
from edge.recogniser import Fenced, LegAudio, LegRefused, Past, Recogniser, Start
from edge.wire import AHEAD, ANSWER, PARTIAL, Close, Credit, Frame, FrameError, Kind, Open, Result
from server.store.base import StoreUnavailable
from server.store.moving import Moved

logger = logging.getLogger(__name__)

Send = Callable[[Frame], None]
OnFinal = Callable[[Open, int, Result], None]
KEEP_MS = 600_000
"""A node has a final and its caller, who was away, may not: kept until it is so much older than the
newest, as long as a node waits for a caller."""
Adopt = Callable[[Moved], Awaitable[bool]]
"""Puts a session of a node where the server finds it."""


def hashed(secret: str) -> bytes:
    """Return what is kept of a secret."""
    return hashlib.sha256(secret.encode()).digest()


class CoreLeg:
    """``attach`` connects it to a node, ``detach`` leaves it waiting for one."""

    def __init__(
        self,
        opening: Open,
        base: int,
        *,
        url: str,
        window_ms: int,
        on_final: OnFinal,
        key: str = "",
    ) -> None:
        self.opening = opening
        self.is_complete = False
        """All is said; what is left is that the node hears it."""
        self.refusal = ""
        self._secret = hashed(opening.secret)
        self._on_final = on_final
        self._window = window_ms * opening.rate // 1000
        self._inbox = Inbox(
            sample_bytes=wire.SAMPLE_BYTES[opening.encoding],
            rate=opening.rate,
            base=_first(opening, base),
        )
        self._ring = self._inbox.ring
        self._results: dict[int, Result] = {}
        """Finals that the node has not acknowledged, and those that are not old."""
        self._acknowledged = 0
        """Finals before this number are at the node."""
        self._partial: Result | None = None
        self._total: int | None = None
        self._send: Send | None = None
        self._number = 0
        self._told: tuple[int, Credit] | None = None
        self._finals = opening.finals if opening.policy != "edge" else 0
        self._url, self._key = url, key
        self._assembly: Assembly | None = None
        """Where the state comes together that the leg waits for."""
        self._adopt: Adopt | None = None
        self.ahead = Ahead(None)
        """What came of the state before the rest, while the words went on at the node."""
        self._coming = Assembly()
        self._recogniser = self._begin(Start(max(self._ring.base, opening.covered), opening.finals))
        self._task: asyncio.Task[None] | None = None

    @property
    def finals(self) -> int:
        """Finals in all so far."""
        return self._finals if self.opening.policy == "edge" else self._recogniser.finals

    @property
    def received(self) -> int:
        """Samples received."""
        return self._ring.head

    @property
    def newest(self) -> int:
        """The offset behind the newest sample that is here, whatever is missing before it."""
        return self._inbox.newest

    @property
    def held_bytes(self) -> int:
        """Audio in memory."""
        return self._inbox.held_bytes

    @property
    def done(self) -> int:
        """Samples decoded."""
        return self._recogniser.done

    def knows(self, secret: str) -> bool:
        """Whether this is the secret the leg was opened with."""
        return hmac.compare_digest(self._secret, hashed(secret))

    def has_finals_from(self, number: int) -> bool:
        """Whether all finals from a number on can be told."""
        return number in self._results or number >= self.finals

    # ---- life

    def _begin(self, start: Start) -> Recogniser:
        audio = LegAudio.of(self.opening)
        return Recogniser(self._url, audio, self._ring, self, start, key=self._key)

    def wait_for_state(self, adopt: Adopt | None, before: "CoreLeg | None") -> None:
        """Go on from a node's state, when all is here; some may have come to the leg ``before``."""
        self._assembly, self._adopt = Assembly(), adopt
        if before is not None:
            self.ahead = before.ahead

    def _state(self, frame: Frame) -> None:
        """Take a part of the state; one that comes again changes nothing. Raises FrameError."""
        if self._assembly is None or self._task is not None:
            return
        whole = self._assembly.take(frame)
        if whole is not None:
            given = self.ahead.put_into(handover.read(whole))
            self.ahead = Ahead(None)
            self._task = asyncio.create_task(self._go_on(given))

    def _state_ahead(self, frame: Frame) -> None:
        """Take a part of what goes ahead, from its begin on; say when it is here."""
        if frame.offset == 0:
            self._coming = Assembly()
        whole = self._coming.take(frame)
        if whole is not None:
            self.ahead, self._coming = Ahead.read(whole), Assembly()
            self._say(Kind.STATE, len(whole), flags=ANSWER)

    async def _go_on(self, given: Handover) -> None:
        """Put the state where the server finds it and go on; without one, behind the last final."""
        has_state = False
        if given.moved is not None and self._adopt is not None:
            with contextlib.suppress(StoreUnavailable):
                await self._adopt(given.moved)  # False: a reply was lost, it is there already
                has_state = True
        logger.info("leg taken from its node", extra={"has_state": has_state})
        self.start(given.past if has_state else None)

    def start(self, past: Past | None = None) -> None:
        """Begin to recognise, or go on with a session; a node that waits for it is told."""
        if past is not None:
            self._recogniser = self._begin(Start(self.opening.covered, self.opening.finals, past))
        is_awaited, self._assembly = self._assembly is not None, None
        if is_awaited and self._send is not None:
            self._say(Kind.NEED, self._ring.head, self._credit().pack())
        if self.opening.policy != "edge":
            self._task = asyncio.create_task(self._recognise())

    async def run_out(self, within_s: float) -> None:
        """End behind what was heard: no more will come, and the words of that become final."""
        self._ring.end()
        self._recogniser.changed()
        try:
            if self._task is not None:
                await asyncio.wait({self._task}, timeout=within_s)
        finally:
            await self.close()

    async def close(self) -> None:
        """End at once."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._ring.close()

    async def _recognise(self) -> None:
        try:
            await self._recogniser.run()
        except Fenced:
            self.refusal = "the server gave this leg up"
        except LegRefused as error:
            self.refusal = str(error)
        except Exception as error:  # noqa: BLE001 - task boundary: one leg must not end the others
            logger.error("leg failed", extra={"error": type(error).__name__})
            self.refusal = "the core failed on this leg"
        self.is_complete = True
        self._finish()

    # ---- the node

    def attach(self, number: int, opening: Open, send: Send) -> None:
        """Go on with a node: say what it lacks, ask for what we lack."""
        self.opening = opening
        self._send, self._number, self._told = send, number, None
        self._inbox.begin_anew()
        if self._assembly is not None and self._task is None:
            self._assembly = Assembly()
        self._acknowledged = opening.finals
        for at, result in sorted(self._results.items()):
            if at >= opening.finals:
                self._say(Kind.RESULT, at, result.pack())
        if self.opening.policy == "edge":
            self._say(Kind.NEED, self._finals, Credit(0, 0).pack())
        elif self._assembly is None:
            self._say(Kind.NEED, self._ring.head, self._credit().pack())
        if self.is_complete:
            self._finish()

    def detach(self) -> None:
        """Wait for a node to come back."""
        self._send = None

    def receive(self, frame: Frame) -> None:
        """Take a frame of the node; raises FrameError."""
        match frame.kind:
            case Kind.AUDIO if self.opening.policy != "edge":
                self._audio(frame)
            case Kind.SILENCE if self.opening.policy != "edge":
                self._take(frame, wire.count_of(frame), None)
            case Kind.STATE if self.opening.policy == "edge":
                self._state_ahead(frame)
            case Kind.STATE:
                self._state(frame)
            case Kind.RESULT if self.opening.policy == "edge":
                self._result(frame)
            case Kind.RESULT_ACK:
                self._acknowledged = frame.offset
                self._drop_old()
            case Kind.CLOSE:
                self._end(frame.offset)
            case _:
                raise FrameError(f"{frame.kind.name} on a leg of policy {self.opening.policy}")

    def acknowledge(self) -> None:
        """Say how far we are, if that has moved."""
        is_waiting = self._send is None or self._assembly is not None
        if is_waiting or self.opening.policy == "edge" or self.is_complete:
            return
        now = (self._ring.head, self._credit())
        if now != self._told:
            self._told = now
            self._say(Kind.ACK, now[0], now[1].pack())

    def fence(self, why: str) -> None:
        """Tell the node that another one goes on with this leg."""
        self._say(Kind.CLOSE, self.finals, Close(reason="fenced", text=why).pack())
        self._send = None

    def _audio(self, frame: Frame) -> None:
        size = wire.SAMPLE_BYTES[self.opening.encoding]
        if size and len(frame.payload) % size:
            raise FrameError(f"{len(frame.payload)} bytes are no whole samples")
        samples = len(frame.payload) // size if size else frame.flags & ~AHEAD
        self._take(frame, samples, frame.payload)

    def _take(self, frame: Frame, samples: int, data: bytes | None) -> None:
        """Keep what is new; a hole is asked for."""
        if frame.flags & AHEAD:
            is_whole = self._inbox.take_ahead(frame.offset, samples, data)
        else:
            credit = self._credit().limit
            is_whole = self._inbox.take(frame.offset, samples, data, credit=credit)
        if is_whole:
            self._recogniser.changed()
        else:
            self._say(Kind.NEED, self._ring.head, self._credit().pack())

    def _end(self, total: int) -> None:
        if self.opening.policy == "edge":
            self.is_complete = True
            self._finish()
        elif total == self._ring.head:
            self._ring.end()
            self._recogniser.changed()
        else:
            self._say(Kind.NEED, self._ring.head, self._credit().pack())

    def _result(self, frame: Frame) -> None:
        result = wire.body_of(frame, Result)
        if frame.offset == self._finals:
            self._finals += 1
            self._on_final(self.opening, frame.offset, result)
        self._say(Kind.RESULT_ACK, self._finals)

    # ---- the recogniser

    def final(self, number: int, result: Result) -> None:
        """Keep a final until the node has it."""
        self._results[number] = result
        self._on_final(self.opening, number, result)
        self._say(Kind.RESULT, number, result.pack())

    def partial(self, result: Result) -> None:
        """Pass the open text on; who is not there misses it."""
        self._say(Kind.RESULT, 0, result.pack(), flags=PARTIAL)

    def progressed(self) -> None:
        """Forget audio whose words are final."""
        self._ring.release(self._recogniser.safe)

    # ----

    def _credit(self) -> Credit:
        recogniser = self._recogniser
        limit = self._inbox.limit(recogniser.done + self._window)
        return Credit(recogniser.safe, limit, self._inbox.newest)

    def _drop_old(self) -> None:
        # in the order of their numbers, so of their times
        while self._results:
            oldest, newest = next(iter(self._results)), next(reversed(self._results))
            is_old = self._results[oldest].end_ms <= self._results[newest].end_ms - KEEP_MS
            if oldest >= self._acknowledged or not is_old:
                return
            del self._results[oldest]

    def _finish(self) -> None:
        if self.refusal:
            close = Close(reason="refused", text=self.refusal)
        else:
            close = Close(reason="done")
        self._say(Kind.CLOSE, self.finals, close.pack())
        self._ring.release(self._ring.head)

    def _say(self, kind: Kind, offset: int, payload: bytes = b"", *, flags: int = 0) -> None:
        if self._send is not None:
            self._send(Frame(kind, self._number, offset, payload, flags))


def _first(opening: Open, base: int) -> int:
    """Where the audio begins: what a state needs is older than the words that are final."""
    if opening.policy == "edge":
        return 0
    return base if opening.has_state else max(base, opening.covered)
