"""Whole files over HTTP: forms, heads, and the transcripts of both wires."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.wire.deepgram_files import DeepgramFile
from server.wire.errors import BadRequest
from server.wire.messages import AudioFormat
from server.wire.openai_files import TranscriptionFile
from server.wire.rest import (
    MAX_PART_HEAD_BYTES,
    FileServer,
    Recording,
    parameters_of,
    read_form,
    read_head,
)
from tests.fuzz.lengths import UNHURRIED
from tests.unit.server.wire.foreign import DONE, Table, fatal, final, hello, partial, ready

AUDIO = AudioFormat(encoding="pcm_s16le", rate=8_000)
TWO = (final("hello there"), final("good day", id=1, at_ms=2_000))


def recording(**fields: str | tuple[str, ...]) -> Recording:
    many = {n: v if isinstance(v, tuple) else (v,) for n, v in fields.items()}
    return Recording(AUDIO, b"\0" * 48_000, many)


def response(played: Table) -> tuple[int, dict[str, str], bytes]:
    raw = b"".join(frame for frame in played.frames if isinstance(frame, bytes))
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    assert int(headers.get("content-length", len(body))) == len(body)
    return int(lines[0].split()[1]), headers, body


def heard(file: FileServer) -> Table:
    played = Table(file)
    assert played.kinds() == ["start", "audio", "stop"]
    assert played.audio == file.recording.samples
    played.tell(ready(), *TWO, DONE)
    assert played.adapter.ending is not None
    return played


def openai(**fields: str | tuple[str, ...]) -> tuple[int, dict[str, str], bytes]:
    return response(heard(TranscriptionFile(hello(), recording(**fields))))


def test_json_is_text_and_duration() -> None:
    status, headers, body = openai()
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == {
        "text": "hello there good day",
        "usage": {"type": "duration", "seconds": 3.0},
    }


def test_verbose_json_has_segments_and_words_when_they_are_asked_for() -> None:
    _, _, body = openai(response_format="verbose_json", **{"timestamp_granularities[]": ("word",)})
    value = json.loads(body)
    assert (value["language"], value["duration"], value["task"]) == ("english", 3.0, "transcribe")
    assert [segment["text"] for segment in value["segments"]] == [" hello there", " good day"]
    assert value["words"][2] == {"word": "good", "start": 2.0, "end": 2.08}


@pytest.mark.parametrize(
    ("form", "kind", "begin"),
    [
        ("text", "text/plain", b"hello there good day\n"),
        ("srt", "text/plain", b"1\n00:00:00,000 --> 00:00:00,180\nhello there\n"),
        ("vtt", "text/vtt", b"WEBVTT\n\n00:00:00.000"),
    ],
)
def test_plain_forms(form: str, kind: str, begin: bytes) -> None:
    status, headers, body = openai(response_format=form)
    assert status == 200
    assert headers["content-type"].startswith(kind)
    assert body.startswith(begin)


def test_a_stream_is_growing_text_and_its_sum() -> None:
    played = Table(TranscriptionFile(hello(), recording(stream="true")))
    played.tell(ready(), partial("hello"), *TWO, DONE)
    status, headers, body = response(played)
    assert (status, "content-length" in headers) == (200, False)
    assert headers["content-type"].startswith("text/event-stream")
    events = body.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    values = [json.loads(event.partition("data: ")[2]) for event in events[:-2]]
    for event, value in zip(events, values, strict=False):
        assert event.startswith(f"event: {value['type']}\n")
    deltas = [value["delta"] for value in values if value["type"] == "transcript.text.delta"]
    assert deltas == ["hello", " there", " good day"]
    assert "".join(deltas) == values[-1]["text"] == "hello there good day"
    assert "usage" not in values[-1]  # there it counts tokens


def test_segments_of_two_channels_are_given_in_the_order_of_time() -> None:
    file = DeepgramFile(hello(utterances="true"), recording())
    played = Table(file)
    played.tell(ready(), final("second", at_ms=900), final("first", at_ms=100), DONE)
    _, _, body = response(played)
    spoken = [value["transcript"] for value in json.loads(body)["results"]["utterances"]]
    assert spoken == ["first", "second"]


def test_a_stream_that_fails_says_so_in_the_stream() -> None:
    played = Table(TranscriptionFile(hello(), recording(stream="true")))
    played.tell(ready(), fatal())
    _, _, body = response(played)
    assert b'"type":"error"' in body


@pytest.mark.parametrize(
    ("code", "status"), [("over_capacity", 503), ("internal", 500), ("unsupported_audio", 400)]
)
def test_errors_have_a_status_and_their_form(code: str, status: int) -> None:
    for file in (
        TranscriptionFile(hello(), recording(stream="true")),
        DeepgramFile(hello(), recording()),
    ):
        played = Table(file)
        played.tell(fatal(code))
        answered, _, body = response(played)
        assert answered == status
        assert "error" in json.loads(body) or "err_msg" in json.loads(body)


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(BadRequest):
        TranscriptionFile(hello(), recording(response_format="docx"))


def test_deepgram_gives_one_alternative_for_each_channel_and_utterances_on_request() -> None:
    file = DeepgramFile(hello(utterances="true", keyterm="moon", language="en"), recording())
    _, _, body = response(heard(file))
    value = json.loads(body)
    (channel,) = value["results"]["channels"]
    assert channel["alternatives"][0]["transcript"] == "hello there good day"
    assert channel["alternatives"][0]["confidence"] == pytest.approx(0.9)
    assert len(channel["alternatives"][0]["words"]) == 4
    assert [u["transcript"] for u in value["results"]["utterances"]] == ["hello there", "good day"]
    assert (value["metadata"]["duration"], value["metadata"]["channels"]) == (3.0, 1)


# ---- heads and forms


def form(*parts: tuple[str, bytes], boundary: str = "xyz") -> bytes:
    body = b""
    for name, data in parts:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        body += head.encode() + data + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


def test_the_head_of_a_field_is_short() -> None:
    begin = b'--xyz\r\nContent-Disposition: form-data; name="file"; a='
    end = b"\r\n\r\ndata\r\n--xyz--"
    kind = "multipart/form-data; boundary=xyz"
    assert read_form(begin + b"b" * 1_000 + end, kind)[0].data == b"data"
    with pytest.raises(BadRequest, match="no name"):
        read_form(begin + b"b" * MAX_PART_HEAD_BYTES + end, kind)


def test_a_form_of_borders_is_not_taken_apart() -> None:
    body = b"\r\n--axy" * 1_000_000
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest, match="too many fields"):
            read_form(body, "multipart/form-data; boundary=a")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 * len(body)


def test_a_form_keeps_every_byte_of_its_fields() -> None:
    data = b"\r\n--xy\r\n\0\xff" * 3
    parts = read_form(form(("file", data), ("model", b"m")), "multipart/form-data; boundary=xyz")
    assert [(part.name, part.data) for part in parts] == [("file", data), ("model", b"m")]


def test_a_quoted_boundary_and_a_file_name_are_read() -> None:
    body = b'--a b\r\nContent-Disposition: form-data; name="file"; filename="x \\"y\\".wav"\r\n\r\n1\r\n--a b--'  # noqa: E501
    (part,) = read_form(body, 'multipart/form-data; boundary="a b"')
    assert (part.name, part.filename, part.text) == ("file", 'x "y".wav', "1")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "multipart/form-data; boundary=xyz"),
        (b"--xyz\r\n\r\nno name\r\n--xyz--", "multipart/form-data; boundary=xyz"),
        (form(("a", b"1")), "application/json"),
        (form(("a", b"1")), "multipart/form-data"),
        (form(("a", b"1"))[:-4], "multipart/form-data; boundary=xyz"),
        (form(*[("a", b"1")] * 300), "multipart/form-data; boundary=xyz"),
    ],
)
def test_what_is_no_form_is_refused(body: bytes, kind: str) -> None:
    with pytest.raises(BadRequest):
        read_form(body, kind)


@UNHURRIED
@given(st.binary(max_size=200), st.text(max_size=40))
def test_any_bytes_are_a_form_or_a_named_error(body: bytes, kind: str) -> None:
    for content_type in (kind, "multipart/form-data; boundary=x"):
        try:
            read_form(body, content_type)
        except BadRequest:
            pass


@UNHURRIED
@given(st.binary(max_size=200) | st.text(max_size=80).map(str.encode))
def test_any_bytes_are_a_head_or_a_named_error(raw: bytes) -> None:
    try:
        read_head(raw)
    except BadRequest:
        pass


@pytest.mark.parametrize(
    "raw",
    [
        b"POST /x",
        b"POST /x HTTP/2\r\nA: b",
        b"POST /x HTTP/1.1\r\nno colon",
        b"POST /x HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2",
        b"POST /x HTTP/1.1\r\n a: folded",
        b"POST /x HTTP/1.1" + b"\r\nA: b" * 200,
    ],
)
def test_what_is_no_head_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        read_head(raw)


def test_a_head_is_method_path_query_and_headers() -> None:
    head = read_head(b"POST /a?b=c HTTP/1.1\r\nContent-Type: x; Y=z")
    assert (head.method, head.path, head.query) == ("POST", "/a", "b=c")
    assert parameters_of(head.headers["content-type"]) == {"y": "z"}


def test_nothing_is_said_before_the_end_unless_it_is_a_stream() -> None:
    played: Any = Table(TranscriptionFile(hello(), recording()))
    played.tell(ready(), partial("a"), *TWO)
    assert played.frames == []
