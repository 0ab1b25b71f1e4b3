"""Who may come in: the page's origin, how often an address calls, whose key it is.

Does: a caller -> an account, or why not.
Does not know: sockets, wires, how many streams an account has open (quota).
"""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from server.config import ServerConfig
from server.http import refusal
from server.keys import Account, Keyring, Scope
from server.wire.credentials import presented
from server.wire.errors import (
    ForbiddenOrigin,
    MessageTooBig,
    OverCapacity,
    RateLimited,
    Unauthorized,
    WireError,
)

MAX_ADDRESSES = 16_384
"""Remembered at once; the one that called longest ago is forgotten first."""
MINUTE_S = 60.0
MAX_QUERY_FIELDS = 1_200
"""A thousand phrases may stand in a query."""
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_STATUS: dict[type[WireError], HTTPStatus] = {
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    ForbiddenOrigin: HTTPStatus.FORBIDDEN,
    RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
    OverCapacity: HTTPStatus.SERVICE_UNAVAILABLE,
    MessageTooBig: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
}


@dataclass(frozen=True, slots=True)
class Caller:
    """What is known of a client when it comes."""

    headers: Headers = field(default_factory=Headers)
    query: Mapping[str, Sequence[str]] = field(default_factory=dict)
    address: str = ""


Entrance = Callable[[Caller, Scope], Account | None]
"""Lets a caller in or raises WireError."""


def caller_of(socket: ServerConnection, request: Request) -> Caller:
    """Return who shakes hands."""
    query = query_of(request.path.partition("?")[2])
    return Caller(request.headers, query, (socket.remote_address or ("",))[0])


def query_of(text: str) -> Mapping[str, Sequence[str]]:
    """Return the fields of a query; none when it is out of bounds."""
    try:
        return parse_qs(text, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        return {}


def network_of(address: str) -> str:
    """Return what one caller has: an IPv4 address, or 64 bits of IPv6, all of them its own."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    mapped = found.ipv4_mapped
    return str(mapped or ipaddress.ip_network((int(found) >> 64 << 64, 64)))


def status_of(error: WireError) -> HTTPStatus:
    """Return the HTTP status that says it."""
    return _STATUS.get(type(error), HTTPStatus.BAD_REQUEST)


def refusal_of(error: WireError) -> Response:
    """Return the refusal of a handshake."""
    wait_s = None if error.retry_after is None else max(1, round(error.retry_after))
    return refusal(status_of(error), error.message, retry_after_s=wait_s)


class Guard:
    """At the door of one server."""

    def __init__(
        self,
        config: ServerConfig,
        keyring: Keyring | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._keyring = keyring
        self._clock = clock
        self._calendar = calendar
        self._tokens: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Address -> calls it has left, and when that was."""

    def admit(self, caller: Caller, scope: Scope) -> Account | None:
        """Return whose caller this is, None where no keys are asked for; raises RemoteProtocolError
        (ForbiddenOrigin, Unauthorized) and RateLimited.
        """
        if not self._may_connect(caller.headers):
            raise ForbiddenOrigin("pages of this origin may not connect here")
        self._count(caller.address)
        if self._keyring is None:
            return None
        return self._account(caller, scope, self._keyring)

    def shared_with(self, headers: Headers) -> dict[str, str]:
        """Return the headers by which a browser lets a page of another origin read the answer:
        of a page that may connect; none for any other.
        """
        if "Origin" not in headers or not self._may_connect(headers):
            return {}
        return {"Access-Control-Allow-Origin": headers["Origin"], "Vary": "Origin"}

    def token(self, caller: Caller, lasts_s: int) -> str | None:
        """Return a token for a caller's pages; None: this server has no keys. Raises as admit."""
        account = self.admit(caller, "tokens")
        if account is None or self._keyring is None:
            return None
        return self._keyring.token(account, lasts_s=lasts_s, now_s=self._calendar())

    def _account(self, caller: Caller, scope: Scope, keyring: Keyring) -> Account:
        headers = {name.lower(): value for name, value in caller.headers.raw_items()}
        shown = presented(headers, caller.query)
        if shown is None:
            raise Unauthorized("this server asks for a key")
        account = keyring.account_of(shown, now_s=self._calendar())
        if account is None:
            raise Unauthorized("not a key of this server, or a token that is over")
        if scope not in account.scopes:
            raise Unauthorized(f"this key is not for {scope}")
        return account

    def _count(self, address: str) -> None:
        """Take a call from an address's bucket."""
        most = self._config.opens_per_minute
        if most is None or not address:
            return
        address = network_of(address)
        now = self._clock()
        left, since = self._tokens.pop(address, (float(most), now))
        left = min(float(most), left + (now - since) * most / MINUTE_S)
        self._tokens[address] = (left - 1 if left >= 1 else left, now)
        if len(self._tokens) > MAX_ADDRESSES:
            self._tokens.popitem(last=False)
        if left < 1:
            text = "too many new connections from this address"
            raise RateLimited(text, retry_after=(1 - left) * MINUTE_S / most)

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
