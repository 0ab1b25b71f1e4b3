"""An engine process that whoever likes has started: it dials a gateway and serves it.

Does: dial with an engine that is loaded (TLS), prove the secret, register, run the host; after the
end of the link dial again, until a gateway says that it is of no use.
Does not know: who started it, sessions. Of the sessions of a link that ended nothing is left here:
the gateway has what it takes to go on with them elsewhere.
"""

import contextlib
import gc
import logging
import random
import secrets
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from asr.interface import StreamingEngine
from server.worker import link, registration
from server.worker.engines import EngineSpec
from server.worker.handshake import HandshakeError
from server.worker.heart import Activity, Heart
from server.worker.loop import Host
from server.worker.mailbox import SocketMailbox
from server.worker.registration import Admitted, Register
from server.worker.tcp import DIAL_S, greet, read_exactly
from server.worker.tls import TlsPeer, binding_of, dialling

logger = logging.getLogger(__name__)

AGAIN_S = (0.3, 1.5)
"""Between the end of a link, or a dial in vain, and the next dial: not all workers at once."""


class JoinError(Exception):
    """The gateway will not have this worker; the text is one sentence."""


class _Later(Exception):
    """There is no place now."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the gateway waits for workers."""

    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> "Address":
        """Read HOST:PORT; raises JoinError."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise JoinError(f"a gateway is HOST:PORT, not {text!r}")
        return cls(host.strip("[]") or "127.0.0.1", int(port))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def serve(
    engine: StreamingEngine,
    spec: EngineSpec,
    where: Address,
    secret: bytes,
    *,
    on_joined: Callable[[], None] = lambda: None,
) -> None:
    """Serve the gateway that is there, time and again; raises JoinError, at SIGTERM SystemExit."""
    signal.signal(signal.SIGTERM, _leave)  # the first process of a container has no default
    about = Register(
        process=secrets.token_hex(8),
        machine=socket.gethostname(),
        device=spec.device,
        model=engine.info.model,
        fingerprint=engine.info.fingerprint,
    )
    told = ""
    while True:
        try:
            with _registered(where, secret, about) as peer:
                told = ""
                on_joined()
                with SocketMailbox(peer) as mailbox:
                    run_host(engine, spec, mailbox)
            why = "the link ended"
        except (OSError, _Later) as error:
            why = str(error)
        if why != told:  # once, however often it is tried
            logger.warning("no gateway", extra={"at": str(where), "reason": why})
            told = why
        time.sleep(random.uniform(*AGAIN_S))


def _leave(_: int, __: FrameType | None) -> None:
    raise SystemExit(0)


@contextmanager
def _registered(where: Address, secret: bytes, about: Register) -> Iterator[TlsPeer]:
    """Give a link on which commands follow; raises OSError, _Later, JoinError."""
    with _dialled(where) as peer:
        try:
            greet(peer, secret, binding_of(peer))
        except HandshakeError as error:
            raise JoinError(f"{where} refused this worker: {error}") from error
        peer.sendall(registration.frame(about))
        try:
            size = registration.length(read_exactly(peer, registration.HEAD_BYTES))
            answer = registration.answer_of(read_exactly(peer, size))
        except ValueError as error:
            raise JoinError(f"{where} is no gateway of this version") from error
        if isinstance(answer, Admitted):
            logger.info("joined", extra={"at": str(where), "epoch": answer.epoch})
            yield TlsPeer(peer)
        elif answer.is_final:
            raise JoinError(f"{where} refused this worker: {answer.reason}")
        else:
            raise _Later(answer.reason)


def _dialled(where: Address) -> ssl.SSLSocket:
    """Speak TLS with whoever is there; raises OSError, JoinError."""
    plain = _connected(where)
    try:
        return dialling().wrap_socket(plain)
    except ssl.SSLEOFError as error:
        raise ConnectionAbortedError("it hung up") from error
    except ssl.SSLError as error:
        raise JoinError(f"{where} does not speak TLS: no gateway of this version") from error


def _connected(where: Address) -> socket.socket:
    """Reach one of those that have the name; raises OSError.

    Not the first in any order: a name may be that of many gateways, each with its places.
    """
    infos = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
    hosts = [str(info[4][0]) for info in infos]
    random.shuffle(hosts)
    for host in hosts[1:]:
        with contextlib.suppress(OSError):
            return socket.create_connection((host, where.port), DIAL_S)
    return socket.create_connection((hosts[0], where.port), DIAL_S)


def run_host(engine: StreamingEngine, spec: EngineSpec, mailbox: SocketMailbox) -> None:
    """Serve a gateway, and give it signs of life, until it says so or is gone."""
    activity, device = Activity(), link.Device(spec.device, spec.cost)
    heart = Heart(activity, mailbox.beat)
    heart.start()
    gc.collect()
    gc.freeze()  # or each collection looks at the whole model again while all streams wait
    try:
        first = spec.look_ahead
        Host(engine, mailbox, first_look_ahead=first, activity=activity, device=device).run()
        mailbox.flush()
    finally:
        heart.stop()
