"""Words of finals get labels: a stand-in for the network tells tones apart."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from asr.interface import Samples
from asr.speakers.encoder import Voice
from asr.speakers.labels import Speakers
from asr.speakers.listener import KEPT_S, PAUSE_MS, Listener, cut

LOW_HZ, HIGH_HZ = 200, 2_000


def tone(hz: int, ms: int, rate: int = 16_000) -> Samples:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(rate * ms // 1000) / rate)).astype(np.float32)


def silence(ms: int, rate: int = 16_000) -> Samples:
    return np.zeros(rate * ms // 1000, np.float32)


def embed(samples: Samples) -> Voice:
    """How much of the audio is low and how much is high."""
    power = np.abs(np.fft.rfft(samples, 16_000)) ** 2
    voice = np.array([power[:1_000].sum(), power[1_000:].sum()], np.float32) + np.float32(1e-9)
    return voice / np.float32(np.linalg.norm(voice))


def listening(*parts: Samples, rate: int = 16_000) -> Listener:
    listener = Listener(embed, Speakers(), rate)
    pcm = (32_767 * np.concatenate(parts)).astype("<i2").tobytes()
    for begin in range(0, len(pcm), 2_560):
        listener.hear(pcm[begin : begin + 2_560])
    return listener


def test_a_final_is_cut_where_the_voice_changes_in_a_pause() -> None:
    listener = listening(tone(LOW_HZ, 2_000), silence(500), tone(HIGH_HZ, 2_000), silence(500))
    words = [(0, 900), (1_000, 2_000), (2_500, 3_000), (3_100, 3_800), (3_900, 4_500)]
    assert listener.label(words) == [(2, 0), (3, 1)]


def test_a_pause_of_the_same_voice_is_one_piece_and_a_voice_comes_back() -> None:
    low, high = tone(LOW_HZ, 2_000), tone(HIGH_HZ, 2_000)
    listener = listening(low, silence(500), low, silence(500), high, silence(500), low)
    assert listener.label([(0, 2_000), (2_500, 4_500)]) == [(2, 0)]
    assert listener.label([(5_000, 7_000), (7_500, 9_500)]) == [(1, 1), (1, 0)]


def test_numbers_follow_the_words_though_the_longest_piece_is_asked_for_first() -> None:
    listener = listening(tone(LOW_HZ, 1_500), silence(500), tone(HIGH_HZ, 3_000))
    assert listener.label([(0, 1_500), (2_000, 5_000)]) == [(1, 0), (1, 1)]


def test_a_word_too_short_to_tell_is_of_who_spoke_before() -> None:
    listener = listening(tone(LOW_HZ, 2_000), silence(500), tone(HIGH_HZ, 200), silence(500))
    assert listener.label([(0, 2_000), (2_500, 2_600)]) == [(2, 0)]
    assert listener.label([(2_500, 2_600)]) == [(1, 0)]


def test_a_first_word_too_short_to_tell_is_of_who_goes_on() -> None:
    listener = listening(tone(LOW_HZ, 200), silence(800), tone(LOW_HZ, 2_000))
    assert listener.label([(0, 200), (1_000, 3_000)]) == [(2, 0)]


def test_nothing_but_a_short_word_is_nobodys() -> None:
    assert listening(tone(LOW_HZ, 200)).label([(0, 200)]) == [(1, None)]


def test_other_rates_have_the_same_times() -> None:
    parts = tone(LOW_HZ, 2_000, 48_000), silence(500, 48_000), tone(HIGH_HZ, 2_000, 48_000)
    listener = listening(*parts, silence(200, 48_000), rate=48_000)
    assert listener.label([(0, 2_000), (2_500, 4_500)]) == [(1, 0), (1, 1)]


def test_old_audio_is_dropped_and_times_stay() -> None:
    quiet = silence(round(1_000 * KEPT_S))
    listener = listening(tone(LOW_HZ, 2_000), quiet, tone(HIGH_HZ, 2_000))
    begin = 2_000 + round(1_000 * KEPT_S)
    assert listener._held <= KEPT_S * 16_000
    assert listener.label([(0, 1_000)]) == [(1, None)]
    assert listener.label([(begin, begin + 2_000)]) == [(1, 0)]


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(80, 900)), max_size=30))
def test_cutting_keeps_all_words_and_cuts_at_pauses_only(steps: list[tuple[int, int]]) -> None:
    words, at = list[tuple[int, int]](), 0
    for gap, length in steps:
        words.append((at + gap, at + gap + length))
        at += gap + length
    pieces = cut(words, PAUSE_MS)
    assert [word for piece in pieces for word in piece] == words
    assert all(after[0][0] - before[-1][1] >= PAUSE_MS for before, after in pairwise(pieces))
    assert all(b[0] - a[1] < PAUSE_MS for piece in pieces for a, b in pairwise(piece))
