"""Where the clients of all wires put their key, and the form of a browser's token.

Does: headers, subprotocols and query -> what was presented; token <-> its claims, signed.
Does not know: which keys there are, what time it is.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

MAX_CHARS = 512
TOKEN_PREFIX = "rvt_"
_SCHEMES = ("bearer", "token")
_PREFIXES = ("auth.", "openai-insecure-api-key.", "realtime-token.")
"""Of subprotocols that carry a key: a page cannot set headers. Ours, OpenAI's and NVIDIA's."""
_FIELDS = ("token", "jwt", "auth_id")
"""Of the query: ours and AssemblyAI's, Speechmatics', Kyutai's."""
_HEADER = "kyutai-api-key"


@dataclass(frozen=True, slots=True)
class Presented:
    """What a client showed."""

    text: str
    is_in_url: bool = False
    """Others may have read it: proxies log addresses."""

    def __repr__(self) -> str:
        """Keep it out of logs and tracebacks."""
        return "Presented(...)"


class Claims(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a token says."""

    key: str
    """The key it was made with."""
    expires_s: int
    """Seconds since 1970."""


def presented(headers: Mapping[str, str], query: Mapping[str, Sequence[str]]) -> Presented | None:
    """Return the key or token of a client; header names in lower case."""
    text = (
        _of_authorization(headers.get("authorization", ""))
        or _of_subprotocols(headers.get("sec-websocket-protocol", ""))
        or headers.get(_HEADER, "").strip()
    )
    if text:
        return Presented(text) if len(text) <= MAX_CHARS else None
    for name in _FIELDS:
        if (values := query.get(name)) and 0 < len(values[0]) <= MAX_CHARS:
            return Presented(values[0], is_in_url=True)
    return None


def make_token(claims: Claims, secret: bytes) -> str:
    """Return the signed token of some claims."""
    body = _encode(msgspec.json.encode(claims))
    return f"{TOKEN_PREFIX}{body}.{_encode(_sign(body, secret))}"


def read_token(text: str, secret: bytes) -> Claims | None:
    """Return the claims of a token that was signed with this secret; None: it was not."""
    if not text.startswith(TOKEN_PREFIX) or len(text) > MAX_CHARS or not text.isascii():
        return None
    body, _, signature = text.removeprefix(TOKEN_PREFIX).partition(".")
    try:
        if not hmac.compare_digest(_decode(signature), _sign(body, secret)):
            return None
        return msgspec.json.decode(_decode(body), type=Claims)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return None


def _of_authorization(value: str) -> str:
    words = value.split()
    if len(words) == 2 and words[0].lower() in _SCHEMES:
        return words[1]
    if len(words) == 2 and words[0].lower() == "basic":
        return _password(words[1])
    return words[0] if len(words) == 1 and words[0].lower() not in _SCHEMES else ""


def _password(text: str) -> str:
    """Return what a telephone exchange, which knows users and passwords only, has for a key."""
    try:
        return base64.b64decode(text, validate=True).decode().partition(":")[2].strip()
    except (binascii.Error, ValueError):
        return ""


def _of_subprotocols(value: str) -> str:
    names = [name.strip() for name in value.split(",")]
    for name in names:
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                return name.removeprefix(prefix)
    if len(names) == 2 and names[0].lower() in _SCHEMES:  # Deepgram's pages
        return names[1]
    return ""


def _sign(body: str, secret: bytes) -> bytes:
    return hmac.digest(secret, body.encode(), "sha256")


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    padded = text + "=" * (-len(text) % 4)
    return base64.b64decode(padded, altchars=b"-_", validate=True)
