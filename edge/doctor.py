"""What this machine can carry as an edge node.

Does: measure the cost of relaying a leg and of recognising one here, look at memory, disk, codecs.
Does not know: networks. Figures are of this moment and this load.
"""

import os
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from asr.interface import StreamingEngine
from edge import g722, wire
from edge.leg import Leg
from edge.opus import is_available
from edge.ring import AudioRing
from edge.spill import SpillBudget, SpillFile
from edge.wire import Credit, Frame, FrameReader, Kind, Open
from server.cli import ModelChoice, load

RATE_HZ, PACKET_SAMPLES = 8_000, 160
_SHARE = 0.7
"""Of one core: beyond it delays grow."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    name: str
    value: str
    is_good: bool = True


def relay_us_per_packet(packets: int = 5_000) -> float:
    """Measure a packet from the ring into a frame and out of the reader again."""
    opening = Open(session="s", secret="s", encoding="mulaw", rate=RATE_HZ)
    leg = Leg(number=1, opening=opening, ring=AudioRing(sample_bytes=1, memory_bytes=1 << 20))
    leg.receive(Frame(Kind.NEED, 1, 0, Credit(0, 1 << 40).pack()))
    reader, packet = FrameReader(), bytes(PACKET_SAMPLES)
    begun = time.perf_counter()
    for _ in range(packets):
        leg.ring.append(PACKET_SAMPLES, packet)
        for frame in leg.frames_to_send(wire.MAX_PAYLOAD_BYTES):
            reader.feed(frame.pack())
        leg.cover(leg.ring.head - RATE_HZ)
    return (time.perf_counter() - begun) / packets * 1e6


def spill_mb_s(folder: Path, megabytes: int = 16) -> float:
    """Measure sealing and writing blocks. Raises SpillFull."""
    spill = SpillFile(folder, SpillBudget(1 << 40))
    block = bytes(wire.MAX_PAYLOAD_BYTES)
    begun = time.perf_counter()
    for _ in range(megabytes * 16):
        spill.write(block)
    spent = time.perf_counter() - begun
    spill.close()
    return megabytes / spent


def local_streams(engine: StreamingEngine, *, seconds: float = 4.0) -> float:
    """Measure how many streams one core decodes in time."""
    look_ahead = engine.info.look_aheads[0]
    engine.warm(look_ahead)
    batch = min(8, engine.info.slots)
    streams = [engine.open(look_ahead) for _ in range(batch)]
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.05
    audio_s, begun = 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds:
        for stream in streams:
            engine.feed(stream, noise)
        audio_s += batch
        while engine.is_ready():
            engine.step()
    return audio_s / spent * _SHARE


def memory_bytes() -> int:
    """Return what is free for us."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(found[0][1]) * 1024 if found else 0


def examine(choice: ModelChoice | None, folder: Path | None) -> list[Finding]:
    """Look at everything; ``choice`` None: nothing is recognised here."""
    packet_us = relay_us_per_packet()
    legs = round(_SHARE * 1e6 / (packet_us * RATE_HZ / PACKET_SAMPLES))
    cores = len(os.sched_getaffinity(0))
    findings = [
        Finding("processor cores", str(cores)),
        Finding("memory free", f"{memory_bytes() / 1e9:.1f} GB"),
        Finding("relay", f"{packet_us:.0f} us a packet: at most {legs} legs, sockets not counted"),
        Finding("Opus", "libopus is here" if is_available() else "no libopus (apt: libopus0)"),
        Finding("G.722", "the package is here" if g722.is_available() else "no package G722"),
    ]
    findings += _spill(folder or Path(tempfile.gettempdir()), is_asked=folder is not None)
    return findings + (_recognising(choice) if choice else [])


def _recognising(choice: ModelChoice) -> list[Finding]:
    """Look at every precision of this processor, the one that ``auto`` takes first."""
    from asr.precision import fast_precisions  # a node that only relays has no torch

    def finding(name: str, engine: StreamingEngine, *, is_chosen: bool) -> Finding:
        streams, size = local_streams(engine), engine.info.bytes_per_stream / 1e6
        text = f"{streams:.0f} streams on one core in {engine.info.precision}, {size:.1f} MB each"
        return Finding(name, text, streams >= 1 or not is_chosen)

    engine = load(choice)
    findings = [finding("recognising here", engine, is_chosen=True)]
    for precision in (*fast_precisions(), "fp32"):
        if precision != engine.info.precision:
            other = load(replace(choice, precision=precision))
            findings.append(finding(f"with {precision}", other, is_chosen=False))
    return findings


def _spill(folder: Path, *, is_asked: bool) -> list[Finding]:
    try:
        speed = spill_mb_s(folder)
        free = shutil.disk_usage(folder).free
    except Exception as error:  # noqa: BLE001 - a report: whatever fails is what it says
        return [Finding("spill", f"{type(error).__name__}: {error}", not is_asked)]
    return [Finding("spill", f"{speed:.0f} MB/s sealed, {free / 1e9:.0f} GB free in {folder}")]
