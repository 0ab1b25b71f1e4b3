"""The core's HTTP question "which node for this user", and the operator's answer where he has one.

Does: read the question, look at the key of who asks where there are keys, ask the operator for the
zone of a device where that is set up (CAMARA), choose a node, answer with its address.
Does not know: sockets, how a node is chosen (edge.registry) or a zone found (edge.camara).
"""

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, get_args
from urllib.parse import parse_qs

from websockets.http11 import Response

from edge.camara import Device, DiscoveryError, Zones
from edge.entrance import UNAUTHORIZED, may_stream
from edge.registry import NoNode, Question, Registry
from edge.wire import Policy
from server.http import json_response
from server.keys import Keyring

RETRY_AFTER_S = 5
_KNOWN = {"policy", "codec", "model", "zone", "rtt", "phone", "ipv4", "port", "ipv6", "token"}
_POLICIES: tuple[Policy, ...] = get_args(Policy)


class BadQuestion(Exception):
    """The question cannot be read; the text says why."""


def question_of(query: str) -> tuple[Question, Device]:
    """Read ``policy=edge&codec=mulaw&zone=Z&rtt=NODE:MS&phone=+4917...``. Raises BadQuestion."""
    given = parse_qs(query, keep_blank_values=True)
    if unknown := sorted(set(given) - _KNOWN):
        raise BadQuestion(f"{unknown[0]} is not asked here; known are {', '.join(sorted(_KNOWN))}")
    rtts = dict(_rtt(text) for text in given.pop("rtt", []))
    given.pop("token", None)  # of who asks
    one = {name: values[-1] for name, values in given.items()}
    asked = one.pop("policy", None)
    policy = next((known for known in _POLICIES if known == asked), None)
    if asked is not None and policy is None:
        raise BadQuestion(f"policy is one of {', '.join(_POLICIES)}")
    port = one.pop("port", "")
    if port and not (port.isascii() and port.isdecimal() and int(port) < 65_536):
        raise BadQuestion("port is a number below 65536")
    device = Device(
        phone=one.pop("phone", "").replace(" ", "+"),  # a plus that was not quoted
        ipv4=one.pop("ipv4", ""),
        port=int(port) if port else None,
        ipv6=one.pop("ipv6", ""),
    )
    return Question(policy=policy, rtt_ms=rtts, **one), device


def _rtt(text: str) -> tuple[str, float]:
    node, _, given = text.rpartition(":")
    try:
        ms = float(given)
    except ValueError:
        ms = math.nan
    if not node or not 0 <= ms < 60_000:
        raise BadQuestion("rtt is NODE:MILLISECONDS")
    return node, ms


@dataclass(slots=True)
class Places:
    """What the core answers with."""

    registry: Registry
    clock: Callable[[], float]
    zones: Zones | None = None
    """The operator's zones; None: nobody is asked, devices are not looked at."""
    keyring: Keyring | None = None
    """Of who may ask: the operator tells where a telephone is, and each answer counts as a user on
    its way. None: whoever reaches the port."""
    calendar: Callable[[], float] = time.time
    rng: random.Random = field(default_factory=random.Random)
    counts: dict[str, int] = field(default_factory=dict)
    """Answers, by outcome."""

    async def answer(self, query: str, headers: Mapping[str, str]) -> Response:
        """Answer a question; header names in lower case."""
        if not may_stream(self.keyring, query, headers, now_s=self.calendar()):
            return self._said("unauthorized", {"error": UNAUTHORIZED}, HTTPStatus.UNAUTHORIZED)
        try:
            question, device = question_of(query)
        except BadQuestion as error:
            return self._said("bad", {"error": str(error)}, HTTPStatus.BAD_REQUEST)
        found = await self._place(question, device)
        if isinstance(found, str):
            extra = {"Retry-After": str(RETRY_AFTER_S)}
            return self._said("none", {"error": found}, HTTPStatus.SERVICE_UNAVAILABLE, extra)
        return self._said("placed", found, HTTPStatus.OK)

    async def _place(self, question: Question, device: Device) -> dict[str, Any] | str:
        """Return the node to go to, or why there is none."""
        operator = ""
        if self.zones is not None and device.is_known and not question.zone:
            try:
                operator = (await self.zones.closest(device)).name
            except DiscoveryError:
                self._count("zone unknown")  # the round trips decide
        told = {"operator_zone": operator} if operator else {}
        url = self.zones.urls.get(operator, "") if self.zones is not None else ""
        if url and not question.policy and not question.model:
            return told | {"zone": operator, "url": url}
        tries = [replace(question, zone=operator)] if operator else []
        why = ""
        for one in (*tries, question):
            try:
                node = self.registry.place(one, now=self.clock(), rng=self.rng)
            except NoNode as none:
                why = str(none)
                continue
            hello = node.hello
            told |= {"node": hello.node, "zone": hello.zone, "url": hello.url}
            return told | {"rtt_ms": node.rtt_ms, "load": round(node.load, 3)}
        return why

    def _said(
        self,
        outcome: str,
        value: dict[str, Any],
        status: HTTPStatus,
        extra: dict[str, str] | None = None,
    ) -> Response:
        self._count(outcome)
        return json_response(value, status, {"Cache-Control": "no-store"} | (extra or {}))

    def _count(self, outcome: str) -> None:
        self.counts[outcome] = self.counts.get(outcome, 0) + 1
