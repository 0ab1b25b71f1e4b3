"""Mutually authenticated TLS between nodes and a core.

Does: contexts from files, both sides with a certificate; read the files again when they were
renewed, for the connections that follow; the name a certificate carries.
Does not know: how certificates are made. A connection that stands outlives its certificate.
"""

import asyncio
import datetime
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RENEW_S = 10.0
"""How often who listens looks at the certificate's files."""


class TlsError(Exception):
    """The certificate files cannot be used; the text says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Our certificate and key, and the authority that signed the other side's."""

    certificate: Path
    key: Path
    authority: Path


class Context(ssl.SSLContext):
    """Knows its files."""

    identity: Identity
    _stamps: tuple[int, ...] = ()

    def is_expired(self) -> bool:
        """Whether our certificate is not valid any more, by this machine's clock."""
        from cryptography import x509

        try:
            ours = x509.load_pem_x509_certificate(self.identity.certificate.read_bytes())
        except (OSError, ValueError):  # half written: what was read before may do
            return False
        return ours.not_valid_after_utc < datetime.datetime.now(datetime.UTC)

    def refresh_stamps(self) -> None:
        """Note how old the files are. Raises OSError."""
        self._stamps = _stamps(self.identity)

    def refresh(self) -> bool:
        """Read the files again if they were replaced. False: they were not, or cannot.

        A new authority is trusted beside the old one, which goes with the process.
        """
        try:
            stamps = _stamps(self.identity)
            if stamps == self._stamps:
                return False
            self.load_cert_chain(self.identity.certificate, self.identity.key)
            self.load_verify_locations(self.identity.authority)
        except OSError:  # half written: the next time
            return False
        self._stamps = stamps
        return True


def _stamps(identity: Identity) -> tuple[int, ...]:
    files = identity.certificate, identity.key, identity.authority
    return tuple(file.stat().st_mtime_ns for file in files)


def context(identity: Identity, *, is_server: bool) -> Context:
    """Return a context that shows our certificate and asks for the peer's. Raises TlsError."""
    made = Context(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.identity = identity
    try:
        made.refresh_stamps()
        made.load_cert_chain(identity.certificate, identity.key)
        made.load_verify_locations(identity.authority)
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or str(error)
        raise TlsError(f"the certificate files cannot be used: {reason}") from error
    made.verify_mode = ssl.CERT_REQUIRED
    return made


async def renew(tls: ssl.SSLContext | None) -> None:
    """Read the files again whenever they were renewed, until cancelled."""
    while isinstance(tls, Context):
        await asyncio.sleep(RENEW_S)
        tls.refresh()


def peer_name(certificate: dict[str, Any] | None) -> str | None:
    """Return the common name of a peer's certificate, empty where it has none; None: no TLS."""
    if certificate is None:
        return None
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return ""
