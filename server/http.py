"""Plain HTTP answers on the WebSocket port: the page, health, metrics, models.

Does: a path -> a response with the right headers; page files are read once, by name.
Does not know: sockets, sessions, how figures come about.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote

import msgspec
from websockets.datastructures import Headers
from websockets.http11 import Response

STREAM_PATH = "/v1/stream"
MEETING = re.compile(r"/meeting/[A-Za-z0-9_-]{1,64}")
PAGE_FOLDER = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
}
_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_PAGE = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; "
        "img-src 'self' data:; font-src 'self'; connect-src 'self'; media-src 'self' blob:; "
        "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "microphone=(self), display-capture=(self), camera=()",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, content type and body."""

    status: HTTPStatus
    content_type: str
    body: bytes


def json_answer(value: object, status: HTTPStatus = HTTPStatus.OK) -> Answer:
    """Return a value as JSON."""
    return Answer(status, "application/json", msgspec.json.encode(value) + b"\n")


def sentence(status: HTTPStatus, text: str) -> Answer:
    """Return an error as one sentence in JSON."""
    return json_answer({"error": text}, status)


class Site:
    """Everything but the stream."""

    def __init__(
        self,
        routes: Mapping[str, Callable[[], Answer]],
        named: Mapping[str, Callable[[str], Answer]] | None = None,
    ) -> None:
        self._routes = routes
        self._named = named or {}
        """By what stands before the name."""
        self._files = {
            path.name: (_TYPES[path.suffix], path.read_bytes())
            for path in sorted(PAGE_FOLDER.glob("*"))
            if path.suffix in _TYPES
        }

    def respond(self, method: str, target: str) -> Response:
        """Return the response to a request that is no WebSocket handshake."""
        path = target.partition("?")[0]
        if method not in ("GET", "HEAD"):
            answer = sentence(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered here")
            return _response(answer, {"Allow": "GET, HEAD"}, method)
        if (found := self._routed(path.rstrip("/"))) is not None:
            return _response(found, {"Cache-Control": "no-store"}, method)
        if path == STREAM_PATH:
            text = f"{STREAM_PATH} is a WebSocket; open it with the subprotocol rivulet.v1"
            answer = sentence(HTTPStatus.UPGRADE_REQUIRED, text)
            return _response(answer, {"Upgrade": "websocket"}, method)
        name = "index.html" if path == "/" else path.removeprefix("/page").removeprefix("/")
        name = "meeting.html" if MEETING.fullmatch(path) else name
        if file := self._files.get(name):
            return _response(Answer(HTTPStatus.OK, *file), _PAGE, method)
        text = "nothing is here; try / , /v1/stream, /v1/models, /livez, /readyz, /metrics"
        return _response(sentence(HTTPStatus.NOT_FOUND, text), {}, method)

    def _routed(self, path: str) -> Answer | None:
        if route := self._routes.get(path):
            return route()
        for before, answer in self._named.items():
            if path.startswith(before):
                return answer(unquote(path.removeprefix(before)))
        return None


def refusal(status: HTTPStatus, text: str, *, retry_after_s: int | None = None) -> Response:
    """Return the refusal of a handshake."""
    extra = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return _response(sentence(status, text), extra, "GET")


def json_response(
    value: object, status: HTTPStatus, extra: Mapping[str, str] | None = None
) -> Response:
    """Return a value as a whole response."""
    return _response(json_answer(value, status), extra or {}, "GET")


def _response(answer: Answer, extra: Mapping[str, str], method: str) -> Response:
    headers = Headers(
        {
            "Content-Type": answer.content_type,
            "Content-Length": str(len(answer.body)),
            "Connection": "close",
            **_SAFE,
            **extra,
        }
    )
    body = b"" if method == "HEAD" else answer.body
    return Response(answer.status.value, answer.status.phrase, headers, body)
