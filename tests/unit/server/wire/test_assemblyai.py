"""AssemblyAI's streaming wire."""

import pytest

from server.wire.adapter import PATIENCE_MS, Refused
from server.wire.assemblyai import AssemblyServer
from server.wire.messages import Configure, Endpointing
from tests.unit.server.wire.foreign import DONE, Table, fatal, final, hello, partial, ready, turn

FIELDS = {"turn_order", "turn_is_formatted", "end_of_turn", "transcript", "end_of_turn_confidence", "words"}  # noqa: E501  # fmt: skip


def table(**query: object) -> Table:
    return Table(AssemblyServer(hello(None, **({"sample_rate": 16_000} | query))))


def test_a_turn_holds_words_that_will_not_change_and_marks_the_others() -> None:
    played = table()
    played.tell(ready(), turn("start", at_ms=80), partial("turn", "on"), final("turn on it"))
    played.tell(final("next", id=1))
    assert [value["type"] for value in played.said()] == [
        "Begin", "SpeechStarted", "Turn", "Turn", "Turn",
    ]  # fmt: skip
    first, end, after = played.said(type="Turn")
    assert first["transcript"] == "turn"
    assert [word["word_is_final"] for word in first["words"]] == [True, False]
    assert (end["transcript"], end["end_of_turn"], end["turn_order"]) == ("turn on it", True, 0)
    assert after["turn_order"] == 1
    confidences = [value["end_of_turn_confidence"] for value in played.said(type="Turn")]
    assert confidences == [0.0, 1.0, 1.0]  # of the end of the turn, not of its words
    assert all(value.keys() >= FIELDS for value in played.said(type="Turn"))


def test_a_formatted_turn_is_told_once() -> None:
    played = table(format_turns="True")
    played.tell(ready(), final("a"))
    assert [value["turn_is_formatted"] for value in played.said(type="Turn")] == [True]


@pytest.mark.parametrize(
    ("query", "language"),
    [
        ({"language_code": "en"}, "en"),
        ({"language_codes": '["en-GB"]'}, "en-GB"),
        ({"language_codes": '["en", "es"]'}, None),
        ({"language_codes": "[", "language": "en"}, "en"),
    ],
)
def test_the_language_stands_where_their_client_puts_it(
    query: dict[str, str], language: str | None
) -> None:
    assert table(**query).start.language == language


def test_turns_may_be_formatted_from_an_update_on() -> None:
    played = table()
    played.hear({"type": "UpdateConfiguration", "format_turns": True})
    played.tell(ready(), final("a"))
    assert [value["turn_is_formatted"] for value in played.said(type="Turn")] == [True]


def test_a_muted_client_is_kept_as_long_as_it_asks_for() -> None:
    assert table().adapter.idle_ms == PATIENCE_MS
    assert table(inactivity_timeout=5).adapter.idle_ms == 5_000
    with pytest.raises(Refused):
        table(inactivity_timeout=4)


def test_terminate_is_answered_before_the_close() -> None:
    played = table()
    played.hear(b"\0" * 1_600, {"type": "Terminate"}, b"\0\0")
    played.tell(ready(), DONE)
    assert played.said()[-1] == {
        "type": "Termination",
        "audio_duration_seconds": 1,
        "session_duration_seconds": 1,
    }
    assert played.adapter.ending == (1000, "")
    assert played.kinds() == ["start", "audio", "stop"]


def test_the_query_and_updates_become_rules() -> None:
    played = table(encoding="pcm_mulaw", min_turn_silence=900, keyterms_prompt='["moon"]')
    assert played.start.endpointing == Endpointing(silence_ms=900, hesitation_ms=0)
    assert played.start.audio.encoding == "mulaw"
    assert [boost.phrase for boost in played.start.boost or ()] == ["moon"]
    assert table(keyterms_prompt="[" * 4_000).start.boost is None  # far too deep
    played.hear({"type": "UpdateConfiguration", "min_turn_silence": 100}, {"type": "ForceEndpoint"})
    played.hear({"type": "KeepAlive"})
    assert played.kinds() == ["start", "configure", "finalize", "configure"]


@pytest.mark.parametrize(
    ("query", "silence_ms", "longer_ms"),
    [
        ({"min_turn_silence": 400, "max_turn_silence": 1_280}, 400, 880),
        ({"min_turn_silence": 100, "max_turn_silence": 100}, 200, 0),
        ({"max_turn_silence": 1_280}, 700, 580),
        ({"max_turn_silence": 400}, 400, 0),
        ({"min_turn_silence": 900, "max_turn_silence": 400}, 400, 0),
        ({"min_end_of_turn_silence_when_confident": 160, "max_turn_silence": 9_000}, 200, 2_000),
    ],
)
def test_behind_a_word_that_ends_no_sentence_the_longest_silence_is_waited_for(
    query: dict[str, int], silence_ms: int, longer_ms: int
) -> None:
    rules = Endpointing(silence_ms=silence_ms, hesitation_ms=longer_ms)
    assert table(**query).start.endpointing == rules
    updated = table()
    for name, value in query.items():  # what an update does not name stays as it is
        updated.hear({"type": "UpdateConfiguration", name: value})
    last = updated.asked[-1]
    assert isinstance(last, Configure)
    assert last.endpointing == rules


@pytest.mark.parametrize(
    "query", [{"sample_rate": 1}, {"encoding": "mp3"}, {"min_turn_silence": "x"}]
)
def test_a_query_that_cannot_be_is_refused(query: dict[str, object]) -> None:
    with pytest.raises(Refused):
        table(**query)


@pytest.mark.parametrize(("code", "closed"), [("over_capacity", 3009), ("internal", 3005)])
def test_an_error_is_said_and_closes(code: str, closed: int) -> None:
    played = table()
    played.tell(fatal(code))
    assert played.said(type="Error")[0] == {
        "type": "Error",
        "error_code": closed,
        "error": "because",
    }
    assert played.adapter.ending == (closed, "because")


@pytest.mark.parametrize("text", ["x", '{"type":"What"}'])
def test_what_cannot_be_read_is_an_error(text: str) -> None:
    played = table()
    played.hear(text)
    assert played.said(type="Error")[0]["error_code"] == 3007
