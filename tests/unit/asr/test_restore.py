"""A channel killed at any moment goes on elsewhere: the same finals, each published once."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import state
from asr.checkpoint.spec import Checkpoint
from asr.engine import Engine, EngineConfig
from asr.events import Event, Final, Finalized, Stopped, TurnEnd, TurnStart
from asr.interface import BadSnapshot, Samples, StreamingEngine
from asr.live import ChannelOptions, Endpointing, Recognizer
from asr.scripted import ScriptedEngine, silence, utter

TEXT = "turn on the kitchen light please thank you now we are here and there it is good"
Make = Callable[[], StreamingEngine]
Input = Samples | int | str
"""Audio, a gap of samples, or a finalize request."""


def speech(*, pauses_ms: int = 720, rate: int = 16_000) -> Samples:
    words = TEXT.split()
    groups = [" ".join(words[i : i + 3]) for i in range(0, len(words), 3)]
    parts = [part for g in groups for part in (utter(g, rate=rate), silence(pauses_ms, rate=rate))]
    return np.concatenate(parts)


def cut(audio: Samples, size: int) -> list[Input]:
    return [audio[i : i + size] for i in range(0, len(audio), size)]


class Life:
    """One channel and what is kept of it: a snapshot, a record, the inputs, the finals."""

    def __init__(self, make: Make, options: ChannelOptions) -> None:
        self.make, self.options = make, options
        self.inputs = list[Input]()
        self.snapshot: bytes | None = None
        self.since = 0
        """Inputs that the snapshot has heard."""
        self.record: bytes | None = None
        self.events = list[Event]()
        self.lives = 0
        self.begin()

    def begin(self) -> None:
        """Go on from what is kept, in an engine that knows nothing."""
        self.lives += 1
        self.recognizer = Recognizer(self.make(), fork_slots=1)
        kept = {"snapshot": self.snapshot, "record": self.record}
        self.channel = self.recognizer.restore(self.options, **kept)
        answered = {event.req for event in self.events if isinstance(event, Finalized)}
        for item in self.inputs[self.since :]:
            if isinstance(item, str):
                if item in answered:
                    continue
                while self.recognizer.is_behind(self.channel):
                    self.step()
            self.give(item)

    def hear(self, item: Input) -> None:
        self.inputs.append(item)
        self.give(item)

    def give(self, item: Input) -> None:
        if isinstance(item, str):
            self.recognizer.finalize(self.channel, item)
        elif isinstance(item, int):
            self.recognizer.gap(self.channel, item)
        else:
            self.recognizer.feed(self.channel, item)

    def step(self) -> None:
        events = [event for _, event in self.recognizer.step()]
        self.events += events
        is_over = any(isinstance(event, Stopped) for event in events)
        if not is_over and any(isinstance(event, Final) for event in events):
            self.record = self.recognizer.record(self.channel)

    def save(self) -> None:
        blob = self.recognizer.snapshot(self.channel)
        if blob is not None:
            self.snapshot, self.since, self.record = blob, len(self.inputs), None

    def stop(self) -> "Life":
        self.recognizer.stop(self.channel)
        while self.recognizer.is_ready():
            self.step()
        assert isinstance(self.events[-1], Stopped)
        return self

    @property
    def finals(self) -> list[Final]:
        finals = [event for event in self.events if isinstance(event, Final)]
        assert [final.id for final in finals] == list(range(len(finals)))
        return finals

    @property
    def words(self) -> str:
        return " ".join(final.text for final in self.finals if final.text)


def live(make: Make, options: ChannelOptions, inputs: list[Input], acts: dict[int, str]) -> Life:
    """Play the inputs; ``acts`` says what happens behind which of them."""
    life = Life(make, options)
    for number, item in enumerate(inputs):
        life.hear(item)
        act = acts.get(number, "step")
        if act != "wait":
            while life.recognizer.is_ready():
                life.step()
        if act == "save":
            life.save()
        elif act.startswith("kill"):
            life.begin()
            if act == "kill, save":  # in the middle of the replay
                life.save()
    return life.stop()


def scripted() -> StreamingEngine:
    return ScriptedEngine(slots=4, delay_frames=2)


def searching() -> StreamingEngine:
    return ScriptedEngine(slots=4, delay_frames=3, searches=True)


ACTS = st.dictionaries(st.integers(0, 120), st.sampled_from(["save", "kill", "kill, save", "wait"]))


@settings(max_examples=40, deadline=None)
@given(
    acts=ACTS,
    size=st.sampled_from([800, 1_700, 4_000]),
    gaps=st.sets(st.integers(0, 60), max_size=4),
    max_turn_ms=st.sampled_from([1_500, 30_000]),
    rate=st.sampled_from([16_000, 8_000]),
    look_ahead=st.sampled_from([0, 1, 6]),
    make=st.sampled_from([scripted, searching]),
)
def test_finals_are_those_of_an_undisturbed_channel(
    acts: dict[int, str],
    size: int,
    gaps: set[int],
    max_turn_ms: int,
    rate: int,
    look_ahead: int,
    make: Make,
) -> None:
    rules = Endpointing(silence_ms=400, eager_ms=160, max_turn_ms=max_turn_ms)
    options = ChannelOptions(look_ahead=look_ahead, rate=rate, endpointing=rules)
    inputs = cut(speech(rate=rate), size)
    for number in sorted(gaps, reverse=True):
        inputs.insert(number, 3 * rate)
    assert live(make, options, inputs, acts).finals == live(make, options, inputs, {}).finals


@settings(max_examples=40, deadline=None)
@given(
    acts=ACTS,
    asks=st.sets(st.integers(0, 90), max_size=6),
    gaps=st.sets(st.integers(0, 90)),
    make=st.sampled_from([scripted, searching]),
)
def test_words_are_said_once_with_finalizes_and_gaps_between(
    acts: dict[int, str], asks: set[int], gaps: set[int], make: Make
) -> None:
    options = ChannelOptions(look_ahead=1)
    inputs = list[Input]()
    for number, packet in enumerate(cut(speech(), 1_280 * 2)):
        inputs.append(packet)
        if number in asks:
            inputs.append(f"r{number}")
        if number in gaps:
            inputs.append(50_000)
    life = live(make, options, inputs, acts)
    answers = [event.req for event in life.events if isinstance(event, Finalized)]
    assert answers == [item for item in inputs if isinstance(item, str)]
    assert "".join(life.words.split()) == "".join(live(make, options, inputs, {}).words.split())
    times = [(final.start_ms, final.end_ms) for final in life.finals]
    assert times == sorted(times)


@pytest.mark.parametrize("killed", range(14, 40, 3))
def test_a_gap_before_a_record_is_not_passed_again(killed: int) -> None:
    rules = Endpointing(silence_ms=2_000, max_turn_ms=1_000)  # cut turns leave words open
    options = ChannelOptions(look_ahead=1, endpointing=rules)
    inputs = cut(speech(pauses_ms=80), 1_600)
    inputs.insert(8, 48_000)
    again = live(scripted, options, inputs, {killed: "kill"}).finals
    assert again == live(scripted, options, inputs, {}).finals


def test_a_turn_that_was_logged_is_not_begun_again() -> None:
    options = ChannelOptions(look_ahead=1, endpointing=Endpointing(silence_ms=300))
    inputs = cut(speech(), 1_600)
    life = live(scripted, options, inputs, dict.fromkeys(range(5, 100, 7), "kill"))
    ends = [event.turn for event in life.events if isinstance(event, TurnEnd)]
    assert ends == sorted(set(ends))
    assert {event.turn for event in life.events if isinstance(event, TurnStart)} == set(ends)


@settings(max_examples=4, deadline=None)
@given(
    acts=st.dictionaries(st.integers(0, 40), st.sampled_from(["save", "kill"]), max_size=8),
    decoder=st.sampled_from(["rnnt", "ctc"]),
)
def test_an_engine_with_a_model_goes_on_the_same_way(
    make_checkpoint: Callable[..., Checkpoint],
    babble: Callable[[float, int], Samples],
    acts: dict[int, str],
    decoder: str,
) -> None:
    checkpoint = make_checkpoint()
    config = EngineConfig(slots=3, precision="fp32", decoder=decoder)  # type: ignore[arg-type]
    options = ChannelOptions(look_ahead=1, endpointing=Endpointing(max_turn_ms=1_000))
    inputs = cut(babble(8, 3), 3_200)

    def make() -> StreamingEngine:
        return Engine(checkpoint, config)

    undisturbed = live(make, options, inputs, {})
    assert len(undisturbed.finals) > 4
    again = live(make, options, inputs, acts)
    said = [(final.text, final.start_ms, final.end_ms) for final in again.finals]
    assert said == [(final.text, final.start_ms, final.end_ms) for final in undisturbed.finals]


def test_the_record_of_a_final_is_small(
    make_checkpoint: Callable[..., Checkpoint], babble: Callable[[float, int], Samples]
) -> None:
    engine = Engine(make_checkpoint(), EngineConfig(slots=2, precision="fp32"))
    options = ChannelOptions(look_ahead=1, endpointing=Endpointing(max_turn_ms=1_000))
    life = live(lambda: engine, options, cut(babble(4, 3), 3_200), {})
    assert life.record is not None
    assert len(life.record) < 10_000


def test_a_snapshot_waits_for_the_answer_to_a_finalize() -> None:
    recognizer = Recognizer(scripted())
    channel = recognizer.open(ChannelOptions(look_ahead=1))
    recognizer.feed(channel, utter("good day"))
    recognizer.finalize(channel, "r")
    assert recognizer.snapshot(channel) is None
    while recognizer.is_ready():
        recognizer.step()
    assert recognizer.snapshot(channel) is not None


@pytest.mark.parametrize("at", [0, 3, 6, 20, -1])
def test_a_damaged_state_is_refused_and_takes_no_slot(at: int) -> None:
    engine = scripted()
    recognizer = Recognizer(engine)
    options = ChannelOptions(look_ahead=1)
    blob = bytearray(recognizer.snapshot(recognizer.open(options)) or b"")
    blob[at] ^= 1
    for kept in ({"snapshot": bytes(blob), "record": None}, {"snapshot": None, "record": b"RVC1"}):
        with pytest.raises(BadSnapshot):
            recognizer.restore(options, **kept)
    missing = state.pack({"hearing": {}, "reading": {}}, engine.snapshot(0))
    with pytest.raises(BadSnapshot):
        recognizer.restore(options, snapshot=missing, record=None)
    assert engine.slots_in_use == 1
