"""Programs around a server under test: a network that goes silent, gateways of their own, Redis.

Does: start, kill, stop and restart them on ports of this machine; forward bytes, or hold them.
Does not know: sessions, clients.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from clients.load.host import Host, total, usage_of
from clients.serving import is_ready
from tests.bench.sustained import free_port

READY_S = 240.0
POLL_S = 0.05


class Proxy:
    """A way to servers that can be silent, and that sends callers to one that is ready."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = list(ports)
        self._flows = asyncio.Event()
        self._flows.set()
        self._server: asyncio.Server | None = None
        self._turn = 0
        self.port = 0

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._server is not None
        self._server.close()

    @property
    def url(self) -> str:
        """Where clients dial."""
        return f"ws://127.0.0.1:{self.port}/v1/stream"

    async def black_out(self, seconds: float) -> None:
        """Pass nothing on for a while: no byte, no reset."""
        self._flows.clear()
        await asyncio.sleep(seconds)
        self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await self._flows.wait()
            port = await self._ready_port()
            there, back = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        writer.close()

    async def _ready_port(self) -> int:
        """Take turns, as a balancer that asks /readyz does."""
        if len(self._ports) == 1:
            return self._ports[0]
        while True:
            for _ in self._ports:
                self._turn += 1
                port = self._ports[self._turn % len(self._ports)]
                if await asyncio.to_thread(is_ready, port):
                    return port
            await asyncio.sleep(POLL_S)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                await self._flows.wait()
                sink.write(data)
                await sink.drain()
        sink.close()


class Program:
    """``rivulet serve`` in a process of its own, to be killed and started again on its port."""

    def __init__(
        self,
        options: Sequence[str],
        *,
        python: str | Path = sys.executable,
        module: str = "clients",
    ) -> None:
        self.port = free_port()
        self._python, self._module = python, module
        self._options = list(options)
        self._process: subprocess.Popen[bytes] | None = None

    def add(self, *options: str) -> None:
        """Give it more options."""
        self._options += options

    def start(self) -> None:
        """Launch it."""
        command = [self._python, "-m", self._module, "serve", "--port", str(self.port)]
        self._process = subprocess.Popen(
            [*command, *self._options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    async def ready(self) -> None:
        """Wait until it takes sessions; raises RuntimeError when it ends instead."""
        async with asyncio.timeout(READY_S):
            while not await asyncio.to_thread(is_ready, self.port):
                if self._process is None or self._process.poll() is not None:
                    raise RuntimeError("a server under test did not start")
                await asyncio.sleep(POLL_S)

    def kill(self) -> None:
        """End the gateway as a crash does; its engines end when they see that."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    async def end(self) -> None:
        """Ask it to drain and wait until it is gone."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, 30)
        except subprocess.TimeoutExpired:
            self.kill()

    @property
    def url(self) -> str:
        """Where clients dial."""
        return f"ws://127.0.0.1:{self.port}/v1/stream"

    @property
    def memory_bytes(self) -> int:
        """Of the gateway and its engines."""
        usage = usage_of(self._process.pid) if self._process is not None else None
        return usage.memory_bytes if usage else 0

    def figure(self, name: str) -> float:
        """Return a metric, summed over its labels."""
        return total(Host(self.url)._get("/metrics") or "", name)

    async def leaked(self) -> int:
        """Return the slots in use a while after the last client left."""
        found = 0
        for _ in range(60):
            found = round(await asyncio.to_thread(self.figure, "rivulet_slots_in_use"))
            if not found:
                break
            await asyncio.sleep(POLL_S)
        return found


class Gateways(Program):
    """``rivulet serve --gateways 2``: the kernel says which of them a connection comes to."""

    COUNT = 2

    def __init__(self, options: Sequence[str]) -> None:
        super().__init__([*options, "--gateways", str(self.COUNT), "--workers", str(self.COUNT)])

    async def ready(self) -> None:
        """Wait until each listens: a gateway does while its engines are ready."""
        await super().ready()
        await asyncio.to_thread(self._ask_each)

    def kill_busiest(self) -> None:
        """End the gateway that has the most open files, so the most clients, as a crash does."""
        assert self._process is not None
        parent = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        found = [Path("/proc", pid) for pid in parent.read_text().split()]
        members = [path for path in found if b"server.member" in (path / "cmdline").read_bytes()]
        busiest = max(members, key=lambda path: len(list((path / "fd").iterdir())))
        os.kill(int(busiest.name), signal.SIGKILL)

    def figure(self, name: str) -> float:
        """Return a metric, summed over its labels and the gateways."""
        return sum(total(text, name) for text in self._ask_each().values())

    def _ask_each(self) -> dict[str, str]:
        said, until = dict[str, str](), time.monotonic() + READY_S
        url = f"http://127.0.0.1:{self.port}/metrics"
        while len(said) < self.COUNT:
            if time.monotonic() > until:
                raise RuntimeError(f"of {self.COUNT} gateways under test {len(said)} answered")
            with contextlib.suppress(OSError), urllib.request.urlopen(url) as reply:
                said[reply.headers["Server"]] = reply.read().decode()
        return said


class RedisServer:
    """A Redis on this machine that writes what it has to a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def is_here() -> bool:
        """Whether the machine has one."""
        return shutil.which("redis-server") is not None

    async def start(self) -> None:
        """Launch it and wait until it listens."""
        options = ("--port", str(self.port), "--dir", str(self._folder), "--save", "")
        self._process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            ["redis-server", *options, "--appendonly", "yes"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                await asyncio.sleep(POLL_S)

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
