"""Live channels over a scripted engine: what is said is published once, in order, whatever happens."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asr.events import (
    EagerEnd,
    Event,
    Final,
    Finalized,
    Partial,
    Progress,
    Stopped,
    TurnEnd,
    TurnResumed,
    TurnStart,
)
from asr.interface import NoFreeSlot, Samples, UnsupportedLookAhead
from asr.live import (
    MAX_WAITING_FINALIZES,
    ChannelOptions,
    ChannelStopping,
    Endpointing,
    Recognizer,
    TooManyRequests,
    UnknownChannel,
)
from asr.scripted import ENDINGS, WORDS, ScriptedEngine, silence, utter

TURN_MOVES: dict[type[Event], tuple[str, str]] = {
    TurnStart: ("idle", "open"),
    EagerEnd: ("open", "eager"),
    TurnResumed: ("eager", "open"),
}


@dataclass
class Judge:
    """Checks every event of one channel against the promises, and keeps the finals."""

    finals: list[Final] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    turn: str = "idle"
    turn_number: int = -1
    eager: str = ""
    stable: str = ""
    rev: int = 0
    done: int = -1

    def see(self, event: Event) -> None:
        assert not any(isinstance(e, Stopped) for e in self.events[-1:]), "nothing follows Stopped"
        self.events.append(event)
        if isinstance(event, Partial):
            self._partial(event)
        elif isinstance(event, Final):
            self._final(event)
        elif isinstance(event, TurnStart | EagerEnd | TurnResumed | TurnEnd):
            self._turn(event)
        elif isinstance(event, Progress):
            assert event.done_samples > self.done
            self.done = event.done_samples

    def _partial(self, event: Partial) -> None:
        assert event.id == len(self.finals)
        assert event.rev == self.rev + 1
        assert event.text.startswith(event.stable)
        assert event.stable.startswith(self.stable), "stable only grows"
        assert self.turn != "idle"
        self.stable, self.rev = event.stable, event.rev

    def _final(self, event: Final) -> None:
        assert event.id == len(self.finals)
        words, stable = event.text.split(), self.stable.split()
        assert words[: len(stable)] == stable, "a final begins with what was stable"
        assert event.text == " ".join(word.text for word in event.words)
        assert event.text or event.cause == "finalize"
        assert not event.text or self.turn != "idle"
        times = [(w.start_ms, w.end_ms) for w in event.words]
        assert times == sorted(times)
        assert all(start <= end for start, end in times)
        if self.finals and event.text:
            assert (
                event.start_ms >= max(f.end_ms for f in self.finals if f.text or f is None)
                if any(f.text for f in self.finals)
                else True
            )
        self.finals.append(event)
        self.stable, self.rev = "", 0

    def _turn(self, event: TurnStart | EagerEnd | TurnResumed | TurnEnd) -> None:
        if isinstance(event, TurnEnd):
            assert self.turn in ("open", "eager")
            assert self.turn != "eager" or event.text == self.eager
            assert self.finals[-1].text == event.text
            self.turn = "idle"
        else:
            before, after = TURN_MOVES[type(event)]
            assert self.turn == before
            self.turn = after
        if isinstance(event, EagerEnd):
            self.eager = event.text
        self.turn_number += isinstance(event, TurnStart)
        assert event.turn == self.turn_number

    @property
    def words(self) -> list[str]:
        return [word for final in self.finals for word in final.text.split()]

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


class Listener:
    """A recogniser with one judge per channel."""

    def __init__(self, engine: ScriptedEngine, *, fork_slots: int = 1) -> None:
        self.engine = engine
        self.recognizer = Recognizer(engine, fork_slots=fork_slots)
        self.judges: dict[int, Judge] = {}

    def open(self, options: ChannelOptions) -> int:
        channel = self.recognizer.open(options)
        self.judges[channel] = Judge()
        return channel

    def step(self) -> None:
        for channel, event in self.recognizer.step():
            self.judges[channel].see(event)

    def run(self) -> None:
        while self.recognizer.is_ready():
            self.step()


def heard(
    pieces: Iterable[Samples | str],
    *,
    delay_frames: int = 0,
    options: ChannelOptions | None = None,
) -> Judge:
    """Play pieces of audio; a string in between is a finalize request."""
    listener = Listener(ScriptedEngine(slots=4, delay_frames=delay_frames))
    channel = listener.open(options or ChannelOptions(look_ahead=1))
    for piece in pieces:
        if isinstance(piece, str):
            listener.recognizer.finalize(channel, piece)
        else:
            listener.recognizer.feed(channel, piece)
        listener.run()
    listener.recognizer.stop(channel)
    listener.run()
    assert listener.engine.slots_in_use == 0
    assert listener.recognizer.channels == 0
    return listener.judges[channel]


def cut(audio: Samples, sizes: Sequence[int]) -> list[Samples]:
    """The audio in packets of these sizes, the last one for the rest."""
    return np.split(audio, np.cumsum(sizes).clip(0, len(audio)).tolist())


SPOKEN = st.lists(
    st.tuples(st.sampled_from(WORDS), st.sampled_from(("", *ENDINGS)), st.integers(1, 9)),
    max_size=8,
)


def test_a_sentence_becomes_partials_a_final_and_a_turn() -> None:
    judge = heard([utter("turn on the kitchen light"), silence(1500)])
    assert [type(e) for e in judge.events if not isinstance(e, Progress | Partial)] == [
        TurnStart,
        Final,
        TurnEnd,
        Stopped,
    ]
    (final,) = judge.finals
    assert (final.text, final.cause) == ("turn on the kitchen light", "endpoint")
    assert judge.of(TurnEnd) == [TurnEnd(0, 1440, final.text, "silence")]
    assert [w.start_ms for w in final.words] == [80, 240, 400, 560, 800]
    assert [w.end_ms for w in final.words] == [160, 320, 480, 720, 880]


@settings(deadline=None, max_examples=60)
@given(
    spoken=SPOKEN,
    sizes=st.lists(st.integers(0, 9000), max_size=12),
    look_ahead=st.sampled_from((0, 1, 6, 13)),
    delay=st.integers(0, 4),
    rate=st.sampled_from((8000, 16000, 44100)),
)
def test_finals_together_are_all_that_was_said(
    spoken: list[tuple[str, str, int]],
    sizes: list[int],
    look_ahead: int,
    delay: int,
    rate: int,
) -> None:
    texts = [word + ending for word, ending, _ in spoken]
    audio = np.concatenate(
        [silence(80, rate=rate)]
        + [
            utter(text, pause_frames=pause, rate=rate)
            for text, (_, _, pause) in zip(texts, spoken, strict=True)
        ]
    )
    judge = heard(
        cut(audio, sizes),
        delay_frames=delay,
        options=ChannelOptions(look_ahead=look_ahead, rate=rate),
    )
    assert judge.words == texts


@settings(deadline=None, max_examples=150)
@given(
    spoken=SPOKEN,
    asked=st.lists(st.booleans(), min_size=8, max_size=8),
    look_ahead=st.sampled_from((0, 1, 6, 13)),
    delay=st.integers(0, 4),
)
def test_finalizing_between_words_neither_loses_nor_repeats_a_word(
    spoken: list[tuple[str, str, int]], asked: list[bool], look_ahead: int, delay: int
) -> None:
    pieces: list[Samples | str] = []
    texts = []
    for number, (word, ending, pause) in enumerate(spoken):
        texts.append(word + ending)
        pieces.append(utter(texts[-1], pause_frames=pause))
        if asked[number]:
            pieces.append(str(number))
    judge = heard(pieces, delay_frames=delay, options=ChannelOptions(look_ahead=look_ahead))
    assert judge.words == texts
    answered = [e.req for e in judge.events if isinstance(e, Finalized)]
    assert answered == [piece for piece in pieces if isinstance(piece, str)]
