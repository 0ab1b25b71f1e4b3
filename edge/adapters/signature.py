"""The signature of a Genesys AudioHook request (HTTP message signatures, HMAC-SHA256).

Does: request target and headers -> accepted, or why not; a nonce is good once.
Does not know: sockets, API keys' files. A proxy in front must keep path and Host as they came.
Source: developer.genesys.cloud/devapps/audiohook/security; RFC 9421 in the form Genesys sends.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Mapping

SIGNED = (
    "@request-target",
    "@authority",
    "audiohook-organization-id",
    "audiohook-session-id",
    "audiohook-correlation-id",
    "x-api-key",
)
"""What a signature must cover."""
TOLERANCE_S = 30
"""A signature may be this old, or this far ahead of our clock."""
MAX_NONCES = 100_000

_INPUT = re.compile(r"(?P<label>[a-z*][\w.*-]*)=(?P<signed>\((?P<names>[^()]*)\)(?P<rest>;.*))")
_NAMES = re.compile(r'"[a-z0-9@-]+"(?: "[a-z0-9@-]+")*')
_PARAMETER = re.compile(r';(?P<name>[a-z]+)=(?:"(?P<text>[^"\\]*)"|(?P<number>\d{1,15}))')


class Signatures:
    """Checks against one client secret, as Genesys shows it (base64)."""

    def __init__(self, secret: str) -> None:
        try:
            self._secret = base64.b64decode(secret, validate=True)
        except binascii.Error as error:
            raise ValueError("AudioHook's client secret is base64") from error
        if not self._secret:
            raise ValueError("AudioHook's client secret is empty")
        self._nonces: dict[str, float] = {}
        """When each was seen."""

    def refusal(self, target: str, headers: Mapping[str, str], *, now: float) -> str:
        """Return why a request is not genuine; nothing: it is. ``now`` is Unix time in seconds."""
        found = _INPUT.fullmatch(headers.get("signature-input", "").strip())
        if found is None or not _NAMES.fullmatch(found["names"]):
            return "no signature that can be read"
        names = [name.strip('"') for name in found["names"].split()]
        if len(set(names)) < len(names) or not set(SIGNED) <= set(names):
            return "the signature does not cover what it must"
        parameters = _parameters(found["rest"])
        if parameters is None or parameters.get("alg", "hmac-sha256") != "hmac-sha256":
            return "parameters of the signature that cannot be read"
        lines = [f'"{name}": {_value(name, target, headers)}' for name in names]
        lines.append(f'"@signature-params": {found["signed"]}')
        wanted = hmac.digest(self._secret, "\n".join(lines).encode(), "sha256")
        given = f"{found['label']}=:{base64.b64encode(wanted).decode()}:"
        if not hmac.compare_digest(given.encode(), headers.get("signature", "").strip().encode()):
            return "the signature is not ours"
        return self._when(parameters, now)

    def _when(self, parameters: dict[str, str], now: float) -> str:
        """Tell why a signature is not good now; it is known to be Genesys's own."""
        created, nonce = parameters.get("created", ""), parameters.get("nonce", "")
        if not created.isdecimal() or not nonce:
            return "a signature without time or nonce"
        expires = parameters.get("expires", created)
        if abs(now - int(created)) > TOLERANCE_S or not expires.isdecimal():
            return "the signature is not of this time"
        if now > int(expires) + TOLERANCE_S:
            return "the signature has expired"
        while self._nonces:
            oldest = next(iter(self._nonces))
            if self._nonces[oldest] + 2 * TOLERANCE_S >= now and len(self._nonces) < MAX_NONCES:
                break
            del self._nonces[oldest]
        if nonce in self._nonces:
            return "the signature was used before"
        self._nonces[nonce] = now
        return ""


def _parameters(text: str) -> dict[str, str] | None:
    found = list(_PARAMETER.finditer(text))
    if sum(len(match[0]) for match in found) < len(text):
        return None
    return {match["name"]: match["text"] or match["number"] or "" for match in found}


def _value(name: str, target: str, headers: Mapping[str, str]) -> str:
    if name == "@request-target":
        return target
    if name == "@authority":
        return headers.get("host", "").lower()
    return headers.get(name, "").strip()
