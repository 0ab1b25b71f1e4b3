"""A whole node, or the core's side as a program: started, announced, ended by a signal.

Does: put the parts together from settings; write transcripts as JSON lines where one asks for it.
Does not know: arguments.
"""

import asyncio
import contextlib
import json
import logging
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TextIO, get_args

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from edge import status
from edge.camara import Zones
from edge.core import Core, CoreConfig, accepting
from edge.listeners import FeedConfig, Listeners, Listening, headers_of
from edge.moves import Moves, all_to_core
from edge.node import EventKind, Node, NodeConfig, NodeLeg
from edge.packets import decodable
from edge.peers import PeerDoor, fetching
from edge.places import Places
from edge.uplink import CoreAddress, Uplink
from edge.warm import warm_up
from edge.wire import Encoding, Hello, Open, Result
from server.app import running
from server.config import ServerConfig
from server.http import json_response
from server.keys import Keyring
from server.store.base import StoreUnavailable
from server.store.choice import open_store
from server.store.clerk import Clerk
from server.store.memory import KEEP_S
from server.store.moving import put_in

logger = logging.getLogger(__name__)

PAGE = "; where it is the page's port, --web takes another (a core and a node are two pages)"


class RunError(Exception):
    """It cannot start; the text is one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSettings:
    """A node among nodes; the certificate carries the node's name."""

    host: str
    port: int
    door_tls: ssl.SSLContext | None = None
    asking_tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """Everything about a node."""

    node: NodeConfig
    feeds: FeedConfig
    core: CoreAddress | None = None
    """None: no core, only under the policy ``edge``."""
    zone: str = ""
    url: str = ""
    """Where users find the node."""
    peers: PeerSettings | None = None
    """Where other nodes find it; None: no session moves here or away with its state."""
    token: str = ""
    local: ServerConfig | None = None
    """The server that recognises here, where the policy needs one."""
    out: Path | None = None


@dataclass(slots=True)
class Transcripts:
    """Finals and provisional text as JSON lines; None: nobody asked for them."""

    stream: TextIO | None = None
    _is_failing: bool = False

    def event(self, leg: NodeLeg, kind: EventKind, result: Result | None) -> None:
        """Write what a leg said."""
        if kind == "closed":
            reason = leg.leg.closed.reason if leg.leg.closed else "done"
            self._write(leg.leg.opening, "closed", None, {"reason": reason})
        elif kind != "partial" and result is not None:
            self._write(leg.leg.opening, kind, result, {})

    def final(self, opening: Open, number: int, result: Result) -> None:
        """Write a final at the core."""
        self._write(opening, "final", result, {"number": number})

    def _write(
        self, opening: Open, kind: str, result: Result | None, extra: dict[str, Any]
    ) -> None:
        if self.stream is None:
            return
        line: dict[str, Any] = {"session": opening.session, "name": opening.name, "kind": kind}
        if result is not None:
            line |= {"start_ms": result.start_ms, "end_ms": result.end_ms, "text": result.text}
        try:
            self.stream.write(json.dumps(line | extra) + "\n")
            self.stream.flush()
        except OSError as error:  # a full disk ends no call: who listens otherwise hears on
            if not self._is_failing:
                logger.error("transcripts are not written", extra={"reason": error.strerror})
            self._is_failing = True
        else:
            self._is_failing = False


@contextlib.contextmanager
def _writing(path: Path | None, transcripts: Transcripts) -> Any:
    if path is None:
        yield
        return
    try:
        with path.open("a") as stream:
            transcripts.stream = stream
            yield
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}") from error


@dataclass(slots=True)
class RunningNode:
    """A node that listens."""

    node: Node
    ports: Listening
    listeners: Listeners
    moves: Moves
    task: asyncio.Task[None]
    """Ends only by itself if it failed."""


@contextlib.asynccontextmanager
async def running_node(settings: NodeSettings) -> AsyncIterator[RunningNode]:
    """Run a node for the time of the block. Raises RunError."""
    transcripts = Transcripts()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_writing(settings.out, transcripts))
        local_url, model, keeper = "", "", None
        if settings.local is not None:
            server = await stack.enter_async_context(running(settings.local))
            try:
                await server.manager.ready()
            except RuntimeError as error:
                raise RunError(str(error)) from error
            local_url, keeper = server.addresses.websocket, server.keeper
            await warm_up(local_url, settings.node.latency, keeper)
            model = server.manager.model.name if server.manager.model else ""
        uplink = _uplink(settings, model)
        node = Node(settings.node, uplink=uplink, local_url=local_url, on_event=transcripts.event)
        moves = Moves(node, keeper)
        asking = settings.peers.asking_tls if settings.peers else None
        fetch = fetching(moves, uplink, asking) if uplink and settings.peers else None
        listeners = Listeners(
            settings.feeds,
            node,
            respond=lambda path: status.respond(
                path, status.of_node(node, listeners.counters.refused)
            ),
            fetch=fetch,
        )
        try:
            if settings.peers is not None:
                door = PeerDoor(node, moves)
                peers = settings.peers
                await stack.enter_async_context(door.open(peers.host, peers.port, peers.door_tls))
            ports = await stack.enter_async_context(listeners.listening())
        except OSError as error:
            raise RunError(f"cannot listen: {error.strerror or error}{PAGE}") from error
        task = asyncio.create_task(node.run())
        try:
            yield RunningNode(node, ports, listeners, moves, task)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _uplink(settings: NodeSettings, model: str) -> Uplink | None:
    if settings.core is None:
        return None

    node, local = settings.node, settings.local
    is_recognising = node.policy == "edge" and local is not None
    slots = min(node.max_legs, local.slots) if is_recognising and local else node.max_legs

    def hello(epoch: int) -> Hello:
        return Hello(
            node=node.name,
            epoch=epoch,
            zone=settings.zone,
            token=settings.token,
            policies=(node.policy,),
            slots=slots,
            codecs=decodable() if is_recognising else get_args(Encoding),
            models=(model,) if model else (),
            url=settings.url,
            peer=f"{settings.peers.host}:{settings.peers.port}" if settings.peers else "",
        )

    # A node that was started later has the larger epochs, whatever it remembers.
    return Uplink(settings.core, hello, first_epoch=int(time.time()) * 1000)


async def run_node(settings: NodeSettings, on_ready: Callable[[Listening], None]) -> None:
    """Run a node until SIGINT or SIGTERM; legs get a moment to end. Raises RunError."""
    over = _signals()
    async with contextlib.AsyncExitStack() as stack:
        if (here := await _before(over, stack, settings)) is None:
            return
        on_ready(here.ports)
        to_core = asyncio.create_task(_on_signal(here))
        stopping = asyncio.create_task(over.wait())
        await asyncio.wait((stopping, here.task), return_when=asyncio.FIRST_COMPLETED)
        to_core.cancel()
        if here.task.done():  # it would take calls and tell nobody of them
            stopping.cancel()
            reason = type(here.task.exception()).__name__
            raise RunError(f"the node failed: {reason}") from here.task.exception()
        here.listeners.end_calls()  # what they hold goes before the end
        for leg in list(here.node.legs.values()):
            leg.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.gather(*(leg.is_over.wait() for leg in here.node.legs.values()))


async def _before(
    over: asyncio.Event, stack: contextlib.AsyncExitStack, settings: NodeSettings
) -> RunningNode | None:
    """Start a node on the stack, unless all is over before: a model may take long to load."""

    async def break_off() -> None:
        await over.wait()
        start.reschedule(asyncio.get_running_loop().time())

    breaking = asyncio.create_task(break_off())
    try:
        async with asyncio.timeout(None) as start:
            return await stack.enter_async_context(running_node(settings))
    except TimeoutError:
        if over.is_set():
            return None
        raise
    finally:
        breaking.cancel()


async def _on_signal(here: RunningNode) -> None:
    """Leave all words to the core whenever the operator asks for it with SIGUSR1."""
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, asked.set)
    while True:
        await asked.wait()
        asked.clear()
        moved = await all_to_core(here.moves, here.node)
        logger.info("legs left to the core", extra={"legs": moved})


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreSettings:
    """Everything about the core's side."""

    core: CoreConfig
    out: Path | None = None
    store: str = ""
    """That of the server, for sessions that nodes leave to the core; empty: they begin anew."""
    web_port: int | None = None
    """The page with the map of nodes and the question where to go; None: no page."""
    zones: Zones | None = None
    """The operator's zones, where there is one to ask."""
    keyring: Keyring | None = None
    """Of those who may ask where to go; None: whoever reaches the page."""


async def run_core(settings: CoreSettings, on_ready: Callable[[int], None]) -> None:
    """Accept nodes until SIGINT or SIGTERM. Raises RunError."""
    over, transcripts = _signals(), Transcripts()
    core = Core(settings.core, transcripts.final)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_writing(settings.out, transcripts))
        try:
            if settings.store:
                clerk = Clerk(open_store(settings.store, KEEP_S))
                stack.push_async_callback(clerk.close)
                core.adopt = lambda moved: clerk.submit(lambda s: put_in(s, moved))
            port = await stack.enter_async_context(accepting(core))
            if settings.web_port is not None:
                await stack.enter_async_context(pages(core, settings))
        except StoreUnavailable as error:
            raise RunError(str(error)) from error
        except OSError as error:
            raise RunError(f"cannot listen: {error.strerror or error}{PAGE}") from error
        on_ready(port)
        await over.wait()


def pages(core: Core, settings: CoreSettings) -> contextlib.AbstractAsyncContextManager[Server]:
    """Answer plain HTTP with the state of the core; there is no WebSocket."""
    clock = asyncio.get_running_loop().time
    places = Places(core.registry, clock=clock, zones=settings.zones, keyring=settings.keyring)

    async def answer(_: ServerConnection, request: Request) -> Response:
        path, query = request.path.partition("?")[::2]
        if path == "/place":
            return await places.answer(query, headers_of(request))
        state = status.of_core(core, places.counts)
        return status.respond(path, state) or json_response(
            {"error": "nothing is here; try /, /status, /metrics or /place"}, HTTPStatus.NOT_FOUND
        )

    async def nobody(_: ServerConnection) -> None:
        return

    return serve(nobody, settings.core.host, settings.web_port, process_request=answer)


def _signals() -> asyncio.Event:
    over, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    return over
