"""What the server costs: processor time and memory of its processes, and what it tells over HTTP.

Does: find a local server by its port, add up its processes (Linux), read /metrics and /v1/models.
Does not know: load. Where nothing can be found out the figures are None.
"""

import contextlib
import ipaddress
import json
import os
import platform
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

PROC = Path("/proc")
HTTP_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a process and all its children."""

    cpu_s: float
    memory_bytes: int
    """Proportional set size: pages that processes share count once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a run cost the server."""

    cpu_ms_per_audio_s: float | None = None
    """Of all its processes; None when they are not on this machine."""
    step_ms_per_audio_s: float | None = None
    """Time in engine steps, by /metrics."""
    memory_mb: float | None = None
    memory_per_stream_mb: float | None = None
    """Growth since nobody called, by stream; caches that are reserved at start are not in it."""
    cores_used: float | None = None


class Host:
    """A server as its machine and its HTTP pages see it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        secure = parts.scheme in ("wss", "https")
        self._base = f"{'https' if secure else 'http'}://{parts.netloc}"
        port = parts.port or (443 if secure else 80)
        self.pid = find_server(port) if is_here(parts.hostname or "") else None

    def usage(self) -> Usage | None:
        """Return what the process tree has used so far."""
        return usage_of(self.pid) if self.pid else None

    def audio_and_steps_s(self) -> tuple[float, float] | None:
        """Return seconds of audio received and seconds in engine steps so far."""
        text = self._get("/metrics")
        if text is None or "rivulet_audio_seconds_total" not in text:
            return None
        return total(text, "rivulet_audio_seconds_total"), total(text, "rivulet_step_seconds_sum")

    def models(self) -> list[dict[str, object]]:
        """Return what /v1/models lists."""
        try:
            listed = json.loads(self._get("/v1/models") or "{}")
        except ValueError:
            return []
        models = listed.get("models") if isinstance(listed, dict) else None
        return [m for m in models if isinstance(m, dict)] if isinstance(models, list) else []

    def _get(self, path: str) -> str | None:
        with contextlib.suppress(OSError, urllib.error.URLError, ValueError):
            with urllib.request.urlopen(self._base + path, timeout=HTTP_TIMEOUT_S) as reply:
                return str(reply.read().decode(errors="replace"))
        return None


def total(metrics: str, name: str) -> float:
    """Return the sum of a metric over its labels."""
    found = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", metrics, re.MULTILINE)
    return sum(float(value) for value in found)


def is_here(host: str) -> bool:
    """Whether a name stands for this machine's loopback."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def find_server(port: int) -> int | None:
    """Return the process that listens on a port of this machine."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    found = [pid for pid in _pids() if inodes & _sockets(pid)] if inodes else []
    # Children may have inherited the listener: the parent was there first.
    return min(found, default=None)


def usage_of(pid: int) -> Usage | None:
    """Return processor time and memory of a process tree; None when it is gone."""
    stats = {number: stat for number in _pids() if (stat := _stat(number))}
    if pid not in stats:
        return None
    tree, more = set(), {pid}
    while more:
        tree |= more
        more = {number for number, stat in stats.items() if stat[0] in more} - tree
    ticks = sum(stats[number][1] for number in tree if number in stats)
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), sum(map(_memory, tree)))


def own_cpu_s(pid: int) -> float | None:
    """Return processor time of one process without its children; None when it is gone."""
    stat = _stat(pid)
    return None if stat is None else stat[1] / os.sysconf("SC_CLK_TCK")


def _pids() -> list[int]:
    with contextlib.suppress(OSError):
        return [int(path.name) for path in PROC.iterdir() if path.name.isdecimal()]
    return []


def _stat(pid: int) -> tuple[int, int] | None:
    """Return parent and ticks of processor time."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return int(fields[1]), int(fields[11]) + int(fields[12])
    return None


def _memory(pid: int) -> int:
    with contextlib.suppress(OSError):
        text = (PROC / str(pid) / "smaps_rollup").read_text()
        if found := re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE):
            return int(found[1]) * 1024
    return 0


def _sockets(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for link in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(link.readlink()))
    return found


def machine() -> str:
    """Name the processor, how many there are, and its 16-bit arithmetic."""
    with contextlib.suppress(OSError):
        lines = (PROC / "cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        flags = next((line.split() for line in lines if line.startswith("flags")), [])
        fast = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512_vnni") if flag in flags]
        if names:
            return f"{names[0]} x {len(names)} ({', '.join(fast) or 'neither bf16 nor VNNI'})"
    return f"{platform.machine()} x {os.cpu_count()}"
