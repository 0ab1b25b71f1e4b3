"""From what a step costs to devices, headroom and money. Pure functions.

Does: streams of a device, devices of a load with one to spare, recovery after a loss, cost.
Does not know: files, pictures, how a and b were measured.

A step over B streams takes a + b*B. Streams become ready evenly over their chunk c, so a device
under way takes what came during the step before: s = a + b*B*s/c, s = a / (1 - B*b/c). A chunk that
just missed a step waits for it and for its own: 2s.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LAG_S = 0.2
"""No chunk waits longer, nor longer than a chunk."""
MOST_LOAD = 0.9
"""Beyond it a busy moment is not caught up with."""
OFFICE = (1, 1, 1, 1, 1, 2, 5, 20, 70, 100, 98, 90, 75, 85, 98, 95, 80, 50, 25, 12, 8, 5, 3, 2)
CALLS = (8, 5, 4, 4, 5, 8, 18, 40, 75, 95, 100, 98, 92, 90, 92, 90, 85, 78, 65, 52, 40, 30, 20, 12)
SHAPES: dict[str, Sequence[int]] = {"flat": (1,), "office": OFFICE, "calls": CALLS}
"""Live streams by the hour of the day, in parts of the fullest."""


class PlanError(ValueError):
    """It cannot be done; the text is one sentence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """What was measured of a device with one model."""

    a_s: float
    """Of a step, whatever its batch."""
    b_s: float
    """Of each stream in a step."""
    price: float = 0.0
    """An hour of it, in any money."""

    def __post_init__(self) -> None:
        if not (0 <= self.a_s < math.inf and 0 < self.b_s < math.inf and self.price >= 0):
            raise PlanError("a and the price are not negative, b is more than 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """Who comes."""

    sessions: int
    """At once, in the fullest hour."""
    chunk_s: float
    shape: str = "flat"
    burst: float = 0.0
    """So much more for a while on the hour: 0.2 is a fifth."""

    def __post_init__(self) -> None:
        bounded = 0 < self.chunk_s < math.inf and 0 <= self.burst < math.inf  # NaN is neither
        if self.sessions < 1 or not bounded:
            raise PlanError("sessions and the chunk are more than 0, a burst is not negative")
        if self.shape not in SHAPES:
            raise PlanError(f"a shape is one of {', '.join(SHAPES)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recovery:
    """What the death of a worker costs."""

    snapshot_s: float = 10.0
    """Audio between two snapshots; half of it is replayed on average."""
    replay_gain: float = 1.0
    """How much cheaper an audio second is replayed than it was heard."""
    detection_s: float = 0.9


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer."""

    streams_per_device: int
    devices: int
    """One of them to spare."""
    load: float
    """Share of the room taken at the peak, u."""
    most_load: float
    """(W-1)/W: beyond it the death of one is never recovered from."""
    recovery_s: float
    lag_s: float
    """A chunk's wait at the peak, p99 by the model."""
    cost_per_hour: float
    cost_per_audio_hour: float


def lag_s(device: Device, streams: float, chunk_s: float) -> float:
    """Return what the unluckiest chunk waits; inf when the device cannot keep up."""
    load = streams * device.b_s / chunk_s
    return math.inf if load >= 1 else 2 * (device.a_s + device.b_s * min(streams, 1)) / (1 - load)


def streams_of(device: Device, chunk_s: float) -> int:
    """Return how many streams a device holds within the lag; raises PlanError for none."""
    limit = min(chunk_s, LAG_S)
    step_s = device.a_s + device.b_s
    load = min(MOST_LOAD, 1 - 2 * step_s / limit)
    streams = math.floor(load * chunk_s / device.b_s + 1e-9)
    if streams < 1:
        text = f"a step of {step_s * 1000:.0f} ms is too long for a lag of {limit * 1000:.0f} ms"
        raise PlanError(text)
    return streams


def devices_for(streams: float, per_device: int) -> int:
    """Return the least W with u < (W-1)/W: what is left when one dies still holds all."""
    return math.floor(streams / per_device) + 2


def recovery_s(load: float, devices: int, recovery: Recovery) -> float:
    """Return until when all are live again after a death; inf when they never are."""
    spare = (devices - 1) * (1 - load) - load
    if spare <= 1e-12:
        return math.inf
    lost_s = recovery.snapshot_s / (2 * recovery.replay_gain) + recovery.detection_s
    return load * lost_s / spare


def mean_share(shape: str) -> float:
    """Return the streams of a mean hour in parts of the fullest."""
    hours = SHAPES[shape]
    return sum(hours) / len(hours) / max(hours)


def plan(device: Device, demand: Demand, recovery: Recovery | None = None) -> Plan:
    """Return what a demand needs."""
    per_device = streams_of(device, demand.chunk_s)
    peak = demand.sessions * (1 + demand.burst)
    devices = devices_for(peak, per_device)
    load = peak / (devices * per_device)
    cost = devices * device.price
    return Plan(
        streams_per_device=per_device,
        devices=devices,
        load=load,
        most_load=(devices - 1) / devices,
        recovery_s=recovery_s(load, devices, recovery or Recovery()),
        lag_s=lag_s(device, peak / devices, demand.chunk_s),
        cost_per_hour=cost,
        cost_per_audio_hour=cost / (demand.sessions * mean_share(demand.shape)),
    )
