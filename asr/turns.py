"""When a turn begins, seems over, goes on and ends; decided on the media clock.

Does: loudness of the audio against its own noise floor; endpoint rules; the legal order
start (eager_end resumed)* eager_end? end.
Does not know: words, tokens, engines, wall-clock time.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import numpy as np

from asr.events import EagerEnd, TurnEnd, TurnResumed, TurnStart, TurnTrigger
from asr.interface import FRAME_SAMPLES, Samples
from asr.state import State, samples_of, text_of

TurnEvent = TurnStart | EagerEnd | TurnResumed | TurnEnd

_VETO_FACTOR = 3
"""Speech-like sound without words (music, a fan starting) delays an end at most this many times."""
_SETTLE_MS = 240
"""Words of a streaming model come up to this much after their sound."""
_VETO_MS = 160
"""Sound this recent may still become a word."""
_LOUD_OVER_FLOOR_DB = 9.0
SILENT_DB = -55.0
"""Below this nothing is speech, whatever the floor."""
_FLOOR_RISE_DB = 0.08
"""Rise of the noise floor per 80 ms: 1 dB/s, so a word does not lift it and a new fan does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpointing:
    """When the turns of one channel end."""

    mode: Literal["auto", "manual"] = "auto"
    """manual: only finalize, stop and ``max_turn_ms`` end a turn."""
    silence_ms: int = 700
    hesitation_ms: int = 400
    """Waited longer, by both silences, behind a word that ends no sentence; 0: not."""
    eager_ms: int | None = None
    """Announce a likely end after this much silence; None: never."""
    max_turn_ms: int = 30_000

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "manual"):
            raise ValueError("endpointing mode is auto or manual")
        if not 100 <= self.silence_ms <= 5_000:
            raise ValueError("silence_ms must be 100..5000")
        if not 0 <= self.hesitation_ms <= 2_000:
            raise ValueError("hesitation_ms must be 0..2000")
        if self.eager_ms is not None and not 80 <= self.eager_ms < self.silence_ms:
            raise ValueError("eager_ms must be at least 80 and less than silence_ms")
        if not 1_000 <= self.max_turn_ms <= 600_000:
            raise ValueError("max_turn_ms must be 1000..600000")


class Loudness:
    """Tells for each 80 ms of 16 kHz audio whether it sounds like speech."""

    def __init__(self) -> None:
        self._rest: Samples = np.zeros(0, np.float32)
        self._floor_db: float | None = None
        self._voiced: deque[bool] = deque()
        self._first = 0

    def push(self, samples: Samples) -> None:
        """Hear more audio."""
        audio = np.concatenate([self._rest, samples])
        whole = len(audio) // FRAME_SAMPLES
        self._rest = audio[whole * FRAME_SAMPLES :].copy()
        if not whole:
            return
        blocks = audio[: whole * FRAME_SAMPLES].reshape(whole, 4, FRAME_SAMPLES // 4)
        power = np.mean(np.square(blocks, dtype=np.float64), axis=2)
        # the loudest quarter: a short consonant must not be averaged away
        for level_db in 10 * np.log10(power.max(axis=1) + 1e-12):
            self._voiced.append(self._is_loud(float(level_db)))

    def is_voiced(self, frame: int) -> bool:
        """Whether this 80 ms block sounds like speech (unheard: no). Forgets the older ones."""
        while self._voiced and self._first < frame:
            self._voiced.popleft()
            self._first += 1
        return bool(self._voiced) and self._first == frame and self._voiced[0]

    def state(self) -> State:
        """All that it is."""
        voiced = [int(is_voiced) for is_voiced in self._voiced]
        rest = text_of(self._rest)
        return {"rest": rest, "floor": self._floor_db, "voiced": voiced, "first": self._first}

    def restore(self, state: State) -> None:
        """Take up what ``state`` gave."""
        self._rest, self._floor_db = samples_of(state["rest"]), state["floor"]
        self._voiced, self._first = deque(map(bool, state["voiced"])), state["first"]

    def _is_loud(self, level_db: float) -> bool:
        floor = self._floor_db
        if floor is None or level_db < floor:
            floor = max(level_db, -90.0) if floor is None else max(0.5 * (floor + level_db), -90.0)
            # a stream that opens in mid-word must not take the word for its noise
            self._floor_db = min(floor, -50.0)
        else:
            self._floor_db = floor + _FLOOR_RISE_DB
        return level_db > max(self._floor_db + _LOUD_OVER_FLOOR_DB, SILENT_DB)


class Decision(Enum):
    """What the clock says about the open turn."""

    NOTHING = "nothing"
    EAGER = "eager"
    SILENCE = "silence"
    TOO_LONG = "too long"


class _State(Enum):
    IDLE = "idle"
    OPEN = "open"
    EAGER = "eager"


class Turns:
    """Turn state of one channel. Times given to it never go back."""

    def __init__(self, endpointing: Endpointing) -> None:
        self.endpointing = endpointing
        self._state = _State.IDLE
        self._turn = -1
        self._start_ms = 0
        self._last_word_ms = 0
        self._last_voice_ms = 0
        self._eager_text = ""
        self._ended_ms = 0

    @property
    def is_open(self) -> bool:
        """Whether a turn is open."""
        return self._state is not _State.IDLE

    def quiet_ms(self, now_ms: int) -> int:
        """Time since the last word."""
        return now_ms - self._last_word_ms

    def heard_voice(self, until_ms: int) -> None:
        """Speech-like sound lasted until then."""
        self._last_voice_ms = until_ms

    def heard_word(self, start_ms: int, end_ms: int) -> list[TurnEvent]:
        """Take note of a recognised word, or more of one."""
        self._last_word_ms = max(self._last_word_ms, end_ms)
        if self._state is _State.IDLE:
            self._state = _State.OPEN
            self._turn += 1
            self._start_ms = max(start_ms, self._ended_ms)
            return [TurnStart(self._turn, self._start_ms)]
        if self._state is _State.EAGER:
            self._state = _State.OPEN
            return [TurnResumed(self._turn, end_ms)]
        return []

    def heard_likely(self, start_ms: int, end_ms: int) -> list[TurnEvent]:
        """Take note of a word that may yet be taken back: it opens a turn, and prolongs none."""
        last_word_ms = self._last_word_ms
        events = self.heard_word(start_ms, end_ms)
        self._last_word_ms = last_word_ms
        return events

    def decide(self, now_ms: int, *, is_unfinished: bool = False) -> Decision:
        """Tell what is due at this moment of the media; the words so far may be unfinished."""
        if self._state is _State.IDLE:
            return Decision.NOTHING
        if self.endpointing.mode == "auto":
            longer_ms = self.endpointing.hesitation_ms if is_unfinished else 0
            if self._is_over(now_ms, self.endpointing.silence_ms + longer_ms):
                return Decision.SILENCE
            eager_ms = self.endpointing.eager_ms
            if eager_ms is not None and self._state is _State.OPEN:
                if self._is_over(now_ms, eager_ms + longer_ms):
                    return Decision.EAGER
        if now_ms - self._start_ms >= self.endpointing.max_turn_ms:
            return Decision.TOO_LONG
        return Decision.NOTHING

    def eager(self, now_ms: int, text: str, confidence: float) -> list[TurnEvent]:
        """Announce a likely end."""
        if self._state is not _State.OPEN:
            raise AssertionError("an eager end needs an open turn")
        self._state, self._eager_text = _State.EAGER, text
        return [EagerEnd(self._turn, now_ms, text, confidence)]

    def resume_if_changed(self, now_ms: int, text: str) -> list[TurnEvent]:
        """Take an eager end back when the final text is not what it announced."""
        if self._state is _State.EAGER and text != self._eager_text:
            self._state = _State.OPEN
            return [TurnResumed(self._turn, now_ms)]
        return []

    def end(self, now_ms: int, text: str, trigger: TurnTrigger) -> list[TurnEvent]:
        """Close the open turn, if there is one."""
        if self._state is _State.IDLE:
            return []
        events = self.resume_if_changed(now_ms, text)
        self._state, self._eager_text = _State.IDLE, ""
        self._ended_ms = max(now_ms, self._start_ms)
        return [*events, TurnEnd(self._turn, self._ended_ms, text, trigger)]

    def state(self) -> State:
        """All that it is, the rules apart."""
        return {
            "state": self._state.value,
            "turn": self._turn,
            "start": self._start_ms,
            "word": self._last_word_ms,
            "voice": self._last_voice_ms,
            "eager": self._eager_text,
            "ended": self._ended_ms,
        }

    def restore(self, state: State) -> None:
        """Take up what ``state`` gave."""
        self._state, self._turn = _State(state["state"]), state["turn"]
        self._start_ms, self._ended_ms = state["start"], state["ended"]
        self._last_word_ms, self._last_voice_ms = state["word"], state["voice"]
        self._eager_text = state["eager"]

    def _is_over(self, now_ms: int, silence_ms: int) -> bool:
        words, voice = now_ms - self._last_word_ms, now_ms - self._last_voice_ms
        # the sound stopped long ago, and the words that lag behind it have had their time
        if voice >= silence_ms and words >= min(silence_ms, max(_SETTLE_MS, silence_ms // 2)):
            return True
        if words < silence_ms:
            return False
        return voice >= min(_VETO_MS, silence_ms) or words >= _VETO_FACTOR * silence_ms
