"""Plain HTTP with a body: heads, forms and answers; the base of the wires that take a file.

Does: bytes of a request head -> value, multipart form -> fields, answers -> bytes; a whole
recording through one session, answered at the end or as it is heard.
Does not know: sockets, clocks, sound files (the audio comes decoded).
"""

import re
from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from server.wire import messages as native
from server.wire.adapter import Adapter, Hello, Request, pieces_of
from server.wire.codec import JsonObject
from server.wire.errors import BadRequest
from server.wire.values import to_json

MAX_HEADERS = 100
MAX_PARTS = 200
MAX_PART_HEAD_BYTES = 16 * 1024
REASONS: dict[int, str] = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
STATUS: dict[str, int] = {
    "bad_request": 400,
    "unsupported_audio": 400,
    "unsupported_language": 400,
    "too_far_ahead": 413,
    "over_capacity": 503,
    "rate_limited": 503,
    "idle_timeout": 408,
}
"""Of the native error codes; any other is 500."""
_TOKEN = re.compile(rb"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
_PARAMETER = re.compile(r';\s*([\w!#$&+.^`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s]*))')


@dataclass(frozen=True, slots=True)
class Head:
    """The first line and the headers of a request; header names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a form."""

    name: str
    data: bytes
    filename: str = ""

    @property
    def text(self) -> str:
        """The field as text; raises BadRequest."""
        try:
            return self.data.decode()
        except UnicodeDecodeError as error:
            raise BadRequest(f"{self.name[:64]} is not valid Unicode") from error


def read_head(raw: bytes) -> Head:
    """Return the head in the bytes before the empty line; raises BadRequest."""
    lines = raw.split(b"\r\n")
    first = lines[0].decode("latin-1").split(" ")
    if len(first) != 3 or not first[2].startswith("HTTP/1."):
        raise BadRequest("this is not HTTP/1.1")
    if len(lines) > MAX_HEADERS:
        raise BadRequest("too many headers")
    headers = dict[str, str]()
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.match(name):
            raise BadRequest("a header cannot be read")
        key = name.decode().lower()
        if key in headers and key in ("content-length", "transfer-encoding", "host"):
            raise BadRequest(f"{key} comes twice")
        headers[key] = value.strip().decode("latin-1")
    path, _, query = first[1].partition("?")
    return Head(first[0], path, query, headers)


def parameters_of(value: str) -> dict[str, str]:
    """Return the parameters of a header value; names in lower case."""
    return {
        name.lower(): re.sub(r"\\(.)", r"\1", quoted) if quoted else plain
        for name, quoted, plain in _PARAMETER.findall(f";{value.partition(';')[2]}")
    }


def read_form(body: bytes, content_type: str) -> list[Part]:
    """Return the fields of a multipart form; raises BadRequest."""
    boundary = parameters_of(content_type).get("boundary", "")
    if not content_type.lower().startswith("multipart/form-data") or not 1 <= len(boundary) <= 200:
        raise BadRequest("the body must be multipart/form-data")
    mark = b"\r\n--" + boundary.encode("latin-1", "replace")
    at = -2 if body.startswith(mark[2:]) else body.find(mark)
    begins, ends = list[int](), list[int]()
    while at != -1:  # in place: a copy of a large body keeps everybody waiting
        ends.append(at)
        begins.append(at + len(mark))
        if len(begins) == MAX_PARTS:
            raise BadRequest("the form has too many fields")
        at = body.find(mark, begins[-1])
    if not begins or not body.startswith(b"--", begins[-1]):
        raise BadRequest("the form has no end")
    return [_part(body, *span) for span in zip(begins[:-1], ends[1:], strict=True)]


def _part(body: bytes, begin: int, end: int) -> Part:
    head_end = body.find(b"\r\n\r\n", begin, min(end, begin + MAX_PART_HEAD_BYTES))
    for line in body[begin : max(begin, head_end)].split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-disposition":
            fields = parameters_of(value.decode("utf-8", "replace"))
            data = body[head_end + 4 : end]
            return Part(fields.get("name", ""), data, fields.get("filename", ""))
    raise BadRequest("a field of the form has no name")


def answer(
    status: int, body: bytes, content_type: str, extra: Mapping[str, str] | None = None
) -> bytes:
    """Return a whole response."""
    head = _head(status, content_type, {"Content-Length": str(len(body)), **(extra or {})})
    return head + body


def json_answer(status: int, value: JsonObject, extra: Mapping[str, str] | None = None) -> bytes:
    """Return a whole response of JSON."""
    return answer(status, to_json(value).encode(), "application/json", extra)


def stream_head(content_type: str) -> bytes:
    """Return the head of a response that ends with the connection."""
    return _head(200, content_type, {"Cache-Control": "no-store"})


def _head(status: int, content_type: str, extra: Mapping[str, str]) -> bytes:
    fields = {
        "Content-Type": content_type,
        "Connection": "close",
        "X-Content-Type-Options": "nosniff",
        **extra,
    }
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Error')}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


@dataclass(frozen=True, slots=True)
class Recording:
    """Decoded audio of a whole file, and the form that came with it."""

    audio: native.AudioFormat
    samples: bytes
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        """How long it plays."""
        return len(self.samples) / self.audio.frame_bytes / self.audio.rate


class FileServer(Adapter):
    """A client that posts a whole file; what is sent are the bytes of an HTTP response."""

    endpointing: ClassVar[native.Endpointing | None] = None
    partials: ClassVar[native.PartialsMode] = "none"

    def __init__(self, hello: Hello, recording: Recording) -> None:
        super().__init__(hello)
        self.recording = recording
        self._pieces = pieces_of(recording.samples, recording.audio)
        self.finals: list[native.Final] = []
        """In the order of time."""

    def wishes(self) -> tuple[str, list[native.Boost]]:
        """Return language and phrases."""
        return "", []

    def on_open(self) -> None:
        """Begin; the audio is handed on as it is heard, for a file may be hours."""
        language, phrases = self.wishes()
        self.start(
            self.recording.audio,
            endpointing=self.endpointing,
            partials=self.partials,
            language=language,
            phrases=phrases,
            latency=self.hello.get("latency"),
        )

    def more(self) -> list[Request]:
        """Return the next piece, at last the stop."""
        if self.format is None or self.ending is not None:
            return []
        if (piece := next(self._pieces, None)) is not None:
            return [piece]
        self.stop()
        return self.requests_to_serve()

    def on_end_of_input(self) -> None:
        """Know that already."""

    def on_final(self, message: native.Final) -> None:
        """Keep a segment, in its place: those of two channels come as each is done."""
        if message.text:
            insort(self.finals, message, key=lambda final: final.start_ms)

    def on_done(self, message: native.Done) -> None:
        """Answer with the whole."""
        self.send(self.whole())
        self.end()

    def on_error(self, error: native.Error) -> None:
        """Answer with the error."""
        status = STATUS.get(error.code, 500)
        extra = {} if error.retry_after is None else {"Retry-After": str(round(error.retry_after))}
        self.send(json_answer(status, self.failure(status, error.message), extra))
        self.end()

    def whole(self) -> bytes:
        """Return the response to a file that is heard."""
        raise NotImplementedError

    def failure(self, status: int, message: str) -> JsonObject:
        """Return the body of an error in the wire's own form."""
        raise NotImplementedError
