"""Figures of a running server in Prometheus text.

Does: counters, histograms and gauges, labelled by latency class; never text, never session names.
Does not know: how the figures come about; gauges are read from the snapshot it is given.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric

from server.negotiation import class_of
from server.place import PlaceStatus
from server.worker import link
from server.worker.heart import Hang

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.12, 0.16, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A session in progress as gauges see it."""

    latency: str
    channels: int
    backlog_s: float
    """Audio received and not decoded."""
    outbox: int


@dataclass(frozen=True, slots=True)
class Rest:
    """Sessions without a slot."""

    sessions: int = 0
    """That gave it back until somebody speaks."""
    kept_bytes: int = 0
    waiting: int = 0
    away: int = 0
    """Whose clients are gone and may come back."""
    away_bytes: int = 0


NOBODY = Rest()


class Metrics:
    """One registry per server, so that two servers in one process do not mix."""

    def __init__(self, *, gateway: int | None = None) -> None:
        self._registry = registry = CollectorRegistry()
        self._all = registry if gateway is None else _Labelled(registry, gateway)
        self._slots = Gauge(
            "rivulet_slots_in_use", "Engine slots taken, finalize forks included", registry=registry
        )
        self._slots_of = Gauge(
            "rivulet_worker_slots_in_use", "The same per worker", ["worker"], registry=registry
        )
        self._ready = Gauge("rivulet_workers_ready", "Workers that serve", registry=registry)
        self._connections = Gauge("rivulet_connections", "Open WebSockets", registry=registry)
        self._streams = Gauge(
            "rivulet_streams", "Audio channels being served", ["latency"], registry=registry
        )
        self._backlog = Gauge(
            "rivulet_backlog_seconds", "Audio not decoded yet", ["latency"], registry=registry
        )
        self._outbox = Gauge(
            "rivulet_outbox_messages", "Messages waiting for clients", registry=registry
        )
        self._resting = Gauge(
            "rivulet_sessions_resting", "Connected sessions without a slot", registry=registry
        )
        self._waiting = Gauge(
            "rivulet_sessions_waiting", "Sessions that wait for a slot", registry=registry
        )
        self._resting_bytes = Gauge(
            "rivulet_resting_bytes", "Memory kept of sessions that rest", registry=registry
        )
        self._away = Gauge(
            "rivulet_sessions_away", "Sessions whose client may come back", registry=registry
        )
        self._away_bytes = Gauge(
            "rivulet_away_bytes", "Memory kept of sessions without a client", registry=registry
        )
        self._busy = Gauge(
            "rivulet_worker_busy", "Load of a worker: 1 is full", ["worker"], registry=registry
        )
        self._hour_cost = Gauge(
            "rivulet_worker_audio_hour_cost",
            "What an hour of audio costs on the device of a worker, as stated or by kind",
            ["worker", "device"],
            registry=registry,
        )
        self._streams_of = Gauge(
            "rivulet_worker_streams",
            "Audio channels that a worker serves",
            ["worker"],
            registry=registry,
        )
        self._queued = Gauge(
            "rivulet_worker_queue_bytes",
            "Audio on its way to a worker",
            ["worker"],
            registry=registry,
        )
        self._lag = Histogram(
            "rivulet_chunk_lag_seconds",
            "Arrival of a chunk's last sample to its decoding, clients at the pace of speech",
            ["latency"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._step = Histogram(
            "rivulet_step_seconds",
            "Time an engine process took for a step, audio and events of its streams included",
            ["latency"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch = Histogram(
            "rivulet_step_batch",
            "Streams in one engine step",
            ["latency"],
            buckets=_ROWS,
            registry=registry,
        )
        self._frames = Counter(
            "rivulet_frames",
            "Encoder frames of 80 ms computed for all streams",
            ["latency"],
            registry=registry,
        )
        self._audio = Counter(
            "rivulet_audio_seconds", "Audio received", ["latency"], registry=registry
        )
        self._errors = Counter(
            "rivulet_errors", "Errors told to clients", ["code"], registry=registry
        )
        self._restarts = Counter(
            "rivulet_worker_restarts", "Workers started again", registry=registry
        )

        self._hangs = Counter(
            "rivulet_worker_hangs",
            "Workers killed: frozen gave no sign of life, stuck did not end a step",
            ["kind"],
            registry=registry,
        )

        # for each packet: to look a label up costs four times the counting
        self._audio_of, self._lag_of = cache(self._audio.labels), cache(self._lag.labels)

    def stepped(self, step: link.Step) -> None:
        """Note a step of a worker."""
        if step.batch:
            latency = class_of(step.look_ahead)
            self._step.labels(latency).observe(step.seconds)
            self._batch.labels(latency).observe(step.batch)
            self._frames.labels(latency).inc(step.batch * step.frames)

    def restarted(self) -> None:
        """Note that a worker died and is started again."""
        self._restarts.inc()

    def hung(self, hang: Hang) -> None:
        """Note that a worker was killed because it hung."""
        self._hangs.labels(hang).inc()

    def received(self, latency: str, seconds: float) -> None:
        """Note audio of a session."""
        self._audio_of(latency).inc(seconds)

    def lagged(self, latency: str, seconds: float) -> None:
        """Note the lag of a chunk."""
        self._lag_of(latency).observe(seconds)

    def refused(self, code: str) -> None:
        """Note an error told to a client."""
        self._errors.labels(code).inc()

    def render(
        self,
        places: Sequence[PlaceStatus],
        conversations: Sequence[Conversation],
        *,
        connections: int,
        rest: Rest = NOBODY,
    ) -> bytes:
        """Return all figures, gauges as of now."""
        self._resting.set(rest.sessions)
        self._waiting.set(rest.waiting)
        self._resting_bytes.set(rest.kept_bytes)
        self._away.set(rest.away)
        self._away_bytes.set(rest.away_bytes)
        self._slots.set(sum(place.slots_in_use for place in places))
        self._ready.set(sum(place.state == "ready" for place in places))
        self._connections.set(connections)
        self._outbox.set(sum(talk.outbox for talk in conversations))
        self._hour_cost.clear()
        for place in places:
            number = str(place.worker)
            if place.device is not None:
                self._hour_cost.labels(number, place.device.name).set(place.device.cost)
            self._streams_of.labels(number).set(place.streams)
            self._slots_of.labels(str(place.worker)).set(place.slots_in_use)
            self._queued.labels(str(place.worker)).set(place.queued_bytes)
            self._busy.labels(str(place.worker)).set(place.busy)
        self._streams.clear()
        self._backlog.clear()
        for talk in conversations:
            self._streams.labels(talk.latency).inc(talk.channels)
            self._backlog.labels(talk.latency).inc(talk.backlog_s)
        return generate_latest(self._all)


class _Labelled(CollectorRegistry):
    """The figures of one gateway of several: all have its number, or scrapes would mix."""

    def __init__(self, registry: CollectorRegistry, gateway: int) -> None:
        super().__init__()
        self._inner, self._label = registry, {"gateway": str(gateway)}

    def collect(self) -> Iterator[Metric]:
        for family in self._inner.collect():
            family.samples = [s._replace(labels=self._label | s.labels) for s in family.samples]
            yield family
