"""Turns begin and end on the media clock, in the legal order only."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from asr.events import EagerEnd, TurnEnd, TurnResumed, TurnStart
from asr.interface import FRAME_SAMPLES, Samples
from asr.turns import Decision, Endpointing, Loudness, TurnEvent, Turns

PLAIN = Endpointing(silence_ms=600)
AUTO = Endpointing(silence_ms=600, eager_ms=300, max_turn_ms=10_000)


def opened(endpointing: Endpointing, *, word_ms: int = 1000, voice_ms: int = 900) -> Turns:
    turns = Turns(endpointing)
    turns.heard_voice(voice_ms)
    assert turns.heard_word(word_ms - 80, word_ms) == [TurnStart(0, word_ms - 80)]
    return turns


def first(turns: Turns, decision: Decision, *, start: int = 1000, until: int = 20_000) -> int:
    for now_ms in range(start, until, 10):
        if turns.decide(now_ms) is decision:
            return now_ms
    raise AssertionError("never decided")


def test_silence_ends_a_turn_when_the_sound_has_stopped_long_enough() -> None:
    assert first(opened(PLAIN), Decision.SILENCE) == 1500


def test_both_silences_are_longer_behind_words_that_are_unfinished() -> None:
    turns = opened(Endpointing(silence_ms=600, eager_ms=300, hesitation_ms=400))

    def decided(now_ms: int) -> Decision:
        return turns.decide(now_ms, is_unfinished=True)

    assert [decided(now_ms) for now_ms in (1599, 1600)] == [Decision.NOTHING, Decision.EAGER]
    turns.eager(1600, "x", 0.5)
    assert [decided(now_ms) for now_ms in (1899, 1900)] == [Decision.NOTHING, Decision.SILENCE]
    assert turns.decide(1500) is Decision.SILENCE


def test_a_late_word_is_waited_for() -> None:
    assert first(opened(PLAIN, voice_ms=300), Decision.SILENCE) == 1300


def test_sound_that_may_become_a_word_delays_the_end() -> None:
    turns = opened(PLAIN)
    turns.heard_voice(1590)
    assert turns.decide(1600) is Decision.NOTHING
    assert first(turns, Decision.SILENCE) == 1750


def test_music_delays_the_end_only_so_long() -> None:
    turns = opened(PLAIN)
    for now_ms in range(1000, 10_000, 10):
        turns.heard_voice(now_ms)
        if turns.decide(now_ms) is Decision.SILENCE:
            assert now_ms == 1000 + 3 * 600
            return
    raise AssertionError("never ended")


def test_an_eager_end_comes_before_the_end() -> None:
    turns = opened(AUTO)
    eager = first(turns, Decision.EAGER)
    assert turns.eager(eager, "x", 0.5) == [EagerEnd(0, eager, "x", 0.5)]
    end = first(turns, Decision.SILENCE)
    assert eager < end
    assert turns.end(end, "x", "silence") == [TurnEnd(0, end, "x", "silence")]


def test_a_word_takes_an_eager_end_back() -> None:
    turns = opened(AUTO)
    turns.eager(1300, "x", 0.5)
    assert turns.heard_word(920, 1400) == [TurnResumed(0, 1400)]
    assert turns.decide(1410) is Decision.NOTHING


def test_a_final_unlike_the_eager_text_takes_it_back() -> None:
    turns = opened(AUTO)
    turns.eager(1300, "x", 0.5)
    kinds = [type(event) for event in turns.end(1400, "x y", "finalize")]
    assert kinds == [TurnResumed, TurnEnd]


def test_manual_turns_end_by_length_only() -> None:
    turns = opened(Endpointing(mode="manual", eager_ms=300, max_turn_ms=2000))
    assert first(turns, Decision.TOO_LONG) == 920 + 2000


def test_without_a_turn_nothing_ends() -> None:
    turns = Turns(AUTO)
    assert turns.decide(10**9) is Decision.NOTHING
    assert turns.end(10**9, "", "finalize") == []


def test_a_turn_does_not_start_before_the_last_one_ended() -> None:
    turns = opened(AUTO)
    turns.end(2000, "x", "finalize")
    assert turns.heard_word(1900, 1980) == [TurnStart(1, 2000)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"silence_ms": 99},
        {"silence_ms": 5001},
        {"eager_ms": 700},
        {"hesitation_ms": -1},
        {"hesitation_ms": 2001},
        {"eager_ms": 10},
        {"max_turn_ms": 999},
        {"max_turn_ms": 600_001},
        {"mode": "never"},
    ],
)
def test_thresholds_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Endpointing(**wrong)  # type: ignore[arg-type]


def noise(seconds: float, level_db: float, seed: int = 0) -> Samples:
    made = np.random.default_rng(seed).standard_normal(int(16_000 * seconds), dtype=np.float32)
    return made * np.float32(10 ** (level_db / 20))


def voiced(audio: Samples, packet: int = 1000) -> list[bool]:
    loudness = Loudness()
    for at in range(0, len(audio), packet):
        loudness.push(audio[at : at + packet])
    return [loudness.is_voiced(frame) for frame in range(len(audio) // FRAME_SAMPLES)]


@pytest.mark.parametrize("floor_db", [-90, -60, -45])
def test_speech_stands_out_of_its_noise_floor(floor_db: float) -> None:
    audio = np.concatenate([noise(8, floor_db), noise(1.6, -20), noise(8, floor_db)])
    heard = voiced(audio)
    assert not any(heard[75:100])
    assert all(heard[100:120])
    assert not any(heard[125:])


def test_a_steady_noise_becomes_the_floor() -> None:
    heard = voiced(np.concatenate([noise(2, -80), noise(60, -35)]))
    assert heard[30]
    assert not any(heard[-100:])


def test_loudness_does_not_depend_on_how_the_audio_is_cut() -> None:
    audio = np.concatenate([noise(1, -70), noise(1, -20), noise(1, -70)])
    assert voiced(audio, 1) == voiced(audio, 5000) == voiced(audio, len(audio))


def test_blocks_that_were_not_heard_are_silent_and_old_ones_forgotten() -> None:
    loudness = Loudness()
    loudness.push(noise(0.16, -10))
    assert [loudness.is_voiced(frame) for frame in (-1, 0, 1, 2, 0)] == [False, True, True] + [
        False
    ] * 2
    assert not loudness._voiced


class TurnMachine(RuleBasedStateMachine):
    """Words, silence, ends in any order: start (eager_end resumed)* eager_end? end."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns(AUTO)
        self.now_ms = 0
        self.text = ""
        self.history: list[TurnEvent] = []

    @rule(after_ms=st.integers(0, 900), voice=st.booleans())
    def wait(self, after_ms: int, voice: bool) -> None:  # noqa: FBT001 - hypothesis calls it
        self.now_ms += after_ms
        if voice:
            self.turns.heard_voice(self.now_ms)
        match self.turns.decide(self.now_ms):
            case Decision.EAGER:
                self.history += self.turns.eager(self.now_ms, self.text, 1.0)
            case Decision.SILENCE:
                self.end()
            case Decision.TOO_LONG:
                self.history += self.turns.end(self.now_ms, self.text, "timeout")
                self.text = ""
            case Decision.NOTHING:
                pass

    @rule()
    def hear(self) -> None:
        self.text += "x"
        self.history += self.turns.heard_word(self.now_ms, self.now_ms + 80)

    @rule(more=st.booleans())
    def finalize(self, more: bool) -> None:  # noqa: FBT001 - hypothesis calls it
        if more and self.turns.is_open:
            self.text += "y"  # a flush brought another word
        self.end()

    def end(self) -> None:
        self.history += self.turns.end(self.now_ms, self.text, "silence")
        self.text = ""

    def teardown(self) -> None:
        code = {TurnStart: "s", EagerEnd: "e", TurnResumed: "r", TurnEnd: "."}
        for order in "".join(code[type(event)] for event in self.history).split("."):
            assert order.replace("er", "") in ("s", "se", "")
        turns = [event.turn for event in self.history]
        assert turns == sorted(turns)
        for before, after in zip(self.history, self.history[1:], strict=False):
            if isinstance(before, EagerEnd) and isinstance(after, TurnEnd):
                assert before.text == after.text


TestTurnMachine = TurnMachine.TestCase
TestTurnMachine.settings = settings(deadline=None, max_examples=100)
