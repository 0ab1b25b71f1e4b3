"""The WebSocket and HTTP front on one port.

Does: accept handshakes (path, origin, capacity), run a connection per client, answer plain HTTP,
end gracefully.
Does not know: messages, sessions' insides, engines.
"""

import asyncio
import itertools
import logging
import secrets
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from server.audience import Audience, room_at
from server.config import ServerConfig
from server.connection import Connection
from server.door import door
from server.dropin import DropIns, subprotocols_of
from server.guard import Caller, Guard, caller_of, refusal_of
from server.http import STREAM_PATH, Answer, Site, json_answer
from server.inbox import MAX_FRAMES
from server.keeper import Keeper
from server.keys import Account, Keyring, Scope
from server.manager import Manager
from server.metrics import CONTENT_TYPE, Metrics, Rest
from server.negotiation import chunk_ms
from server.patience import RETRY_AFTER_S
from server.ports import ListenError, Ports, listening
from server.posts import Posts
from server.rooms import Rooms
from server.session import Identity, Session
from server.talk import House
from server.ticket import Ticket
from server.wire import openai_files
from server.wire.errors import OverCapacity, Unauthorized, WireError
from server.wire.messages import SUBPROTOCOL

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 1024 * 1024
PING_S = 10.0
"""A peer that answers none for as long is away, not idle: its session waits for it to return."""
CLOSE_S = 5.0
"""A client that broke the framing holds its slots until it closes, this long at most."""
FLUSH_S = 3.0
"""When the server goes: from the last word to the close."""


class Gateway:
    """Clients on one side, a manager on the other."""

    def __init__(
        self, config: ServerConfig, manager: Manager, keeper: Keeper, metrics: Metrics
    ) -> None:
        self._config = config
        self._manager = manager
        self._keeper = keeper
        self._metrics = metrics
        self._numbers = itertools.count(1)
        self._connections: set[Connection] = set()
        self._opening: set[asyncio.Task[Any]] = set()
        """Handshakes, and requests with a body."""
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._is_draining = False
        self._server: Server | None = None
        away_s = config.limits.resume_ms / 1000
        self._rooms = Rooms(is_open=config.gateways == 1, away_s=away_s)
        self._audience = Audience(self._rooms, stalled_s=config.stalled_reader_s)
        self._guard = Guard(config, Keyring(Path(config.keys)) if config.keys else None)
        self._dropins = DropIns(
            House(config=config, keeper=keeper, metrics=metrics, identify=self._identify),
            self._enter,
        )
        self.ports = Ports(config, self._dropins)
        """Wires that have a port of their own."""
        self._site = Site(
            {
                "/livez": lambda: json_answer({"live": True}),
                "/readyz": self._readiness,
                "/metrics": self._figures,
                "/v1/models": self._models,
            },
            {"/v1/models/": self._model},
        )

    async def start(self) -> None:
        """Listen; raises ListenError."""
        number = self._config.gateway
        posts = Posts(self._dropins, self._site, self._guard, file_mb=self._config.file_mb)
        open_port = serve(
            self._serve,
            self._config.host,
            self._config.port,
            create_connection=door(posts.answer, self._opening),
            open_timeout=None,  # the door has its own: a long body is no slow handshake
            compression=None,  # PCM hardly shrinks, and nobody can send a bomb
            max_size=MAX_MESSAGE_BYTES,
            max_queue=MAX_FRAMES,  # drained in turns: a paused socket hides who has left
            close_timeout=CLOSE_S,
            ping_interval=PING_S,
            ping_timeout=PING_S,
            process_request=self._process_request,
            select_subprotocol=_select_subprotocol,
            server_header=None if number is None else f"rivulet gateway {number}",
            reuse_port=number is not None,
            logger=_quiet_logger(),
        )
        with listening(self._config, "port"):
            self._server = await open_port
        try:
            await self.ports.start()
        except ListenError:
            self.ports.close()
            self._server.close()
            raise

    @property
    def port(self) -> int:
        """The port we listen on."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Tell the clients, let them finish, close."""
        if self._server is None:
            return
        self._is_draining = True
        self._server.close(close_connections=False)
        self.ports.close()
        drain_s = self._config.drain_s
        for connection in list(self._connections):
            connection.session.drain(deadline_ms=round(drain_s * 1000))
            connection.pump()
        await self._empty_within(drain_s)
        if self._keeper.is_lasting:
            await self._hand_over()
        for connection in list(self._connections):
            connection.session.leave(now=asyncio.get_running_loop().time())
            connection.pump()
        await asyncio.gather(self._empty_within(FLUSH_S), self._dropins.stop(flush_s=FLUSH_S))
        await self.ports.end()
        self._rooms.close()
        for connection in list(self._connections):
            connection.close()
        for task in self._opening:  # what they send may take minutes to come, or never come
            task.cancel()
        await self._empty_within(1.0)
        self._server.close()
        await self._server.wait_closed()

    async def _hand_over(self) -> None:
        """Leave sessions in the store for whoever serves them next, in the middle of a word."""
        for connection in list(self._connections):
            if connection.may_come_back:
                connection.hand_over()
        await self._keeper.settled(FLUSH_S)

    async def _empty_within(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._is_empty.wait()
        except TimeoutError:
            return

    # ---- handshakes

    def _process_request(self, socket: ServerConnection, request: Request) -> Response | None:
        path = request.path.partition("?")[0]
        is_upgrade = "websocket" in "".join(request.headers.get_all("Upgrade")).lower()
        if is_upgrade and self._dropins.speaks(path):
            return self._dropins.handshake(socket, request)
        if is_upgrade and room_at(path):
            return self._turned_away(socket, request)
        if path != STREAM_PATH or not is_upgrade:
            response = self._site.respond(request.method, request.path)
            response.headers.update(self._guard.shared_with(request.headers))
            return response
        try:
            account = self._guard.admit(caller_of(socket, request), "stream")
            self._may_be_full()
        except WireError as error:
            if "Origin" not in request.headers:
                return refusal_of(error)
            socket.refused = error  # type: ignore[attr-defined]  # a page reads it in the socket
        else:
            socket.account = account  # type: ignore[attr-defined]
        return None

    def _turned_away(self, socket: ServerConnection, request: Request) -> Response | None:
        try:
            self._guard.admit(caller_of(socket, request), "stream")
        except Unauthorized as error:
            if "Origin" not in request.headers:
                return refusal_of(error)
            socket.refused = error  # type: ignore[attr-defined]  # a page reads it in the socket
        except WireError as error:
            return refusal_of(error)
        return None

    def _enter(self, caller: Caller, scope: Scope) -> Account | None:
        """Let a client of a foreign wire in; raises WireError."""
        account = self._guard.admit(caller, scope)
        self._may_be_full()
        if self._is_draining:
            raise OverCapacity("this server is going", retry_after=RETRY_AFTER_S)
        return account

    def _identify(self) -> Identity:
        name = secrets.token_hex(8)
        return Identity(number=next(self._numbers), name=name, token=Ticket.new(name).token)

    async def _serve(self, socket: ServerConnection) -> None:
        if await self._dropins.serve_socket(socket) or await self._audience.serve_socket(socket):
            return
        now = asyncio.get_running_loop().time()
        identity = self._identify()
        session = Session(identity, self._config, now=now)
        connection = Connection(
            socket,
            session,
            config=self._config,
            keeper=self._keeper,
            metrics=self._metrics,
            rooms=self._rooms,
        )
        self._connections.add(connection)
        self._is_empty.clear()
        try:
            if isinstance(error := getattr(socket, "refused", None), WireError):
                session.fail(error)
            elif self._is_draining:
                session.drain(deadline_ms=0)
            await connection.run()
        except Exception:
            logger.exception("connection failed", extra={"session": identity.name})
        finally:
            self._connections.discard(connection)
            if not self._connections:
                self._is_empty.set()

    def _may_be_full(self) -> None:
        if len(self._connections) + len(self._dropins) >= self._config.max_connections:
            text = "this server has as many connections as it takes"
            raise OverCapacity(text, retry_after=RETRY_AFTER_S)

    # ---- plain HTTP

    def _readiness(self) -> Answer:
        is_ready = self._manager.is_ready and not self._is_draining
        body: dict[str, Any] = {
            "ready": is_ready,
            "draining": self._is_draining,
            "store": "answers" if self._keeper.ask_store() else "away",
            "workers": [place.as_told() for place in self._manager.status()],
        }
        if self._config.gateway is not None:
            body["gateway"] = self._config.gateway
        return json_answer(body, HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE)

    def _figures(self) -> Answer:
        talks = [talk for c in self._connections if (talk := c.conversation()) is not None]
        talks += self._dropins.conversations()
        keeper = self._keeper
        kept = keeper.resting
        body = self._metrics.render(
            self._manager.status(),
            talks,
            connections=len(self._connections) + len(self._dropins),
            rest=Rest(
                sessions=len(kept),
                kept_bytes=sum(kept),
                waiting=self._manager.waiting,
                away=keeper.away,
                away_bytes=keeper.away_bytes,
            ),
        )
        return Answer(HTTPStatus.OK, CONTENT_TYPE, body)

    def _models(self) -> Answer:
        model = self._manager.model
        if model is None:
            return json_answer({"models": [], "object": "list", "data": []})
        entry = {
            "id": model.name,
            "look_aheads": model.look_aheads,
            "chunk_ms": [chunk_ms(frames) for frames in model.look_aheads],
            "languages": model.languages,
            "precision": model.precision,
            "decoder": model.decoder,
            "bytes_per_stream": model.bytes_per_stream,
            "fingerprint": model.fingerprint,
        }
        # the second form is the one that OpenAI's clients list
        return json_answer(
            {"models": [entry], "object": "list", "data": [openai_files.model_of(model.name)]}
        )

    def _model(self, name: str) -> Answer:
        model = self._manager.model
        if model is not None and name == model.name:
            return json_answer(openai_files.model_of(name))
        text = "no model of this name is loaded here"
        status = HTTPStatus.NOT_FOUND
        return json_answer(openai_files.failure_of(status, text, "model"), status)


def _select_subprotocol(
    socket: ServerConnection, offered: Sequence[Subprotocol]
) -> Subprotocol | None:
    ours = {SUBPROTOCOL, *subprotocols_of(socket)}
    return next((name for name in offered if name in ours), None)


def _quiet_logger() -> logging.Logger:
    # a client that breaks its handshake is no error of ours
    quiet = logging.getLogger("server.websockets")
    quiet.setLevel(logging.CRITICAL)
    return quiet
