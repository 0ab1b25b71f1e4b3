"""Engine processes on the machines of a Ray cluster (optional extra ``ray``).

Does: keep one process that talks to Ray (server.worker.driver), have it start engine processes
where the cluster has room and end them; begin a new one when it ended, as when Ray was away.
Does not know: Ray, links, engines, sessions. No audio, no words and no state of a session go
through Ray, and Ray restarts nothing by itself: the manager asks again, Ray finds the place.

Ray is in a process of its own because it takes the signals of the one that it is in, and ends it
when the cluster's head is away for a minute: sessions shall outlive that.
"""

import asyncio
import contextlib
import itertools
import sys
from dataclasses import dataclass

import msgspec

from server.worker.engines import EngineSpec
from server.worker.process import environment
from server.worker.remote import PlacementError

ANY = "auto"
"""The cluster that this machine belongs to."""
_JOIN_S = 120.0
_LEAVE_S = 5.0


class Start(msgspec.Struct, frozen=True, tag=True):
    """Start an engine process."""

    number: int
    spec: EngineSpec
    secret: bytes


class Remove(msgspec.Struct, frozen=True, tag=True):
    """End it."""

    number: int


class Joined(msgspec.Struct, frozen=True, tag=True):
    """There is a cluster, and we are part of it."""


class Started(msgspec.Struct, frozen=True, tag=True):
    """It listens there."""

    number: int
    host: str
    port: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It did not start; without a number: there is no cluster."""

    reason: str
    number: int | None = None


Order = Start | Remove
Answer = Joined | Started | Failed
_answers = msgspec.json.Decoder(Answer)


class Cluster:
    """A Ray cluster that we joined (server.worker.remote.Places)."""

    def __init__(self, address: str, driver: "_Driver") -> None:
        self._address = address
        self._driver = driver
        self._joining = asyncio.Lock()

    @classmethod
    async def join(cls, address: str = ANY) -> "Cluster":
        """Join a cluster; raises PlacementError."""
        return cls(address, await _Driver.begin(address))

    async def start(self, spec: EngineSpec, secret: bytes) -> "_Post":
        """Have an engine process started where a core is free, now or later."""
        async with self._joining:
            if self._driver.is_over:
                self._driver = await _Driver.begin(self._address)
        driver = self._driver
        return await driver.start(spec, secret)

    async def leave(self) -> None:
        """Leave it: what is left of our engine processes ends."""
        await self._driver.end()


@dataclass(frozen=True, slots=True)
class _Post:
    address: tuple[str, int]
    number: int
    driver: "_Driver"

    def remove(self) -> None:
        """End the process and give its core back."""
        self.driver.tell(Remove(self.number))


class _Driver:
    """The process that talks to Ray, from ``begin`` until it ends."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Started]] = {}
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def begin(cls, address: str) -> "_Driver":
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server.worker.driver", address),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment() | {"RAY_USAGE_STATS_ENABLED": "0"},
            start_new_session=True,
        )
        driver = cls(process)
        try:
            async with asyncio.timeout(_JOIN_S):
                answer = await driver._next()
        except BaseException as error:
            driver._kill()
            await process.wait()
            if isinstance(error, TimeoutError):
                raise PlacementError("the Ray cluster does not answer") from None
            raise
        if not isinstance(answer, Joined):
            await process.wait()
            raise PlacementError(answer.reason if isinstance(answer, Failed) else _ENDED)
        driver._reading = asyncio.create_task(driver._read())
        return driver

    @property
    def is_over(self) -> bool:
        return self._reading is None or self._reading.done()

    def tell(self, order: Order) -> None:
        stdin = self._process.stdin
        if stdin is not None and not self.is_over and not stdin.is_closing():
            stdin.write(msgspec.json.encode(order) + b"\n")

    async def start(self, spec: EngineSpec, secret: bytes) -> _Post:
        number = next(self._numbers)
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self.tell(Start(number, spec, secret))
            started = await asked
        except asyncio.CancelledError:
            self.tell(Remove(number))
            raise
        finally:
            self._asked.pop(number, None)
        return _Post((started.host, started.port), number, self)

    async def end(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), _LEAVE_S)
        except TimeoutError:
            self._kill()
            await self._process.wait()
        if self._reading is not None:
            await self._reading

    async def _read(self) -> None:
        while (answer := await self._next()) is not None:
            match answer:
                case Started(number=number) if asked := self._open(number):
                    asked.set_result(answer)
                case Failed(number=int() as number) if asked := self._open(number):
                    asked.set_exception(PlacementError(answer.reason))
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(PlacementError(_ENDED))

    def _open(self, number: int) -> "asyncio.Future[Started] | None":
        asked = self._asked.get(number)
        return None if asked is None or asked.done() else asked

    async def _next(self) -> Answer | None:
        """Return what it says; None: it has ended."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        return _answers.decode(line) if line else None

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


_ENDED = "the process that talks to Ray ended"
