"""The token by which a client comes back to its session: ``name.secret``.

Does: make and read it; what the store keeps of it is only the secret's hash.
Does not know: sessions, which tokens are good.
"""

import hashlib
import secrets
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ticket:
    """The secret of one session."""

    name: str
    secret: str

    @classmethod
    def new(cls, name: str) -> "Ticket":
        """Make a ticket."""
        return cls(name, secrets.token_urlsafe(32))

    @classmethod
    def read(cls, token: str) -> "Ticket | None":
        """Return the ticket in a token; None when it is none of ours."""
        name, dot, secret = token.partition(".")
        return cls(name, secret) if name and dot and secret and len(token) < 256 else None

    @property
    def token(self) -> str:
        """What the client keeps."""
        return f"{self.name}.{self.secret}"

    @property
    def hash(self) -> bytes:
        """What the store keeps."""
        return hashlib.sha256(self.secret.encode()).digest()
