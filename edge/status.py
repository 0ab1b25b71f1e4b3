"""How a node and a core are doing: one JSON object, Prometheus text, a page.

Does: gather figures; never text that was spoken, never secrets.
Does not know: sockets; the listeners answer with what this makes.
"""

from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from websockets.datastructures import Headers
from websockets.http11 import Response

from edge.core import Core
from edge.node import Node, NodeLeg
from edge.registry import Node as RegisteredNode
from server.http import json_response

PAGE = Path(__file__).parent / "page.html"
_PAGE_POLICY = (
    "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


def of_node(node: Node, refused: dict[str, int]) -> dict[str, Any]:
    """Return the state of a node."""
    link = None if node.uplink is None else node.uplink.state
    return {
        "node": node.config.name,
        "policy": node.config.policy,
        "link": link
        and {
            "is_up": link.is_up,
            "reason": link.reason,
            "rtt_ms": link.rtt_ms,
            "connections": link.connections,
            "bytes_up": link.bytes_up,
            "bytes_down": link.bytes_down,
        },
        "legs": [_leg(leg) for leg in node.legs.values()],
        "spilled_bytes": node.spilled_bytes,
        "lost_samples": node.losses,
        "closed": node.closed,
        "refused": refused,
    }


def _leg(leg: NodeLeg) -> dict[str, Any]:
    inner = leg.leg
    rate = inner.opening.rate
    unit = 1 if inner.policy == "edge" else rate
    return {
        "leg": inner.number,
        "name": inner.opening.name,
        "encoding": inner.opening.encoding,
        "rate": rate,
        "seconds": round(inner.ring.head / rate, 2),
        "backlog": round(inner.backlog / unit, 2),
        "behind": None if leg.behind_s is None else round(leg.behind_s, 3),
        "finals": len(inner.transcript.finals),
        "provisional": len(inner.transcript.provisional),
        "memory_bytes": inner.ring.memory_bytes,
        "spilled_bytes": inner.ring.spilled_bytes,
    }


def of_core(core: Core, places: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Return the state of a core: its nodes and their legs."""
    return {
        "core": core.name,
        "places": dict(places or {}),
        "nodes": [
            _registered(node, sum(held.node == name for held in core.legs.values()))
            for name, node in sorted(core.registry.nodes.items())
        ],
        "legs": [
            {
                "name": held.leg.opening.name,
                "node": held.node,
                "policy": held.leg.opening.policy,
                "is_connected": held.connection is not None,
                "received_s": round(held.leg.received / held.leg.opening.rate, 2),
                "done_s": round(held.leg.done / held.leg.opening.rate, 2),
                "finals": held.leg.finals,
            }
            for held in core.legs.values()
        ],
    }


def _registered(node: RegisteredNode, legs: int) -> dict[str, Any]:
    beat, hello = node.beat, node.hello
    return {
        "node": hello.node,
        "zone": hello.zone,
        "url": hello.url,
        "is_up": node.is_up,
        "policies": hello.policies,
        "codecs": hello.codecs,
        "models": hello.models,
        "legs": legs,
        "slots": hello.slots,
        "load": round(node.load, 2),
        "rtt_ms": None if node.rtt_ms is None else round(node.rtt_ms, 1),
        "backlog_s": beat.backlog_s if beat else 0.0,
        "spilled_bytes": beat.spilled_bytes if beat else 0,
    }


_OF_NODE = (
    ("up", "It has a connection", "is_up", 1),
    ("legs", "Its legs", "legs", 1),
    ("slots", "Legs it takes", "slots", 1),
    ("load", "Share of what it can take", "load", 1),
    ("rtt_seconds", "Of its way here", "rtt_ms", 0.001),
    ("backlog_seconds", "Audio it has and we have not", "backlog_s", 1),
    ("spilled_bytes", "Audio on its disk, sealed", "spilled_bytes", 1),
)


def core_metrics(state: dict[str, Any]) -> str:
    """Return the state of a core as Prometheus text."""
    lines = [_gauge("core_legs", "Legs that are open", len(state["legs"]))]
    behind = sum(leg["received_s"] - leg["done_s"] for leg in state["legs"])
    lines.append(_gauge("core_behind_seconds", "Audio received and not decoded", round(behind, 2)))
    for name, about, key, factor in _OF_NODE:
        full = f"rivulet_edge_node_{name}"
        lines += [f"# HELP {full} {about}", f"# TYPE {full} gauge"]
        lines += [
            f'{full}{{node="{_escaped(node["node"])}"}} {(node[key] or 0) * factor:g}'
            for node in state["nodes"]
        ]
    lines.append("# TYPE rivulet_edge_core_places_total counter")
    for outcome, count in state["places"].items():
        lines.append(f'rivulet_edge_core_places_total{{outcome="{outcome}"}} {count}')
    return "\n".join(lines) + "\n"


def _escaped(label: str) -> str:
    """Return a name as a label may have it: nodes choose their own."""
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def metrics(state: dict[str, Any]) -> str:
    """Return the state of a node as Prometheus text."""
    link, legs = state["link"] or {}, state["legs"]
    lines = [
        _gauge("link_up", "The core is reached", int(bool(link.get("is_up")))),
        _gauge("link_rtt_seconds", "Of the last heartbeat", (link.get("rtt_ms") or 0) / 1000),
        _gauge("legs", "Legs that are open", len(legs)),
        _gauge("backlog", "Seconds (finals, under edge) not sent", sum(x["backlog"] for x in legs)),
        _gauge(
            "behind_seconds",
            "Audio that the leg with the most of it has and that is not decoded here",
            max((x["behind"] or 0.0 for x in legs), default=0.0),
        ),
        _gauge("memory_bytes", "Audio in memory", sum(x["memory_bytes"] for x in legs)),
        _gauge("spilled_bytes", "Audio on disk, sealed", state["spilled_bytes"]),
        _counter("link_connections", "Times the core was reached", link.get("connections", 0)),
    ]
    lines += [
        _counter(f"link_{way}_bytes", "On the link", link.get(f"bytes_{way}", 0))
        for way in ("up", "down")
    ]
    for name, label, values in (
        ("lost_samples", "cause", state["lost_samples"]),
        ("legs_closed", "reason", state["closed"]),
        ("refused", "feed", state["refused"]),
    ):
        lines.append(f"# TYPE rivulet_edge_{name}_total counter")
        for key, value in values.items():
            lines.append(f'rivulet_edge_{name}_total{{{label}="{key}"}} {value}')
    return "\n".join(lines) + "\n"


def _gauge(name: str, about: str, value: float) -> str:
    full = f"rivulet_edge_{name}"
    return f"# HELP {full} {about}\n# TYPE {full} gauge\n{full} {value}"


def _counter(name: str, about: str, value: float) -> str:
    full = f"rivulet_edge_{name}_total"
    return f"# HELP {full} {about}\n# TYPE {full} counter\n{full} {value}"


def respond(path: str, state: dict[str, Any]) -> Response | None:
    """Answer a request of the status pages; None: this is none."""
    if path == "/status":
        return json_response(state, HTTPStatus.OK, {"Cache-Control": "no-store"})
    if path == "/metrics":
        text = core_metrics(state) if "core" in state else metrics(state)
        return _plain("text/plain; version=0.0.4; charset=utf-8", text.encode())
    if path == "/":
        return _plain("text/html; charset=utf-8", PAGE.read_bytes())
    return None


def _plain(content_type: str, body: bytes) -> Response:
    headers = Headers(
        {
            "Content-Type": content_type,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": _PAGE_POLICY,
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
            "Connection": "close",
        }
    )
    return Response(HTTPStatus.OK.value, HTTPStatus.OK.phrase, headers, body)
