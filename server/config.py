"""How a server is set up: one frozen value, checked on creation, passed down.

Does: name the settings with units and defaults; refuse bad values in one sentence.
Does not know: argv, environment, engines, sockets.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from server.wire.messages import Limits

LOOK_AHEAD_OF_CLASS: dict[str, int] = {"low": 1, "balanced": 6, "accurate": 13}
"""Encoder frames of right context that each latency class means."""

DEVICE = re.compile(r"cpu(:\d+)?|cuda(:\d+)?")
PORTS = ("port", "wyoming_port", "vosk_port", "sherpa_port", "grpc_port")
COUNTS = (
    "workers", "max_connections", "opens_per_minute", "overcommit", "gateways", "away_mb",
    "file_mb",
)  # fmt: skip
EXTERNAL = re.compile(r"([^:\[\]]*|\[[0-9a-fA-F:]+\]):\d{1,5}")
STORES = ("auto", "memory", "sqlite:", "redis://", "rediss://", "unix://")


class ConfigError(ValueError):
    """A setting that cannot be."""


AWAY_MB = 2_048
"""A thousand sessions with the embedded model, all cut off by the same broken network, and room."""


def check_look_ahead(wanted: int | None, model: str, offered: Iterable[int]) -> None:
    """Raise ConfigError where a model does not have the look-ahead that is asked for."""
    known = sorted(offered)
    if wanted is not None and wanted not in known:
        said = ", ".join(map(str, known))
        raise ConfigError(f"{model} has no look-ahead {wanted}; it has {said}")


WORKERS_A_CORE, LEAST_MOST_WORKERS = 4, 16
"""More engine processes than so many would take a machine down before they serve anybody."""


def default_workers() -> int:
    """One engine process per core we may run on, two at most: each holds the whole model."""
    return min(2, len(os.sched_getaffinity(0)))


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """Settings of ``server.app.serve``."""

    host: str = "127.0.0.1"
    port: int = 8765
    """0: any free port."""
    model: str = ""
    """Path or name of a checkpoint; empty: the embedded model."""
    backend: Literal["own", "nemo", "scripted"] = "own"
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    look_ahead: int | None = None
    """Look-ahead of clients that name no latency; None: that of the class ``balanced``."""
    lm: str = "auto"
    """File of a language model for the model's vocabulary; auto: the model's own, if any; none."""
    lm_weight: float | None = None
    """Its share; None: the engine's own."""
    beam: int | None = None
    """Hypotheses of a search over a CTC head; 1: greedy; None: 24 with a language model."""
    workers: int = field(default_factory=default_workers)
    """Engine processes; each loads the model and runs on one core."""
    devices: tuple[str, ...] = ()
    """Devices of the workers in turn: cpu, cpu:N (that core and no other) or cuda:N; empty: cpu."""
    decoder_device: str = ""
    """Where the workers' decoders run: cpu or cuda:N; empty: where their encoders do."""
    gateways: int = 1
    """Processes that share the ports, each with its share of the workers."""
    gateway: int | None = None
    """Which of them this is; None: the only one, or nobody yet."""
    cluster: str = ""
    """Ray cluster whose machines run the engine processes: HOST:PORT, or auto for the one that this
    machine is part of; empty: this machine runs them."""
    external: str = ""
    """[HOST]:PORT where workers that others start register themselves; empty: we start them."""
    secret_file: str = ""
    """What those workers prove; empty: the variable RIVULET_WORKER_SECRET has it."""
    standby: int = 0
    """Warm workers more, kept free for the sessions of a worker that dies."""
    store: str = "auto"
    """Where sessions are kept for clients that come back: memory, sqlite:PATH, redis://HOST:PORT;
    auto: SQLite in a folder that is memory, where the machine has one."""
    away_mb: int = AWAY_MB
    """Memory for sessions whose clients are gone and may come back, in each gateway; the longest
    away are forgotten first. A store in memory holds as much again."""
    slots: int = 64
    """Cache rows per worker: its streams and, one in eight, the forks of their finalizes."""
    rest_after_s: float = 5.0
    """A session that was still for so long gives its slot back until somebody speaks: one that
    sends nothing always, one that sends silence where every worker is more than half full.
    0: never."""
    overcommit: int = 10
    """Streams connected for each slot, those at rest included: each keeps its state in memory."""
    admission: Literal["cost", "slots"] = "cost"
    """cost: refuse a session that would make the words of others late, as measured while running;
    slots: as long as there are slots."""
    max_connections: int = 1_000
    file_mb: int = 64
    """The largest file that may be posted, in MiB; it lies in memory while it is heard."""
    wyoming_port: int | None = None
    """Home Assistant's wire, for instance on 10300; None: off, as with the ports below."""
    announce: bool = False
    """Tell the local network where Wyoming's port is (mDNS; needs the extra ``announce``)."""
    vosk_port: int | None = None
    sherpa_port: int | None = None
    grpc_port: int | None = None
    origins: tuple[str, ...] = ()
    """Web origins besides our own whose pages may connect."""
    keys: str = ""
    """File of `rivulet keys`; empty: nobody is asked for a key."""
    opens_per_minute: int | None = None
    """New connections from one address; None: any number."""
    limits: Limits = field(default_factory=Limits)
    start_timeout_s: float = 10.0
    flush_timeout_s: float = 60.0
    """From ``stop`` to ``done`` at most."""
    stalled_reader_s: float = 10.0
    drain_s: float = 5.0
    """Sessions may go on this long after a request to end the server."""

    def __post_init__(self) -> None:
        self._check_ports()
        for name in COUNTS:
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        self._check_workers()
        if self.keys and self.wyoming_port is not None:
            raise ConfigError("Wyoming has no keys: --wyoming-port and --keys exclude each other")
        if self.announce and self.wyoming_port is None:
            raise ConfigError("announce tells of the wyoming_port, and there is none")
        for name in ("standby", "rest_after_s"):
            if not getattr(self, name) >= 0:  # NaN neither
                raise ConfigError(f"{name} must not be negative, not {getattr(self, name)}")
        if not self.store.startswith(STORES):
            raise ConfigError("store must be auto, memory, sqlite:PATH or redis://HOST:PORT")
        if self.slots < 2:
            raise ConfigError(f"slots must be at least 2 (a stream and a fork), not {self.slots}")
        if self.look_ahead is not None and self.look_ahead < 0:
            raise ConfigError(f"look_ahead must not be negative, not {self.look_ahead}")

    def _check_workers(self) -> None:
        if self.gateway is None and self.workers < self.gateways:
            raise ConfigError(
                f"{self.gateways} gateways need as many workers at least, not {self.workers}"
            )
        most = max(LEAST_MOST_WORKERS, WORKERS_A_CORE * (os.cpu_count() or 1))
        if not self.cluster and not self.external and self.workers + self.standby > most:
            raise ConfigError(
                f"{self.workers + self.standby} engine processes are too many for this machine: "
                f"{most} at most, and one a core is best"
            )
        for device in self.devices:
            if not DEVICE.fullmatch(device):
                raise ConfigError(f"devices are cpu, cpu:N or cuda:N, not {device!r}")
        decoder = self.decoder_device
        if decoder and (decoder.startswith("cpu:") or not DEVICE.fullmatch(decoder)):
            raise ConfigError(f"decoder_device is cpu or cuda:N, not {decoder!r}")
        if self.devices and (self.cluster or self.external):
            other = "cluster" if self.cluster else "external_workers"
            raise ConfigError(
                f"devices are those of this machine: {other} and they exclude each other"
            )
        self._check_external()

    def _check_external(self) -> None:
        if self.secret_file and not self.external:
            raise ConfigError("secret_file is for external_workers, and there are none")
        if self.external and self.cluster:
            raise ConfigError("workers are the cluster's or external ones, not both")
        if self.external and self.gateways > 1:
            raise ConfigError("external workers register with one gateway: gateways must be 1")
        if self.external and not EXTERNAL.fullmatch(self.external):
            raise ConfigError(f"external_workers register at [HOST]:PORT, not {self.external!r}")

    def _check_ports(self) -> None:
        for name in PORTS:
            port = getattr(self, name)
            if port is not None and not 0 <= port <= 65_535:
                raise ConfigError(f"{name} must be 0..65535, not {port}")
