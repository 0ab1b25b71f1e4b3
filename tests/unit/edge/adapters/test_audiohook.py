"""AudioHook: one media is chosen before audio, channels are tracks, time that is told passes."""

import json
from typing import Any

import pytest

from edge.adapters.audiohook import AudioHook
from edge.adapters.events import Audio, Ended, FeedError, Missing, Started

STEREO = {"type": "audio", "format": "PCMU", "channels": ["external", "internal"], "rate": 8000}
MONO = STEREO | {"channels": ["external"]}
LINEAR = STEREO | {"format": "L16"}


def said(kind: str, seq: int, **parameters: Any) -> str:
    message = {"version": "2", "id": "u1", "type": kind, "seq": seq, "serverseq": 0}
    return json.dumps(message | {"position": "PT0S", "parameters": parameters})


def opened(*media: dict[str, Any]) -> AudioHook:
    hook = AudioHook()
    assert hook.receive_text(said("open", 1, conversationId="c1", media=media)) == []
    return hook


def test_both_speakers_in_the_cheaper_codec_are_chosen_and_told() -> None:
    (answer,) = opened(MONO, LINEAR, STEREO).texts_to_send()
    told = json.loads(answer)
    assert (told["type"], told["seq"], told["clientseq"], told["id"]) == ("opened", 1, 1, "u1")
    assert told["parameters"] == {"startPaused": False, "media": [STEREO]}


def test_channels_are_tracks_and_come_apart() -> None:
    events = opened(STEREO).receive_binary(b"\x01\x02" * 3)
    assert events == [
        Started("c1", "mulaw", 8_000, ("external", "internal")),
        Audio(b"\x01" * 3, "external"),
        Audio(b"\x02" * 3, "internal"),
    ]
    events = opened(LINEAR).receive_binary(b"\x01\x02\x03\x04" * 2)
    assert events[1:] == [Audio(b"\x01\x02" * 2, "external"), Audio(b"\x03\x04" * 2, "internal")]


def test_discarded_time_passes_and_a_ping_is_answered() -> None:
    hook = opened(MONO)
    assert hook.receive_text(said("discarded", 2, start="PT0S", discarded="PT1.5S")) == [
        Started("c1", "mulaw", 8_000, ("external",)),
        Missing(12_000),
    ]
    hook.texts_to_send()
    hook.receive_text(said("ping", 3))
    assert json.loads(hook.texts_to_send()[0])["type"] == "pong"


def test_a_probe_opens_and_closes_and_makes_no_leg() -> None:
    hook = opened(STEREO)
    assert hook.receive_text(said("close", 2, reason="end")) == [Ended()]
    assert [json.loads(text)["type"] for text in hook.texts_to_send()] == ["opened", "closed"]
    assert hook.receive_binary(b"ab") == []


@pytest.mark.parametrize(
    "texts",
    [
        ["{}"],
        [said("open", 2, media=[STEREO])],
        [said("open", 1, media=[])],
        [said("open", 1, media=[STEREO | {"rate": 16000}])],
        [said("open", 1, media=[STEREO | {"channels": ["external", "external"]}])],
        [said("open", 1, media=[STEREO]), said("open", 2, media=[STEREO])],
        [said("open", 1, media=[STEREO]), said("discarded", 2, discarded="an hour")],
    ],
)
def test_a_session_that_breaks_the_rules_is_named(texts: list[str]) -> None:
    hook = AudioHook()
    with pytest.raises(FeedError):
        for text in texts:
            hook.receive_text(text)


def test_audio_before_open_or_of_one_channel_only_is_named() -> None:
    with pytest.raises(FeedError, match="before 'open'"):
        AudioHook().receive_binary(b"ab")
    with pytest.raises(FeedError, match="no whole samples"):
        opened(STEREO).receive_binary(b"abc")
