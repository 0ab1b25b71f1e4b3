"""How a node and a core are doing: one JSON object, Prometheus text, a page.

Does: gather figures; never text that was spoken, never secrets.
Does not know: sockets; the listeners answer with what this makes.
"""

from http import HTTPStatus
from pathlib import Path
from typing import Any

from websockets.datastructures import Headers
from websockets.http11 import Response

from edge.core import Core
from edge.node import Node, NodeLeg
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
        "finals": len(inner.transcript.finals),
        "provisional": len(inner.transcript.provisional),
        "memory_bytes": inner.ring.memory_bytes,
        "spilled_bytes": inner.ring.spilled_bytes,
    }


def of_core(core: Core) -> dict[str, Any]:
    """Return the state of a core: its nodes and their legs."""
    return {
        "core": core.name,
        "nodes": [
            {
                "node": name,
                "zone": status.hello.zone,
                "is_up": status.is_up,
                "policies": status.hello.policies,
                "legs": sum(held.node == name for held in core.legs.values()),
            }
            for name, status in sorted(core.nodes.items())
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


def metrics(state: dict[str, Any]) -> str:
    """Return the state of a node as Prometheus text."""
    link, legs = state["link"] or {}, state["legs"]
    lines = [
        _gauge("link_up", "The core is reached", int(bool(link.get("is_up")))),
        _gauge("link_rtt_seconds", "Of the last heartbeat", (link.get("rtt_ms") or 0) / 1000),
        _gauge("legs", "Legs that are open", len(legs)),
        _gauge("backlog", "Seconds (finals, under edge) not sent", sum(x["backlog"] for x in legs)),
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
    if path == "/metrics" and "node" in state:
        return _plain("text/plain; version=0.0.4; charset=utf-8", metrics(state).encode())
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
