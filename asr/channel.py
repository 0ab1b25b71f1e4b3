"""One live channel: what its streams emit, in order, becomes transcript events.

Does: the media clock with its gaps, partials, finals, turns, the answer to a finalize.
Does not know: engines and slots (``asr.live`` owns those), sessions, sockets, wall-clock time.

The log keeps the order: emissions of the live stream and, where a fork was taken, a mark. Reading
stops at a mark until its fork is flushed, so nothing of the live stream overtakes a finalize.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from asr.audio import Resampler
from asr.events import (
    Event,
    Final,
    FinalCause,
    Finalized,
    Partial,
    Progress,
    Stopped,
    TurnTrigger,
    Word,
)
from asr.interface import (
    FRAME_MS,
    Emission,
    Samples,
    Token,
)
from asr.mediaclock import MediaClock
from asr.options import ChannelOptions
from asr.state import State
from asr.tokenizer import Tokenizer
from asr.transcript import Transcript, confidence_of, earlier, text_of
from asr.turns import Decision, Loudness, Turns

_LONG_GAP_S = 2
"""A gap is fed as silence up to here; the rest only moves the clock."""
_LIKELY_PIECES = 2
"""So many open pieces begin a turn: a single one is often taken back."""
_WORD_OVER_MS = 400
"""A word this long ago will not grow: it may be cut off at ``max_turn_ms``."""


@dataclass(slots=True)
class Fork:
    """A flushed copy of the live stream that answers finalize requests."""

    stream: int
    reqs: tuple[str, ...]
    at_samples: int
    tokens: list[Token] = field(default_factory=list)
    frames: int = 0
    is_flushed: bool = False

    def take(self, emission: Emission) -> None:
        """Keep what the copy said."""
        self.tokens += emission.tokens
        self.frames = emission.frames
        self.is_flushed = self.is_flushed or emission.finished


class Channel:
    """State of one channel. Audio goes through it to the engine; emissions come back to it."""

    def __init__(
        self, stream: int, options: ChannelOptions, tokenizer: Tokenizer, *, late_ms: int = 0
    ) -> None:
        """``late_ms``: words are published so much earlier than their tokens came."""
        self.stream = stream
        self._late_ms = late_ms
        self.options = options
        self.waiting: list[str] = []
        """Finalize requests that have no fork yet."""
        self.fork: Fork | None = None
        self.is_stopping = False
        self.is_closed = False
        self._turn_tokens = tokenizer.turn_tokens
        self._resampler = Resampler(options.rate)
        self._loudness = Loudness()
        self._clock = MediaClock(options.rate)
        self._transcript = Transcript(tokenizer)
        self._turns = Turns(options.endpointing)
        self._log: deque[Emission | Fork] = deque()
        self._last_sample = 0.0
        self._heard_16k = 0
        self._heard_frames = 0
        self._frames = 0
        """Frames that were read; more than were produced while a replay catches up."""
        self._segment = 0
        self._rev = 0
        self._shown = ("", "")
        self._progress = 0
        self._open: tuple[Token, ...] = ()
        """What the engine takes for likely behind the words."""

    def configure(self, options: ChannelOptions) -> None:
        """Go on with other options (look-ahead, rate and language stay)."""
        self.options = options
        self._turns.endpointing = options.endpointing

    def audio(self, samples: Samples) -> Samples:
        """Take samples of the channel's rate; return what the engine must hear."""
        self._clock.fed_samples += len(samples)
        if len(samples):
            self._last_sample = float(samples[-1])
        return self._hear(self._resampler.push(samples))

    def lacks(self, samples: int) -> int:
        """Return how many samples of the channel's rate make so many for the engine."""
        return self._resampler.lacks(samples)

    def gap(self, samples: int) -> Samples:
        """Take lost audio; return the silence that the engine must hear instead."""
        rate = self.options.rate
        silence = np.zeros(min(samples, _LONG_GAP_S * rate), np.float32)
        ramp = min(len(silence), rate // 200)  # 5 ms: a cut must not click
        silence[:ramp] = np.linspace(self._last_sample, 0, ramp, dtype=np.float32)
        heard = self.audio(silence)
        if samples > len(silence):
            self._clock.skip(samples - len(silence))
        return heard

    def flush_audio(self) -> Samples:
        """Return the last 16 kHz samples of a live stream that ends."""
        return self._hear(self._resampler.flush())

    def owed_audio(self) -> Samples:
        """Return the last 16 kHz samples of a fork taken now."""
        return self._resampler.copy().flush()

    def begin_fork(self, stream: int) -> None:
        """Note that a copy of the live stream was taken to answer the waiting requests."""
        self.fork = Fork(stream, tuple(self.waiting), self._clock.fed_samples)
        self.waiting.clear()
        self._log.append(self.fork)

    def receive(self, emission: Emission) -> None:
        """Take an emission of the live stream or of the fork."""
        if self.fork is not None and emission.stream == self.fork.stream:
            self.fork.take(emission)
            if emission.finished:
                self.fork = None  # its mark in the log keeps it
        else:
            self._heard_frames = emission.frames
            self._log.append(emission)

    def read(self) -> list[Event]:
        """Turn what can be read of the log into events."""
        events: list[Event] = []
        while self._log:
            entry = self._log[0]
            if isinstance(entry, Fork):
                if not entry.is_flushed:
                    break
                events += self._answer(entry)
            else:
                events += self._apply(entry)
            self._log.popleft()
        return events

    # --- state -----------------------------------------------------------------------------

    @property
    def is_settled(self) -> bool:
        """Whether all that the engine said is read, so that ``reading`` belongs to its frame."""
        return not any(isinstance(entry, Emission) for entry in self._log)

    @property
    def is_quiet(self) -> bool:
        """Whether the state is whole: no copy of the stream is out, nobody waits for its end."""
        return not self._log and self.fork is None and not self.is_stopping

    @property
    def heard_16k(self) -> int:
        """Samples that the live stream was given, at 16 kHz."""
        return self._heard_16k

    @property
    def heard_frames(self) -> int:
        """Frames that the live stream has produced."""
        return self._heard_frames

    def hearing(self) -> State:
        """Return what the audio side is: a function of the audio given so far."""
        return {
            "clock": self._clock.hearing(),
            "resampler": self._resampler.state(),
            "loudness": self._loudness.state(),
            "last": self._last_sample,
            "heard": [self._heard_16k, self._heard_frames],
        }

    def reading(self) -> State:
        """Return what the text side is: a function of the frames read so far."""
        return {
            "clock": self._clock.reading(),
            "transcript": self._transcript.state(),
            "turns": self._turns.state(),
            "said": [self._frames, self._segment, self._rev, self._progress, *self._shown],
        }

    def restore(self, hearing: State | None, reading: State | None) -> None:
        """Take up both sides; a side that is None starts afresh.

        ``reading`` may be ahead: then the frames up to its own only pass.
        """
        if hearing is not None:
            self._resampler.restore(hearing["resampler"])
            self._loudness.restore(hearing["loudness"])
            self._last_sample = hearing["last"]
            self._heard_16k, self._heard_frames = hearing["heard"]
        if reading is not None:
            self._clock.restore(hearing and hearing["clock"], reading["clock"])
            self._transcript.restore(reading["transcript"])
            self._turns.restore(reading["turns"])
            self._frames, self._segment, self._rev, self._progress, *shown = reading["said"]
            self._shown = (shown[0], shown[1])

    def _hear(self, samples: Samples) -> Samples:
        self._heard_16k += len(samples)
        self._loudness.push(samples)
        return samples

    # --- the live stream -------------------------------------------------------------------

    def _apply(self, emission: Emission) -> list[Event]:
        events: list[Event] = []
        tokens = deque(emission.tokens)
        for frame in range(self._frames, emission.frames):
            if self._clock.pass_frame(frame):
                events += self._publish("gap", "timeout", self._clock.ms(frame))
            while tokens and tokens[0].decided <= frame:
                events += self._token(tokens.popleft())
            is_open = any(token.frame <= frame for token in (*tokens, *emission.open))
            events += self._tick(frame, is_open=is_open)
        for token in tokens:  # a flush may say more at its last frame
            events += self._token(token)
        self._frames = max(self._frames, emission.frames)
        self._open = emission.open
        if emission.finished:
            return events + self._stop()
        return events + self._partial() + self._advance()

    def _token(self, token: Token) -> list[Event]:
        begin, end = self._clock.ms(token.frame), self._clock.ms(token.frame) + FRAME_MS
        if token.id in self._turn_tokens:
            return self._model_end(end)
        return self._heard(changed=self._transcript.add(token, begin, end))

    def _heard(self, *, changed: bool) -> list[Event]:
        if not changed:
            return []
        start_ms = self._spoken(self._transcript.start_ms)
        return [*self._turns.heard_word(start_ms, self._transcript.end_ms)]

    def _tick(self, frame: int, *, is_open: bool) -> list[Event]:
        """Let the clock reach the end of this frame; no turn ends while a piece of it is open."""
        now_ms = self._clock.ms(frame) + FRAME_MS
        # frame j of the engine ends with block j - 1 of the audio
        if self._loudness.is_voiced(frame - 1):
            self._turns.heard_voice(now_ms - FRAME_MS)
        events = self._heard(changed=self._transcript.settle(frame))
        match self._turns.decide(now_ms, is_unfinished=self._transcript.is_unfinished):
            case Decision.SILENCE | Decision.EAGER if is_open:
                pass
            case Decision.SILENCE:
                events += self._publish("endpoint", "silence", now_ms)
            case Decision.TOO_LONG:
                events += self._cut(now_ms, is_open=is_open)
            case Decision.EAGER:
                words = self._transcript.words
                events += self._turns.eager(now_ms, text_of(words), confidence_of(words))
            case Decision.NOTHING:
                pass
        return events

    def _model_end(self, now_ms: int) -> list[Event]:
        if self.options.endpointing.mode == "manual":
            return []
        events = self._heard(changed=self._transcript.settle())
        return (
            events + self._publish("endpoint", "model", now_ms) if self._turns.is_open else events
        )

    def _cut(self, now_ms: int, *, is_open: bool) -> list[Event]:
        """End a turn that is too long behind its last whole word: what is open may be its rest."""
        count: int | None = self._transcript.stable
        if is_open and not count:
            return []
        if not is_open and (not count or self._turns.quiet_ms(now_ms) >= _WORD_OVER_MS):
            count = None
        events = self._publish("max", "timeout", now_ms, count=count)
        return events + self._heard(changed=self._transcript.has_words)

    def _publish(
        self, cause: FinalCause, trigger: TurnTrigger, now_ms: int, *, count: int | None = None
    ) -> list[Event]:
        """Publish the open words, if there are any, and end their turn."""
        events = self._heard(changed=count is None and self._transcript.settle())
        words = self._transcript.publish(count)
        return events + self._close(words, cause, trigger, now_ms)

    def _close(
        self, words: tuple[Word, ...], cause: FinalCause, trigger: TurnTrigger, now_ms: int
    ) -> list[Event]:
        text, events = text_of(words), list[Event]()
        if words:
            events += self._turns.resume_if_changed(now_ms, text)
            events.append(self._final(words, cause, now_ms))
        return events + self._turns.end(now_ms, text, trigger)

    def _stop(self) -> list[Event]:
        """Publish what the flush of the live stream brought."""
        now_ms, events = self._clock.samples_ms(self._clock.fed_samples), list[Event]()
        if self.waiting:
            events += self._heard(changed=self._transcript.settle())
            events += self._finalize(
                self._transcript.publish(), tuple(self.waiting), self._clock.fed_samples
            )
            self.waiting.clear()
        else:
            events += self._publish("stop", "finalize", now_ms)
        self.is_closed = True
        return [*events, Stopped(self._clock.fed_samples, self._segment)]

    # --- finalize --------------------------------------------------------------------------

    def _answer(self, fork: Fork) -> list[Event]:
        """Publish what the flushed copy said."""
        words = self._transcript.publish_fork(self._with(fork.tokens), fork.frames)
        return self._finalize(words, fork.reqs, fork.at_samples)

    def _finalize(
        self, words: tuple[Word, ...], reqs: tuple[str, ...], at_samples: int
    ) -> list[Event]:
        now_ms, events = self._clock.samples_ms(at_samples), list[Event]()
        if words and not self._turns.is_open:  # heard in the flush only
            start_ms = self._spoken(words[0].start_ms)
            events += self._turns.heard_word(start_ms, words[-1].end_ms)
        for req in reqs:
            if words:
                events += self._close(words, "finalize", "finalize", now_ms)
            else:
                events.append(self._final((), "finalize", now_ms))
            events.append(Finalized(req, at_samples))
            words = ()
        return events

    # --- events ----------------------------------------------------------------------------

    def _final(self, words: tuple[Word, ...], cause: FinalCause, now_ms: int) -> Final:
        words = earlier(words, self._late_ms)
        final = Final(
            id=self._segment,
            text=text_of(words),
            start_ms=words[0].start_ms if words else now_ms,
            end_ms=words[-1].end_ms if words else now_ms,
            confidence=confidence_of(words),
            cause=cause,
            words=words if self.options.words else (),
            language=self.options.language or "en",
        )
        self._segment += 1
        self._rev, self._shown = 0, ("", "")
        return final

    def _partial(self) -> list[Event]:
        words, events = self._likely(), list[Event]()
        if self._open and words:
            start_ms = self._spoken(words[0].start_ms)
            events += self._turns.heard_likely(start_ms, words[-1].end_ms)
        mode = self.options.partials
        stable = words[: self._transcript.stable]
        shown = stable if mode == "stable" else words
        state = (text_of(stable), text_of(shown))
        if mode == "none" or not shown or state == self._shown:
            return events
        self._rev, self._shown = self._rev + 1, state
        shown = earlier(shown, self._late_ms)
        start_ms, end_ms = shown[0].start_ms, shown[-1].end_ms
        return [*events, Partial(self._segment, self._rev, *state, start_ms, end_ms)]

    def _spoken(self, heard_ms: int) -> int:
        """Return when a turn began whose first word was heard then; its words are told so too."""
        return max(0, heard_ms - self._late_ms)

    def _likely(self) -> tuple[Word, ...]:
        """Return the unpublished words, with those that may yet change."""
        if len(self._open) < _LIKELY_PIECES and not self._transcript.has_words:
            return ()
        return self._with(self._open).words if self._open else self._transcript.words

    def _with(self, tokens: Iterable[Token]) -> Transcript:
        copy = self._transcript.fork()
        for token in tokens:
            begin = self._clock.ms(token.frame)
            copy.add(token, begin, begin + FRAME_MS)
        return copy

    def _advance(self) -> list[Event]:
        done = self._clock.done_samples(self._frames)
        if done <= self._progress:
            return []
        self._progress = done
        return [Progress(done)]
