"""A foreign wire between a client and a session that the test plays."""

import json
from typing import Any

from server.wire import messages as native
from server.wire.adapter import Adapter, Frame, Hello, Request
from server.wire.codec import encode
from server.wire.conversation import Audio

NAME = "11111111-2222-3333-4444-555555555555"


def hello(headers: dict[str, str] | None = None, **query: Any) -> Hello:
    """What is known of a client; a list is a parameter that comes several times."""
    fields = {
        name: tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)
        for name, value in query.items()
    }
    return Hello(name=NAME, born_s=1_790_000_000, model="m", query=fields, headers=headers or {})


def words(text: str, start_ms: int = 0) -> tuple[native.WordSpan, ...]:
    """Words of 100 ms each."""
    return tuple(
        native.WordSpan(w=word, s=start_ms + 100 * i, e=start_ms + 100 * i + 80, c=0.9)
        for i, word in enumerate(text.split())
    )


def final(text: str, *, id: int = 0, cause: Any = "endpoint", at_ms: int = 0) -> native.Final:
    """A finished segment."""
    spans = words(text, at_ms)
    end_ms = spans[-1].e if spans else at_ms
    return native.Final(
        id=id,
        channel=0,
        text=text,
        start_ms=at_ms,
        end_ms=end_ms,
        cause=cause,
        confidence=0.9,
        language="en",
        words=spans or None,
    )


def partial(stable: str, tail: str = "", *, id: int = 0, rev: int = 1) -> native.Partial:
    """An open segment."""
    text = f"{stable} {tail}".strip() if stable else tail
    return native.Partial(
        id=id, channel=0, rev=rev, stable=stable, text=text, start_ms=0, end_ms=400
    )


def turn(event: Any, *, number: int = 0, at_ms: int = 0, **more: Any) -> native.Turn:
    """A change of turn."""
    return native.Turn(event=event, turn=number, channel=0, at_ms=at_ms, **more)


def ready() -> native.Ready:
    """The session's first word."""
    return native.Ready(
        v=1,
        session="s",
        token="t",
        model="m",
        resumed=False,
        at=0,
        chunk_ms=160,
        limits=native.Limits(),
    )


def fatal(code: Any = "internal") -> native.Error:
    """The session's last word."""
    return native.Error(code=code, message="because", fatal=True)


DONE = native.Done(samples=16_000, finals=1)


class Table:
    """One adapter; what it asks and says is collected."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.asked: list[Request] = []
        self.frames: list[Frame] = []
        adapter.begin()
        self._collect()

    def _collect(self) -> None:
        while requests := self.adapter.requests_to_serve() or self.adapter.more():
            for request in requests:
                if not isinstance(request, Audio):
                    encode(request)  # the session takes it: it keeps its own constraints
                self.asked.append(request)
        self.frames += self.adapter.frames_to_send()

    def hear(self, *data: Frame | dict[str, Any]) -> None:
        for item in data:
            self.adapter.receive(json.dumps(item) if isinstance(item, dict) else item)
        self._collect()

    def tell(self, *said: native.ServerMessage) -> None:
        for message in said:
            self.adapter.tell(message)
        self._collect()

    def hang_up(self) -> None:
        self.adapter.hang_up()
        self._collect()

    def kinds(self) -> list[str]:
        """What was asked, in words; audio that follows audio counts once."""
        found = list[str]()
        for request in self.asked:
            kind = "audio" if isinstance(request, Audio) else native.type_of(type(request))
            if not (kind == "audio" and found[-1:] == ["audio"]):
                found.append(kind)
        return found

    @property
    def start(self) -> native.Start:
        """The last start that was asked for."""
        return [request for request in self.asked if isinstance(request, native.Start)][-1]

    @property
    def audio(self) -> bytes:
        """All audio that was handed on."""
        return b"".join(request.data for request in self.asked if isinstance(request, Audio))

    def said(self, **match: Any) -> list[dict[str, Any]]:
        """The JSON objects said, those with these fields only."""
        found = [json.loads(frame) for frame in self.frames if isinstance(frame, str)]
        return [value for value in found if match.items() <= value.items()]
