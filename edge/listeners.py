"""Where feeds arrive: sockets of AudioSocket, WebSockets of others, datagrams of RTP and RTCP.

Does: accept, read, hand what came to the parsers, end what goes silent; answer the status page on
the WebSocket port.
Does not know: how a protocol is read (edge.adapters), legs, the link.
"""

import asyncio
import contextlib
import hmac
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any
from urllib.parse import parse_qs

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from edge.adapters import rtcp, twilio
from edge.adapters.asterisk import AsteriskSocket
from edge.adapters.audiohook import AudioHook
from edge.adapters.audiosocket import HANG_UP, SILENCE, AudioSocket
from edge.adapters.events import FeedError, Started
from edge.adapters.l16 import L16
from edge.adapters.rtp import STATIC, Codec, RtpStream
from edge.adapters.signature import Signatures
from edge.adapters.twilio import Twilio
from edge.entrance import UNAUTHORIZED, may_stream
from edge.feeds import Feed
from edge.media import Piece
from edge.native import Fetch, NativeClients
from edge.node import Node, TooManyLegs
from edge.pause import Pause
from server.http import STREAM_PATH, json_response
from server.keys import Keyring
from server.wire.messages import SUBPROTOCOL

logger = logging.getLogger(__name__)

_READ_BYTES = 65_536
TICK_S = 0.01
"""How exactly the reorder window is kept."""
RECEIVE_BYTES = 4 * 1024 * 1024
"""Datagrams that wait in the kernel, which may grant less."""
HOLD_S = 1.0
"""An AudioSocket that is silent for so long is on hold: its time passes in such steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedConfig:
    """Which feeds a node takes."""

    host: str = "127.0.0.1"
    audiosocket_port: int | None = None
    calls: frozenset[str] = frozenset()
    """UUIDs that AudioSocket may bring; none: any (the interface must be private)."""
    web_port: int | None = None
    keyring: Keyring | None = None
    """Of WebSockets that no service signs; None: whoever reaches the port."""
    twilio_url: str = ""
    """The address as Twilio knows it: what it signs."""
    twilio_secret: str = ""
    audiohook_key: str = ""
    """The API key that Genesys sends; without one the feed is off."""
    audiohook_secret: str = ""
    """The client secret that goes with it; where there is one, every request must be signed."""
    rtp_port: int | None = None
    rtp_from: tuple[IPv4Network | IPv6Network, ...] = ()
    """Whose datagrams are calls; none: anybody's (the interface must be private)."""
    codecs: dict[int, Codec] = field(default_factory=lambda: dict(STATIC))
    window_s: float = 0.06
    idle_s: float = 60.0
    """A feed that says nothing for so long is over."""
    pause_s: float = 0.5
    """Time passes for a WebSocket of samples that says nothing for so long and answers a ping."""


@dataclass(slots=True)
class Counters:
    """What the feeds refused, by reason."""

    refused: dict[str, int] = field(default_factory=dict)

    def refuse(self, reason: str, count: int = 1) -> None:
        """Count refusals."""
        if count:
            self.refused[reason] = self.refused.get(reason, 0) + count


@dataclass(frozen=True, slots=True)
class Listening:
    """The ports that were opened."""

    audiosocket: int | None
    web: int | None
    rtp: int | None


class Listeners:
    """All feeds of a node."""

    def __init__(
        self,
        config: FeedConfig,
        node: Node,
        *,
        respond: Callable[[str], Response | None],
        fetch: Fetch | None = None,
    ) -> None:
        self.counters = Counters()
        self._config, self._node, self._respond = config, node, respond
        self._calls: set[asyncio.Task[None]] = set()
        self._feeds: set[Feed] = set()
        self._receiver: RtpReceiver | None = None
        self._native = NativeClients(node, fetch)
        secret = config.audiohook_secret
        self._signatures = Signatures(secret) if secret else None

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Listening]:
        """Open the ports for the time of the block; raises OSError."""
        config = self._config
        async with contextlib.AsyncExitStack() as stack:
            audiosocket = web = rtp = None
            if config.audiosocket_port is not None:
                server = await asyncio.start_server(
                    self._audiosocket, config.host, config.audiosocket_port
                )
                stack.callback(server.close)
                audiosocket = server.sockets[0].getsockname()[1]
            if config.web_port is not None:
                site = serve(
                    self._websocket,
                    config.host,
                    config.web_port,
                    compression=None,
                    max_size=1_048_576,
                    process_request=self._process,
                    select_subprotocol=_chosen,
                    server_header=None,
                )
                web = (await stack.enter_async_context(site)).sockets[0].getsockname()[1]
            if config.rtp_port is not None:
                self._receiver = RtpReceiver(config, self._node, self.counters)
                rtp = await stack.enter_async_context(self._receiver.receiving())
            try:
                yield Listening(audiosocket, web, rtp)
            finally:
                for call in self._calls:
                    call.cancel()
                await asyncio.gather(*self._calls, return_exceptions=True)

    def end_calls(self) -> None:
        """End every call as if its peer had: what is held of it is heard."""
        for feed in self._feeds:
            feed.end()
        if self._receiver is not None:
            self._receiver.end_calls()

    @contextlib.contextmanager
    def _feed(self) -> Iterator[Feed]:
        feed = Feed(self._node)
        self._feeds.add(feed)
        try:
            yield feed
        finally:
            self._feeds.discard(feed)
            feed.end()

    # ---- AudioSocket

    async def _audiosocket(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        call = asyncio.create_task(self._call(reader, writer))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _call(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser, idle_s = AudioSocket(), self._config.idle_s
        try:
            with self._feed() as feed:
                async for data in _until_idle(lambda: reader.read(_READ_BYTES), idle_s):
                    if data is None:
                        writer.write(SILENCE)
                        feed.take(parser.receive_nothing(HOLD_S))
                        continue
                    events = parser.receive(data)
                    for event in events:
                        if isinstance(event, Started):
                            self._check(event.name)
                    feed.take(events)
                    if feed.is_over or not data:
                        break
        except (FeedError, TooManyLegs) as error:
            self._refuse("audiosocket", error)
            writer.write(HANG_UP)
        except OSError:
            pass
        finally:
            writer.close()

    def _check(self, name: str) -> None:
        if self._config.calls and name not in self._config.calls:
            raise FeedError("a UUID that nobody announced")

    def _refuse(self, feed: str, error: Exception) -> None:
        self.counters.refuse(feed)
        logger.info("feed refused", extra={"feed": feed, "reason": str(error)})

    # ---- WebSockets

    def _process(self, socket: ServerConnection, request: Request) -> Response | None:
        path, headers = request.path.partition("?")[0], headers_of(request)
        if "websocket" not in headers.get("upgrade", "").lower():
            found = self._respond(path)
            return found or json_response({"error": "nothing is here"}, HTTPStatus.NOT_FOUND)
        if path == "/twilio":
            return self._signed(headers)
        if path == "/audiohook":
            return self._keyed(request.path, headers)
        if path in (STREAM_PATH, "/asterisk", "/l16"):
            return self._admitted(request.path, headers)
        text = f"feeds are /twilio, /audiohook, /asterisk, /l16 and {STREAM_PATH}"
        return json_response({"error": text}, HTTPStatus.NOT_FOUND)

    def _admitted(self, path: str, headers: Mapping[str, str]) -> Response | None:
        query = path.partition("?")[2]
        if may_stream(self._config.keyring, query, headers, now_s=time.time()):
            return None
        self.counters.refuse("key")
        return json_response({"error": UNAUTHORIZED}, HTTPStatus.UNAUTHORIZED)

    def _signed(self, headers: Mapping[str, str]) -> Response | None:
        config = self._config
        given = headers.get("x-twilio-signature", "")
        if config.twilio_secret and twilio.is_signed(
            config.twilio_url, given, config.twilio_secret
        ):
            return None
        self.counters.refuse("twilio signature")
        return json_response({"error": "the signature is not ours"}, HTTPStatus.FORBIDDEN)

    def _keyed(self, path: str, headers: Mapping[str, str]) -> Response | None:
        given, key = headers.get("x-api-key", ""), self._config.audiohook_key
        if not key or not hmac.compare_digest(given.encode(), key.encode()):
            self.counters.refuse("audiohook key")
            return json_response({"error": "the API key is not ours"}, HTTPStatus.UNAUTHORIZED)
        if self._signatures is None:
            return None
        refusal = self._signatures.refusal(path, headers, now=time.time())
        if not refusal:
            return None
        self.counters.refuse("audiohook signature")
        return json_response({"error": refusal}, HTTPStatus.UNAUTHORIZED)

    async def _websocket(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        path, _, asked = socket.request.path.partition("?")
        if path == STREAM_PATH:
            await self._native.serve(socket)
            return
        query = parse_qs(asked)
        try:
            with self._feed() as feed:
                if path == "/twilio":
                    await self._twilio(socket, feed)
                elif path == "/audiohook":
                    await self._audiohook(socket, feed)
                elif path == "/asterisk":
                    name = query.get("name", [""])[0]
                    await self._samples(socket, feed, AsteriskSocket(name=name))
                else:
                    await self._samples(socket, feed, _l16(query))
        except (FeedError, TooManyLegs) as error:
            self._refuse(path, error)
            await socket.close(1008, str(error)[:120])
        except (ConnectionClosed, TimeoutError):
            pass

    async def _twilio(self, socket: ServerConnection, feed: Feed) -> None:
        parser = Twilio()
        while not feed.is_over:
            async with asyncio.timeout(self._config.idle_s):
                message = await socket.recv()
            if isinstance(message, bytes):
                raise FeedError("Twilio sends text only")
            feed.take(parser.receive_text(message))

    async def _audiohook(self, socket: ServerConnection, feed: Feed) -> None:
        parser = AudioHook()
        while not feed.is_over:
            async with asyncio.timeout(self._config.idle_s):
                message = await socket.recv()
            if isinstance(message, str):
                events = parser.receive_text(message)
            else:
                events = parser.receive_binary(message)
            feed.take(events)
            for text in parser.texts_to_send():
                await socket.send(text)

    async def _samples(
        self, socket: ServerConnection, feed: Feed, parser: L16 | AsteriskSocket
    ) -> None:
        clock = asyncio.get_running_loop().time
        pause = Pause(clock())
        answer: asyncio.Future[float] | None = None
        while not feed.is_over:
            try:
                async with asyncio.timeout(self._config.pause_s):
                    message = await socket.recv()
            except TimeoutError:
                if not feed.legs and clock() - pause.known > self._config.idle_s:
                    raise
                if answer is not None and answer.done():
                    feed.take(parser.receive_nothing(pause.answered()))
                    answer = None
                if feed.legs and answer is None:
                    pause.ask(clock())
                    answer = asyncio.ensure_future(await socket.ping())
                continue
            answer = None
            if seconds := pause.end(clock()):
                feed.take(parser.receive_nothing(seconds))
            if isinstance(message, str):
                feed.take(parser.receive_text(message))
            else:
                feed.take(parser.receive_binary(message))


def headers_of(request: Request) -> dict[str, str]:
    """Return the headers by their names in lower case; of one that came twice, the last."""
    return {name.lower(): value for name, value in request.headers.raw_items()}


def _l16(query: dict[str, list[str]]) -> L16:
    return L16(rate=_number(query, "rate", 16_000), channels=_number(query, "channels", 1))


def _number(query: dict[str, list[str]], name: str, default: int) -> int:
    """Return a number of an address; 0 for what is none."""
    text = query.get(name, [str(default)])[0]
    return int(text) if text.isdecimal() and len(text) < 6 else 0


async def _until_idle(
    receive: Callable[[], Awaitable[bytes]], idle_s: float
) -> AsyncIterator[bytes | None]:
    """Give what comes, None for each HOLD_S in which nothing did; end after ``idle_s`` of those."""
    quiet_s = 0.0
    while quiet_s < idle_s:
        try:
            async with asyncio.timeout(HOLD_S):
                came = await receive()
        except TimeoutError:
            quiet_s += HOLD_S
            yield None
        else:
            quiet_s = 0.0
            yield came


def _chosen(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Speak our own protocol where it is offered; the feeds of others have none."""
    return Subprotocol(SUBPROTOCOL) if SUBPROTOCOL in offered else None


Address = tuple[Any, ...]
"""Host, port, and what IPv6 adds."""


class RtpReceiver(asyncio.DatagramProtocol):
    """One port for many senders: each address is a call, of one SSRC at a time."""

    def __init__(self, config: FeedConfig, node: Node, counters: Counters) -> None:
        self._config, self._node, self._counters = config, node, counters
        self._senders: dict[Address, _Sender] = {}

    @contextlib.asynccontextmanager
    async def receiving(self) -> AsyncIterator[int]:
        """Receive for the time of the block; gives the port. Raises OSError."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=(self._config.host, self._config.rtp_port or 0)
        )
        # hundreds of calls, a turn of the loop of some ms: the default holds two hundred packets
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES
        )
        port = transport.get_extra_info("sockname")[1]
        control = await self._control(port + 1)
        ticking = asyncio.create_task(self._tick())
        try:
            yield port
        finally:
            if control is not None:
                control.close()
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)
            transport.close()
            self.end_calls()

    async def _control(self, port: int) -> asyncio.DatagramTransport | None:
        """Receive RTCP beside RTP; None: somebody has that port, and calls end by their silence."""
        try:
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _Control(self), local_addr=(self._config.host, port)
            )
        except (OSError, OverflowError):  # there is no port behind the last
            logger.warning("no port for RTCP", extra={"port": port})
            return None
        return transport

    def end_calls(self) -> None:
        """End every call; what comes of them afterwards is not heard."""
        for sender in self._senders.values():
            sender.end()

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """Take a datagram; one that is no audio of ours is counted only."""
        if rtcp.is_control(data):
            self.control_received(data, addr)
            return
        now = asyncio.get_running_loop().time()
        sender = self._senders.get(addr)
        if sender is None:
            if not self._is_known(addr[0]):
                self._counters.refuse("rtp address")
                return
            stream = RtpStream(dict(self._config.codecs), self._config.window_s)
            sender = _Sender(stream, Feed(self._node), f"{addr[0]}:{addr[1]}")
            if not sender.begins(data, now):
                self._counters.refuse("rtp datagram")
                return
            self._senders[addr] = sender
        else:
            stream = sender.stream
            bad, other = stream.bad, stream.other_source
            sender.take(stream.receive(data, now=now), now)
            if stream.has_switched:
                sender.end()
                del self._senders[addr]
                for stray in stream.strays:
                    self.datagram_received(stray, addr)
                return
            self._counters.refuse("rtp datagram", stream.bad - bad)
            self._counters.refuse("rtp source", stream.other_source - other)
        if sender.is_refused:
            self._counters.refuse("rtp")
            del self._senders[addr]

    def control_received(self, data: bytes, addr: Address) -> None:
        """End a call whose source says BYE, from its own port or the next one."""
        if not self._is_known(addr[0]):
            self._counters.refuse("rtp address")
            return
        try:
            sources = rtcp.leaving(data)
        except FeedError:
            self._counters.refuse("rtcp datagram")
            return
        now = asyncio.get_running_loop().time()
        for port in (addr[1], addr[1] - 1):
            sender = self._senders.get((addr[0], port, *addr[2:]))
            if sender is not None:
                sender.stream.leave(sources, now=now)

    def _is_known(self, host: str | object) -> bool:
        networks = self._config.rtp_from
        return not networks or any(ip_address(str(host)) in network for network in networks)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_S)
            now = loop.time()
            for addr, sender in list(self._senders.items()):
                sender.take(sender.stream.handle_timer(now=now), None)
                if now - sender.heard > self._config.idle_s or now >= sender.stream.over_at:
                    sender.end()
                    del self._senders[addr]


@dataclass(slots=True)
class _Control(asyncio.DatagramProtocol):
    """The port behind that of RTP."""

    receiver: RtpReceiver

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self.receiver.control_received(data, addr)


@dataclass(slots=True)
class _Sender:
    stream: RtpStream
    feed: Feed
    name: str
    heard: float = 0.0
    is_refused: bool = False

    def begins(self, datagram: bytes, now: float) -> bool:
        """Whether a first datagram is audio; what is not makes no sender and no memory."""
        self.take(self.stream.receive(datagram, now=now), now)
        return self.stream.window is not None

    def take(self, pieces: list[Piece], now: float | None) -> None:
        """Append what is in order now; the first audio opens the leg."""
        self.heard = self.heard if now is None else now
        if not pieces or self.is_refused:
            return
        codec = self.stream.codec
        assert codec is not None
        try:
            if not self.feed.legs:
                self.feed.take([Started(self.name, codec.encoding, codec.rate)])
        except TooManyLegs:
            self.is_refused = True
            return
        self.feed.pieces("inbound", pieces)

    def end(self) -> None:
        if self.feed.legs:
            self.feed.pieces("inbound", self.stream.flush())
        self.feed.end()
