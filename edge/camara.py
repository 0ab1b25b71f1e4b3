"""CAMARA Simple Edge Discovery v2: the operator says which edge cloud zone is closest to a device.

Does: ask ``POST /retrieve-closest-edge-cloud-zone`` (v2.0.1, meta-release Fall25), name what went
wrong; hold our map from zone names to URLs, because the operator gives a name and no address.
Does not know: how tokens are obtained (the file is read for each question, so that whoever renews
it is heard at once), which node is chosen. Device identifiers are never logged.
"""

import asyncio
import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import msgspec

PATH = "/simple-edge-discovery/v2/retrieve-closest-edge-cloud-zone"
TIMEOUT_S = 3.0
MAX_ANSWER_BYTES = 65_536


class DiscoveryError(Exception):
    """The operator gave no zone; ``code`` is CAMARA's, or ours in lower case."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Ipv4(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A public address alone does not name a mobile device: one of the others belongs to it."""

    public_address: str
    private_address: str | None = None
    public_port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Identifiers of one device; all empty: the access token says whose it is."""

    phone: str = ""
    ipv4: str = ""
    port: int | None = None
    ipv6: str = ""

    @property
    def is_known(self) -> bool:
        """Whether anything was said of it."""
        return bool(self.phone or self.ipv4 or self.ipv6)

    def body(self) -> dict[str, Any]:
        """Return the body of a question."""
        device: dict[str, Any] = {}
        if self.phone:
            device["phoneNumber"] = self.phone
        if self.ipv4:
            # without a port the address is the device's own: no NAT, both are the same
            private = None if self.port is not None else self.ipv4
            device["ipv4Address"] = msgspec.to_builtins(Ipv4(self.ipv4, private, self.port))
        if self.ipv6:
            device["ipv6Address"] = self.ipv6
        return {"device": device} if device else {}


class Zone(msgspec.Struct, frozen=True):
    """An operator's zone."""

    id: str = msgspec.field(name="edgeCloudZoneId")
    name: str = msgspec.field(name="edgeCloudZoneName")
    provider: str = msgspec.field(name="edgeCloudProvider")


class _Told(msgspec.Struct):
    code: str = "unreadable"
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Zones:
    """An operator's zones and where we are in them."""

    root: str
    """``https://api.operator.example``."""
    token_file: Path | None = None
    urls: Mapping[str, str] = field(default_factory=dict)
    """Zone name -> our address there; zones of registered nodes need no entry."""

    async def closest(self, device: Device) -> Zone:
        """Ask for the zone closest to a device. Raises DiscoveryError."""
        try:
            async with asyncio.timeout(TIMEOUT_S):  # of the whole; that of a socket is for a part
                return await asyncio.to_thread(self._ask, device)
        except (OSError, ValueError, HTTPException) as error:  # URLError is an OSError
            raise DiscoveryError("unreachable", f"no answer: {type(error).__name__}") from error

    def _ask(self, device: Device) -> Zone:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "x-correlator": str(uuid.uuid4()),
        }
        try:
            if self.token_file is not None:
                headers["Authorization"] = f"Bearer {self.token_file.read_text().strip()}"
            request = urllib.request.Request(
                self.root.rstrip("/") + PATH, json.dumps(device.body()).encode(), headers
            )
            with _OPENER.open(request, timeout=TIMEOUT_S) as reply:
                return zone_of(reply.read(MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                raise refusal(error.code, error.read(MAX_ANSWER_BYTES)) from error


class _Unmoved(urllib.request.HTTPRedirectHandler):
    """The token and the device are for that operator, not for whom he points to."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_Unmoved)


def zone_of(body: bytes) -> Zone:
    """Read an answer; the schema says one object, its text a list of one. Raises DiscoveryError."""
    try:
        told = msgspec.json.decode(body, type=Zone | list[Zone])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise DiscoveryError("unreadable", "the answer is no edge cloud zone") from error
    zones = told if isinstance(told, list) else [told]
    if not zones or not zones[0].name:
        raise DiscoveryError("unreadable", "the answer names no edge cloud zone")
    return zones[0]


def refusal(status: int, body: bytes) -> DiscoveryError:
    """Return the error of a refusal; its message may name the device and is not passed on."""
    try:
        code = msgspec.json.decode(body, type=_Told).code
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        code = "unreadable"
    return DiscoveryError(code[:64], f"the operator answered {status}")


def read_urls(path: Path) -> dict[str, str]:
    """Read a file ``{"zone name": "wss://..."}``. Raises OSError, ValueError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise ValueError("not an object of zone names and URLs") from error
