"""What an external worker and a gateway say after the handshake and before the first command.

Does: the worker's registration, the gateway's answer, their frames; the secret that both have.
Does not know: sockets, time, engines, what goes over the link then.
"""

import hashlib
import os
from pathlib import Path

import msgspec

SECRET_VARIABLE = "RIVULET_WORKER_SECRET"
MIN_SECRET = 16
"""Characters."""
HEAD_BYTES = 2
MAX_BYTES = 4_096


class SecretError(Exception):
    """There is no secret; the text is one sentence."""


class Register(msgspec.Struct, frozen=True, tag=True):
    """Who wants to serve."""

    process: str
    """Random, for the life of the process: by it a worker that comes back is known."""
    machine: str
    device: str
    model: str
    fingerprint: str


class Admitted(msgspec.Struct, frozen=True, tag=True):
    """The worker has a place; commands follow."""

    epoch: int
    """Counts registrations: what was said under an older one is heard by nobody."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """It has none."""

    reason: str
    is_final: bool
    """Whether to ask again is of no use."""


Answer = Admitted | Refused
_encoder = msgspec.msgpack.Encoder()
_registers = msgspec.msgpack.Decoder(Register)
_answers = msgspec.msgpack.Decoder(Answer)


def frame(said: Register | Answer) -> bytes:
    """Return it behind its length."""
    body = _encoder.encode(said)
    return len(body).to_bytes(HEAD_BYTES, "big") + body


def length(head: bytes) -> int:
    """Return how long the body is; raises ValueError."""
    size = int.from_bytes(head, "big")
    if size > MAX_BYTES:
        raise ValueError("a registration is short")
    return size


def register_of(body: bytes) -> Register:
    """Read a registration; raises ValueError (msgspec's errors are that)."""
    return _registers.decode(body)


def answer_of(body: bytes) -> Answer:
    """Read an answer; raises ValueError."""
    return _answers.decode(body)


def shared_secret(path: str) -> bytes:
    """Return what is proved, made of a file or of RIVULET_WORKER_SECRET; raises SecretError."""
    try:
        text = Path(path).read_text() if path else os.environ.get(SECRET_VARIABLE, "")
    except (OSError, UnicodeDecodeError) as error:
        raise SecretError(f"the file of the workers' secret cannot be read: {path}") from error
    text = text.strip()
    if not text:
        where = path or f"set {SECRET_VARIABLE} or name a file"
        raise SecretError(f"external workers need a secret: {where}")
    if len(text) < MIN_SECRET:
        raise SecretError(f"the workers' secret must have {MIN_SECRET} characters at least")
    return hashlib.sha256(b"rivulet worker\0" + text.encode()).digest()
