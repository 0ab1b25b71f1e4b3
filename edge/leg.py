"""One leg at the node: its audio, its words, and what of both the link still owes, without I/O.

Does: frames to send (from where the core asks, within its credit), frames received (needs, acks,
results, each final once); goes on after a cut by offset. Under the policy ``edge`` no frame with
audio is ever made; the finals go up instead, by number.
Does not know: sockets, clocks, who recognises.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from edge import wire
from edge.ring import AudioRing
from edge.transcript import Transcript
from edge.wire import AHEAD, MAX_AHEAD_S, PARTIAL, Close, Frame, FrameError, Kind, Open, Result

MAX_FRAME_SAMPLES = 8_000
MAX_STATE_PART = 32_000
AHEAD_FROM_S = 2
"""New audio goes ahead of a backlog that is longer than this."""


@dataclass(slots=True, kw_only=True)
class Leg:
    """``number`` names it on the link, ``opening.session`` everywhere."""

    number: int
    opening: Open
    ring: AudioRing
    transcript: Transcript = field(default_factory=Transcript)
    acked: int = 0
    """Audio that the core has (or, under ``edge``, finals)."""
    newest_acked: int = 0
    """Where new audio goes ahead of a backlog: the offset behind the newest that the core has."""
    covered: int = 0
    """Samples whose words are final or that held none: nobody asks for them again."""
    closed: Close | None = None
    """What the core said at the end."""
    audio_frames: int = 0
    """Frames with audio that were made: 0 for ever under ``edge``."""
    news: list[Result | None] = field(default_factory=list)
    """Finals that came since somebody looked; None: the open text changed."""
    is_placed: bool = True
    """False: the session moved here and the core has not said yet where it stands."""
    is_complete: bool = False
    """Under ``edge``: every final is known, the link may close."""
    state: bytes = b""
    """What the core is to go on from, until it does; under ``edge``, what goes ahead of that."""
    rest: bytes = b""
    """The same as ``state`` without what went ahead."""
    is_ahead_there: bool = False
    """What went ahead is at the core, over this very connection."""
    _state_sent: int = 0
    _sent: int | None = None
    """None: the core has not said yet where to go on."""
    _backlog_end: int | None = None
    """Where the audio begins that goes ahead; None: all goes in its order."""
    _ahead_sent: int = 0
    _limit: int = 0
    _answered: int = 0
    _has_closed: bool = False

    @property
    def policy(self) -> wire.Policy:
        """Who is the authority of the words."""
        return self.opening.policy

    @property
    def backlog(self) -> int:
        """Samples that the core does not have yet; under ``edge``, finals."""
        if self.policy == "edge":
            return len(self.transcript.finals) - self.acked
        return self.ring.head - self.acked

    @property
    def is_over(self) -> bool:
        """Nothing more happens on the link."""
        return self.closed is not None

    # ---- to the core

    def open_frame(self, *, is_fresh: bool = True) -> Frame:
        """Say, on a fresh connection or for the first time, who we are and what we have."""
        self.is_ahead_there = self.is_ahead_there and not is_fresh
        self._sent, self._backlog_end = None, None
        self._has_closed, self._state_sent = False, 0
        self._answered = self.transcript.next_number
        opening = msgspec.structs.replace(
            self.opening,
            finals=self.transcript.next_number,
            covered=self.covered,
            has_state=bool(self.state) and self.policy != "edge",
        )
        return Frame(Kind.OPEN, self.number, self.ring.base, opening.pack())

    def goodbye(self) -> Frame:
        """Say that we have all of a leg that is over: the core may forget it."""
        finals = self.transcript.next_number
        return Frame(Kind.CLOSE, self.number, finals, Close().pack(), wire.ANSWER)

    def frames_to_send(self, max_bytes: int) -> Iterator[Frame]:
        """Yield what may go now, a little more than ``max_bytes`` at most."""
        if self.is_over:
            return
        have = self.transcript.next_number
        if self.policy != "edge" and self._answered < have:
            self._answered = have
            yield Frame(Kind.RESULT_ACK, self.number, have)
        if self._sent is None:
            yield from self._state(max_bytes)
            return
        sending = self._results if self.policy == "edge" else self._audio
        yield from sending(max_bytes)

    def send_ahead(self, state: bytes) -> None:
        """Have a part of the state sent while the words go on here."""
        self.state, self._state_sent, self.is_ahead_there = state, 0, False

    def give_up_to_core(self, state: bytes, covered: int, rest: bytes = b"") -> None:
        """Leave the words to the core from here on: it goes on from this state.

        A connection over which some of it went ahead gets the ``rest``, any other one all of it.
        """
        self.opening = msgspec.structs.replace(
            self.opening, policy="core", epoch=self.opening.epoch + 1
        )
        self.state, self.rest, self.covered, self.acked = state, rest, covered, covered
        self._sent, self._backlog_end = None, None
        self._limit, self.is_complete = 0, False

    def _state(self, max_bytes: int) -> Iterator[Frame]:
        state = (self.is_ahead_there and self.rest) or self.state
        while self._state_sent < len(state) and max_bytes > 0:
            at = self._state_sent
            part = state[at : at + MAX_STATE_PART]
            self._state_sent += len(part)
            flags = wire.LAST if self._state_sent == len(state) else 0
            yield Frame(Kind.STATE, self.number, at, part, flags)
            max_bytes -= len(part)

    def frames_ahead(self, max_bytes: int) -> Iterator[Frame]:
        """Yield new audio that does not wait for the backlog before it."""
        if self._backlog_end is None or self.is_over:
            return
        end = self._backlog_end + MAX_AHEAD_S * self.opening.rate
        for frame, sent in self._stretch(self._ahead_sent, end, max_bytes):
            self._ahead_sent = sent
            yield frame._replace(flags=frame.flags | AHEAD)

    def _audio(self, max_bytes: int) -> Iterator[Frame]:
        assert self._sent is not None
        for frame in self.frames_ahead(max_bytes):
            yield frame
            max_bytes -= len(frame.payload)
        end = self._limit if self._backlog_end is None else min(self._limit, self._backlog_end)
        for frame, sent in self._stretch(self._sent, end, max_bytes):
            self._sent = sent
            yield frame
        if self._backlog_end is not None and self._sent >= self._backlog_end:
            self._sent, self._backlog_end = self._ahead_sent, None
        is_all_sent = self._backlog_end is None and self._sent >= self.ring.head
        if self.ring.is_ended and is_all_sent and not self._has_closed:
            self._has_closed = True
            yield Frame(Kind.CLOSE, self.number, self.ring.head, Close().pack())

    def _stretch(self, at: int, end: int, max_bytes: int) -> Iterator[tuple[Frame, int]]:
        """Yield frames of the audio from ``at``, each with the offset behind it."""
        while at < end and max_bytes > 0:
            span = self.ring.read(at, min(MAX_FRAME_SAMPLES, end - at))
            if span is None or at + span.samples > end:  # a packet is not cut
                return
            count = span.samples
            if span.data is None:
                frame = Frame(Kind.SILENCE, self.number, at, wire.COUNT.pack(count))
            else:
                self.audio_frames += 1
                flags = 0 if wire.SAMPLE_BYTES[self.opening.encoding] else count
                frame = Frame(Kind.AUDIO, self.number, at, span.data, flags)
                max_bytes -= len(span.data)
            at += count
            yield frame, at

    def _results(self, max_bytes: int) -> Iterator[Frame]:
        assert self._sent is not None
        finals = self.transcript.finals
        while self._sent < len(finals) and max_bytes > 0:
            payload = finals[self._sent].pack()
            yield Frame(Kind.RESULT, self.number, self._sent, payload)
            self._sent += 1
            max_bytes -= len(payload)
        yield from self._state(max_bytes)
        if self.is_complete and self._sent >= len(finals) and not self._has_closed:
            self._has_closed = True
            yield Frame(Kind.CLOSE, self.number, self.ring.head, Close().pack())

    # ---- from the core

    def receive(self, frame: Frame) -> None:
        """Take a frame of this leg; raises FrameError."""
        match frame.kind:
            case Kind.NEED if self.policy == "edge":
                self._sent = self.acked = min(frame.offset, len(self.transcript.finals))
            case Kind.NEED:
                self._place(frame.offset)
                self._credit(frame)
            case Kind.ACK:
                self._credit(frame)
            case Kind.RESULT_ACK:
                self.acked = max(self.acked, min(frame.offset, len(self.transcript.finals)))
            case Kind.RESULT:
                self._result(frame)
            case Kind.STATE:
                self.is_ahead_there = self.policy == "edge" and frame.offset == len(self.state)
            case Kind.CLOSE:
                self.closed = wire.body_of(frame, Close)
                if self.closed.reason == "done":
                    self.transcript.settle()
            case _:
                raise FrameError(f"a core does not send {frame.kind.name}")

    def _place(self, offset: int) -> None:
        if not self.is_placed:
            self.is_placed = True
            self.ring.begin_at(offset)
            self.news.append(None)
        self._sent, self._backlog_end, self.state, self.rest = offset, None, b"", b""
        self._has_closed = False
        if self.ring.head - offset > AHEAD_FROM_S * self.opening.rate:
            self._backlog_end = self._ahead_sent = self.ring.head

    def _credit(self, frame: Frame) -> None:
        credit = wire.credit_of(frame)
        self.acked = min(max(self.acked, frame.offset), self.ring.head)
        self.newest_acked = max(self.acked, min(credit.newest, self.ring.head))
        self._limit = credit.limit
        self.cover(credit.safe)

    def cover(self, samples: int) -> None:
        """Note up to where words are final, and forget that audio."""
        self.covered = min(max(self.covered, samples), self.ring.head)
        self.ring.release(self.covered)

    def _result(self, frame: Frame) -> None:
        result = wire.body_of(frame, Result)
        if frame.flags & PARTIAL:
            self.transcript.partial = result
            self.news.append(None)
        elif self.transcript.final(frame.offset, result):
            self.news.append(result)
            self.cover(result.end_ms * self.opening.rate // 1000)
