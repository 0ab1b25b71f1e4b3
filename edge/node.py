"""An edge node: legs from its adapters, a link to the core, recognition on the spot by policy.

Does: open legs, keep their audio, let the one authority of each session speak (the core, or the
node itself under ``edge``), give provisional text during a cut under ``core+local``.
Does not know: telephony protocols, sockets of callers, arguments.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edge import wire
from edge.leg import Leg
from edge.recogniser import Fenced, LegAudio, LegRefused, Recogniser, Start
from edge.ring import AudioRing
from edge.spill import SpillBudget, SpillFile
from edge.transcript import Transcript
from edge.uplink import Uplink
from edge.wire import Beat, Close, Encoding, Open, Policy, Result

logger = logging.getLogger(__name__)

WATCH_S = 0.1
REPLAY_S = 30
"""Audio that is kept for a move though its words are final, where no snapshot comes."""
PACKET_BYTES_PER_S = 8_000
"""Of encodings that come in packets: 64 kbit/s at most."""

EventKind = Literal["partial", "final", "provisional", "closed"]
OnEvent = Callable[["NodeLeg", EventKind, Result | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Settings of a node."""

    name: str
    policy: Policy = "core"
    latency: Literal["low", "balanced", "accurate"] | None = None
    language: str | None = None
    memory_ms: int = 60_000
    """Audio of a leg in memory; what is older is spilled."""
    spill_folder: Path | None = None
    """None: audio beyond the memory is lost, by name."""
    spill_bytes: int = 1 << 30
    max_legs: int = 1_000
    voice_gate: bool = False
    """Calls send time instead of audio where nobody speaks."""
    suspect_s: float = 0.75
    """Under ``core+local``: the core was silent so long that provisional text begins."""


class TooManyLegs(Exception):
    """The node takes no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """What an adapter knows of a leg that begins."""

    encoding: Encoding
    rate: int
    name: str = ""
    session: str = ""
    """Empty: a new one."""
    secret: str = ""
    epoch: int = 1
    """A session that moves here brings its name, its secret and a higher epoch."""
    finals: int = 0
    """Finals that the caller of a moved session has."""


class Node:
    """Call ``run`` as a task; adapters call ``open`` and feed what they get."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        uplink: Uplink | None,
        local_url: str = "",
        on_event: OnEvent = lambda *_: None,
    ) -> None:
        self.config = config
        self.uplink = uplink
        self.legs: dict[int, NodeLeg] = {}
        self.losses: dict[str, int] = {}
        """Samples lost, by cause."""
        self.closed: dict[str, int] = {}
        """Legs that are over, by reason."""
        self._local_url = local_url
        self._on_event = on_event
        self._next = 0
        self._budget = SpillBudget(config.spill_bytes)
        if uplink is not None:
            uplink.on_news, uplink.beat = self._news, self.beat

    def open(self, caller: Caller) -> "NodeLeg":
        """Begin a leg. Raises TooManyLegs."""
        opening = Open(
            session=caller.session or secrets.token_hex(16),
            secret=caller.secret or secrets.token_urlsafe(24),
            encoding=caller.encoding,
            rate=caller.rate,
            epoch=caller.epoch,
            policy=self.config.policy,
            latency=self.config.latency,
            language=self.config.language,
            name=caller.name,
        )
        inner = Leg(
            number=self.next_number(),
            opening=opening,
            ring=self.ring(opening),
            transcript=Transcript(first=caller.finals),
            is_placed=not caller.session,
        )
        leg = self.admit(inner)
        if opening.policy == "edge":
            leg.recognise(Start())
        return leg

    def next_number(self) -> int:
        """Return the number of the next leg. Raises TooManyLegs."""
        if len(self.legs) >= self.config.max_legs:
            raise TooManyLegs(f"this node takes {self.config.max_legs} legs")
        self._next += 1
        return self._next

    def admit(self, inner: Leg) -> "NodeLeg":
        """Take a leg on."""
        leg = NodeLeg(self, inner)
        self.legs[inner.number] = leg
        if self.uplink is not None:
            self.uplink.add(inner)
        return leg

    async def run(self) -> None:
        """Keep the link and watch it, until cancelled."""
        tasks = [asyncio.create_task(self._watch())]
        if self.uplink is not None:
            tasks.append(asyncio.create_task(self.uplink.run()))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(leg.stop_local() for leg in list(self.legs.values())))
            for leg in self.legs.values():
                leg.leg.ring.close()

    def tell(self, leg: "NodeLeg", kind: EventKind, result: Result | None) -> None:
        """Hand an event of a leg to whoever listens."""
        if leg.on_event is not None:
            leg.on_event(kind, result)
        self._on_event(leg, kind, result)

    def find(self, session: str) -> "NodeLeg | None":
        """Return the leg of a session that is here."""
        return next((x for x in self.legs.values() if x.leg.opening.session == session), None)

    def over(self, leg: "NodeLeg", closed: Close) -> None:
        """Forget a leg, and say why it is over."""
        if self.legs.pop(leg.leg.number, None) is None:
            return
        leg.leg.closed = closed
        leg.let_go()
        if self.uplink is not None:
            self.uplink.legs.pop(leg.leg.number, None)
        self.closed[closed.reason] = self.closed.get(closed.reason, 0) + 1
        for loss in leg.leg.ring.losses:
            self.losses[loss.cause] = self.losses.get(loss.cause, 0) + loss.end - loss.begin
        leg.leg.ring.close()
        leg.is_over.set()
        self.tell(leg, "closed", None)

    def beat(self) -> Beat:
        """Return how the node is doing, for the core."""
        legs = [leg.leg for leg in self.legs.values()]
        waiting = [leg for leg in legs if leg.policy != "edge"]
        return Beat(
            legs=len(legs),
            load=min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)),
            rtt_ms=self.uplink.state.rtt_ms if self.uplink else None,
            backlog_s=round(sum(leg.backlog / leg.opening.rate for leg in waiting), 2),
            spilled_bytes=self.spilled_bytes,
        )

    @property
    def local_url(self) -> str:
        """The node's own server; empty: it has none."""
        return self._local_url

    @property
    def spilled_bytes(self) -> int:
        """Audio on the node's disk."""
        return self._budget.used_bytes

    def ring(self, opening: Open) -> AudioRing:
        """Make a ring for a leg."""
        folder = self.config.spill_folder
        size = wire.SAMPLE_BYTES[opening.encoding]
        bytes_per_s = opening.rate * size if size else PACKET_BYTES_PER_S
        return AudioRing(
            sample_bytes=size,
            memory_bytes=self.config.memory_ms * bytes_per_s // 1000,
            open_spill=None if folder is None else lambda: SpillFile(folder, self._budget),
        )

    def _news(self, leg: Leg) -> None:
        """Pass on what the core said of a leg."""
        here = self.legs.get(leg.number)
        if here is None:
            return
        if leg.is_placed:
            here.is_placed.set()
        here.stirred.set()
        news, leg.news = leg.news, []
        for result in news:
            self.tell(here, "partial" if result is None else "final", result)
        if leg.closed is not None and (
            leg.policy != "edge" or leg.is_complete or leg.closed.reason == "fenced"
        ):
            self.over(here, leg.closed)
        # else: the core will not hear of this leg, and the node goes on: it is the authority

    async def _watch(self) -> None:
        """Begin and end provisional recognition as the link goes and comes."""
        while True:
            await asyncio.sleep(WATCH_S)
            if self.config.policy != "core+local" or self.uplink is None:
                continue
            is_cut = not self.uplink.state.is_up or self.uplink.silent_s > self.config.suspect_s
            for leg in list(self.legs.values()):
                if is_cut and leg.local is None:
                    leg.recognise(Start(leg.leg.covered))
                elif not is_cut and leg.local is not None:
                    await leg.stop_local()


@dataclass(slots=True, eq=False)
class NodeLeg:
    """What an adapter feeds; also hears the node's own recogniser."""

    node: Node
    leg: Leg
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    """All is said, or it ended otherwise (``leg.closed`` tells)."""
    is_placed: asyncio.Event = field(default_factory=asyncio.Event)
    """The core said where the session stands; audio of a moved one begins at ``leg.ring.head``."""
    on_event: Callable[[EventKind, Result | None], None] | None = None
    """The caller's own ear, where it has one."""
    local: asyncio.Task[None] | None = None
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    """The core or the node's own recogniser said something."""
    _recogniser: Recogniser | None = None

    def ticket(self) -> Caller:
        """Return what another node needs to go on with this session; its opening fences us."""
        opening = self.leg.opening
        return Caller(
            encoding=opening.encoding,
            rate=opening.rate,
            name=opening.name,
            session=opening.session,
            secret=opening.secret,
            epoch=opening.epoch + 1,
            finals=self.leg.transcript.next_number,
        )

    # ---- audio

    def append(self, samples: int, data: bytes | None) -> None:
        """Take audio that follows what came before; None: it was lost on its way here."""
        if not self.leg.ring.is_ended:
            self.leg.ring.append(samples, data)
            self._changed()

    def end(self) -> None:
        """No more audio."""
        self.leg.ring.end()
        self._changed()

    def _changed(self) -> None:
        if self.node.uplink is not None:
            self.node.uplink.changed()
        if self._recogniser is not None:
            self._recogniser.changed()

    # ---- recognition on the spot

    @property
    def recogniser(self) -> Recogniser | None:
        """The one that runs here."""
        return self._recogniser

    @property
    def behind_s(self) -> float | None:
        """Seconds of audio that are here and that the node's own recogniser has not decoded.

        A chunk under way is part of it. None: nothing is recognised here.
        """
        if self._recogniser is None:
            return None
        return max(0, self.leg.ring.head - self._recogniser.done) / self.leg.opening.rate

    async def until_told(self) -> bool:
        """Wait until the core has every final of ours, however long; False: it will not."""
        while self.leg.acked < len(self.leg.transcript.finals) and not self.leg.is_over:
            self.stirred.clear()
            await self.stirred.wait()
        return not self.leg.is_over

    def recognise(self, start: Start) -> None:
        """Begin to recognise here."""
        audio = LegAudio.of(self.leg.opening)
        self._recogniser = Recogniser(self.node.local_url, audio, self.leg.ring, self, start)
        self.local = asyncio.create_task(self._run(self._recogniser))

    def let_go(self) -> None:
        """End recognition here at once: somebody else has the session, or it is over."""
        if self.local is not None and self.local is not asyncio.current_task():
            self.local.cancel()

    async def stop_local(self) -> None:
        """End recognition here; what it said stays until the core replaces it."""
        if self.local is not None:
            self.local.cancel()
            await asyncio.gather(self.local, return_exceptions=True)
        self.local = self._recogniser = None

    async def _run(self, recogniser: Recogniser) -> None:
        try:
            await recogniser.run()
            closed = Close()
        except Fenced:
            return  # it was given up: edge.moves knows what becomes of it
        except LegRefused as error:
            logger.warning("leg refused here", extra={"leg": self.leg.number})
            closed = Close(reason="refused", text=str(error))
        except Exception as error:  # noqa: BLE001 - task boundary: one leg must not end the others
            logger.error("leg failed", extra={"error": type(error).__name__})
            closed = Close(reason="failed", text="the node failed on this leg")
        if self.leg.policy != "edge":
            return
        self.leg.is_complete = True
        self._changed()
        if closed.reason != "done" and self.node.uplink is not None:
            self.node.uplink.give_up(self.leg)
        if self.node.uplink is None or self.leg.is_over or closed.reason != "done":
            self.node.over(self, closed)

    def final(self, number: int, result: Result) -> None:
        """Take a final of the node's own recogniser."""
        if self.leg.policy == "edge":
            if self.leg.transcript.final(number, result):
                self.node.tell(self, "final", result)
            self._changed()
        elif self.leg.transcript.provisionally(result):
            self.node.tell(self, "provisional", result)

    def partial(self, result: Result) -> None:
        """Take open text of the node's own recogniser."""
        self.leg.transcript.partial = result
        self.node.tell(self, "partial" if self.leg.policy == "edge" else "provisional", result)

    def progressed(self) -> None:
        """Forget audio whose words are final: only where the node is the authority.

        What is behind the last snapshot stays a while: whoever goes on with the session needs it.
        """
        recogniser = self._recogniser
        if self.leg.policy == "edge" and recogniser is not None:
            oldest = recogniser.safe - REPLAY_S * self.leg.opening.rate
            self.leg.cover(min(recogniser.safe, max(oldest, recogniser.durable)))
        self.stirred.set()
