"""A core with a scripted engine, a bad link and a node, all on loopback."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from asr.interface import Samples
from asr.scripted import WORDS, silence, utter
from edge.core import Core, CoreConfig, accepting
from edge.moves import Moves
from edge.node import Caller, Node, NodeConfig, NodeLeg
from edge.peers import PeerDoor, fetching
from edge.uplink import CoreAddress, Timing, Uplink
from edge.warm import warm_up
from edge.wire import Hello, Policy, Result
from server.app import Running, running
from server.config import ServerConfig
from tests.io.serving import serving
from tests.link import Link, linked
from tests.netlink import Namespaces

RATE_HZ = 8_000
PACKET = 160
FAST = Timing(
    dial_s=0.4,
    again_s=0.1,
    heartbeat_s=0.02,
    dead_s=0.15,
    idle_heartbeat_s=0.02,
    idle_dead_s=0.15,
    first_backoff_s=0.01,
    max_backoff_s=0.05,
    turned_away_s=0.05,
)


def mulaw(samples: Samples) -> bytes:
    """G.711 mu-law of samples, written from the standard and not from our decoder."""
    x = np.clip(samples * 32768, -32635, 32635).astype(np.int32)
    sign = (x < 0).astype(np.int32) << 7
    x = np.abs(x) + 132
    exponent = np.floor(np.log2(x)).astype(np.int32) - 7
    code = sign | exponent << 4 | (x >> (exponent + 3)) & 15
    return (~code & 255).astype(np.uint8).tobytes()


def sentences(count: int, *, seed: int = 0, words: int = 6) -> list[str]:
    """So many sentences of the scripted vocabulary."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, words)) for _ in range(count)]


def spoken(texts: list[str], *, pause_ms: int = 960) -> bytes:
    """Mu-law of sentences with pauses between them."""
    parts = [part for text in texts for part in (utter(text, rate=RATE_HZ), _pause(pause_ms))]
    audio = mulaw(np.concatenate(parts))
    return audio + b"\xff" * (-len(audio) % PACKET)


def _pause(ms: int) -> Samples:
    return silence(ms, rate=RATE_HZ)


@dataclass(slots=True)
class Rig:
    """Everything at hand."""

    server: Running
    core: Core
    link: Link
    """Or a PacketLink, which has of it what a cut needs."""
    node: Node
    uplink: Uplink
    moves: Moves
    finals: list[tuple[str, int, Result]] = field(default_factory=list)
    """What the core was told or said: session, number, final."""
    events: list[tuple[int, str, Result | None]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, condition: Callable[[], bool], what: str = "") -> None:
        """Wait for a condition that an event of the node or a moment may bring about."""
        async with asyncio.timeout(15):
            while not condition():
                self.changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await self.changed.wait()

    def open(self, **options: str | int) -> NodeLeg:
        """Begin a mu-law leg."""
        return self.node.open(Caller(encoding="mulaw", rate=RATE_HZ, **options))  # type: ignore[arg-type]


def feed(leg: NodeLeg, audio: bytes) -> None:
    """Append audio packet by packet."""
    for at in range(0, len(audio), PACKET):
        packet = audio[at : at + PACKET]
        leg.append(len(packet), packet)


def keep(finals: dict[int, str], leg: NodeLeg) -> None:
    """Take a leg's finals by number, as a caller does; a number never changes its text."""
    for number, final in enumerate(leg.leg.transcript.finals, leg.leg.transcript.first):
        assert finals.setdefault(number, final.text) == final.text


async def heard(leg: NodeLeg, samples: int) -> None:
    """Wait until the node has decoded so much."""
    while leg.recogniser is None or leg.recogniser.done < samples:
        leg.stirred.clear()
        await leg.stirred.wait()


async def words_of(leg: NodeLeg) -> str:
    """Wait for the end of a leg; its final text."""
    async with asyncio.timeout(15):
        await leg.is_over.wait()
    assert leg.leg.closed is None or leg.leg.closed.reason == "done", leg.leg.closed
    return leg.leg.transcript.final_text()


@contextlib.asynccontextmanager
async def rig(
    policy: Policy = "core",
    *,
    timing: Timing = FAST,
    spill: Path | None = None,
    memory_ms: int = 60_000,
    window_ms: int = 60_000,
    delay_s: float = 0.0,
    loss: float = 0.0,
    rto_s: float = 5.0,
    slots: int = 32,
    suspect_s: float = 0.08,
    has_model: bool = False,
    is_apart: bool = False,
    tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
    between: Namespaces | None = None,
) -> AsyncIterator[Rig]:
    """A running core, link and node; ``has_model``: the embedded model instead of the script.

    ``is_apart``: the node has a server of its own, as real ones have. ``between``: the link is one
    between network namespaces.
    """
    async with contextlib.AsyncExitStack() as stack:
        server = local = await stack.enter_async_context(a_server(slots, has_model=has_model))
        if is_apart:
            local = await stack.enter_async_context(a_server(slots, has_model=has_model))
        url = server.addresses.websocket
        core_tls, node_tls = tls or (None, None)
        host = between.host if between else "127.0.0.1"
        setup = CoreConfig(url=url, host=host, port=0, window_ms=window_ms, tls=core_tls)
        core = Core(setup)
        with between.listening() if between else contextlib.nullcontext():
            port = await stack.enter_async_context(accepting(core))
        carrying: Any = between.linked if between else linked
        link = await stack.enter_async_context(
            carrying(port, delay_s=delay_s, loss=loss, rto_s=rto_s)
        )
        uplink = Uplink(
            CoreAddress(host=host, port=link.port, tls=node_tls, name="core.test"),
            lambda epoch: Hello(node="n1", epoch=epoch),
            timing=timing,
        )
        config = NodeConfig(
            name="n1",
            policy=policy,
            latency="low",
            memory_ms=memory_ms,
            spill_folder=spill,
            suspect_s=suspect_s,
        )
        local_url = "" if policy == "core" else local.addresses.websocket
        node = Node(config, uplink=uplink, local_url=local_url)
        moves = Moves(node, local.keeper)
        peers = await stack.enter_async_context(PeerDoor(node, moves).open("127.0.0.1", 0))
        uplink.hello = _hello("n1", peers)
        core.adopt = server.keeper.move_in
        made = Rig(server, core, link, node, uplink, moves)

        def note(leg: NodeLeg, kind: str, result: Result | None) -> None:
            made.events.append((leg.leg.number, kind, result))
            made.changed.set()

        node._on_event = note
        core.on_final = lambda opening, number, result: made.finals.append(
            (opening.session, number, result)
        )
        task = asyncio.create_task(node.run())
        try:
            yield made
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _hello(name: str, peers: int) -> Callable[[int], Hello]:
    return lambda epoch: Hello(node=name, epoch=epoch, peer=f"127.0.0.1:{peers}")


@contextlib.asynccontextmanager
async def a_server(slots: int, *, has_model: bool = False) -> AsyncIterator[Running]:
    """A server with the embedded model, or with the script."""
    if not has_model:
        async with serving(slots=slots) as server:
            yield server
        return
    setup = ServerConfig(port=0, workers=1, slots=slots, precision="fp32", store="memory")
    async with running(setup) as server:
        await server.manager.ready()
        await warm_up(server.addresses.websocket, "low", server.keeper)
        yield server


@dataclass(slots=True)
class EdgeNode:
    """A node that recognises itself, with its server."""

    node: Node
    moves: Moves
    uplink: Uplink

    async def fetch(self, leg: NodeLeg) -> NodeLeg:
        """Take a session over from wherever it is."""
        opening = leg.leg.opening
        return await fetching(self.moves, self.uplink)(opening.session, opening.secret)


@contextlib.asynccontextmanager
async def another_edge_node(
    r: Rig, name: str, *, has_model: bool = False, timing: Timing = FAST
) -> AsyncIterator[EdgeNode]:
    """A second node of the same core that recognises itself, without the bad link."""
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(a_server(32, has_model=has_model))
        address = CoreAddress(host="127.0.0.1", port=r.link.target_port)
        uplink = Uplink(address, _hello(name, 0), timing=timing)
        config = NodeConfig(name=name, policy="edge", latency="low")
        node = Node(config, uplink=uplink, local_url=server.addresses.websocket)
        moves = Moves(node, server.keeper)
        peers = await stack.enter_async_context(PeerDoor(node, moves).open("127.0.0.1", 0))
        uplink.hello = _hello(name, peers)
        task = asyncio.create_task(node.run())
        try:
            yield EdgeNode(node, moves, uplink)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def another_node(r: Rig, name: str, *, timing: Timing = FAST) -> AsyncIterator[Node]:
    """A second node of the same core, without the bad link."""
    uplink = Uplink(
        CoreAddress(host="127.0.0.1", port=r.link.target_port),
        lambda epoch: Hello(node=name, epoch=epoch),
        timing=timing,
    )
    node = Node(NodeConfig(name=name, latency="low"), uplink=uplink)
    task = asyncio.create_task(node.run())
    try:
        yield node
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
