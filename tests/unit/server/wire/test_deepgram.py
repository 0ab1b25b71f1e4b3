"""Deepgram's live wire: query and messages in, Results out."""

import json
import struct
from typing import Any

import pytest

from server.wire.adapter import Refused
from server.wire.deepgram import DeepgramServer
from server.wire.messages import Ack, Boost, Configure, Configured, Endpointing, Error, Readable
from tests.unit.server.wire.foreign import DONE, Table, fatal, final, hello, partial, ready, turn

RAW = {"encoding": "linear16", "sample_rate": 16_000}


def table(**query: Any) -> Table:
    return Table(DeepgramServer(hello(None, **(RAW | query))))


def test_the_query_becomes_a_start() -> None:
    asked = table(
        encoding="mulaw",
        sample_rate=8_000,
        channels=2,
        language="en-US",
        endpointing=900,
        keyterm=["Zürich", "x" * 65],
        keywords=["moon:3.5", "sun", "bad:weight"],
    ).start
    assert (asked.audio.encoding, asked.audio.rate, asked.audio.channels) == ("mulaw", 8_000, 2)
    assert asked.endpointing == Endpointing(silence_ms=900, hesitation_ms=0)
    assert asked.language == "en-US"
    assert asked.boost == (
        Boost(phrase="Zürich"),
        Boost(phrase="moon", weight=3.5),
        Boost(phrase="sun"),
        Boost(phrase="bad"),
    )


@pytest.mark.parametrize(
    ("wish", "rules"),
    [
        ("25", Endpointing(silence_ms=200, hesitation_ms=0)),
        ("false", Endpointing()),
        ("true", Endpointing()),
        ("99999", Endpointing(silence_ms=5_000, hesitation_ms=0)),
    ],
)
def test_endpointing_is_brought_into_reach(wish: str, rules: Endpointing) -> None:
    assert table(endpointing=wish).start.endpointing == rules


@pytest.mark.parametrize(
    "query",
    [
        {"encoding": "opus"},
        {"sample_rate": "fast"},
        {"sample_rate": 1},
        {"channels": 3},
        {"endpointing": "soon"},
        {"endpointing": "nan"},
    ],
)
def test_a_query_that_cannot_be_is_refused_with_400_in_their_form(query: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refused:
        table(**query)
    assert refused.value.status == 400
    assert set(refused.value.body) == {"err_code", "err_msg", "request_id"}


def test_a_language_that_the_model_does_not_speak_is_left_to_the_model() -> None:
    assert table(language="multi").start.language is None


def test_a_language_may_be_written_as_a_locale() -> None:
    assert table(language="en_US").start.language == "en-US"


def test_partials_come_only_when_they_were_asked_for() -> None:
    quiet, chatty = table(), table(interim_results="true")
    for each in (quiet, chatty):
        each.tell(ready(), partial("turn", "on"))
    assert quiet.frames == []
    (result,) = chatty.said(type="Results")
    alternative = result["channel"]["alternatives"][0]
    assert (result["is_final"], alternative["transcript"]) == (False, "turn on")
    assert [word["word"] for word in alternative["words"]] == ["turn", "on"]


@pytest.mark.parametrize(
    ("cause", "flags"),
    [
        ("endpoint", (True, True, False)),
        ("finalize", (True, True, True)),
        ("stop", (True, True, False)),
        ("max", (True, False, False)),
    ],
)
def test_a_final_says_why_it_came(cause: str, flags: tuple[bool, ...]) -> None:
    played = table()
    played.tell(ready(), final("Hello there.", cause=cause, at_ms=500))
    (result,) = played.said()
    assert (result["is_final"], result["speech_final"], result["from_finalize"]) == flags
    assert (result["start"], result["channel_index"]) == (0.5, [0, 1])
    first, last = result["channel"]["alternatives"][0]["words"]
    assert (last["word"], last["punctuated_word"], first["start"]) == ("there", "there.", 0.5)
    assert result["metadata"]["request_id"]


def test_without_endpointing_a_pause_makes_words_final_and_ends_no_utterance() -> None:
    played = table(endpointing="false", utterance_end_ms=1_000)
    played.tell(ready(), final("yes"), Ack(at=32_000, done=32_000, durable=0))
    result, end = played.said()
    assert (result["is_final"], result["speech_final"]) == (True, False)
    assert end["type"] == "UtteranceEnd"


def test_a_finalize_without_words_is_answered_too() -> None:
    played = table()
    played.hear(b"\0" * 320, {"type": "Finalize"})
    played.tell(ready(), final("", cause="finalize"))
    (result,) = played.said(from_finalize=True)
    assert result["channel"]["alternatives"][0] == {
        "transcript": "",
        "confidence": 0.0,
        "words": [],
    }
    assert played.kinds() == ["start", "audio", "finalize"]


@pytest.mark.parametrize("said", [partial("", "a"), partial("a"), final(""), final("a b")])
def test_every_result_has_what_agents_read(said: Any) -> None:
    played = table(interim_results="true")
    played.tell(ready(), said)
    (result,) = played.said()
    assert {type(result[name]) for name in ("is_final", "speech_final", "from_finalize")} == {bool}
    assert result["metadata"]["request_id"]
    (alternative,) = result["channel"]["alternatives"]
    assert alternative.keys() == {"transcript", "confidence", "words"}
    assert len(alternative["words"]) == len(alternative["transcript"].split())


def test_the_end_is_metadata_and_1000() -> None:
    played = table()
    played.hear(b"\0" * 320, {"type": "CloseStream"}, b"late", {"type": "Finalize"})
    assert not played.said()
    played.tell(ready(), final("bye", cause="stop"), DONE)
    assert [value["type"] for value in played.said()] == ["Results", "Metadata"]
    assert played.said()[-1]["duration"] == 1.0
    assert played.said()[-1]["created"] == "2026-09-21T14:13:20.000Z"
    assert played.adapter.ending == (1000, "")
    assert played.kinds() == ["start", "audio", "stop"]


def test_an_empty_binary_message_closes_as_it_used_to() -> None:
    played = table()
    played.hear(b"")
    assert played.kinds() == ["start", "stop"]


def test_a_keep_alive_is_heard_and_not_answered() -> None:
    played = table()
    played.hear({"type": "KeepAlive"})
    played.tell(ready(), Configured(req="", at=0, applied={}))
    assert (played.kinds(), played.frames) == (["start", "configure"], [])


def test_configure_is_confirmed() -> None:
    played = table()
    played.hear({"type": "Configure", "keyterms": ["moon"]})
    played.tell(ready(), Configured(req="configure", at=0, applied={}))
    (answer,) = played.said()
    assert (answer["type"], answer["keyterms"]) == ("ConfigureSuccess", ["moon"])


def test_a_configure_without_keyterms_leaves_them_and_tells_none() -> None:
    played = table()
    played.hear({"type": "Configure", "features": {"numerals": True}})
    played.hear({"type": "Configure", "keyterms": None}, {"type": "Configure", "keyterms": []})
    configures = [request for request in played.asked if isinstance(request, Configure)]
    assert [request.boost for request in configures] == [None, None, ()]
    played.tell(ready(), *[Configured(req="configure", at=0, applied={})] * 3)
    assert [value.get("keyterms") for value in played.said()] == [None, None, []]


def test_a_configure_that_the_session_refuses_failed() -> None:
    played = table()
    played.hear({"type": "Configure", "keyterms": ["moon"]}, {"type": "Configure"})
    refused = Error(code="rate_limited", message="wait", fatal=False, req="configure")
    other = Error(code="rate_limited", message="wait", fatal=False, req="finalize")
    played.tell(ready(), other, refused, Configured(req="configure", at=0, applied={}))
    failure, success = played.said()
    assert (failure["type"], failure["description"]) == ("ConfigureFailure", "wait")
    assert (success["type"], "keyterms" in success) == ("ConfigureSuccess", False)


def test_an_answer_to_nothing_is_told_to_nobody() -> None:
    played = table()
    refused = Error(code="rate_limited", message="wait", fatal=False, req="configure")
    played.tell(ready(), Configured(req="configure", at=0, applied={}), refused)
    assert played.said() == []


def test_silence_is_told_once_when_it_was_asked_for() -> None:
    played = table(utterance_end_ms=1_000, vad_events="true")
    played.tell(ready(), turn("start", at_ms=120), final("hello", at_ms=0))
    played.tell(Ack(at=99_999, done=16_000, durable=0))
    assert played.said(type="UtteranceEnd") == []
    for done in (18_000, 20_000):
        played.tell(Ack(at=99_999, done=done, durable=0))
    assert [value["last_word_end"] for value in played.said(type="UtteranceEnd")] == [0.08]
    assert played.said(type="SpeechStarted")[0]["timestamp"] == 0.12


def test_an_utterance_does_not_end_while_words_go_on() -> None:
    played = table(utterance_end_ms=1_000, interim_results="true")
    played.tell(ready(), final("one", cause="finalize"), partial("two", id=1))
    played.tell(Ack(at=99_999, done=32_000, durable=0))
    assert played.said(type="UtteranceEnd") == []
    played.tell(final("two three", id=1, at_ms=400))
    played.tell(Ack(at=99_999, done=32_000, durable=0))
    assert [value["last_word_end"] for value in played.said(type="UtteranceEnd")] == [0.58]


def test_a_silence_that_new_words_end_is_told_before_them() -> None:
    played = table(utterance_end_ms=1_000)
    played.tell(ready(), final("one"), final("two", id=1, at_ms=1_080))
    told = [value["type"] for value in played.said()]
    assert told == ["Results", "UtteranceEnd", "Results"]


@pytest.mark.parametrize("text", ["not json", "[]", '{"type":"Nonsense"}', "{}"])
def test_what_cannot_be_read_closes_with_a_reason_and_no_message(text: str) -> None:
    played = table()
    played.hear(text)
    assert played.adapter.ending is not None
    assert played.adapter.ending.code == 1008
    assert played.adapter.ending.reason.startswith("DATA-0000")
    assert played.frames == []


def test_a_failed_session_closes_with_a_reason() -> None:
    played = table()
    played.tell(fatal("idle_timeout"))
    assert played.adapter.ending == (1011, "NET-0001: because")


def wav(rate: int = 8_000, *, extra: bytes = b"") -> bytes:
    head = struct.pack("<HHIIHH", 1, 1, rate, rate * 2, 2, 16)
    chunks = b"fmt " + len(head).to_bytes(4, "little") + head + extra
    return b"RIFF\xff\xff\xff\xffWAVE" + chunks + b"data\xff\xff\xff\xff"


@pytest.mark.parametrize("cut", [1, 7, 44, 1_000])
def test_a_wav_without_an_encoding_says_its_format_itself(cut: int) -> None:
    played = Table(DeepgramServer(hello()))
    audio = bytes(range(200))
    stream = wav(extra=b"LIST\x04\0\0\0abcd") + audio
    played.hear(*[stream[i : i + cut] for i in range(0, len(stream), cut)])
    assert (played.start.audio.rate, played.audio) == (8_000, audio)


def test_a_container_that_is_no_wav_is_refused() -> None:
    played = Table(DeepgramServer(hello()))
    played.hear(b"OggS....")
    assert played.adapter.ending is not None


def test_closing_before_any_audio_is_answered() -> None:
    played = Table(DeepgramServer(hello()))
    played.hear({"type": "CloseStream"})
    assert played.said(type="Metadata")
    assert played.asked == []


def test_samples_cut_between_messages_are_put_together() -> None:
    played = table()
    played.hear(b"a", b"bc", b"def")
    assert played.audio == b"abcdef"
    assert all(len(request.data) % 2 == 0 for request in played.asked[1:])  # type: ignore[union-attr]


def test_every_message_is_json_with_a_type_that_their_clients_know() -> None:
    played = table(interim_results="true", vad_events="true", utterance_end_ms=1_000)
    played.tell(ready(), turn("start"), partial("a", "b"), final("a b"), turn("end", text="a b"))
    played.hear({"type": "CloseStream"})
    played.tell(DONE)
    known = {"Results", "SpeechStarted", "UtteranceEnd", "Metadata", "ConfigureSuccess"}
    assert {json.loads(frame)["type"] for frame in played.frames} <= known


@pytest.mark.parametrize(
    ("query", "rules"),
    [
        ({}, None),
        ({"punctuate": "true"}, Readable(numbers=False)),
        ({"numerals": "true"}, Readable(capitals=False, punctuation=False)),
        ({"smart_format": "true"}, Readable()),
        ({"readable": "true"}, Readable()),
    ],
)
def test_the_text_is_formatted_as_it_is_asked_for(
    query: dict[str, str], rules: Readable | None
) -> None:
    assert table(**query).start.readable == rules
