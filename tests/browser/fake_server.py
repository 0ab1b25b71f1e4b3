"""A server that serves the page and speaks rivulet.v1 from a script.

Does: the page under the real server's headers; partials and finals timed on the audio that came
in, so that a test says exactly what is heard when; lost connections and refusals.
Does not know: any engine, the real server's sessions.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from server.http import STREAM_PATH, Answer, Site, json_answer, refusal

CHUNK_MS = {"low": 160, "balanced": 560, "accurate": 1120}


@dataclass(frozen=True)
class Utterance:
    """One final: its text, and when its words are said."""

    text: str
    start_ms: int
    end_ms: int
    settle_ms: int = 400

    def words(self) -> list[dict[str, Any]]:
        said = self.text.split()
        step = (self.end_ms - self.start_ms) / len(said)
        return [
            {
                "w": word,
                "s": round(self.start_ms + i * step),
                "e": round(self.start_ms + (i + 1) * step),
                "c": 0.9,
            }
            for i, word in enumerate(said)
        ]


@dataclass
class FakeServer:
    """What a test scripts, and what it can ask afterwards."""

    script: list[Utterance]
    look_aheads: tuple[int, ...] = (6, 1, 13)
    refuse: dict[str, Any] | None = None
    is_loading: bool = False
    """Sessions are refused because there is no model yet."""
    drop_after_ms: int | None = None
    """Cut the first connection without a close frame once this much audio came."""
    away_for: int = 0
    """This many handshakes after the first connection are refused."""
    starts: list[dict[str, Any]] = field(default_factory=list)
    received_ms: list[float] = field(default_factory=list)
    packet_bytes: list[int] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def answer(self, _connection: ServerConnection, request: Request) -> Response | None:
        if request.path.partition("?")[0] == STREAM_PATH:
            if self.starts and self.away_for > 0:
                self.away_for -= 1
                return refusal(HTTPStatus.SERVICE_UNAVAILABLE, "away")
            return None
        return Site({"/v1/models": self.models}).respond("GET", request.path)

    def models(self) -> Answer:
        if self.is_loading:
            return json_answer({"models": []})
        model = {"id": "scripted", "precision": "fp32", "look_aheads": self.look_aheads}
        return json_answer({"models": [model]})

    async def talk(self, socket: ServerConnection) -> None:
        try:
            await _Session(self, socket).run()
        except ConnectionClosed:
            return


class _Session:
    def __init__(self, server: FakeServer, socket: ServerConnection) -> None:
        self.server = server
        self.socket = socket
        self.script = list(server.script)
        self.samples = 0
        self.rate = 16_000
        self.finals = 0
        self.shown = 0
        self.rev = 0

    async def send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def run(self) -> None:
        start = json.loads(await self.socket.recv())
        if self.server.is_loading:
            await self.send(
                type="error",
                code="over_capacity",
                message="the model is still loading",
                fatal=True,
                retry_after=0.2,
            )
            await self.socket.close(4429)
            return
        index = len(self.server.starts)
        self.server.starts.append(start)
        self.server.received_ms.append(0.0)
        if self.server.refuse is not None:
            await self.send(type="error", **self.server.refuse)
            await self.socket.close(4429)
            return
        self.rate = start["audio"]["rate"]
        await self.send(
            type="ready",
            v=1,
            session=f"s{index}",
            token="t",
            model="scripted",
            resumed=False,
            at=0,
            chunk_ms=CHUNK_MS[start["latency"]],
            applied={"language": "en"},
            ignored=[],
            limits={"window_ms": 30_000},
        )
        async for message in self.socket:
            if isinstance(message, bytes):
                self.server.packet_bytes.append(len(message))
                self.samples += len(message) // 2
                await self.advance()
                self.server.received_ms[index] = self.at_ms
                limit = self.server.drop_after_ms
                if index == 0 and limit is not None and self.at_ms > limit:
                    self.socket.transport.abort()
                    return
            elif json.loads(message)["type"] == "stop":
                await self.finish()
                return

    @property
    def at_ms(self) -> float:
        return self.samples * 1000 / self.rate

    async def advance(self) -> None:
        await self.send(type="ack", at=self.samples, done=self.samples, durable=0)
        while self.script:
            utterance = self.script[0]
            said = sum(word["e"] <= self.at_ms for word in utterance.words())
            if said > self.shown:
                await self.partial(utterance, said)
            if self.at_ms < utterance.end_ms + utterance.settle_ms:
                return
            await self.final(utterance, len(utterance.words()), cause="endpoint")

    async def partial(self, utterance: Utterance, said: int) -> None:
        words = utterance.text.lower().rstrip(".").split()
        self.shown = said
        self.rev += 1
        await self.send(
            type="partial",
            id=self.finals,
            channel=0,
            rev=self.rev,
            stable=" ".join(words[: max(0, said - 2)]),
            text=" ".join(words[:said]),
            start_ms=utterance.start_ms,
            end_ms=utterance.words()[said - 1]["e"],
        )

    async def final(self, utterance: Utterance, count: int, *, cause: str) -> None:
        words = utterance.words()[:count]
        await self.send(
            type="final",
            id=self.finals,
            channel=0,
            text=" ".join(word["w"] for word in words),
            start_ms=utterance.start_ms,
            end_ms=words[-1]["e"],
            confidence=0.93,
            language="en",
            cause=cause,
            words=words,
        )
        self.script.pop(0)
        self.finals += 1
        self.shown = 0
        self.rev = 0

    async def finish(self) -> None:
        if self.script and self.shown:
            await self.final(self.script[0], self.shown, cause="stop")
        await self.send(type="done", samples=self.samples, finals=self.finals)
        await self.socket.close(1000)


@asynccontextmanager
async def serving(server: FakeServer) -> AsyncIterator[FakeServer]:
    """Serve on a free port of loopback while the block runs."""
    listener: Server = await serve(
        server.talk,
        "127.0.0.1",
        0,
        process_request=server.answer,
        subprotocols=[Subprotocol("rivulet.v1")],
        compression=None,
    )
    async with listener:
        server.port = next(iter(listener.sockets)).getsockname()[1]
        yield server
