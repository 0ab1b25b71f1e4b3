"""Text in and out of the native protocol: bad starts, bad JSON, limits, values never sent."""

import json
import sys
from typing import Any

import msgspec
import pytest

from server.wire.codec import MAX_TEXT_BYTES, decode_client
from server.wire.conversation import Audio, State
from server.wire.errors import (
    BadRequest,
    LocalProtocolError,
    MessageTooBig,
    RemoteProtocolError,
    UnsupportedAudio,
    UnsupportedLanguage,
)
from server.wire.messages import (
    MAX_META_BYTES,
    AudioFormat,
    Configured,
    Error,
    Final,
    Limits,
    Message,
    Partial,
    Ready,
    ServerMessage,
    Start,
    WordSpan,
)
from server.wire.native import MAX_MISTAKES, NativeServer

START = Start(v=1, audio=AudioFormat(encoding="pcm_s16le", rate=16_000))
READY = Ready(
    v=1, session="s", token="t", model="m", resumed=False, at=0, chunk_ms=160, limits=Limits()
)


def raw(message: Message, **more: Any) -> str:
    """Return the JSON text of a message without asking whether it is legal."""
    return json.dumps(msgspec.to_builtins(message) | more)


def started() -> NativeServer:
    server = NativeServer()
    server.receive_text(raw(START))
    return server


def refusal(server: NativeServer, text: str) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as caught:
        server.receive_text(text)
    return caught.value


# ---- start


@pytest.mark.parametrize(
    ("change", "error", "param"),
    [
        ({"v": 2}, BadRequest, "v"),
        ({"latency": "fast"}, BadRequest, "latency"),
        ({"latency": {"chunk_ms": 79}}, BadRequest, "latency.chunk_ms"),
        ({"language": "english please"}, UnsupportedLanguage, "language"),
        ({"audio": {"encoding": "mp3", "rate": 16_000}}, UnsupportedAudio, "audio.encoding"),
        ({"audio": {"encoding": "mulaw", "rate": 4_000}}, UnsupportedAudio, "audio.rate"),
        ({"audio": {"encoding": "mulaw", "rate": 10**30}}, UnsupportedAudio, "audio.rate"),
        ({"audio": {"encoding": "mulaw", "rate": "8000"}}, UnsupportedAudio, "audio.rate"),
        (
            {"audio": {"encoding": "mulaw", "rate": 8_000, "channels": 8}},
            UnsupportedAudio,
            "audio.channels",
        ),
        ({"audio": {"rate": 8_000}}, BadRequest, "audio"),
        ({"audio": []}, BadRequest, "audio"),
        ({"boost": [{"phrase": "x" * 65}]}, BadRequest, "boost[0].phrase"),
        ({"boost": [{"phrase": "x"}] * 1_001}, BadRequest, "boost"),
        ({"meta": {"x": "y" * 1_024}}, BadRequest, "meta"),
        ({"endpointing": {"silence": 5}}, BadRequest, "endpointing"),
    ],
    ids=str,
)
def test_a_bad_start_is_fatal_and_names_the_field(
    change: dict[str, Any], error: type[RemoteProtocolError], param: str
) -> None:
    server = NativeServer()
    refused = refusal(server, raw(START, **change))
    assert type(refused) is error
    assert refused.is_fatal
    assert refused.param == param
    assert server.start is None
    server.render(refused.to_message())
    assert server.state is State.CLOSED


def test_a_start_without_audio_is_named() -> None:
    assert "`audio`" in refusal(NativeServer(), '{"type":"start","v":1}').message


def test_unknown_start_fields_are_collected_and_bounded() -> None:
    server = NativeServer()
    server.receive_text(raw(START, colour="red", **{"x" * 500: 1}))
    assert server.ignored == ("colour", "x" * 64)
    server = NativeServer()
    server.receive_text(raw(START, **{f"field{i}": i for i in range(99)}))
    assert len(server.ignored) == 32


# ---- bad text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[]",
        "7",
        "null",
        '{"type":7}',
        "{}",
        '{"type":"sing"}',
        '{"type":"finalize","req":NaN}',
        '{"type":"gap","samples":1e999}',
        '{"type":"gap","samples":' + "9" * 400 + "}",
        '{"type":"gap","samples":' + "9" * 50_000 + "}",
        "[" * 200_000,
        '{"type":"finalize","req":"\\ud800"}',
        '{"type":"finalize","req":"\ud800"}',
        '{"type":"stop"} {"type":"stop"}',
    ],
    ids=lambda text: ascii(text[:40]) + str(len(text)),
)
def test_bad_text_is_a_named_error_and_the_session_goes_on(text: str) -> None:
    server = started()
    error = refusal(server, text)
    assert (error.code, error.is_fatal) == ("bad_request", False)
    assert error.to_message().message
    assert server.receive_binary(bytes(4)) == [Audio(bytes(4))]


def test_an_unknown_type_is_quoted_in_part() -> None:
    error = refusal(NativeServer(), json.dumps({"type": "x" * 9_999}))
    assert error.param == "type"
    assert len(error.message) < 100


def test_deeply_nested_meta_is_refused_at_every_depth_near_the_limit_of_the_interpreter() -> None:
    for depth in range(800, sys.getrecursionlimit() + 10):
        nested = raw(START)[:-1] + ',"meta":{"x":' + "[" * depth + "]" * depth + "}}"
        assert refusal(NativeServer(), nested).code == "bad_request"


def test_meta_nested_deeper_than_json_can_be_written_is_refused() -> None:
    meta: dict[str, Any] = {}
    for _ in range(3_000):
        meta = {"x": meta}
    with pytest.raises(BadRequest, match="meta"):
        decode_client(json.loads(raw(START)) | {"meta": meta})


def test_meta_of_the_greatest_size_is_taken() -> None:
    text = raw(START, meta={"x": "y" * (MAX_META_BYTES - len('{"x":""}'))})
    assert len(NativeServer().receive_text(text)) == 1


@pytest.mark.parametrize(
    "text", ["x" * (MAX_TEXT_BYTES + 1), "\N{EURO SIGN}" * (MAX_TEXT_BYTES // 2)]
)
def test_a_huge_text_is_refused_before_it_is_read(text: str) -> None:
    error = refusal(NativeServer(), text)
    assert (type(error), error.close_code, error.is_fatal) == (MessageTooBig, 1009, True)


def test_mistakes_are_counted_and_too_many_are_fatal() -> None:
    server = started()
    for _ in range(MAX_MISTAKES):
        assert not refusal(server, "?").is_fatal
    assert refusal(server, "?").is_fatal


# ---- what is sent


@pytest.mark.parametrize(
    "message",
    [
        Final(
            id=0, channel=0, text="", start_ms=0, end_ms=0, cause="stop", confidence=float("nan")
        ),
        Final(id=-1, channel=0, text="", start_ms=0, end_ms=0, cause="stop"),
        Partial(id=0, channel=0, rev=0, stable="", text="", start_ms=0, end_ms=0),
        Error(code="internal", message="", fatal=True, retry_after=float("inf")),
        Configured(req="c", at=0, applied={"x": object()}),
    ],
    ids=["nan", "negative id", "rev 0", "infinite", "no JSON"],
)
def test_a_value_out_of_range_is_never_sent(message: ServerMessage) -> None:
    server = started()
    server.render(READY)
    with pytest.raises(LocalProtocolError, match=type(message).__name__):
        server.render(message)


def test_text_that_is_no_unicode_is_not_sent_and_not_quoted() -> None:
    server = started()
    server.render(READY)
    words = (WordSpan(w="secret\ud800", s=0, e=1),)
    final = Final(id=0, channel=0, text="", start_ms=0, end_ms=0, cause="stop", words=words)
    with pytest.raises(LocalProtocolError) as caught:
        server.render(final)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
