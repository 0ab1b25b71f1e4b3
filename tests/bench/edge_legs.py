"""How much one node process carries: RTP legs relayed, and streams that it recognises itself.

Does: start ``rivulet edge`` as a program, send it G.711 from many senders at the pace of speech.
Relayed audio goes to a core that keeps nothing but counts; there the node's processor time is read,
which does not depend on what else runs. A node that recognises takes as much processor as there is
(batches grow with the load), so it gets one core and the most legs are sought that it decodes in
time.
Does not know: the report (tests.bench.edge).
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import struct
import sys
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clients.load.search import Search, Verdict
from edge import wire
from edge.wire import AHEAD, ANSWER, Credit, Frame, FrameReader, Kind, Welcome
from tests.bench.edge_calls import call
from tests.edge_rig import PACKET, RATE_HZ, sentences, spoken

PACKET_S = PACKET / RATE_HZ
SHARE = 0.67
"""Of a core: a third is kept free, as ``--doctor`` does."""
WINDOW_S = 60
WARM_S = 2.0
LOOK_S = 0.1
CHUNK_S, LATE_S = 0.16, 0.2
"""A leg decodes a chunk as soon as it is there; later by this and more, the node has too many."""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class CountingCore:
    """Takes all audio at once, acknowledges each tenth of a second, recognises nothing."""

    heard: dict[int, int] = field(default_factory=dict)
    """Offset behind the newest sample, by leg."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve the node."""
        frames, acking = FrameReader(), asyncio.create_task(self._acknowledge(writer))
        try:
            while data := await reader.read(1 << 16):
                for frame in frames.feed(data):
                    self._take(frame, writer)
        finally:
            acking.cancel()
            writer.close()

    def _take(self, frame: Frame, writer: asyncio.StreamWriter) -> None:
        match frame.kind:
            case Kind.HELLO:
                welcome = Welcome(core="counts", window_ms=WINDOW_S * 1000, linger_ms=1000)
                writer.write(Frame(Kind.WELCOME, payload=welcome.pack()).pack())
            case Kind.PING:
                writer.write(frame._replace(payload=b"", flags=ANSWER).pack())
            case Kind.OPEN:
                self.heard[frame.leg] = frame.offset
                credit = Credit(0, WINDOW_S * RATE_HZ).pack()
                writer.write(Frame(Kind.NEED, frame.leg, frame.offset, credit).pack())
            case Kind.AUDIO | Kind.SILENCE if not frame.flags & AHEAD:
                is_audio = frame.kind is Kind.AUDIO
                samples = len(frame.payload) if is_audio else wire.count_of(frame)
                self.heard[frame.leg] = frame.offset + samples

    async def _acknowledge(self, writer: asyncio.StreamWriter) -> None:
        while True:
            await asyncio.sleep(0.1)
            for leg, at in self.heard.items():
                credit = Credit(at, at + WINDOW_S * RATE_HZ, at).pack()
                writer.write(Frame(Kind.ACK, leg, at, credit).pack())


@dataclass(slots=True)
class Program:
    """A node that runs."""

    pid: int
    rtp: int
    web: int

    def processor_s(self) -> float:
        """Return the processor time of the node and the processes it began."""
        return sum(_processor_s(pid) for pid in _family(self.pid))

    def status(self) -> dict[str, Any]:
        """Return its status."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.web}/status") as answer:
            return dict(json.load(answer))


def _processor_s(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    return 0.0


def _family(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *(one for child in children for one in _family(int(child)))]
    return [pid]


@contextlib.asynccontextmanager
async def program(*arguments: str, core: int | None = None) -> AsyncIterator[Program]:
    """Run ``rivulet edge`` with arguments, on one core where one is named."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "clients", "edge", "--name", "n1", "--rtp", "0", "--web", "0",
        *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    if core is not None:
        os.sched_setaffinity(process.pid, {core})  # what it starts later has it too
    try:
        assert process.stdout is not None
        ready = (await process.stdout.readline()).decode()
        (rtp,), (web,) = re.findall(r"RTP (\d+)", ready), re.findall(r"web (\d+)", ready)
        yield Program(process.pid, int(rtp), int(web))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def send(port: int, legs: int, seconds: float, audio: bytes) -> int:
    """Send from so many addresses at the pace of speech; packets sent of each."""
    loop = asyncio.get_running_loop()
    packets = [audio[at : at + PACKET] for at in range(0, len(audio), PACKET)]
    senders = [
        (
            await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, remote_addr=("127.0.0.1", port)
            )
        )[0]
        for _ in range(legs)
    ]
    born, count = loop.time(), round(seconds / PACKET_S)
    for number in range(count):
        head = struct.pack(">BBHII", 0x80, 0, number & 0xFFFF, number * PACKET, 7)
        packet = head + packets[number % len(packets)]
        for at, sender in enumerate(senders):
            if at % 50 == 0:  # not all in the same millisecond, as callers are not
                due = born + number * PACKET_S + at / legs * PACKET_S
                await asyncio.sleep(max(0.0, due - loop.time()))
            sender.sendto(packet)
    for sender in senders:
        sender.close()
    return count


async def relayed(legs: int, seconds: float) -> dict[str, Any]:
    """Relay so many RTP legs through one node process."""
    core = CountingCore()
    server = await asyncio.start_server(core.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with program("--core", f"tcp://127.0.0.1:{port}", "--max-legs", "4000") as node:
        warm = asyncio.create_task(send(node.rtp, legs, WARM_S + seconds, spoken(sentences(2))))
        await asyncio.sleep(WARM_S)
        loop = asyncio.get_running_loop()
        begun, before = loop.time(), node.processor_s()
        sent = await warm * PACKET
        await asyncio.sleep(0.5)
        share = (node.processor_s() - before) / (loop.time() - begun)
        arrived = sum(min(at, sent) for at in core.heard.values()) / (sent * legs)
    server.close()
    return {
        "legs": legs,
        "cpu_share": round(share, 3),
        "arrived": round(arrived, 4),
        "on_one_core": round(legs * SHARE / share),
    }


async def recognised(streams: int, seconds: float) -> dict[str, Any]:
    """Have one node on one core recognise so many RTP legs itself, with the embedded model."""
    core, *others = sorted(os.sched_getaffinity(0))
    options = ("--policy", "edge", "--latency", "low", "--slots", str(2 * streams + 8))
    os.sched_setaffinity(0, others or {core})
    try:
        async with program(*options, "--max-legs", str(2 * streams), core=core) as node:
            audio = call(20.0)[0]
            sending = asyncio.create_task(send(node.rtp, streams, WARM_S + seconds, audio))
            await asyncio.sleep(WARM_S)
            late, legs = list[float](), list[dict[str, Any]]()
            while not sending.done():
                legs = (await asyncio.to_thread(node.status))["legs"]
                late += [max(0.0, (leg["behind"] or 0.0) - CHUNK_S) for leg in legs]
                await asyncio.sleep(LOOK_S)
    finally:
        os.sched_setaffinity(0, {core, *others})
    p99_s = sorted(late)[int(0.99 * len(late))]
    return {
        "streams": streams,
        "engine": "embedded model",
        "late_p99_ms": round(p99_s * 1000),
        "streams_with_finals": sum(leg["finals"] > 0 for leg in legs),
        "is_in_time": len(legs) == streams and p99_s <= LATE_S,
    }


async def most_recognised(seconds: float, *, start: int) -> dict[str, Any]:
    """Search for the most RTP legs that one node on one core recognises in time."""
    search, rows = Search(most=1024, start=start, resolution=1 / 8, confirm=0), list[Any]()
    while (streams := search.next_streams()) is not None:
        rows.append(await recognised(streams, seconds))
        print(json.dumps(rows[-1]), flush=True)
        search.tell(streams, Verdict.HELD if rows[-1]["is_in_time"] else Verdict.BROKEN)
    return {"rows": rows, "one_core": search.best}
