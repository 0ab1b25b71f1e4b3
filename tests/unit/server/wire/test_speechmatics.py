"""Speechmatics' realtime wire."""

from typing import Any

import pytest

from server.wire.messages import Configure, Endpointing, Error, Finalized
from server.wire.speechmatics import SpeechmaticsServer
from tests.unit.server.wire.foreign import DONE, Table, fatal, final, hello, partial, ready, turn

RAW = {"type": "raw", "encoding": "pcm_s16le", "sample_rate": 16_000}


def begin(audio: dict[str, Any] | None = None, **config: Any) -> dict[str, Any]:
    return {
        "message": "StartRecognition",
        "audio_format": RAW if audio is None else audio,
        "transcription_config": {"language": "en", "enable_partials": True} | config,
    }


def table(**config: Any) -> Table:
    played = Table(SpeechmaticsServer(hello()))
    played.hear(begin(**config))
    return played


def test_audio_is_confirmed_by_number_and_words_come_with_their_punctuation() -> None:
    played = table()
    played.hear(b"\0" * 320, b"\0" * 320)
    played.tell(ready(), partial("hello", "there"), final("Hello, there."))
    assert [value["message"] for value in played.said()] == [
        "RecognitionStarted", "AudioAdded", "AudioAdded", "AddPartialTranscript", "AddTranscript",
    ]  # fmt: skip
    assert [value["seq_no"] for value in played.said(message="AudioAdded")] == [1, 2]
    last = played.said()[-1]
    assert last["metadata"]["transcript"] == "Hello, there. "
    assert [(r["type"], r["alternatives"][0]["content"]) for r in last["results"]] == [
        ("word", "Hello"), ("punctuation", ","), ("word", "there"), ("punctuation", "."),
    ]  # fmt: skip
    assert last["results"][1]["attaches_to"] == "previous"


def test_partials_and_ends_of_utterance_come_only_when_asked_for() -> None:
    played = table(enable_partials=False)
    played.tell(ready(), partial("a"), turn("end", text="a"))
    assert [value["message"] for value in played.said()] == ["RecognitionStarted"]
    asked = table(conversation_config={"end_of_utterance_silence_trigger": 0.5})
    asked.tell(ready(), turn("end", at_ms=900, text="a"))
    assert asked.start.endpointing == Endpointing(silence_ms=500, hesitation_ms=0)
    assert asked.said(message="EndOfUtterance")[0]["metadata"]["end_time"] == 0.9


def test_partials_may_be_asked_for_in_mid_stream() -> None:
    played = table(enable_partials=False)
    wish = {"transcription_config": {"language": "en", "enable_partials": True}}
    played.hear({"message": "SetRecognitionConfig"} | wish)
    assert played.start.partials == "none"
    (change,) = [one for one in played.asked if isinstance(one, Configure)]
    assert change.partials == "all"
    played.tell(ready(), partial("a"))
    assert played.said()[-1]["message"] == "AddPartialTranscript"


@pytest.mark.parametrize("config", [{}, {"end_of_utterance_silence_trigger": 0.5}])
def test_a_forced_end_of_utterance_is_answered_once_whoever_asked(config: dict[str, Any]) -> None:
    played = table(conversation_config=config)
    played.hear(b"\0\0", {"message": "ForceEndOfUtterance"}, {"message": "ForceEndOfUtterance"})
    played.tell(ready(), final("a", cause="finalize"), turn("end", text="a", trigger="finalize"))
    played.tell(Finalized(at=24_000), final("", id=1, cause="finalize"), Finalized(at=32_000))
    told = [value["message"] for value in played.said()[2:]]
    assert told == ["AddTranscript", "EndOfUtterance", "EndOfUtterance"]
    ends = [value["metadata"] for value in played.said(message="EndOfUtterance")]
    assert [end["end_time"] for end in ends] == [1.5, 2.0]


def test_the_end_of_the_stream_ends_an_utterance_where_ends_are_told() -> None:
    played = table(conversation_config={"end_of_utterance_silence_trigger": 0.5})
    played.hear(b"\0\0", {"message": "ForceEndOfUtterance"}, {"message": "EndOfStream"})
    played.tell(ready(), Error(code="rate_limited", message="wait", fatal=False))
    played.tell(final("a", cause="stop"), turn("end", text="a", trigger="finalize"), DONE)
    told = [value["message"] for value in played.said()[2:]]
    assert told == ["AddTranscript", "EndOfUtterance", "EndOfTranscript"]


def test_a_forced_end_before_any_audio_is_answered_too() -> None:
    played = Table(SpeechmaticsServer(hello()))
    played.hear(begin({"type": "file"}), {"message": "ForceEndOfUtterance"})
    assert played.said()[-1]["metadata"] == {"start_time": 0.0, "end_time": 0.0}


def test_the_end_of_the_stream_is_the_end_of_the_transcript() -> None:
    played = table(additional_vocab=[{"content": "moon", "sounds_like": ["mun"]}, "sun"])
    played.hear(b"\0\0", {"message": "ForceEndOfUtterance"}, {"message": "EndOfStream"}, b"\0\0")
    played.tell(ready(), DONE)
    assert played.said()[-1] == {"message": "EndOfTranscript"}
    assert played.kinds() == ["start", "audio", "finalize", "stop"]
    assert [boost.phrase for boost in played.start.boost or ()] == ["moon", "sun"]
    assert played.adapter.ending == (1000, "")


def test_two_channels_of_a_file_are_one_voice() -> None:
    assert not SpeechmaticsServer(hello()).has_channels


def test_an_end_without_audio_is_answered() -> None:
    played = Table(SpeechmaticsServer(hello()))
    played.hear(begin({"type": "file"}), {"message": "EndOfStream"})
    assert played.said()[-1] == {"message": "EndOfTranscript"}


@pytest.mark.parametrize(
    "messages",
    [
        ["x"],
        [b"\0\0"],
        [{"message": "EndOfStream"}],
        [begin(), begin()],
        [begin(), {"message": "Dance"}],
        [begin({"type": "raw", "encoding": "opus", "sample_rate": 16_000})],
        [begin({"type": "raw", "encoding": "mulaw"})],
        [begin({"type": "live"})],
        [begin({"type": "file"}), b"OggS"],
    ],
)
def test_what_cannot_be_taken_is_an_error_with_a_type(messages: list[Any]) -> None:
    played = Table(SpeechmaticsServer(hello()))
    played.hear(*messages)
    error = played.said()[-1]
    assert error["message"] == "Error"
    assert error["type"] in ("invalid_message", "invalid_audio_type")
    assert played.adapter.ending is not None


def test_a_failed_session_is_an_error_with_a_type() -> None:
    played = table()
    played.tell(fatal("over_capacity"))
    assert played.said()[-1]["type"] == "quota_exceeded"
