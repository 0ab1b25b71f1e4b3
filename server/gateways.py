"""Several gateway processes on one port, for when one is full: each is a whole server.

Does: reserve the ports, share the engine processes out, start a process for each gateway, start one
that died again, end all by a signal.
Does not know: arguments, sessions, what a gateway does.

The kernel gives a new connection to one of those that listen (SO_REUSEPORT). Sessions lie in one
store, so whoever comes back may land at any of them and is taken over as from another machine.
A gateway listens only while its engines are ready: nobody lands where nobody can be served.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgspec

from server.app import Addresses, StartError, signalled, store_of
from server.config import PORTS, ServerConfig
from server.ports import ListenError, listening
from server.worker.process import environment

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
WELL_S = 5.0
"""A gateway that served this long was well and is started again at once."""
END_S = 20.0
"""Beyond the time to drain; then a process is ended by force."""


async def serve(
    config: ServerConfig,
    *,
    on_ready: Callable[[Addresses], None],
    stop: asyncio.Event | None = None,
) -> int:
    """Serve until SIGINT, SIGTERM or ``stop``; raises StartError."""
    _check(config)
    with reserved(config) as found, signalled(stop or asyncio.Event()) as over:
        members = [Member(share(found, number), over) for number in range(config.gateways)]
        tasks = [asyncio.create_task(member.run()) for member in members]
        announced = asyncio.create_task(_all_ready(members))
        announced.add_done_callback(lambda _: _announce(announced, found, on_ready))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            announced.cancel()
            over.set()
            await asyncio.wait(tasks)
        for task in tasks:
            task.result()  # what went wrong at the start
    return 0


def share(config: ServerConfig, number: int) -> ServerConfig:
    """Return the settings of one gateway: every so many-th worker, with its device."""
    workers = range(number, config.workers, config.gateways)
    devices = config.devices
    return replace(
        config,
        gateway=number,
        workers=len(workers),
        devices=tuple(devices[worker % len(devices)] for worker in workers) if devices else (),
        announce=config.announce and number == 0,
    )


@contextlib.contextmanager
def reserved(config: ServerConfig) -> Iterator[ServerConfig]:
    """Hold the ports for processes of ours, and listen to none; give the settings with numbers.

    Raises StartError.
    """
    with contextlib.ExitStack() as held:
        ports = dict[str, Any]()
        for name in PORTS:
            if (port := getattr(config, name)) is not None:
                try:
                    with listening(config, name):
                        ports[name] = _reserve(config.host, port, held)
                except ListenError as error:
                    raise StartError(str(error)) from error
        yield replace(config, **ports)


class Member:
    """One gateway's process, again and again."""

    def __init__(self, config: ServerConfig, over: asyncio.Event) -> None:
        self.ready = asyncio.Event()
        """Whether it was ever."""
        self._config = config
        self._over = over
        self._failures = 0

    async def run(self) -> None:
        """Keep it running until all is over. Raises StartError if it cannot start at first."""
        while not self._over.is_set():
            began = asyncio.get_running_loop().time()
            wrong = await self._live()
            if self._over.is_set():
                return
            if wrong and not self.ready.is_set():
                raise StartError(wrong)
            lasted = asyncio.get_running_loop().time() - began
            self._failures = 0 if lasted >= WELL_S else self._failures + 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), _backoff_s(self._failures))

    async def _live(self) -> str:
        """Run one process to its end; return what it said was wrong."""
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "server.member"),
                stdin=PIPE,  # when we are gone it ends, and so does the process
                stdout=PIPE,
                env=environment(),
                start_new_session=True,  # Ctrl-C is for us: we tell it
            )
        except OSError as error:
            return f"a gateway process cannot be started ({error.strerror})"
        ending = asyncio.create_task(self._end(process))
        try:
            wrong = await self._talk(process)
            status = await process.wait()
        finally:
            ending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ending
        if not self._over.is_set():
            reason = wrong or f"it ended with status {status}"
            number = self._config.gateway
            logger.error("gateway gone", extra={"gateway": number, "reason": reason})
        return wrong

    async def _talk(self, process: Process) -> str:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(msgspec.json.encode(self._config) + b"\n")
        wrong = ""
        async for line in process.stdout:
            said = msgspec.json.decode(line, type=dict[str, str])
            wrong = said.get("error", "")
            if "ready" in said:
                self.ready.set()
        return wrong

    async def _end(self, process: Process) -> None:
        """End the process when all is over; one that does not drain in time by force."""
        await self._over.wait()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            await asyncio.sleep(self._config.drain_s + END_S)


def _backoff_s(failures: int) -> float:
    return min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (failures - 1)) if failures else 0.0


def _check(config: ServerConfig) -> None:
    if sys.platform != "linux" or not hasattr(socket, "SO_REUSEPORT"):
        raise StartError("several gateways share a port on Linux only (SO_REUSEPORT)")
    store = store_of(config)
    is_shared = store.is_lasting
    store.close()
    if not is_shared:
        choice = "--store sqlite:PATH or redis://HOST:PORT"
        raise StartError(f"several gateways need a store that they share: {choice}")


def _reserve(host: str, port: int, held: contextlib.ExitStack) -> int:
    """Bind a port; another program's listener is an error, not somebody to share with."""
    for family, _, _, _, address in socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        where = (address[0], port, *address[2:])
        if port:
            with _socket(family) as alone:
                alone.bind(where)
        shared = held.enter_context(_socket(family))
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind(where)
        port = shared.getsockname()[1]
    return port


def _socket(family: int) -> socket.socket:
    made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


async def _all_ready(members: list[Member]) -> None:
    await asyncio.gather(*(member.ready.wait() for member in members))


def _announce(
    ready: "asyncio.Task[None]", config: ServerConfig, on_ready: Callable[[Addresses], None]
) -> None:
    if not ready.cancelled():
        on_ready(Addresses(config.host, config.port))
