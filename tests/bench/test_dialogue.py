"""What the measurement of turns rests on: known turns, a detector, a judge; and its figures."""

import asyncio

import numpy as np
import pytest

from asr.scripted import silence, utter
from clients.load.plan import RATE_HZ
from tests.bench.dialogue import (
    FRAME,
    Dialogue,
    Hesitant,
    VoiceDetector,
    compose,
    hesitate,
    is_voice,
    judge,
    trimmed,
)
from tests.bench.turns import finals, play, turns
from tests.io.serving import pcm, serving

CLIPS = [trimmed(pcm(utter(text))) for text in ("turn on the light", "thank you", "yes")]
TURNS = ((1_000, 2_000), (3_000, 5_000))


def test_a_dialogue_says_where_its_turns_and_their_pauses_are() -> None:
    dialogue = compose(CLIPS, 20, seed=3)
    voiced = [
        is_voice(dialogue.pcm[at : at + 2 * FRAME]) for at in range(0, len(dialogue.pcm), 2 * FRAME)
    ]
    inside = np.zeros(len(voiced), bool)
    for begin, end in dialogue.turns:
        inside[begin // 20 : end // 20] = True
    for begin, end in dialogue.pauses:
        inside[begin // 20 : end // 20] = False
    assert not np.any(np.asarray(voiced) & ~inside)
    for begin, end in dialogue.turns:
        assert voiced[begin // 20]
        assert voiced[end // 20 - 1]
    assert compose(CLIPS, 20, seed=3) == dialogue
    assert compose(CLIPS, 20, seed=4) != dialogue


def test_a_hesitant_turn_is_one_clip_with_one_pause_between_two_of_its_words() -> None:
    loud = np.full(RATE_HZ, 1_000, np.int16)
    clip = Hesitant(loud, ((0.1, 0.3), (0.4, 0.6), (0.64, 0.9)))
    dialogue = hesitate([clip], 20, seed=3)
    assert len(dialogue.pauses) == len(dialogue.turns) > 5
    for (first, last), (begin, end) in zip(dialogue.turns, dialogue.pauses, strict=True):
        assert last - first - (end - begin) == 800
        assert begin - first in (250, 520)
        assert not is_voice(dialogue.pcm[32 * begin + 640 : 32 * begin + 1_280])


def test_the_detector_names_the_last_sample_with_voice_two_tenths_later() -> None:
    detector = VoiceDetector()
    loud = np.full(FRAME, 1_000, "<i2").tobytes()
    said = [detector.hear(frame) for frame in [loud] * 5 + [bytes(2 * FRAME)] * 30]
    assert [(n, end) for n, end in enumerate(said) if end is not None] == [(14, 5 * FRAME)]


@pytest.mark.parametrize(
    ("ends", "right", "false", "missed"),
    [
        ([2_600, 5_700], {0: 0, 1: 1}, [], 0),
        ([1_500, 2_600, 5_700], {0: 1, 1: 2}, [1_500], 0),
        ([2_600, 2_900, 5_700], {0: 0, 1: 2}, [2_900], 0),
        ([3_100, 5_700], {0: 0, 1: 1}, [], 0),
        ([5_700], {1: 0}, [], 1),
        ([], {}, [], 2),
        ([500], {}, [500], 2),
    ],
)
def test_ends_are_right_false_or_missed(
    ends: list[int], right: dict[int, int], false: list[int], missed: int
) -> None:
    found = judge(TURNS, ends)
    assert (found.right, found.false, found.missed) == (right, false, missed)


def scripted() -> Dialogue:
    """Two turns, the first with a pause; in whole cells, as the scripted engine needs them."""
    parts, spans, at_ms = list[bytes](), list[tuple[int, int]](), 0
    for quiet_ms, clip in ((480, CLIPS[0]), (320, CLIPS[1]), (1_200, CLIPS[2]), (1_600, b"")):
        parts += [pcm(silence(quiet_ms)), clip]
        begin, at_ms = at_ms + quiet_ms, at_ms + quiet_ms + len(clip) * 1000 // (2 * RATE_HZ)
        spans.append((begin, at_ms))
    first, second, third, _ = spans
    return Dialogue(b"".join(parts), ((first[0], second[1]), third), ((first[1], second[0]),))


@pytest.mark.io
async def test_finals_answer_the_detector_and_ends_of_turn_are_counted() -> None:
    async with serving() as server:
        url = server.addresses.websocket
        led, own = await asyncio.gather(
            play(url, [scripted()] * 2, is_client_led=True),
            play(url, [scripted()] * 2, is_client_led=False),
        )
    said = finals(led)
    assert (said["stops"], said["unanswered"], said["without_words"]) == (6, 0, 0)
    assert said["eos_to_final_p50_ms"] > 200
    figures = turns(own)
    assert (figures["turns"], figures["missed_ends"], figures["false_ends"]) == (4, 0, 0)
    assert figures["false_by_pause_ms"]["300-600"] == {"pauses": 2, "ended": 0}
    assert figures["resumed"] == 2
    assert figures["own_end_p50_ms"] > figures["eager_end_p50_ms"]
