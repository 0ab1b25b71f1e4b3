"""Deepgram's turn-taking wire: turns as numbered messages."""

import pytest

from server.wire.adapter import Refused
from server.wire.flux import FluxServer, Thresholds
from server.wire.messages import Configured, Endpointing, Error, Finalized, Readable
from tests.unit.server.wire.foreign import DONE, Table, fatal, final, hello, partial, ready, turn

RAW = {"encoding": "linear16", "sample_rate": 16_000}


def table(**query: object) -> Table:
    return Table(FluxServer(hello(None, **(RAW | query))))


def events(played: Table) -> list[str]:
    return [str(value.get("event", value["type"])) for value in played.said()]


def test_a_turn_is_told_from_start_to_end_and_every_message_is_numbered() -> None:
    played = table(eager_eot_threshold=0.4)
    played.tell(
        ready(),
        turn("start", at_ms=80),
        partial("turn", "on"),
        turn("eager_end", at_ms=700, text="turn on", confidence=0.6),
        turn("resumed", at_ms=800),
        turn("eager_end", at_ms=1_500, text="turn on it", confidence=0.7),
        final("turn on it"),
        turn("end", at_ms=1_700, text="turn on it", trigger="silence"),
    )
    assert events(played) == [
        "Connected",
        "StartOfTurn",
        "Update",
        "EagerEndOfTurn",
        "TurnResumed",
        "EagerEndOfTurn",
        "EndOfTurn",
    ]
    assert [value["sequence_id"] for value in played.said()] == list(range(7))
    end = played.said()[-1]
    assert (end["transcript"], end["trigger"], end["turn_index"]) == ("turn on it", "model", 0)
    assert [word["word"] for word in end["words"]] == ["turn", "on", "it"]
    assert all("trigger" not in value for value in played.said()[:-1])


def test_an_eager_end_without_words_is_not_told() -> None:
    played = table(eager_eot_threshold=0.5)
    played.tell(ready(), turn("start"), turn("eager_end", at_ms=500, text="", confidence=0.5))
    assert events(played) == ["Connected", "StartOfTurn"]


def test_nothing_is_resumed_that_was_not_ended() -> None:
    played = table(eager_eot_threshold=0.5)
    played.tell(ready(), turn("start"), turn("eager_end", text=""), turn("resumed"))
    assert events(played) == ["Connected", "StartOfTurn"]


def test_an_end_in_other_words_than_the_eager_one_takes_it_back_first() -> None:
    played = table(eager_eot_threshold=0.5)
    played.tell(ready(), turn("start"), turn("eager_end", text="turn on"), final("turn on it"))
    played.tell(turn("end", text="turn on it"))
    assert events(played)[2:] == ["EagerEndOfTurn", "TurnResumed", "EndOfTurn"]
    same = table(eager_eot_threshold=0.5)
    same.tell(
        ready(), turn("start"), turn("eager_end", text="a"), final("a"), turn("end", text="a")
    )
    assert events(same)[2:] == ["EagerEndOfTurn", "EndOfTurn"]


def test_eager_ends_come_only_when_they_were_asked_for() -> None:
    assert (table().start.endpointing or Endpointing()).eager_ms is None


@pytest.mark.parametrize(
    ("trigger", "named"),
    [("silence", "model"), ("model", "model"), ("finalize", "manual"), ("timeout", "timeout")],
)
def test_the_trigger_has_their_name(trigger: str, named: str) -> None:
    played = table()
    played.hear({"type": "ForceEndTurn"})
    played.tell(ready(), turn("start"), final("a"), turn("end", text="a", trigger=trigger))
    assert played.said()[-1]["trigger"] == named


@pytest.mark.parametrize(
    "answer",
    [
        Finalized(at=0, req="force"),
        Error(code="rate_limited", message="", fatal=False, req="force"),
    ],
)
def test_the_end_of_the_stream_is_no_turn_ended_by_hand(answer: Finalized | Error) -> None:
    played = table()
    played.hear({"type": "ForceEndTurn"}, {"type": "CloseStream"})
    played.tell(ready(), answer, turn("start"), final("a", cause="stop"))
    played.tell(turn("end", text="a", trigger="finalize"))
    assert played.said()[-1]["trigger"] == "model"


def test_thresholds_become_silences() -> None:
    assert Thresholds().endpointing() == Endpointing()
    assert Thresholds(eot=0.5).endpointing().silence_ms == 400
    assert Thresholds(eot=0.9, timeout_ms=500).endpointing().silence_ms == 500
    rules = Thresholds(eot=0.7, eager=0.9).endpointing()
    assert rules.eager_ms is not None
    assert 80 <= rules.eager_ms < rules.silence_ms


@pytest.mark.parametrize(
    "query",
    [{"eot_threshold": 0.2}, {"eager_eot_threshold": "x"}, {"eot_timeout_ms": 1}, {"channels": 2}],
)
def test_a_query_that_cannot_be_is_refused(query: dict[str, object]) -> None:
    with pytest.raises(Refused):
        table(**query)


def test_configure_changes_the_rules_and_is_confirmed_under_a_number() -> None:
    played = table(keyterm="sun")
    played.hear(
        {"type": "Configure", "thresholds": {"eot_threshold": 0.9}, "keyterms": ["moon", 7]}
    )
    played.tell(ready(), Configured(req="configure", at=0, applied={}))
    answer = played.said(type="ConfigureSuccess")[0]
    assert answer["sequence_id"] == 1
    assert answer["thresholds"]["eot_threshold"] == 0.9
    assert answer["keyterms"] == ["moon"]
    assert played.kinds() == ["start", "configure"]


def test_force_end_turn_finalizes_and_close_stream_ends_with_1000() -> None:
    played = table()
    played.hear({"type": "ForceEndTurn"}, {"type": "CloseStream"}, b"late")
    played.tell(ready(), DONE)
    assert played.kinds() == ["start", "finalize", "stop"]
    assert played.adapter.ending == (1000, "")


def test_an_error_is_said_and_closes() -> None:
    played = table()
    played.tell(fatal("over_capacity"))
    assert played.said(type="Error")[0]["description"] == "because"
    assert played.adapter.ending == (1011, "because")


@pytest.mark.parametrize(
    "wish", [{"eot_threshold": 7}, {"eot_threshold": 0.6, "eot_timeout_ms": 1}]
)
def test_a_configure_that_cannot_be_fails_and_changes_nothing(wish: dict[str, float]) -> None:
    played = table()
    played.hear({"type": "Configure", "thresholds": wish}, {"type": "Configure"})
    assert [value["type"] for value in played.said()] == ["Connected", "ConfigureFailure"]
    played.tell(ready(), Configured(req="configure", at=0, applied={}))
    assert played.said()[-1]["thresholds"]["eot_threshold"] == 0.7
    refused = Error(code="rate_limited", message="wait", fatal=False, req="configure")
    played.tell(refused)
    assert played.said()[-1]["type"] == "ConfigureFailure"
    assert played.adapter.ending is None


def test_words_are_those_of_the_transcript_and_its_window_covers_them() -> None:
    played = table(eager_eot_threshold=0.4, readable="true")
    said = final("Turn on it.", at_ms=60)
    played.tell(ready(), turn("start", at_ms=200), partial("Turn"))
    played.tell(turn("eager_end", at_ms=900, text="Turn on it.", confidence=0.6))
    played.tell(said, turn("end", at_ms=1_300, text="Turn on it."))
    for told in played.said(type="TurnInfo"):
        assert " ".join(word["word"] for word in told["words"]) == told["transcript"]
        if told["words"]:
            assert told["audio_window_start"] <= told["words"][0]["start"]
            assert told["audio_window_end"] >= told["words"][-1]["end"]
    assert said.words is not None
    times = [(round(word["start"] * 1_000), word["end"]) for word in told["words"]]
    assert times == [(word.s, word.e / 1_000) for word in said.words]


def test_the_confidence_of_an_end_is_not_that_of_its_words() -> None:
    played = table(eager_eot_threshold=0.4)
    played.tell(ready(), turn("start"), partial("a"), turn("eager_end", text="a", confidence=0.9))
    played.tell(turn("resumed"), partial("a", "b"), final("a b"), turn("end", text="a b"))
    told = [(value["event"], value["end_of_turn_confidence"]) for value in played.said()[1:]]
    assert told == [
        ("StartOfTurn", 0.0),
        ("Update", 0.0),
        ("EagerEndOfTurn", 0.4),
        ("TurnResumed", 0.0),
        ("Update", 0.0),
        ("EndOfTurn", 0.7),
    ]


@pytest.mark.parametrize("text", ["nope", '{"type":"Other"}'])
def test_what_cannot_be_read_is_a_fatal_error_message(text: str) -> None:
    played = table()
    played.hear(text)
    assert played.said(type="Error")
    assert played.adapter.ending is not None


def test_readable_text_may_be_asked_for_in_any_address() -> None:
    assert table(readable="true").start.readable == Readable()
    assert table().start.readable is None


def test_numerals_are_written_where_they_are_asked_for() -> None:
    found = table(numerals="true").start.readable
    assert found == Readable(capitals=False, punctuation=False)


def test_one_keyterm_need_not_be_a_list() -> None:
    played = table()
    played.hear({"type": "Configure", "keyterms": "moon"})
    played.tell(ready(), Configured(req="configure", at=0, applied={}))
    assert played.said(type="ConfigureSuccess")[0]["keyterms"] == ["moon"]
