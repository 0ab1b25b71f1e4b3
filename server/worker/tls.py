"""TLS of a link between machines, without an authority and without files to hand out.

Does: the contexts of both ends; a key and a certificate of the process that listens, fresh with
each listening; what a link is bound to; a TLS socket that two threads use like a plain one.
Does not know: secrets, proofs, what goes over the link.

Nobody checks the certificate as such. Its digest goes into the proofs of both ends (``handshake``):
who is in between has to show a certificate of his own, and then no proof that he passes on is
right. What was recorded cannot be read later either: TLS 1.3 agrees on keys for each link.
"""

import datetime
import hashlib
import socket
import ssl
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

BINDING_BYTES = 32
_RECORD_BYTES = 16 * 1024
"""What one read of TLS gives at most."""


class TlsError(Exception):
    """There can be no certificate; the text is one sentence."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The end that listens."""

    context: ssl.SSLContext
    binding: bytes

    @classmethod
    def fresh(cls) -> "Identity":
        """Make a key that nobody else has; raises TlsError."""
        pem, der = _certificate()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0  # each link is a new one
        with tempfile.TemporaryDirectory() as folder:  # ours alone; ssl reads nothing but files
            path = Path(folder) / "both.pem"
            path.write_bytes(pem)
            context.load_cert_chain(path)
        return cls(context, _digest(der))


def dialling() -> ssl.SSLContext:
    """Return the context of the end that dials; whom it reached the proofs show."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def binding_of(reached: ssl.SSLSocket | ssl.SSLObject) -> bytes:
    """Return what the end that dialled binds its proof to."""
    return _digest(reached.getpeercert(binary_form=True) or b"")


class TlsPeer:
    """A non-blocking TLS socket: one thread reads, another may write meanwhile."""

    def __init__(self, peer: ssl.SSLSocket) -> None:
        self._peer = peer
        self._lock = threading.Lock()  # OpenSSL has none for a connection

    def fileno(self) -> int:
        """Return the descriptor; nothing is left unseen behind it when recv would block."""
        return self._peer.fileno()

    def setblocking(self, flag: bool, /) -> None:  # noqa: FBT001 - as a socket has it
        """Be used without waiting."""
        self._peer.setblocking(flag)

    def recv(self, count: int, /) -> bytes:
        """Read what is there; raises BlockingIOError, OSError."""
        with self._lock:
            try:
                return self._peer.recv(min(count, _RECORD_BYTES))
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise BlockingIOError from None

    def send(self, data: bytearray, /) -> int:
        """Write what the socket takes; raises BlockingIOError, OSError."""
        with self._lock:
            try:
                return self._peer.send(data)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise BlockingIOError from None

    def close(self) -> None:
        """End it."""
        self._peer.close()


def accepted(peer: socket.socket, identity: Identity) -> ssl.SSLSocket:
    """Speak TLS with who dialled us, within the socket's timeout; raises OSError."""
    return identity.context.wrap_socket(peer, server_side=True)


def _digest(certificate: bytes) -> bytes:
    return hashlib.sha256(certificate).digest()


def _certificate() -> tuple[bytes, bytes]:
    """Return key and certificate as PEM, and the certificate as DER."""
    try:
        from cryptography import x509  # only who listens for other machines needs it
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        install = "pip install -e '.[engine]'"
        raise TlsError(
            f"links to other machines need the package cryptography: {install}"
        ) from None
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rivulet link")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.datetime(2000, 1, 1))  # no clock is trusted, no date is read
        .not_valid_after(datetime.datetime(9999, 12, 31))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    return private + public, certificate.public_bytes(serialization.Encoding.DER)
