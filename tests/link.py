"""A bad link on loopback: a TCP proxy with delay, loss and cuts, in one direction or both.

Does: forward bytes late, stall a direction as a lost segment does, hold everything during a cut.
A connection that lived through a cut stays dead for ``rto_s`` more, as TCP's own timer makes it;
one that was dialled during the cut never comes to life (its first packet was lost).
Does not know: what the bytes mean. It counts them.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

SEGMENT_BYTES = 1_400
HEADER_BYTES = 52
"""TCP (with time stamps) and IP, of each segment: an estimate, this is a proxy."""
RETRANSMIT_S = 0.2


@dataclass(slots=True)
class Traffic:
    """What one direction carried."""

    bytes: int = 0
    segments: int = 0

    @property
    def on_the_link(self) -> int:
        """Bytes with the headers of their segments and of as many bare acks."""
        return self.bytes + self.segments * 2 * HEADER_BYTES


@dataclass(slots=True, eq=False)
class Link:
    """A proxy in front of ``target_port``; ``cut`` and ``heal`` at any time."""

    target_port: int
    delay_s: float = 0.0
    """Of one way."""
    loss: float = 0.0
    rto_s: float = 5.0
    up: Traffic = field(default_factory=Traffic)
    down: Traffic = field(default_factory=Traffic)
    port: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    is_cut: bool = False
    _healed: asyncio.Event = field(default_factory=asyncio.Event)
    _dead_until: dict[asyncio.StreamWriter, float] = field(default_factory=dict)
    _serving: set[asyncio.Task[None]] = field(default_factory=set)
    _pipes: set[asyncio.Task[None]] = field(default_factory=set)
    _hanging: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> None:
        """Nothing passes from here on."""
        self.is_cut = True
        self._healed.clear()

    def heal(self) -> None:
        """New connections pass at once, old ones when TCP tries again."""
        until = asyncio.get_running_loop().time() + self.rto_s
        for writer in self._dead_until:
            self._dead_until[writer] = until
        self.is_cut = False
        self._healed.set()

    def count(self) -> None:
        """Bring ``up`` and ``down`` up to date, as they always are here."""

    def drop_all(self) -> None:
        """End every connection, as a middle box does that forgot them."""
        for writer in [*self._dead_until, *self._hanging]:
            writer.transport.abort()

    async def close(self) -> None:
        """End every connection and wait until that is done."""
        self.heal()
        self.drop_all()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._serving)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            await self._serve(reader, writer)
        finally:
            self._serving.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            self._hanging.add(writer)
            with contextlib.suppress(OSError):
                while await reader.read(SEGMENT_BYTES):  # until the peer gives up
                    pass
            self._hanging.discard(writer)
            writer.transport.abort()
            return
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        pipes = [
            asyncio.create_task(self._pipe(reader, far, self.up)),
            asyncio.create_task(self._pipe(far_reader, writer, self.down)),
        ]
        self._pipes.update(pipes)
        await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
        self._pipes.difference_update(pipes)
        for pipe in pipes:
            pipe.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)
        for end in (writer, far):
            self._dead_until.pop(end, None)
            end.transport.abort()

    async def _pipe(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, traffic: Traffic
    ) -> None:
        """Forward one direction in its order; a queue carries the delay, so throughput stays."""
        clock = asyncio.get_running_loop().time
        self._dead_until[writer] = 0.0
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivering = asyncio.create_task(self._deliver(queue, writer))
        due = 0.0
        try:
            while data := await reader.read(SEGMENT_BYTES):
                traffic.bytes += len(data)
                traffic.segments += 1
                late = RETRANSMIT_S if self.rng.random() < self.loss else 0.0
                due = max(due, clock() + self.delay_s + late)
                queue.put_nowait((due, data))
            await queue.join()
        except OSError:
            return
        finally:
            delivering.cancel()
            await asyncio.gather(delivering, return_exceptions=True)

    async def _deliver(
        self, queue: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter
    ) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due, data = await queue.get()
            if (wait := due - clock()) > 0:
                await asyncio.sleep(wait)
            while self.is_cut or clock() < self._dead_until.get(writer, 0.0):
                if self.is_cut:
                    await self._healed.wait()
                else:
                    await asyncio.sleep(self._dead_until[writer] - clock())
            if not writer.transport.is_closing():
                writer.write(data)
            queue.task_done()


@contextlib.asynccontextmanager
async def linked(
    target_port: int, *, delay_s: float = 0.0, loss: float = 0.0, rto_s: float = 5.0
) -> AsyncIterator[Link]:
    """A link to a port of this machine."""
    link = Link(target_port, delay_s, loss, rto_s)
    server = await asyncio.start_server(link.accept, "127.0.0.1", 0)
    link.port = server.sockets[0].getsockname()[1]
    try:
        yield link
    finally:
        server.close()
        await link.close()
