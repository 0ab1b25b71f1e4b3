"""A bad link between two network namespaces: real TCP over packets that are late, lost or cut.

Does: a TUN device in each of two namespaces and a process that carries packets between them; what
is lost there the kernel's own TCP sends again, in its own time. Needs root and /dev/net/tun.
Does not know: what the packets mean. It counts their bytes, headers included.
"""

import contextlib
import ctypes
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

_NEW_NET = 0x40000000
_TUNSETIFF, _TUN, _NO_PACKET_INFO = 0x400454CA, 0x0001, 0x1000
_PACKET_BYTES = 2_048
NEAR, FAR = "10.213.0.1", "10.213.0.2"


class NotPermitted(Exception):
    """This machine gives us no namespaces or no TUN device; the text says what is missing."""


def _enter(namespace: int | None) -> None:
    """Enter a network namespace with this thread; None: a new one. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.unshare(_NEW_NET) if namespace is None else libc.setns(namespace, _NEW_NET)
    if failed:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _here() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def _device(address: str) -> int:
    """Make a TUN device in this namespace; what it sends is read from the file."""
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    asked = struct.pack("16sH22x", b"rivulet", _TUN | _NO_PACKET_INFO)
    fcntl.ioctl(file, _TUNSETIFF, asked)
    for words in (
        ("link", "set", "lo", "up"),
        ("address", "add", f"{address}/24", "dev", "rivulet"),
        ("link", "set", "rivulet", "up"),
    ):
        subprocess.run(("ip", *words), check=True, capture_output=True)
    return file


@dataclass(slots=True)
class Direction:
    """What one way carried."""

    on_the_link: int = 0


@dataclass(slots=True)
class PacketLink:
    """``cut`` and ``heal`` at any time; the interface of tests.link.Link."""

    carrier: "subprocess.Popen[bytes]"
    port: int
    up: Direction = field(default_factory=Direction)
    down: Direction = field(default_factory=Direction)

    @property
    def target_port(self) -> int:
        """The core's port; who does not want the link cannot go round it."""
        return self.port

    def cut(self) -> None:
        """No packet passes from here on."""
        self._tell(b"c")

    def heal(self) -> None:
        """Packets pass again."""
        self._tell(b"h")

    def count(self) -> None:
        """Bring ``up`` and ``down`` up to date."""
        assert self.carrier.stdout is not None
        self._tell(b"n")
        self.up.on_the_link, self.down.on_the_link = map(
            int, self.carrier.stdout.readline().split()
        )

    def _tell(self, command: bytes) -> None:
        assert self.carrier.stdin is not None
        self.carrier.stdin.write(command)
        self.carrier.stdin.flush()


@dataclass(frozen=True, slots=True)
class Namespaces:
    """This thread lives in the near one; a core listens in the far one."""

    near: int
    far: int
    devices: tuple[int, int]
    host: str = FAR

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Be in the far one for the time of the block: sockets that are made then stay there."""
        _enter(self.far)
        try:
            yield
        finally:
            _enter(self.near)

    @contextlib.asynccontextmanager
    async def linked(
        self, port: int, *, delay_s: float = 0.0, loss: float = 0.0, rto_s: float = 0.0
    ) -> AsyncIterator[PacketLink]:
        """Carry packets for the time of the block; ``rto_s`` is the kernel's own."""
        del rto_s
        arguments = (*map(str, self.devices), str(delay_s), str(loss))
        with subprocess.Popen(  # noqa: ASYNC220 - a moment, in a test
            (sys.executable, "-m", "tests.netlink", *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=self.devices,
        ) as carrier:
            yield PacketLink(carrier, port)


@contextlib.contextmanager
def namespaces() -> Iterator[Namespaces]:
    """Move this thread to a namespace of its own for the time of the block. Raises NotPermitted."""
    home, files = _here(), list[int]()
    try:
        try:
            for address in (FAR, NEAR):
                _enter(None)
                files += [_here(), _device(address)]
        except (OSError, subprocess.CalledProcessError) as error:
            raise NotPermitted(f"{type(error).__name__}: {error}") from error
        far, far_device, near, near_device = files
        yield Namespaces(near, far, (near_device, far_device))
    finally:
        _enter(home)
        for file in (home, *files):
            os.close(file)


def carry(near: int, far: int, delay_s: float, loss: float) -> None:
    """Carry packets until standard input ends."""
    rng, waiting = random.Random(1), deque[tuple[float, int, bytes]]()
    passed, is_cut = {near: 0, far: 0}, False
    while True:
        wait_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([near, far, 0], [], [], wait_s)
        for file in ready:
            if file == 0:
                if not (told := os.read(0, 1)):
                    return
                if told == b"n":
                    os.write(1, f"{passed[near]} {passed[far]}\n".encode())
                else:
                    is_cut = told == b"c"
                    waiting.clear()
                continue
            packet = os.read(file, _PACKET_BYTES)
            if is_cut or rng.random() < loss:
                continue
            passed[file] += len(packet)
            waiting.append((time.monotonic() + delay_s, near + far - file, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, file, packet = waiting.popleft()
            with contextlib.suppress(BlockingIOError):  # a full queue drops, as a router does
                os.write(file, packet)


if __name__ == "__main__":
    carry(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
