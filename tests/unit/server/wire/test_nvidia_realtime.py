"""NVIDIA's realtime wire: its greeting, commits that end nothing, a last result with the whole."""

import base64
import io
import wave
from typing import Any

import pytest

from server.wire import messages as native
from server.wire.nvidia_realtime import NvidiaServer, is_offered, new_session
from tests.unit.server.wire.foreign import DONE, Table, fatal, final, hello, partial, ready

PCM = b"\1\0" * 100
COMMIT = {"type": "input_audio_buffer.commit"}
FINISH = {"type": "input_audio_buffer.done"}
HEARD = "conversation.item.input_audio_transcription."


def append(data: bytes = PCM, **more: Any) -> dict[str, Any]:
    event = {"type": "input_audio_buffer.append", "audio": base64.b64encode(data).decode()}
    return event | more


def update(**session: Any) -> dict[str, Any]:
    return {"type": "transcription_session.update", "session": session}


def table(*events: dict[str, Any]) -> Table:
    played = Table(NvidiaServer(hello()))
    played.hear(*events)
    return played


def wav(rate: int = 8_000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, rate, 0, "NONE", ""))
        out.writeframes(PCM)
    return file.getvalue()


def texts(played: Table, kind: str) -> list[str]:
    field = "delta" if kind == "delta" else "transcript"
    return [event[field] for event in played.said(type=HEARD + kind)]


def test_it_greets_and_answers_an_update_with_the_whole_session() -> None:
    played = table(update(input_audio_params={"sample_rate_hz": 8_000}))
    greeting, updated = played.said()
    assert greeting["type"] == "conversation.created"
    assert updated["type"] == "transcription_session.updated"
    assert updated["session"]["input_audio_params"] == {"sample_rate_hz": 8_000, "num_channels": 1}
    assert updated["session"]["input_audio_format"] == "pcm16"


def test_a_session_can_be_sent_back_as_it_was_given_out() -> None:
    session = new_session(hello(), "t", 5)
    assert session["client_secret"] == {"value": "t", "expires_at": 5}
    played = table({"type": "transcription_session.update", "session": session}, append())
    assert played.start.audio == native.AudioFormat(encoding="pcm_s16le", rate=16_000)
    assert played.said(type="error") == []


def test_two_channels_are_one_voice() -> None:
    assert not NvidiaServer(hello()).has_channels


def test_a_commit_behind_every_packet_ends_nothing() -> None:
    played = table(append(), COMMIT, append(), COMMIT)
    assert played.kinds() == ["start", "audio"]
    assert played.audio == 2 * PCM
    assert len(played.said(type="input_audio_buffer.committed")) == 2


def test_an_end_of_utterance_can_be_forced_behind_a_packet() -> None:
    played = table(append(runtime_config={"force_eou": "true"}))
    assert played.kinds() == ["start", "audio", "finalize"]


def test_deltas_grow_by_stable_words_and_the_last_result_has_everything() -> None:
    played = table(append())
    played.tell(ready(), partial("turn", "of"), partial("turn on", "te", rev=2))
    played.tell(final("turn on the light"), final("", id=1), final("yes", id=2))
    played.hear(FINISH, FINISH)
    played.tell(DONE)
    assert "".join(texts(played, "delta")) == "turn on the lightyes"
    assert texts(played, "completed") == ["turn on the light", "yes", "turn on the light yes"]
    flags = [event["is_last_result"] for event in played.said(type=HEARD + "completed")]
    assert flags == [False, False, True]
    assert played.adapter.ending == (1000, "")
    assert played.kinds() == ["start", "audio", "stop"]


def test_items_are_one_an_utterance() -> None:
    played = table(append())
    played.tell(ready(), partial("a"), final("a b"), partial("c", id=1), final("c d", id=1))
    items = [event["item_id"] for event in played.said() if event["type"].startswith(HEARD)]
    assert [items.index(item) for item in items] == [0, 0, 0, 3, 3, 3]


def test_without_audio_the_end_is_an_empty_last_result() -> None:
    played = table(FINISH)
    (event,) = played.said(type=HEARD + "completed")
    assert (event["transcript"], event["is_last_result"]) == ("", True)
    assert played.adapter.ending is not None


def test_word_times_come_when_they_are_asked_for() -> None:
    played = table(update(recognition_config={"enable_word_time_offsets": True}), append())
    played.tell(ready(), final("yes", at_ms=400))
    (event,) = played.said(type=HEARD + "completed")
    assert event["words_info"]["words"] == [
        {"word": "yes", "start_time": 400, "end_time": 480, "confidence": 0.9, "speaker_tag": 0}
    ]


@pytest.mark.parametrize("cut", [3, 20, 44, 60])
def test_a_file_sent_as_it_is_says_its_format_itself(cut: int) -> None:
    whole = wav()
    played = table(update(input_audio_format="none"), append(whole[:cut]))
    played.hear(append(whole[cut:]))
    assert played.start.audio.rate == (16_000 if cut == 3 else 8_000)  # "RIF" is sound
    if cut > 3:
        assert played.audio == PCM


def test_bare_samples_may_come_without_a_format() -> None:
    assert table(update(input_audio_format="none"), append()).audio == PCM


def test_boosted_words_and_the_silence_that_ends_an_utterance_are_heeded() -> None:
    boosting = {"word_boosting_list": [{"phrases": ["moon", 7], "boost": 4.0}]}
    played = table(
        update(
            word_boosting={"enable_word_boosting": True} | boosting,
            endpointing_config={"stop_history": 800},
            input_audio_transcription={"language": "en-US"},
        ),
        append(),
    )
    assert played.start.boost == (native.Boost(phrase="moon", weight=4.0),)
    assert played.start.endpointing == native.Endpointing(silence_ms=800, hesitation_ms=0)
    assert played.start.language == "en-US"


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.create"},
        {"type": "input_audio_buffer.append", "audio": "?"},
        {"type": "transcription_session.update", "session": 3},
        update(input_audio_format="opus"),
        update(input_audio_params={"sample_rate_hz": 3}),
    ],
)
def test_a_mistake_is_told_and_the_session_goes_on(event: dict[str, Any]) -> None:
    played = table(event, append())
    assert len(played.said(type="error")) == 1
    assert played.adapter.ending is None
    assert played.audio == PCM


def test_what_cannot_go_on_ends_the_connection() -> None:
    played = table(append())
    played.tell(fatal("over_capacity"))
    assert played.said(type="error")[0]["error"]["code"] == "over_capacity"
    assert played.adapter.ending == (1013, "because")


def test_the_token_of_a_session_tells_the_wire() -> None:
    assert is_offered(hello({"sec-websocket-protocol": "realtime, realtime-token.abc"}))
    assert not is_offered(hello({"sec-websocket-protocol": "realtime, openai-insecure-api-key.k"}))


def test_marks_are_added_where_automatic_punctuation_is_asked_for() -> None:
    wish = update(recognition_config={"enable_automatic_punctuation": True})
    played = table(wish, append())
    assert played.start.readable == native.Readable(numbers=False)
    (updated,) = played.said(type="transcription_session.updated")
    assert updated["session"]["recognition_config"]["enable_automatic_punctuation"] is True
