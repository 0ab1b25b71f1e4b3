"""Bytes become samples, and any rate becomes 16 kHz, the same however the input is cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.audio import AudioError, Resampler, decode, frame_bytes, from_16k, to_16k
from asr.interface import Samples

RATES = (8000, 8001, 11025, 16000, 22050, 24000, 44100, 47999, 48000)


def resample(audio: Samples, rate: int, cuts: list[int] | None = None) -> Samples:
    resampler = Resampler(rate)
    pieces = np.split(audio, sorted(cuts or []))
    return np.concatenate([*map(resampler.push, pieces), resampler.flush()])


def tone(hz: float, rate: int, seconds: float = 0.5) -> Samples:
    return np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(
    rate=st.sampled_from(RATES) | st.integers(8000, 48000),
    cuts=st.lists(st.integers(0, 3000), max_size=20),
)
def test_output_does_not_depend_on_how_the_input_is_cut(rate: int, cuts: list[int]) -> None:
    audio = np.random.default_rng(rate).standard_normal(3000, dtype=np.float32)
    whole = resample(audio, rate)
    assert len(whole) == -(-3000 * 16000 // rate)
    np.testing.assert_array_equal(resample(audio, rate, cuts), whole)


@settings(deadline=None, max_examples=60)
@given(
    rate=st.sampled_from(RATES) | st.integers(8000, 48000),
    heard=st.integers(0, 3000),
    wanted=st.integers(1, 3000),
)
def test_so_many_samples_come_out_when_what_they_lack_is_there(
    rate: int, heard: int, wanted: int
) -> None:
    resampler = Resampler(rate)
    resampler.push(np.zeros(heard, np.float32))
    lacks = resampler.lacks(wanted)
    made = len(resampler.push(np.zeros(lacks - 1, np.float32)))
    assert made < wanted <= made + len(resampler.push(np.zeros(1, np.float32)))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_a_tone_in_the_band_passes_unchanged_and_in_time(rate: int, part: float) -> None:
    hz = part * min(rate, 16000) / 2
    heard = resample(tone(hz, rate), rate)
    expected = np.sin(2 * np.pi * hz * np.arange(len(heard)) / 16000)
    assert np.abs(heard - expected)[300:-300].max() < 2e-3


@pytest.mark.parametrize("hz", [8010, 8800, 12000, 20000])
@pytest.mark.parametrize("rate", [44100, 48000])
def test_a_tone_above_the_band_is_gone(rate: int, hz: int) -> None:
    assert np.abs(resample(tone(hz, rate), rate)[300:-300]).max() < 1e-3


@pytest.mark.parametrize("rate", [8000, 8001, 11025])
def test_a_low_rate_brings_no_images(rate: int) -> None:
    heard = resample(tone(0.8 * rate / 2, rate), rate)[300:-300]
    power = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
    above = np.fft.rfftfreq(len(heard), 1 / 16000) > rate / 2
    assert power[above].max() < 1e-3 * power.max()


def test_at_16_khz_the_samples_are_the_same() -> None:
    audio = np.random.default_rng(0).standard_normal(100, dtype=np.float32)
    np.testing.assert_array_equal(resample(audio, 16000, [7, 50]), audio)


def test_a_copy_goes_its_own_way() -> None:
    audio = np.random.default_rng(0).standard_normal(2000, dtype=np.float32)
    resampler = Resampler(44100)
    before = resampler.push(audio[:1000])
    copied = np.concatenate([before, resampler.copy().flush()])
    rest = np.concatenate([before, resampler.push(audio[1000:]), resampler.flush()])
    np.testing.assert_array_equal(copied, resample(audio[:1000], 44100))
    np.testing.assert_array_equal(rest, resample(audio, 44100))


def test_memory_does_not_grow_with_the_stream() -> None:
    resampler = Resampler(44100)
    for _ in range(200):
        resampler.push(np.zeros(4410, np.float32))
    assert len(resampler._kept) <= 2 * resampler._half + 3


@pytest.mark.parametrize("rate", [0, 7999, 48001, -16000])
def test_a_rate_out_of_range_is_refused(rate: int) -> None:
    with pytest.raises(AudioError, match="rate"):
        Resampler(rate)


@pytest.mark.parametrize("rate", RATES)
def test_positions_map_to_16_khz_and_back_within_a_sample(rate: int) -> None:
    for position in (0, 1, 999, 123_456_789):
        back = from_16k(to_16k(position, rate), rate)
        assert 0 <= position - back <= rate / 16000 + 1


def test_sixteen_bit_samples_are_scaled_and_split_into_channels() -> None:
    data = np.array([0, -32768, 16384, 32767], "<i2").tobytes()
    left, right = decode(data, "pcm_s16le", channels=2)
    assert left.tolist() == [0, 0.5]
    assert right.tolist() == [-1, pytest.approx(1, abs=1e-4)]
    assert left.dtype == np.float32


def test_float_samples_beyond_full_scale_are_clipped() -> None:
    data = np.array([0.25, 3e30, -2], "<f4").tobytes()
    assert decode(data, "pcm_f32le").tolist() == [[0.25, 1, -1]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_float_samples_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(AudioError, match="finite"):
        decode(np.array([0, bad], "<f4").tobytes(), "pcm_f32le")


# values of ITU-T G.711: positive and negative full scale, and the codes around zero
@pytest.mark.parametrize(
    ("encoding", "codes", "values"),
    [
        ("mulaw", [0x80, 0x00, 0xFF, 0x7F, 0xFE, 0x8F], [32124, -32124, 0, 0, 8, 16764]),
        ("alaw", [0xAA, 0x2A, 0xD5, 0x55, 0x80], [32256, -32256, 8, -8, 5504]),
    ],
)
def test_telephone_codes_have_the_values_of_the_standard(
    encoding: str, codes: list[int], values: list[int]
) -> None:
    assert (decode(bytes(codes), encoding)[0] * 32768).tolist() == values


@pytest.mark.parametrize(("encoding", "size"), [("pcm_s16le", 2), ("pcm_f32le", 4), ("alaw", 1)])
def test_half_a_sample_is_refused(encoding: str, size: int) -> None:
    assert frame_bytes(encoding, 2) == 2 * size
    with pytest.raises(AudioError, match="whole samples"):
        decode(bytes(4 * size + 1), encoding, channels=2)
    assert decode(b"", encoding, channels=2).shape == (2, 0)


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(AudioError, match="encoding"):
        decode(b"", "opus")
    with pytest.raises(AudioError, match="channel"):
        decode(b"", "alaw", channels=0)
