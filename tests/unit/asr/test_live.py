"""Live channels over a scripted engine: what is said is published once and in order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asr.channel import Channel
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
from asr.interface import Emission, NoFreeSlot, Samples, Token, UnsupportedLookAhead
from asr.live import (
    MAX_WAITING_FINALIZES,
    ChannelOptions,
    ChannelStopping,
    Endpointing,
    Recognizer,
    TooManyRequests,
    UnknownChannel,
)
from asr.scripted import ENDINGS, WORDS, ScriptedEngine, silence, tokens_of, utter

PIECES_OF_SCRIPT = ScriptedEngine().tokenizer
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
        assert not event.words or event.text == " ".join(word.text for word in event.words)
        assert event.text or event.cause == "finalize"
        assert not event.text or self.turn != "idle"
        times = [(w.start_ms, w.end_ms) for w in event.words]
        assert times == sorted(times)
        assert all(start <= end for start, end in times)
        said = [final.end_ms for final in self.finals if final.text]
        assert not (said and event.text) or event.start_ms >= said[-1]
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
    searches: bool = False,
    options: ChannelOptions | None = None,
    steps: Iterable[int] = (),
) -> Judge:
    """Play pieces of audio; a string in between is a finalize request.

    ``steps``: engine steps after each piece; without, all that are to be done.
    """
    counts = iter(steps)
    engine = ScriptedEngine(slots=4, delay_frames=delay_frames, searches=searches)
    listener = Listener(engine)
    channel = listener.open(options or ChannelOptions(look_ahead=1))
    for piece in pieces:
        if isinstance(piece, str):
            listener.recognizer.finalize(channel, piece)
        else:
            listener.recognizer.feed(channel, piece)
        if (count := next(counts, None)) is None:
            listener.run()
        else:
            for _ in range(count):
                listener.step()
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
    assert judge.of(TurnEnd) == [TurnEnd(0, 1520, final.text, "silence")]
    assert [w.start_ms for w in final.words] == [80, 240, 400, 560, 800]
    assert [w.end_ms for w in final.words] == [160, 320, 480, 720, 880]


@settings(deadline=None, max_examples=60)
@given(
    spoken=SPOKEN,
    sizes=st.lists(st.integers(0, 9000), max_size=12),
    look_ahead=st.sampled_from((0, 1, 6, 13)),
    delay=st.integers(0, 4),
    rate=st.sampled_from((8000, 16000, 44100)),
    searches=st.booleans(),
)
def test_finals_together_are_all_that_was_said(
    spoken: list[tuple[str, str, int]],
    sizes: list[int],
    look_ahead: int,
    delay: int,
    rate: int,
    *,
    searches: bool,
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
        searches=searches,
        options=ChannelOptions(look_ahead=look_ahead, rate=rate),
    )
    assert judge.words == texts


@settings(deadline=None, max_examples=100)
@given(
    spoken=SPOKEN,
    asked=st.lists(st.booleans(), min_size=8, max_size=8),
    look_ahead=st.sampled_from((0, 1, 6, 13)),
    delay=st.integers(0, 4),
    steps=st.lists(st.integers(0, 3), max_size=16),
    searches=st.booleans(),
)
def test_finalizing_between_words_neither_loses_nor_repeats_a_word(
    spoken: list[tuple[str, str, int]],
    asked: list[bool],
    look_ahead: int,
    delay: int,
    steps: list[int],
    *,
    searches: bool,
) -> None:
    pieces: list[Samples | str] = []
    texts = []
    for number, (word, ending, pause) in enumerate(spoken):
        texts.append(word + ending)
        pieces.append(utter(texts[-1], pause_frames=pause))
        if asked[number]:
            pieces.append(str(number))
    options = ChannelOptions(look_ahead=look_ahead)
    judge = heard(pieces, delay_frames=delay, searches=searches, options=options, steps=steps)
    assert judge.words == texts
    answered = [e.req for e in judge.events if isinstance(e, Finalized)]
    assert answered == [piece for piece in pieces if isinstance(piece, str)]


def test_a_finalize_in_a_turn_ends_it_before_it_is_answered() -> None:
    judge = heard([utter("turn on the"), "now", utter("light please")])
    kinds = [type(e) for e in judge.events if not isinstance(e, Progress | Partial)]
    assert kinds == [TurnStart, Final, TurnEnd, Finalized, TurnStart, Final, TurnEnd, Stopped]
    assert [final.cause for final in judge.finals] == ["finalize", "stop"]
    assert judge.of(Finalized) == [Finalized("now", 6 * 1280)]


def test_a_finalize_in_silence_publishes_an_empty_final() -> None:
    judge = heard([silence(1000), "one", "two", silence(400)])
    assert [(final.text, final.cause) for final in judge.finals] == [("", "finalize")] * 2
    assert [e.req for e in judge.events if isinstance(e, Finalized)] == ["one", "two"]
    assert judge.events[-1] == Stopped(1400 * 16, 2)


def test_words_that_a_flush_brings_early_are_not_said_again_late() -> None:
    judge = heard(
        [utter("turn on the light"), "now", utter("please thank you")],
        delay_frames=4,
        options=ChannelOptions(look_ahead=0),
    )
    assert [final.text for final in judge.finals] == ["turn on the light", "please thank you"]


def test_the_same_word_on_both_sides_of_a_finalize_is_said_twice() -> None:
    judge = heard([utter("no no"), "now", utter("no no")], delay_frames=2)
    assert [final.text for final in judge.finals] == ["no no", "no no"]


def test_the_rest_of_a_word_cut_by_a_finalize_does_not_open_the_next_segment() -> None:
    word = utter("kitchen", pause_frames=0)
    judge = heard([word[:1400], "now", word[1400:], utter("light")])
    assert [final.text for final in judge.finals] == ["kit", "light"]


def test_silence_alone_publishes_nothing() -> None:
    judge = heard([silence(30_000)])
    assert judge.events[-1] == Stopped(480_000, 0)
    assert not judge.of(Final)
    assert not judge.of(TurnStart)


def test_a_finalize_then_stop_at_once_answers_both() -> None:
    listener = Listener(ScriptedEngine(slots=2))
    channel = listener.open(ChannelOptions(look_ahead=6))
    listener.recognizer.feed(channel, utter("good day"))
    listener.recognizer.finalize(channel, "last")
    listener.recognizer.stop(channel)
    listener.run()
    judge = listener.judges[channel]
    assert judge.words == ["good", "day"]
    assert [type(e) for e in judge.events[-4:]] == [Final, TurnEnd, Finalized, Stopped]
    assert listener.engine.slots_in_use == 0


def test_without_a_free_slot_a_finalize_is_answered_by_the_stop() -> None:
    listener = Listener(ScriptedEngine(slots=1))
    channel = listener.open(ChannelOptions(look_ahead=1))
    listener.recognizer.feed(channel, utter("good day"))
    listener.recognizer.finalize(channel, "waits")
    listener.run()
    assert not listener.judges[channel].of(Finalized)
    listener.recognizer.stop(channel)
    listener.run()
    assert [f.cause for f in listener.judges[channel].finals] == ["finalize"]
    assert listener.judges[channel].of(Finalized) == [Finalized("waits", 4 * 1280)]


def test_channels_that_finalize_at_once_share_one_spare_slot() -> None:
    listener = Listener(ScriptedEngine(slots=4))
    channels = [listener.open(ChannelOptions(look_ahead=look)) for look in (0, 6, 13)]
    with pytest.raises(NoFreeSlot):
        listener.open(ChannelOptions(look_ahead=0))
    for channel in channels:
        listener.recognizer.feed(channel, utter("we are here"))
        listener.recognizer.finalize(channel, "x")
    listener.run()
    for channel in channels:
        assert listener.judges[channel].words == ["we", "are", "here"]
        assert listener.judges[channel].of(Finalized) == [Finalized("x", 6 * 1280)]
    assert listener.engine.slots_in_use == 3


def test_dropping_a_flushed_channel_leaves_the_stream_that_took_its_slot() -> None:
    listener = Listener(ScriptedEngine(slots=3))
    first = listener.open(ChannelOptions(look_ahead=13))
    listener.recognizer.feed(first, utter("good day"))
    listener.recognizer.finalize(first, "x")
    listener.recognizer.stop(first)
    while listener.engine.slots_in_use > 1:
        listener.step()
    second = listener.open(ChannelOptions(look_ahead=1))
    listener.recognizer.drop(first)
    listener.recognizer.feed(second, utter("water"))
    listener.recognizer.stop(second)
    listener.run()
    assert listener.judges[second].words == ["water"]


def test_eager_ends_are_taken_back_when_speech_goes_on() -> None:
    options = ChannelOptions(
        look_ahead=0, endpointing=Endpointing(silence_ms=800, eager_ms=300), partials="none"
    )
    judge = heard(
        [utter("good day"), silence(480), utter("please"), silence(2000)], options=options
    )
    kinds = [type(e) for e in judge.events if not isinstance(e, Progress)]
    assert kinds == [TurnStart, EagerEnd, TurnResumed, EagerEnd, Final, TurnEnd, Stopped]


def test_a_turn_token_ends_the_turn_at_once() -> None:
    judge = heard([utter("good day <EOU> please")], options=ChannelOptions(look_ahead=0))
    assert [(f.text, f.cause) for f in judge.finals] == [
        ("good day", "endpoint"),
        ("please", "stop"),
    ]
    assert [e.trigger for e in judge.events if isinstance(e, TurnEnd)] == ["model", "finalize"]


def test_in_manual_mode_only_a_finalize_ends_a_turn() -> None:
    options = ChannelOptions(look_ahead=1, endpointing=Endpointing(mode="manual"))
    judge = heard([utter("good day <EOU>"), silence(5000), "now"], options=options)
    assert [(f.text, f.cause) for f in judge.finals] == [("good day", "finalize")]


def test_a_turn_that_is_too_long_is_cut_between_words() -> None:
    options = ChannelOptions(look_ahead=1, endpointing=Endpointing(max_turn_ms=1000))
    text = "kitchen walking talked listens speaking hears"
    judge = heard([utter(text)], options=options)
    assert " ".join(judge.words) == text
    assert {final.cause for final in judge.finals[:-1]} == {"max"}
    assert len(judge.finals) > 1


@pytest.mark.parametrize("lost_ms", [160, 1920, 60_000, 7_200_000])
def test_words_behind_a_gap_have_their_true_times(lost_ms: int) -> None:
    listener = Listener(ScriptedEngine(slots=2))
    channel = listener.open(ChannelOptions(look_ahead=1, rate=8000))
    listener.recognizer.feed(channel, utter("good day", rate=8000))
    listener.recognizer.gap(channel, lost_ms * 8)
    listener.recognizer.feed(channel, utter("please", rate=8000))
    listener.recognizer.stop(channel)
    listener.run()
    judge = listener.judges[channel]
    words = [word for final in judge.finals for word in final.words]
    assert [word.text for word in words] == ["good", "day", "please"]
    assert abs(words[2].start_ms - (words[0].start_ms + 320 + lost_ms)) <= 80
    assert judge.events[-1] == Stopped((480 + lost_ms) * 8, len(judge.finals))


def test_a_long_gap_ends_an_open_segment_and_its_turn() -> None:
    options = ChannelOptions(look_ahead=1, endpointing=Endpointing(mode="manual"))
    listener = Listener(ScriptedEngine(slots=2))
    channel = listener.open(options)
    listener.recognizer.feed(channel, utter("good day"))
    listener.recognizer.gap(channel, 16_000 * 60)
    listener.recognizer.feed(channel, utter("please"))
    listener.recognizer.stop(channel)
    listener.run()
    causes = [(f.text, f.cause) for f in listener.judges[channel].finals]
    assert causes == [("good day", "gap"), ("please", "stop")]


def test_partials_show_what_was_asked_for() -> None:
    shown = {}
    for mode in ("all", "stable", "none"):
        options = ChannelOptions(look_ahead=0, partials=mode, words=False)
        judge = heard([utter("the kitchen door")], options=options)
        shown[mode] = [(e.stable, e.text) for e in judge.events if isinstance(e, Partial)]
        assert judge.finals[0].text == "the kitchen door"
        assert judge.finals[0].words == ()
    assert shown == {
        "all": [
            ("", "the"),
            ("the", "the kit"),
            ("the", "the kitchen"),
            ("the kitchen", "the kitchen door"),
        ],
        "stable": [("the", "the"), ("the kitchen", "the kitchen")],
        "none": [],
    }


def test_configure_changes_a_channel_from_there_on() -> None:
    listener = Listener(ScriptedEngine(slots=2))
    channel = listener.open(ChannelOptions(look_ahead=0))
    listener.recognizer.configure(
        channel, partials="none", words=False, endpointing=Endpointing(silence_ms=100)
    )
    listener.recognizer.feed(channel, utter("good"))
    listener.recognizer.feed(channel, silence(400))
    listener.run()
    assert [f.cause for f in listener.judges[channel].finals] == ["endpoint"]
    assert not listener.judges[channel].of(Partial)


def test_progress_counts_samples_of_the_channels_own_rate() -> None:
    listener = Listener(ScriptedEngine(slots=2))
    channel = listener.open(ChannelOptions(look_ahead=1, rate=48_000))
    listener.recognizer.feed(channel, silence(1000, rate=48_000))
    listener.run()
    assert listener.judges[channel].done == 3 * (11 * 1280 + 200)


def test_misuse_has_its_own_errors() -> None:
    recognizer = Recognizer(ScriptedEngine(slots=2))
    with pytest.raises(UnknownChannel):
        recognizer.feed(7, silence(10))
    with pytest.raises(UnsupportedLookAhead):
        recognizer.open(ChannelOptions(look_ahead=5))
    with pytest.raises(ValueError, match="rate"):
        recognizer.open(ChannelOptions(look_ahead=1, rate=100))
    assert recognizer.engine.slots_in_use == 0
    channel = recognizer.open(ChannelOptions(look_ahead=1))
    recognizer.finalize(channel, "first")  # takes the only fork
    for number in range(MAX_WAITING_FINALIZES):
        recognizer.finalize(channel, str(number))
    with pytest.raises(TooManyRequests):
        recognizer.finalize(channel, "one more")
    recognizer.stop(channel)
    with pytest.raises(ChannelStopping):
        recognizer.feed(channel, silence(10))
    recognizer.drop(channel)
    recognizer.drop(channel)
    assert recognizer.engine.slots_in_use == 0


class LiveMachine(RuleBasedStateMachine):
    """Any calls in any order: legal events, answers to all, no slot left behind."""

    engine = staticmethod(partial(ScriptedEngine, slots=4, delay_frames=2))

    def __init__(self) -> None:
        super().__init__()
        self.listener = Listener(self.engine())
        self.live: list[int] = []
        self.asked: dict[int, list[str]] = {}
        self.stopped: list[int] = []

    @rule(
        look=st.sampled_from((0, 1, 6)),
        eager=st.sampled_from((None, 160)),
        silence_ms=st.sampled_from((200, 600)),
        mode=st.sampled_from(("auto", "manual")),
        rate=st.sampled_from((8000, 16000, 24000)),
    )
    def open(self, look: int, eager: int | None, silence_ms: int, mode: str, rate: int) -> None:
        endpointing = Endpointing(
            mode="manual" if mode == "manual" else "auto",
            silence_ms=silence_ms,
            eager_ms=eager,
            max_turn_ms=1500,
        )
        options = ChannelOptions(look_ahead=look, rate=rate, endpointing=endpointing)
        try:
            channel = self.listener.open(options)
        except NoFreeSlot:
            return
        self.live.append(channel)
        self.asked[channel] = []

    @precondition(lambda self: self.live)
    @rule(
        pick=st.integers(0, 9),
        text=st.lists(st.sampled_from((*WORDS[:9], "kitchen", "<EOU>")), max_size=5).map(" ".join),
        pause=st.integers(0, 6),
        keep=st.integers(1, 10_000),
    )
    def speak(self, pick: int, text: str, pause: int, keep: int) -> None:
        channel = self.live[pick % len(self.live)]
        audio = utter(text, pause_frames=pause)
        self.listener.recognizer.feed(channel, audio[: max(1, len(audio) * keep // 10_000)])

    @precondition(lambda self: self.live)
    @rule(pick=st.integers(0, 9), samples=st.sampled_from((1, 1600, 40_000, 900_000)))
    def lose(self, pick: int, samples: int) -> None:
        self.listener.recognizer.gap(self.live[pick % len(self.live)], samples)

    @precondition(lambda self: self.live)
    @rule(pick=st.integers(0, 9))
    def finalize(self, pick: int) -> None:
        channel = self.live[pick % len(self.live)]
        req = str(len(self.asked[channel]))
        self.listener.recognizer.finalize(channel, req)
        self.asked[channel].append(req)

    @precondition(lambda self: self.live)
    @rule(pick=st.integers(0, 9))
    def stop(self, pick: int) -> None:
        channel = self.live.pop(pick % len(self.live))
        self.listener.recognizer.stop(channel)
        self.stopped.append(channel)

    @precondition(lambda self: self.live or self.stopped)
    @rule(pick=st.integers(0, 9))
    def drop(self, pick: int) -> None:
        everyone = self.live + self.stopped
        channel = everyone[pick % len(everyone)]
        self.listener.recognizer.drop(channel)
        self.live = [other for other in self.live if other != channel]
        self.stopped = [other for other in self.stopped if other != channel]

    @rule(times=st.integers(1, 5))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.listener.step()

    @invariant()
    def no_more_slots_than_channels_and_their_forks(self) -> None:
        engine = self.listener.engine
        assert engine.slots_in_use <= engine.info.slots

    def teardown(self) -> None:
        for channel in self.live:
            self.listener.recognizer.stop(channel)
        self.listener.run()
        assert self.listener.engine.slots_in_use == 0
        assert self.listener.recognizer.channels == 0
        for channel in self.live + self.stopped:
            judge = self.listener.judges[channel]
            assert isinstance(judge.events[-1], Stopped)
            assert judge.turn == "idle"
            answered = [e.req for e in judge.events if isinstance(e, Finalized)]
            assert answered == self.asked[channel]


class SearchingMachine(LiveMachine):
    """The same over an engine that keeps tokens open."""

    engine = staticmethod(partial(ScriptedEngine, slots=4, delay_frames=3, searches=True))


TestLiveMachine = LiveMachine.TestCase
TestLiveMachine.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)
TestSearchingMachine = SearchingMachine.TestCase
TestSearchingMachine.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)


def test_open_words_are_shown_at_once_and_published_when_they_are_decided() -> None:
    options = ChannelOptions(look_ahead=0, endpointing=Endpointing(silence_ms=200))
    audio = [utter("turn on", pause_frames=2), silence(1_600)]
    judge = heard(audio, delay_frames=8, searches=True, options=options)
    first = judge.of(Partial)[0]
    assert isinstance(first, Partial) and (first.stable, first.text) == ("", "turn on")
    kinds = [type(e) for e in judge.events if not isinstance(e, Progress)]
    assert kinds.index(TurnStart) < kinds.index(Partial)
    assert [final.text for final in judge.finals] == ["turn on"], "no turn ends on open words"


@pytest.mark.parametrize(("said", "waits_ms"), [("turn on", 0), ("turn on the", 400)])
def test_a_turn_that_pauses_behind_an_unfinished_sentence_ends_later(
    said: str, waits_ms: int
) -> None:
    def quiet_ms(hesitation_ms: int) -> int:
        rules = Endpointing(silence_ms=400, hesitation_ms=hesitation_ms)
        options = ChannelOptions(look_ahead=0, endpointing=rules)
        judge = heard([utter(said), silence(2_000)], options=options)
        (end,) = judge.of(TurnEnd)
        assert isinstance(end, TurnEnd) and end.trigger == "silence"
        return end.at_ms - judge.finals[0].end_ms

    assert quiet_ms(400) == quiet_ms(0) + waits_ms


def test_open_words_that_are_taken_back_leave_no_final() -> None:
    channel = Channel(0, ChannelOptions(look_ahead=1), ScriptedEngine().tokenizer)
    open_ = tuple(Token(token, 1, 0.5, 1) for token in tokens_of("turn on"))
    channel.audio(silence(4_000))
    channel.receive(Emission(0, 2, (), open=open_))
    assert [type(event) for event in channel.read()] == [TurnStart, Partial, Progress]
    channel.receive(Emission(0, 40, ()))
    ended = [event for event in channel.read() if not isinstance(event, Progress)]
    assert [(type(e), getattr(e, "text", None)) for e in ended] == [(TurnEnd, "")]


@pytest.mark.parametrize(
    ("said", "published"),
    [("turn talk", ["turn", "talking now"]), ("talk", ["talking", "now"])],
)
def test_a_turn_that_is_too_long_is_not_cut_inside_a_word_that_is_still_open(
    said: str, published: list[str]
) -> None:
    rules = Endpointing(mode="manual", max_turn_ms=1_000)
    channel = Channel(0, ChannelOptions(look_ahead=0, endpointing=rules), PIECES_OF_SCRIPT)
    ids = [token for word in said.split() for token in tokens_of(word)]
    rest, now = PIECES_OF_SCRIPT.pieces.index("ing"), tokens_of("now")[0]
    channel.audio(silence(8_000))
    channel.receive(Emission(0, 6, tuple(Token(t, n, 1.0) for n, t in enumerate(ids))))
    channel.receive(Emission(0, 16, (), open=(Token(rest, 7, 1.0),)))
    channel.receive(Emission(0, 40, (Token(rest, 7, 1.0, 17), Token(now, 18, 1.0, 24))))
    finals = [event.text for event in channel.read() if isinstance(event, Final)]
    assert finals == published


def test_a_word_that_only_the_end_of_the_stream_brings_out_is_published() -> None:
    audio = np.concatenate([utter("turn", pause_frames=0), silence(1000)[:200]])
    judge = heard([audio], delay_frames=2, options=ChannelOptions(look_ahead=0))
    assert judge.words == ["turn"]


@settings(deadline=None, max_examples=100)
@given(
    said=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 8)), min_size=1, max_size=12),
    cuts=st.sets(st.integers(1, 120)),
    max_turn_ms=st.sampled_from((1_000, 1_500, 30_000)),
)
def test_finals_do_not_depend_on_how_many_frames_come_at_once(
    said: list[tuple[int, int]], cuts: set[int], max_turn_ms: int
) -> None:
    frame, tokens = 0, list[Token]()
    for number, (pause, open_for) in enumerate(said):
        frame += pause
        before = tokens[-1].decided if tokens else 0
        tokens.append(Token(number % len(WORDS), frame, 0.5, max(before, frame + open_for)))
    rules = Endpointing(silence_ms=400, max_turn_ms=max_turn_ms)

    def finals(ends: Iterable[int]) -> list[Event]:
        channel = Channel(0, ChannelOptions(look_ahead=0, endpointing=rules), PIECES_OF_SCRIPT)
        channel.audio(silence(16_000))
        events, begin = list[Event](), 0
        for end in ends:
            decided = tuple(t for t in tokens if begin <= t.decided < end)
            open_ = tuple(t for t in tokens if t.frame < end <= t.decided)
            channel.receive(Emission(0, end, decided, open=open_))
            events += channel.read()
            begin = end
        return [event for event in events if isinstance(event, Final)]

    assert finals([*sorted(cuts), 180]) == finals([180])
