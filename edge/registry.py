"""Which nodes there are, how they are, and which one is best for a user; without I/O.

Does: take what nodes announce and their heartbeats, let those go that miss them, answer "which node
for this user": hard filters, then the nearest within 10 ms, then the less loaded of two.
Does not know: sockets, legs; time comes in as ``now``. The least loaded of all is never asked for:
loads are a second old, and everybody would choose the same node.
"""

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edge.wire import Beat, Hello, Policy

TTL_S = 3.0
"""A node that was not heard for so long gets no new user."""
FORGET_S = 600.0
"""A node that stays away is no longer shown."""
NEAR_MS = 10.0


class TokenRefused(Exception):
    """The join token does not let this node in; the text says why."""


class NoNode(Exception):
    """No node fits; the text says which filter left none."""


@dataclass(slots=True)
class Node:
    """A node as the core knows it."""

    hello: Hello
    heard: float
    is_up: bool = True
    """Whether it has a connection."""
    beat: Beat | None = None
    promised: int = 0
    """Users sent there since its last heartbeat."""

    def is_alive(self, now: float) -> bool:
        """Whether it may get a user."""
        return self.is_up and now - self.heard <= TTL_S

    @property
    def legs(self) -> int:
        """Legs it has or is about to have."""
        return (self.beat.legs if self.beat else self.hello.legs) + self.promised

    @property
    def load(self) -> float:
        """Share of what it can take."""
        told = self.beat.load if self.beat else 0.0
        return max(told, self.legs / self.hello.slots if self.hello.slots else 1.0)

    @property
    def rtt_ms(self) -> float | None:
        """Of its way to the core."""
        return self.beat.rtt_ms if self.beat else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a user needs; None and empty: whatever there is."""

    policy: Policy | None = None
    """``edge``: the audio must not leave the node."""
    codec: str = ""
    model: str = ""
    zone: str = ""
    rtt_ms: Mapping[str, float] = field(default_factory=dict)
    """Round trips that the user measured, by node; else those to the core count."""


@dataclass(slots=True)
class Registry:
    """All nodes of a core."""

    tokens: frozenset[str] = frozenset()
    """Each lets one node in, again and again; none: whoever comes may join."""
    nodes: dict[str, Node] = field(default_factory=dict)
    _spent: dict[str, str] = field(default_factory=dict)
    """Token -> the node that used it first."""

    def admit(self, hello: Hello) -> None:
        """Let a node in whose token is one of ours and no other node's. Raises TokenRefused."""
        if not self.tokens:
            return
        if not hello.token:
            raise TokenRefused("this core asks for a join token")
        if hello.token not in self.tokens:
            raise TokenRefused("the join token is none of this core's")
        if self._spent.setdefault(hello.token, hello.node) != hello.node:
            raise TokenRefused("the join token belongs to another node")

    def join(self, hello: Hello, *, now: float) -> None:
        """Take a node that has a connection."""
        self.nodes[hello.node] = Node(hello, now)

    def leave(self, name: str) -> None:
        """Note that its connection ended."""
        if name in self.nodes:
            self.nodes[name].is_up = False

    def beat(self, name: str, beat: Beat | None, *, now: float) -> None:
        """Take a heartbeat; None: it had nothing to tell."""
        node = self.nodes.get(name)
        if node is not None:
            node.heard = now
            if beat is not None:
                node.beat, node.promised = beat, 0

    def forget_old(self, *, now: float, busy: Iterable[str] = ()) -> None:
        """Drop nodes that stayed away; ``busy`` ones have legs here that wait for them."""
        kept = set(busy)
        for name, node in list(self.nodes.items()):
            if not node.is_up and now - node.heard > FORGET_S and name not in kept:
                del self.nodes[name]

    def place(self, question: Question, *, now: float, rng: random.Random) -> Node:
        """Choose a node for a user and count the user as its. Raises NoNode."""
        fitting = self._fitting(question, now)
        near = _near(fitting, question.rtt_ms)
        chosen = min(rng.sample(near, min(2, len(near))), key=lambda node: node.load)
        chosen.promised += 1
        return chosen

    def _fitting(self, question: Question, now: float) -> list[Node]:
        """Apply the hard filters one after the other, so that the one that left none is known."""
        found = [node for node in self.nodes.values() if node.is_alive(now)]
        for what, fits in (
            ("is here", lambda node: True),
            ("is in this zone", lambda node: question.zone in ("", node.hello.zone)),
            ("has this policy", lambda node: question.policy in (None, *node.hello.policies)),
            ("takes this codec", lambda node: not question.codec or _has_codec(node, question)),
            ("has this model", lambda node: not question.model or _has_model(node, question)),
            ("has room", lambda node: node.legs < node.hello.slots),
        ):
            found = [node for node in found if fits(node)]
            if not found:
                raise NoNode(f"no node {what}")
        return found


def _has_codec(node: Node, question: Question) -> bool:
    return question.codec in node.hello.codecs


def _has_model(node: Node, question: Question) -> bool:
    """Whether it has the model; one that only passes audio on has all that the core has."""
    return question.model in node.hello.models or "edge" not in node.hello.policies


def _near(nodes: list[Node], measured: Mapping[str, float]) -> list[Node]:
    """Return the nodes that are at most ``NEAR_MS`` behind the nearest; all when none is known."""

    def distance(node: Node) -> float:
        own = math.inf if node.rtt_ms is None else node.rtt_ms
        return measured.get(node.hello.node, math.inf) if measured else own

    nearest = min(map(distance, nodes))
    return [node for node in nodes if distance(node) <= nearest + NEAR_MS]
