"""Who is still, and what ends it."""

from typing import Any

import msgspec
import numpy as np
import pytest

from asr.events import Progress, Stopped, TurnEnd, TurnStart
from server.hush import SETTLED_S
from server.stillness import Sound, Stillness, sound_of
from server.worker import link

RATE = 16_000


def opening(**changes: Any) -> link.Open:
    one = link.Open(1, "pcm_s16le", RATE, 1, 1, None, link.Turns(), partials="all", words=False)
    return msgspec.structs.replace(one, **changes)


def still(*, is_begun: bool = False, **changes: Any) -> Stillness:
    return Stillness(opening(**changes), after_s=5.0, now=100.0, is_begun=is_begun)


def tone(level_db: float, *, samples: int = 1_600, rms: bool = True) -> bytes:
    wave = np.sin(np.arange(samples)) * 10 ** (level_db / 20) * (2**0.5 if rms else 1)
    return (wave * 32_767).astype("<i2").tobytes()


def audio(data: bytes) -> link.Audio:
    return link.Audio(1, data, 0.0)


def hear(one: Stillness, data: bytes, *, now: float = 100.0) -> Sound | None:
    return one.hear(audio(data), now=now)


ZEROS = bytes(2 * RATE)


@pytest.mark.parametrize(
    ("encoding", "data", "sound"),
    [
        ("pcm_s16le", bytes(640), Sound.ZERO),
        ("pcm_s16le", tone(-70), Sound.QUIET),
        ("pcm_s16le", tone(-40), Sound.LOUD),
        ("pcm_s16le", tone(-40, samples=3), Sound.LOUD),
        ("pcm_f32le", np.zeros(9, "<f4").tobytes(), Sound.ZERO),
        ("pcm_f32le", np.full(9, 1e-4, "<f4").tobytes(), Sound.QUIET),
        ("pcm_f32le", np.full(9, np.nan, "<f4").tobytes(), Sound.LOUD),
        ("mulaw", b"\xff" * 160, Sound.ZERO),
        ("mulaw", b"\x7f" * 160, Sound.QUIET),
        ("mulaw", b"\x00" * 160, Sound.LOUD),
        ("alaw", b"\xd5" * 160, Sound.QUIET),
        ("alaw", b"\x2a" * 160, Sound.LOUD),
    ],
)
def test_packets_sound_as_they_are(encoding: Any, data: bytes, sound: Sound) -> None:
    assert sound_of(audio(data), encoding, RATE, 1) is sound


def test_a_short_sound_in_a_long_packet_is_heard() -> None:
    packet = bytearray(2 * RATE)
    packet[16_000:16_640] = tone(-45, samples=320)
    assert sound_of(audio(bytes(packet)), "pcm_s16le", RATE, 1) is Sound.LOUD


def test_a_sound_on_one_of_two_channels_is_heard() -> None:
    stereo = np.zeros((1_600, 2), "<i2")
    stereo[:, 1] = np.frombuffer(tone(-40), "<i2")
    assert sound_of(audio(stereo.tobytes()), "pcm_s16le", RATE, 2) is Sound.LOUD


def test_who_sends_nothing_for_a_while_is_idle() -> None:
    one = still()
    hear(one, tone(-20, samples=RATE))
    assert not one.is_idle(now=104.0)
    assert one.is_idle(now=105.0)
    hear(one, ZEROS, now=104.0)
    assert not one.is_idle(now=105.0)


def test_all_is_decoded_up_to_the_chunk_under_way() -> None:
    one = still()
    one.say([(0, Progress(RATE))])
    assert one.is_decoded(RATE + 5_120)
    assert not one.is_decoded(RATE + 5_121)


def test_who_sends_silence_is_quiet_between_turns() -> None:
    one, found = still(), list[bool]()
    for _ in range(5):
        found.append(one.is_quiet)
        hear(one, ZEROS)
    assert [*found, one.is_quiet] == [False] * 5 + [True]
    for event in (TurnStart(0, 5), TurnEnd(0, 9, "no", "silence")):
        one.say([(0, event)])
        assert not one.is_quiet, "silence counts from the turn's end"


def test_a_sound_begins_the_silence_anew() -> None:
    one = still()
    for _ in range(5):
        hear(one, ZEROS)
    hear(one, tone(-30))
    assert not one.is_quiet


def test_nobody_looks_at_loudness_while_a_turn_is_open() -> None:
    one = still()
    one.say([(0, TurnStart(0, 5))])
    assert hear(one, ZEROS) is Sound.LOUD
    assert one.ends_rest(audio(ZEROS), Sound.LOUD)
    assert one.ends_rest(link.Gap(1, 5), None)


@pytest.mark.parametrize(
    ("command", "sound", "is_end"),
    [
        (audio(ZEROS), Sound.ZERO, False),
        (audio(ZEROS), Sound.QUIET, False),
        (audio(ZEROS), Sound.LOUD, True),
        (link.Gap(1, 5), None, False),
        (link.Configure(1, None, "none"), None, False),
        (link.Finalize(1, "a"), None, True),
        (link.Stop(1), None, True),
    ],
)
def test_what_ends_a_rest(command: link.Command, sound: Sound | None, *, is_end: bool) -> None:
    assert still().ends_rest(command, sound) is is_end


def test_of_a_session_that_began_elsewhere_a_turn_may_be_open() -> None:
    one = still(is_begun=True)
    assert one.is_speaking
    one.say([(0, Progress(31 * RATE))])
    assert not one.is_speaking


def test_a_state_is_settled_in_a_long_digital_silence_only() -> None:
    one = still()
    for _ in range(SETTLED_S + 1):
        hear(one, ZEROS)
    assert one.is_settled(RATE)
    assert not one.is_settled(2 * RATE)
    hear(one, tone(-70))
    assert not one.is_settled(0)


def test_a_channel_that_has_stopped_keeps_nobody_awake() -> None:
    one = still(channels=2)
    one.say([(0, Progress(RATE)), (1, TurnStart(0, 5)), (1, Stopped(3, 1))])
    assert one.is_decoded(RATE)
    assert not one.is_speaking
