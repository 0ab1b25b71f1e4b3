"""What a client gets from a model."""

import math

import numpy as np
import pytest

from asr.events import Progress
from asr.live import ChannelOptions, Recognizer
from asr.scripted import ScriptedEngine
from server.config import ServerConfig
from server.negotiation import Agreement, agree, change, class_of, nearest, slower
from server.wire.errors import BadRequest, UnsupportedLanguage
from server.wire.messages import (
    AudioFormat,
    Boost,
    Chunk,
    Configure,
    Endpointing,
    LatencyClass,
    Start,
)
from server.worker import link


def model(
    looks: tuple[int, ...] = (13, 6, 1, 0), languages: tuple[str, ...] = ("en",)
) -> link.Model:
    return link.Model("m", "f", looks, 8, "fp32", "rnnt", 0, languages)


def ask(**wishes: object) -> Start:
    return Start(v=1, audio=AudioFormat(encoding="pcm_s16le", rate=16_000), **wishes)  # type: ignore[arg-type]


def agreed(wish: Start, of: link.Model | None = None, **settings: int) -> Agreement:
    return agree(wish, of or model(), ServerConfig(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("latency", "look_ahead"), [("low", 1), ("balanced", 6), ("accurate", 13), (None, 6)]
)
def test_classes_are_look_aheads(latency: LatencyClass | None, look_ahead: int) -> None:
    assert agreed(ask(latency=latency)).look_ahead == look_ahead


def test_chunk_ms_names_a_look_ahead_and_an_unknown_one_names_the_choices() -> None:
    assert agreed(ask(latency=Chunk(chunk_ms=80))).look_ahead == 0
    with pytest.raises(BadRequest, match="80, 160, 560, 1120") as caught:
        agreed(ask(latency=Chunk(chunk_ms=240)))
    assert caught.value.param == "latency.chunk_ms"


def test_a_class_the_model_lacks_becomes_the_nearest_that_is_not_slower() -> None:
    assert nearest(6, model((3, 1))) == 3
    assert nearest(1, model((6, 3))) == 3


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("latency", ["low", "balanced"])
def test_chunks_take_the_samples_that_are_told(rate: int, latency: LatencyClass) -> None:
    audio = AudioFormat(encoding="pcm_s16le", rate=rate)
    agreement = agreed(Start(v=1, audio=audio, latency=latency))
    recognizer = Recognizer(ScriptedEngine())
    channel = recognizer.open(ChannelOptions(look_ahead=agreement.look_ahead, rate=rate))
    chunk, chunks, heard = agreement.chunk_ms * rate // 1000, agreement.chunks, 0
    assert recognizer.lacks(channel) == chunks.first
    for _ in range(4):
        lacks = recognizer.lacks(channel)
        recognizer.feed(channel, np.zeros(lacks, np.float32))
        heard += lacks
        (done,) = [e.done_samples for _, e in recognizer.step() if isinstance(e, Progress)]
        told = done + chunk + chunks.beyond - heard
        # it may say a sample of 16 kHz too many
        assert told - math.ceil(rate / 16_000) <= recognizer.lacks(channel) <= told


def test_only_a_flexible_client_gets_a_longer_chunk_and_the_next_one() -> None:
    assert slower(agreed(ask(latency="low")), model()) is None
    first = slower(agreed(ask(latency="low", flexible=True)), model())
    assert first is not None
    assert first.look_ahead == 6
    last = slower(first, model())
    assert last is not None
    assert last.look_ahead == 13
    assert slower(last, model()) is None


def test_the_servers_default_is_for_clients_that_name_no_latency() -> None:
    assert agreed(ask(), look_ahead=1).look_ahead == 1
    assert agreed(ask(latency="accurate"), look_ahead=1).look_ahead == 13


def test_languages_match_by_tag_then_by_primary_language() -> None:
    many = model(languages=("en-US", "de-DE"))
    assert agreed(ask(language="DE-de"), many).language == "de-DE"
    assert agreed(ask(language="en-GB"), many).language == "en-US"
    assert agreed(ask(language="auto"), many).language is None
    with pytest.raises(UnsupportedLanguage, match="en-US, de-DE"):
        agreed(ask(language="fr"), many)


def test_configure_changes_what_it_names_and_keeps_the_rest() -> None:
    before = agreed(ask(partials="stable"))
    after = change(before, Configure(req="r", endpointing=Endpointing(silence_ms=900)), model())
    assert (after.endpointing.silence_ms, after.partials) == (900, "stable")
    assert change(before, Configure(req="r", language="en"), model()) != after


def test_a_bad_configure_does_not_end_the_session() -> None:
    rules = Endpointing(silence_ms=200, eager_ms=200)
    for wish in (Configure(req="r", endpointing=rules), Configure(req="r", language="de")):
        with pytest.raises((BadRequest, UnsupportedLanguage)) as caught:
            change(agreed(ask(language="en")), wish, model(languages=("en", "de")))
        assert not caught.value.is_fatal


def test_classes_have_names_and_others_their_chunk() -> None:
    assert [class_of(frames) for frames in (1, 6, 13, 3)] == [
        "low",
        "balanced",
        "accurate",
        "320ms",
    ]


LETTERS = "abcdefghijklmnopqrstuvwxyz'"


def boosting(alphabet: str = LETTERS) -> link.Model:
    return link.Model("m", "f", (6,), 8, "fp32", "ctc", 0, ("en",), alphabet)


def test_boosted_phrases_reach_the_worker_and_configure_replaces_them_whole() -> None:
    wish = ask(boost=(Boost(phrase="Rivulet", weight=4), Boost(phrase="New-York")))
    agreement = agreed(wish, boosting())
    assert agreement.to_open(3).boost == (("Rivulet", 4), ("New-York", 2.0))
    kept = change(agreement, Configure(req="a", partials="none"), boosting())
    assert kept.boost == agreement.boost
    assert change(agreement, Configure(req="b", boost=()), boosting()).boost == ()


@pytest.mark.parametrize("phrase", ["route 66", "日本", "?!"])
def test_a_phrase_the_model_cannot_write_is_one_clear_error(phrase: str) -> None:
    boost = (Boost(phrase="fine"), Boost(phrase=phrase))
    with pytest.raises(BadRequest, match="does not write") as caught:
        agreed(ask(boost=boost), boosting())
    assert caught.value.param == "boost[1].phrase" and caught.value.is_fatal
    assert phrase not in str(caught.value)
    with pytest.raises(BadRequest) as caught:
        change(agreed(ask(), boosting()), Configure(req="a", boost=boost), boosting())
    assert not caught.value.is_fatal


def test_an_engine_that_cannot_boost_serves_all_the_same_and_refuses_a_later_wish() -> None:
    boost = (Boost(phrase="fine"),)
    agreement = agreed(ask(boost=boost), boosting(""))
    assert agreement.boost == ()
    with pytest.raises(BadRequest, match="cannot boost") as caught:
        change(agreement, Configure(req="a", boost=boost), boosting(""))
    assert not caught.value.is_fatal
