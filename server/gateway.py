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
from urllib.parse import urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from server.audience import Audience, room_at
from server.config import ServerConfig
from server.connection import Connection
from server.door import door
from server.dropin import DropIns, subprotocols_of
from server.http import STREAM_PATH, Answer, Site, json_answer, refusal
from server.keeper import Keeper, Ticket
from server.manager import Manager
from server.metrics import CONTENT_TYPE, Metrics
from server.negotiation import chunk_ms
from server.ports import Ports
from server.posts import Posts
from server.rooms import Rooms
from server.session import RETRY_AFTER_S, Identity, Session
from server.talk import House
from server.wire.errors import ForbiddenOrigin, OverCapacity
from server.wire.messages import SUBPROTOCOL

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 1024 * 1024
PING_S = 20.0
CLOSE_S = 5.0
"""A client that broke the framing holds its slots until it closes, this long at most."""
FLUSH_S = 3.0
"""When the server goes: from the last word to the close."""
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


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
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._is_draining = False
        self._server: Server | None = None
        self._rooms = Rooms()
        self._audience = Audience(self._rooms, stalled_s=config.stalled_reader_s)
        self._dropins = DropIns(
            House(config=config, keeper=keeper, metrics=metrics, identify=self._identify)
        )
        self.ports = Ports(config, self._dropins, self._turned_away)
        """Wires that have a port of their own."""
        self._site = Site(
            {
                "/livez": lambda: json_answer({"live": True}),
                "/readyz": self._readiness,
                "/metrics": self._figures,
                "/v1/models": self._models,
            }
        )

    async def start(self) -> None:
        """Listen; raises OSError."""
        posts = Posts(self._dropins, self._site, self._may_serve)
        self._server = await serve(
            self._serve,
            self._config.host,
            self._config.port,
            create_connection=door(posts.answer),
            open_timeout=None,  # the door has its own: a long body is no slow handshake
            compression=None,  # PCM hardly shrinks, and nobody can send a bomb
            max_size=MAX_MESSAGE_BYTES,
            max_queue=None,  # every read is drained at once; a paused socket hides who has left
            close_timeout=CLOSE_S,
            ping_interval=PING_S,
            ping_timeout=PING_S,
            process_request=self._process_request,
            select_subprotocol=_select_subprotocol,
            server_header=None,
            logger=_quiet_logger(),
        )
        try:
            await self.ports.start()
        except OSError:
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
        await self._empty_within(1.0)
        self._server.close()
        await self._server.wait_closed()

    async def _hand_over(self) -> None:
        """Leave sessions in the store for whoever serves them next; their words so far are said."""
        leaving = [connection for connection in self._connections if connection.may_come_back]
        for connection in leaving:
            connection.settle()
        await self._keeper.settled(FLUSH_S)
        for connection in leaving:
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
            return self._foreign(socket, request)
        if is_upgrade and room_at(path):
            is_welcome = self._may_connect(request.headers)
            return None if is_welcome else refusal(HTTPStatus.FORBIDDEN, "not from this origin")
        if path != STREAM_PATH or not is_upgrade:
            return self._site.respond(request.method, request.path)
        if "Origin" in request.headers:
            return None  # a page cannot read a refusal: it is told inside the socket
        if self._is_full():
            text = "this server has as many connections as it takes"
            return refusal(HTTPStatus.SERVICE_UNAVAILABLE, text, retry_after_s=round(RETRY_AFTER_S))
        return None

    def _foreign(self, socket: ServerConnection, request: Request) -> Response | None:
        """Answer the handshake of a wire that is not ours."""
        return self._turned_away(request.headers) or self._dropins.handshake(socket, request)

    def _turned_away(self, headers: Headers) -> Response | None:
        status = self._may_serve(headers)
        if status is HTTPStatus.OK:
            return None
        wait_s = round(RETRY_AFTER_S) if status is HTTPStatus.SERVICE_UNAVAILABLE else None
        return refusal(status, status.description, retry_after_s=wait_s)

    def _may_serve(self, headers: Headers) -> HTTPStatus:
        """Whether one more client of a foreign wire may come, as an HTTP status."""
        if not self._may_connect(headers):
            return HTTPStatus.FORBIDDEN
        is_open = not (self._is_full() or self._is_draining)
        return HTTPStatus.OK if is_open else HTTPStatus.SERVICE_UNAVAILABLE

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
            if not self._may_connect(socket.request.headers if socket.request else Headers()):
                session.fail(ForbiddenOrigin("pages of this origin may not connect here"))
            elif len(self._connections) > self._config.max_connections:
                text = "this server has as many connections as it takes"
                session.fail(OverCapacity(text, retry_after=RETRY_AFTER_S))
            elif self._is_draining:
                session.drain(deadline_ms=0)
            await connection.run()
        except Exception:
            logger.exception("connection failed", extra={"session": identity.name})
        finally:
            self._connections.discard(connection)
            if not self._connections:
                self._is_empty.set()

    def _is_full(self) -> bool:
        return len(self._connections) + len(self._dropins) >= self._config.max_connections

    def _may_connect(self, headers: Headers) -> bool:
        """Whether this is no page, a page of ours, or of an origin that was allowed."""
        if "Origin" not in headers:
            return True
        origin, host = headers.get_all("Origin"), headers.get_all("Host")
        if len(origin) != 1 or len(host) != 1:
            return False
        if origin[0] in self._config.origins:
            return True
        try:
            parts = urlsplit(origin[0])
        except ValueError:
            return False
        if parts.netloc != host[0]:
            return False
        # On loopback any name may be pointed at us (DNS rebinding): only its own names count.
        return self._config.host not in _LOOPBACK or parts.hostname in _LOOPBACK

    # ---- plain HTTP

    def _readiness(self) -> Answer:
        is_ready = self._manager.is_ready and not self._is_draining
        body = {
            "ready": is_ready,
            "draining": self._is_draining,
            "workers": [
                {"worker": place.worker, "state": place.state, "reason": place.reason}
                for place in self._manager.status()
            ],
        }
        return json_answer(body, HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE)

    def _figures(self) -> Answer:
        talks = [talk for c in self._connections if (talk := c.conversation()) is not None]
        talks += self._dropins.conversations()
        body = self._metrics.render(
            self._manager.status(), talks, connections=len(self._connections) + len(self._dropins)
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
        known = {"id": model.name, "object": "model", "created": 0, "owned_by": "rivulet"}
        return json_answer({"models": [entry], "object": "list", "data": [known]})


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
