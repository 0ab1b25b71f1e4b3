"""A link over TCP: the engine process listens for its one gateway, the gateway dials.

An engine process that dials (server.worker.join) greets with the same words.

Does: connect both ends, speak TLS (server.worker.tls), have each prove itself (worker.handshake),
let the kernel end a link whose other machine is gone.
Does not know: engines, what goes over the link, who told the gateway the address.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable

from server.worker.handshake import (
    ANSWER_BYTES,
    HELLO_BYTES,
    PROOF_BYTES,
    Gateway,
    HandshakeError,
    Host,
)
from server.worker.line import Line
from server.worker.tls import Identity, TlsPeer, accepted, binding_of, dialling

DIAL_S = 10.0
WAIT_S = 60.0
"""An engine process to which no gateway comes ends."""
GREET_S = 2.0
"""Whoever dials an engine process and does not prove himself is gone after that."""
GONE_S = 4
"""A machine that acknowledges nothing for so long is gone."""


class NobodyCame(Exception):
    """No gateway of ours dialled; the text says so."""


def wait_for_gateway(host: str, secret: bytes, tell_port: Callable[[int], None]) -> TlsPeer:
    """Listen on any port until our gateway is there; raises NobodyCame, TlsError."""
    identity = Identity.fresh()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    until = time.monotonic() + WAIT_S
    with socket.create_server((host, 0), family=family) as door:
        tell_port(door.getsockname()[1])
        while (left := until - time.monotonic()) > 0:
            door.settimeout(left)
            try:
                peer, _ = door.accept()
            except TimeoutError:
                break
            peer.settimeout(GREET_S)
            try:
                link = accepted(peer, identity)
            except OSError:
                continue  # and it is closed
            try:
                greet(link, secret, identity.binding)
            except (OSError, HandshakeError):
                link.close()
            else:
                return TlsPeer(link)
    raise NobodyCame("no gateway came")


async def dial(host: str, port: int, secret: bytes) -> Line:
    """Connect to an engine process; raises OSError (a timeout is one), HandshakeError."""
    async with asyncio.timeout(DIAL_S):
        reader, writer = await asyncio.open_connection(host, port, ssl=dialling())
        try:
            gateway = Gateway(secret, binding_of(writer.get_extra_info("ssl_object")))
            writer.write(gateway.hello)
            answer = await reader.readexactly(ANSWER_BYTES)
            writer.write(gateway.answered(answer))
            end_with_its_machine(writer.get_extra_info("socket"))
        except asyncio.IncompleteReadError:
            writer.transport.abort()
            raise HandshakeError("an engine process hung up before it had proved itself") from None
        except BaseException:
            writer.transport.abort()
            raise
    return Line(reader, writer)


def greet(peer: socket.socket, secret: bytes, binding: bytes) -> None:
    """Be the host on a new link, within the socket's timeout; raises OSError, HandshakeError."""
    host = Host(secret, read_exactly(peer, HELLO_BYTES), binding)
    peer.sendall(host.answer)
    try:
        last = read_exactly(peer, PROOF_BYTES)
    except ConnectionAbortedError:
        why = "it has another secret, runs another version of rivulet, or is not whom we reached"
        raise HandshakeError(f"the gateway did not take our proof: {why}") from None
    host.check(last)
    end_with_its_machine(peer)


def read_exactly(peer: socket.socket, count: int) -> bytes:
    """Read so many bytes; raises OSError, ConnectionAbortedError where the other end hung up."""
    data = bytearray()
    while len(data) < count:
        part = peer.recv(count - len(data))
        if not part:
            raise ConnectionAbortedError
        data += part
    return bytes(data)


def end_with_its_machine(peer: socket.socket) -> None:
    """Have the kernel ask an idle machine for life, and end the link when no answer comes."""
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    with contextlib.suppress(AttributeError, OSError):  # Linux has them; elsewhere it takes longer
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, GONE_S - 1)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GONE_S * 1000)
