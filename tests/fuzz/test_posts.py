"""Random requests with a body (files for OpenAI and Deepgram): read, or refused by name."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.wire.adapter import Refused
from server.wire.deepgram_files import DeepgramFile
from server.wire.errors import BadRequest
from server.wire.messages import AudioFormat
from server.wire.openai_files import TranscriptionFile
from server.wire.rest import Recording, read_form, read_head
from tests.fuzz.lengths import MINUTES, UNHURRIED, play_on
from tests.unit.server.wire import test_files as files
from tests.unit.server.wire.foreign import DONE, Table, final, hello, ready

HEAD = b"POST /v1/audio/transcriptions?a=b HTTP/1.1\r\nHost: h\r\nContent-Type: multipart/form-data; boundary=x"  # noqa: E501
NAMES = ["response_format", "stream", "timestamp_granularities[]", "language", "temperature", "prompt", "utterances", "channels"]  # noqa: E501  # fmt: skip
VALUES = ["json", "verbose_json", "text", "srt", "vtt", "true", "1", "word", "segment", "en", "nan", "", "\ud800"]  # noqa: E501  # fmt: skip
fields = st.dictionaries(
    st.sampled_from(NAMES) | st.text(max_size=8),
    st.lists(st.sampled_from(VALUES) | st.text(max_size=8), min_size=1, max_size=2).map(tuple),
    max_size=5,
)


@st.composite
def changed(draw: st.DrawFn, good: bytes) -> bytes:
    """Bytes with some of them lost, some new."""
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(good)))
        lost = draw(st.integers(0, 4))
        good = good[:at] + draw(st.binary(max_size=4)) + good[at + lost :]
    return good


@st.composite
def forms(draw: st.DrawFn) -> bytes:
    """A form as a client writes it, less or more broken."""
    body = b""
    for name in draw(st.lists(st.text(max_size=8), max_size=4)):
        head = f'Content-Disposition: form-data; name="{name}"'.encode(errors="replace")
        body += b"--x\r\n" + head + b"\r\n\r\n" + draw(st.binary(max_size=9)) + b"\r\n"
    return draw(changed(body + b"--x--\r\n"))


@UNHURRIED
@given(changed(HEAD), forms())
def test_a_broken_request_is_read_or_refused(head: bytes, body: bytes) -> None:
    try:
        found = read_head(head)
        read_form(body, found.headers.get("content-type", "multipart/form-data; boundary=x"))
    except BadRequest:
        return


@UNHURRIED
@given(st.sampled_from([TranscriptionFile, DeepgramFile]), fields)
def test_whatever_is_asked_of_a_file_is_answered_or_refused(
    wire: type[TranscriptionFile | DeepgramFile], asked: dict[str, tuple[str, ...]]
) -> None:
    audio = AudioFormat(encoding="pcm_s16le", rate=8_000)
    try:
        played = Table(wire(hello(), Recording(audio, bytes(1_600), asked)))
    except (BadRequest, Refused):
        return
    played.tell(ready(), final("a b"), DONE)
    assert played.adapter.ending is not None
    raw = b"".join(frame for frame in played.frames if isinstance(frame, bytes))
    assert raw.startswith(b"HTTP/1.1 ")


@pytest.mark.slow
@pytest.mark.parametrize(
    "play",
    [
        files.test_any_bytes_are_a_form_or_a_named_error,
        files.test_any_bytes_are_a_head_or_a_named_error,
        test_a_broken_request_is_read_or_refused,
        test_whatever_is_asked_of_a_file_is_answered_or_refused,
    ],
)
def test_any_request_is_read_or_refused_for_long(play: Callable[[], None]) -> None:
    play_on(play, minutes=MINUTES / 4)
