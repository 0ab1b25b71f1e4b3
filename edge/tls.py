"""Mutually authenticated TLS between nodes and a core.

Does: contexts from files, both sides with a certificate; the name a certificate carries.
Does not know: how certificates are made or renewed.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class TlsError(Exception):
    """The certificate files cannot be used; the text says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Our certificate and key, and the authority that signed the other side's."""

    certificate: Path
    key: Path
    authority: Path


def context(identity: Identity, *, is_server: bool) -> ssl.SSLContext:
    """Return a context that shows our certificate and asks for the peer's. Raises TlsError."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        made.load_cert_chain(identity.certificate, identity.key)
        made.load_verify_locations(identity.authority)
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or str(error)
        raise TlsError(f"the certificate files cannot be used: {reason}") from error
    made.verify_mode = ssl.CERT_REQUIRED
    return made


def peer_name(certificate: dict[str, Any] | None) -> str:
    """Return the common name of a peer's certificate; empty without one."""
    for part in (certificate or {}).get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return ""
