"""OpenAI's realtime transcription: order of events, items, both dialects."""

import base64
from typing import Any

import pytest

from server.wire.messages import Endpointing, Error
from server.wire.openai_realtime import RealtimeServer
from tests.unit.server.wire.foreign import DONE, Table, fatal, final, hello, partial, ready, turn

ITEM = "conversation.item.input_audio_transcription"
BETA = {"openai-beta": "realtime=v1"}


def table(headers: dict[str, str] | None = None, **query: Any) -> Table:
    return Table(RealtimeServer(hello(headers, **query)))


def update(**audio_input: Any) -> dict[str, Any]:
    session = {"type": "transcription", "audio": {"input": audio_input}}
    return {"type": "session.update", "session": session}


def append(data: bytes = b"\0" * 480) -> dict[str, Any]:
    return {"type": "input_audio_buffer.append", "audio": base64.b64encode(data).decode()}


def kinds(played: Table) -> list[str]:
    return [value["type"] for value in played.said()]


def test_the_session_is_there_at_once_and_no_slot_is_taken_before_audio() -> None:
    played = table(model="gpt-4o-transcribe")
    assert kinds(played) == ["session.created"]
    assert played.said()[0]["session"]["audio"]["input"]["format"] == {
        "type": "audio/pcm",
        "rate": 24_000,
    }
    assert played.asked == []


def test_a_turn_is_an_item_from_speech_to_transcript() -> None:
    played = table()
    played.hear(append())
    played.tell(
        ready(),
        turn("start", at_ms=100),
        partial("turn"),
        partial("turn on", rev=2),
        final("turn on it"),
        turn("end", text="turn on it"),
    )
    assert kinds(played)[1:] == [
        "input_audio_buffer.speech_started",
        f"{ITEM}.delta",
        f"{ITEM}.delta",
        f"{ITEM}.delta",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        f"{ITEM}.completed",
    ]
    item = played.said(type="input_audio_buffer.speech_started")[0]["item_id"]
    deltas = played.said(type=f"{ITEM}.delta", item_id=item)
    completed = played.said(type=f"{ITEM}.completed", item_id=item)[0]
    assert "".join(value["delta"] for value in deltas) == completed["transcript"] == "turn on it"
    assert completed["usage"]["type"] == "duration"
    assert len({value["event_id"] for value in played.said()}) == len(played.said())


def test_items_are_chained() -> None:
    played = table()
    played.hear(append())
    played.tell(ready(), turn("start"), final("one"), turn("start", number=1), final("two", id=1))
    first, second = played.said(type="input_audio_buffer.committed")
    assert (first["previous_item_id"], second["previous_item_id"]) == (None, first["item_id"])


def test_without_turn_detection_one_commit_is_one_item_and_speech_is_not_told() -> None:
    played = table()
    played.hear(update(turn_detection=None), append(), {"type": "input_audio_buffer.commit"})
    played.tell(ready(), turn("start"), partial("a"), final("a b", cause="finalize"))
    assert played.start.endpointing == Endpointing(mode="manual", max_turn_ms=120_000)
    assert kinds(played) == [
        "session.created",
        "session.updated",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        f"{ITEM}.delta",
        f"{ITEM}.completed",
    ]


def test_a_long_turn_cut_by_us_is_still_one_item_of_the_client() -> None:
    played = table()
    played.hear(update(turn_detection=None), append())
    played.tell(ready(), final("one", cause="max"), final("two", id=1, cause="gap"))
    assert played.said(type=f"{ITEM}.completed") == []
    played.hear({"type": "input_audio_buffer.commit"})
    played.tell(final("three", id=2, cause="finalize"))
    assert played.said(type=f"{ITEM}.completed")[0]["transcript"] == "one two three"


def test_a_commit_of_nothing_is_answered_with_nothing() -> None:
    played = table()
    played.hear(update(turn_detection=None), {"type": "input_audio_buffer.commit"})
    assert played.said(type=f"{ITEM}.completed")[0]["transcript"] == ""


def test_cleared_audio_has_no_item() -> None:
    played = table()
    played.hear(update(turn_detection=None), append(), {"type": "input_audio_buffer.clear"})
    played.hear(append(), {"type": "input_audio_buffer.commit"})
    played.tell(ready(), final("gone", cause="finalize"), final("kept", id=1, cause="finalize"))
    completed = played.said(type=f"{ITEM}.completed")
    assert [value["transcript"] for value in completed] == ["kept"]
    assert played.said(type="input_audio_buffer.cleared")


def test_audio_cleared_in_a_turn_says_nothing_and_the_turn_behind_it_does() -> None:
    played = table()
    played.hear(append())
    played.tell(ready(), turn("start"), partial("gone"))
    played.hear({"type": "input_audio_buffer.clear"}, append())
    before = kinds(played)
    played.tell(partial("gone by", rev=2), final("gone by now", cause="finalize"), turn("end"))
    assert kinds(played) == before
    played.tell(turn("start", number=1), partial("kept", id=1), final("kept here", id=1))
    assert [value["delta"] for value in played.said(type=f"{ITEM}.delta")] == [
        "gone",
        "kept",
        " here",
    ]
    (completed,) = played.said(type=f"{ITEM}.completed")
    (begun, again) = played.said(type="input_audio_buffer.speech_started")
    assert (completed["transcript"], completed["item_id"]) == ("kept here", again["item_id"])
    assert begun["item_id"] != again["item_id"]


def test_a_turn_that_is_open_when_turn_detection_goes_is_completed_by_itself() -> None:
    played = table()
    played.hear(append(b"\0" * 48_000))
    played.tell(ready(), turn("start", at_ms=100), partial("one"))
    played.hear(update(turn_detection=None), append(b"\0" * 24_000))
    played.hear({"type": "input_audio_buffer.commit"})
    played.tell(final("one two", cause="stop", at_ms=100), turn("end"), DONE)
    (opened,) = played.said(type="input_audio_buffer.speech_started")
    (completed,) = played.said(type=f"{ITEM}.completed")
    assert (completed["transcript"], completed["item_id"]) == ("one two", opened["item_id"])
    played.tell(ready(), turn("start", at_ms=50), final("three", cause="finalize"))
    last = played.said(type=f"{ITEM}.completed")[-1]
    assert (last["transcript"], last["usage"]["seconds"]) == ("three", 0.5)
    assert len(played.said(type="input_audio_buffer.speech_started")) == 1


def test_what_was_not_committed_when_turn_detection_comes_is_an_item_and_turns_follow() -> None:
    played = table()
    played.hear(update(turn_detection=None), append(b"\0" * 48_000))
    played.tell(ready(), turn("start"), partial("one"))
    rules = {"type": "server_vad"}
    played.hear(update(turn_detection=rules), append(), update(turn_detection=rules))
    assert played.kinds() == ["start", "audio", "finalize", "stop", "start", "audio"]
    played.tell(final("one two", cause="stop"), turn("end"), DONE)
    (completed,) = played.said(type=f"{ITEM}.completed")
    assert (completed["transcript"], completed["usage"]["seconds"]) == ("one two", 1.0)
    played.tell(ready(), turn("start", at_ms=50), final("three", at_ms=50))
    (opened,) = played.said(type="input_audio_buffer.speech_started")
    first, last = played.said(type="input_audio_buffer.committed")
    assert first["item_id"] == completed["item_id"] == last["previous_item_id"]
    assert last["item_id"] == opened["item_id"]
    assert played.said(type=f"{ITEM}.completed")[-1]["transcript"] == "three"


def test_turn_detection_that_comes_before_any_audio_makes_no_item() -> None:
    played = table()
    played.hear(update(turn_detection=None), update(turn_detection={"type": "server_vad"}))
    assert kinds(played) == ["session.created", "session.updated", "session.updated"]


def test_a_refused_event_leaves_the_open_turn_as_it_is() -> None:
    played = table()
    played.hear(append())
    played.tell(ready(), turn("start"), partial("one"))
    played.hear(update(format={"type": "audio/mp3"}))
    played.tell(final("one two"))
    (opened,) = played.said(type="input_audio_buffer.speech_started")
    (completed,) = played.said(type=f"{ITEM}.completed")
    deltas = "".join(value["delta"] for value in played.said(type=f"{ITEM}.delta"))
    assert (completed["item_id"], deltas) == (opened["item_id"], "one two")


def test_a_commit_that_cannot_be_served_fails_its_item_only() -> None:
    played = table()
    played.hear(update(turn_detection=None), append(), {"type": "input_audio_buffer.commit"})
    played.tell(ready(), Error(code="rate_limited", message="because", fatal=False))
    assert played.said(type=f"{ITEM}.failed")[0]["error"]["code"] == "rate_limited"
    assert played.adapter.ending is None


def test_beta_has_its_own_names() -> None:
    played = table(BETA)
    wish = {"input_audio_format": "g711_ulaw", "turn_detection": {"silence_duration_ms": 300}}
    played.hear({"type": "transcription_session.update", "session": wish}, append(b"\0" * 80))
    played.tell(ready(), turn("start"), final("hi"))
    assert kinds(played)[:2] == ["transcription_session.created", "transcription_session.updated"]
    assert "conversation.item.created" in kinds(played)
    assert "conversation.item.added" not in kinds(played)
    session = played.said()[1]["session"]
    assert session["input_audio_format"] == "g711_ulaw"
    assert (played.start.audio.encoding, played.start.audio.rate) == ("mulaw", 8_000)
    assert played.start.endpointing == Endpointing(silence_ms=300, hesitation_ms=0)


@pytest.mark.parametrize(
    ("form", "encoding", "rate"),
    [
        ({"type": "audio/pcm", "rate": 16_000}, "pcm_s16le", 16_000),
        ({"type": "audio/pcm"}, "pcm_s16le", 24_000),
        ({"type": "audio/pcma"}, "alaw", 8_000),
        ("pcm16", "pcm_s16le", 24_000),
    ],
)
def test_formats(form: object, encoding: str, rate: int) -> None:
    played = table()
    played.hear(update(format=form), append())
    assert (played.start.audio.encoding, played.start.audio.rate) == (encoding, rate)


def test_another_format_in_mid_stream_is_another_session() -> None:
    played = table()
    played.hear(append(), update(format={"type": "audio/pcmu"}), append(), append())
    assert played.kinds() == ["start", "audio", "stop", "start", "audio"]
    played.tell(ready(), DONE, ready())
    played.hear(append())
    assert played.kinds() == ["start", "audio", "stop", "start", "audio"]


def test_other_turn_rules_in_mid_stream_are_a_configure() -> None:
    played = table()
    played.hear(append(), update(turn_detection={"type": "server_vad", "silence_duration_ms": 900}))
    assert played.kinds() == ["start", "audio", "configure"]
    played.hear(update(transcription={"model": "x"}))
    assert played.kinds() == ["start", "audio", "configure"]


@pytest.mark.parametrize(
    "session",
    [
        {  # of an agent's framework, each time it takes the socket from its pool
            "type": "transcription",
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": 24_000},
                    "transcription": {"model": "gpt-4o-transcribe", "language": "en", "prompt": ""},
                    "turn_detection": {
                        "type": "server_vad",
                        "threshold": 0.5,
                        "prefix_padding_ms": 600,
                        "silence_duration_ms": 350,
                    },
                    "noise_reduction": {"type": "near_field"},
                }
            },
            "include": ["item.input_audio_transcription.logprobs"],
        },
        {"type": "transcription", "audio": {"input": {"noise_reduction": None}}},
        {"type": "transcription", "audio": {"input": {"transcription": None}}},
    ],
)
def test_what_frameworks_ask_for_again_and_again_is_never_an_error(session: Any) -> None:
    played = table()
    wish = {"type": "session.update", "session": session}
    played.hear(wish, append(), wish, append(), wish)
    assert kinds(played) == ["session.created", *["session.updated"] * 3]
    assert played.kinds() == ["start", "audio"]


def test_a_client_that_just_closes_leaves_no_session() -> None:
    played = table()
    played.hear(append())
    played.hang_up()
    assert played.kinds() == ["start", "audio", "stop"]


def test_idleness_ends_the_session_not_the_socket_and_time_goes_on() -> None:
    played = table()
    played.hear(append(b"\0" * 48_000))
    played.tell(ready(), fatal("idle_timeout"))
    assert (played.adapter.ending, kinds(played)) == (None, ["session.created"])
    played.hear(append())
    played.tell(ready(), turn("start", at_ms=350))
    assert played.said(type="input_audio_buffer.speech_started")[0]["audio_start_ms"] == 1_050


def test_the_span_of_a_turn_has_what_is_around_its_speech() -> None:
    played = table()
    played.hear(append(b"\0" * 48 * 2_600))
    played.tell(ready(), turn("start", at_ms=200), final("a", at_ms=200))  # "a" until 280
    played.tell(turn("start", number=1, at_ms=900), final("b", id=1, at_ms=900))
    played.tell(turn("start", number=2, at_ms=2_400), final("c", id=2, at_ms=2_400))
    played.tell(turn("start", number=3, at_ms=2_500), final("d", id=3, cause="stop", at_ms=2_500))
    starts = played.said(type="input_audio_buffer.speech_started")
    stops = played.said(type="input_audio_buffer.speech_stopped")
    spans = [
        (start["audio_start_ms"], stop["audio_end_ms"])
        for start, stop in zip(starts, stops, strict=True)
    ]
    assert spans == [(0, 780), (780, 1_480), (2_100, 2_600), (2_500, 2_580)]
    lengths = [value["usage"]["seconds"] for value in played.said(type=f"{ITEM}.completed")]
    assert lengths == [0.78, 0.7, 0.5, 0.08]


def test_the_usage_of_a_commit_is_the_audio_it_took() -> None:
    played = table()
    played.hear(update(turn_detection=None), append(b"\0" * 48_000))
    played.hear({"type": "input_audio_buffer.commit"}, append(b"\0" * 480))
    played.hear({"type": "input_audio_buffer.clear"}, append(b"\0" * 24_000))
    played.hear({"type": "input_audio_buffer.commit"})
    played.tell(ready(), *(final("", id=i, cause="finalize") for i in range(3)))
    usages = [value["usage"]["seconds"] for value in played.said(type=f"{ITEM}.completed")]
    assert usages == [1.0, 0.5]


def test_an_error_names_the_event_it_is_of() -> None:
    played = table()
    played.hear({"type": "response.create", "event_id": "mine"}, append(), {"type": "other"})
    played.tell(fatal("over_capacity"))
    named = [value["error"]["event_id"] for value in played.said(type="error")]
    assert named == ["mine", None, None]


def test_no_room_is_an_error_and_the_end() -> None:
    played = table()
    played.hear(append())
    played.tell(fatal("over_capacity"))
    assert played.said(type="error")[0]["error"]["type"] == "server_error"
    assert played.adapter.ending is not None
    assert played.adapter.ending.code == 1013


@pytest.mark.parametrize(
    "bad",
    [
        "nope",
        b"\0\0",
        {"type": "response.create"},
        {"type": "session.update"},
        {"type": "input_audio_buffer.append"},
        {"type": "input_audio_buffer.append", "audio": "%%%"},
        update(format={"type": "audio/mp3"}),
        update(turn_detection="always"),
        update(turn_detection={"type": "psychic"}),
        update(format={"type": "audio/pcm", "rate": "fast"}),
    ],
)
def test_what_cannot_be_taken_is_an_error_event_and_the_socket_stays(bad: Any) -> None:
    played = table()
    played.hear(bad, append())
    error = played.said(type="error")[0]["error"]
    assert (error["type"], bool(error["message"])) == ("invalid_request_error", True)
    assert played.adapter.ending is None
    assert played.kinds() == ["start", "audio"]
