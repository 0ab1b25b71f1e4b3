"""A service of many workers, second by second: who comes, goes, dies and is moved.

Does: arrivals with bursts on the hour, two choices and the lower load, deaths, a rolling restart;
loads, lags, refusals and the gaps of moved sessions. Same seed, same run.
Does not know: real workers, sockets. It tries placement and headroom at a size no test bed has.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clients.plan.sizing import Device, Recovery, streams_of

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
HOUR_S = 3_600
BURST_S = 60
"""Meetings begin within a minute of the hour."""
NOBODY = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """What happens."""

    device: Device
    chunk_s: float = 0.56
    sessions: int = 100_000
    """At once, on average."""
    workers: int = 1_000
    length_s: float = 900.0
    """Of a session, on average."""
    burst: float = 0.1
    """Sessions that begin on the hour, in parts of all."""
    worker_mtbf_s: float = 2 * 24 * 3_600.0
    """Deaths come far more often than they should."""
    rolling: tuple[int, int] = (1_500, 3_300)
    """Each worker is restarted once between these seconds."""
    restart_s: int = 20
    starts_at_s: int = HOUR_S - 600
    """Of the hour."""
    seconds: int = 4_800
    recovery: Recovery = field(default_factory=Recovery)
    seed: int = 1


@dataclass(slots=True)
class Course:
    """What was seen, by the second where not said otherwise."""

    live: Ints
    refused: Ints
    waiting: Ints
    """Moved sessions that have no place yet."""
    load_p50: Floats
    load_p99: Floats
    load_max: Floats
    lag_max_s: Floats
    gaps_s: Floats
    """Of each moved session."""
    gap_times: Ints
    deaths: int
    restarts: int

    def summary(self) -> dict[str, float]:
        """Return the figures."""
        gaps = self.gaps_s if len(self.gaps_s) else np.zeros(1)
        return {
            "live_most": int(self.live.max()),
            "refused": int(self.refused.sum()),
            "moved": len(self.gaps_s),
            "deaths": self.deaths,
            "restarts": self.restarts,
            "load_most": round(float(self.load_max.max()), 3),
            "lag_most_s": round(float(self.lag_max_s.max()), 3),
            "gap_p50_s": round(float(np.percentile(gaps, 50)), 3),
            "gap_p99_s": round(float(np.percentile(gaps, 99)), 3),
            "waiting_most": int(self.waiting.max()),
        }


class Simulation:
    """One run."""

    def __init__(self, scenario: Scenario) -> None:
        self._s = s = scenario
        self._rng = np.random.default_rng(s.seed)
        self._room = streams_of(s.device, s.chunk_s)
        self._count = np.zeros(s.workers, np.int64)
        self._up_at = np.zeros(s.workers, np.int64)
        most = s.sessions * 2 + 10_000
        self._home = np.full(most, NOBODY, np.int64)
        self._free = list(range(most - 1, -1, -1))
        self._ends_at = np.full(most, NOBODY, np.int64)
        self._lost: list[tuple[int, Ints]] = []
        """Second in which they lost their worker, sessions."""
        self._gaps: list[Floats] = []
        self._gap_times: list[Ints] = []
        self._deaths = self._restarts = 0
        order = self._rng.permutation(s.workers)
        first, last = s.rolling
        self._restart_at = first + order * (last - first) // max(1, s.workers)

    def run(self) -> Course:
        """Return what happened."""
        s = self._s
        n = s.seconds
        counts = {name: np.zeros(n, np.int64) for name in ("live", "refused", "waiting")}
        loads = {name: np.zeros(n) for name in ("p50", "p99", "max", "lag")}
        self._begin(0, s.sessions)
        for now in range(n):
            self._end(np.flatnonzero(self._ends_at == now))
            self._break(now)
            self._move(now)
            counts["refused"][now] = self._begin(now, self._arrivals(now))
            counts["live"][now] = self._count.sum()
            counts["waiting"][now] = sum(len(sessions) for _, sessions in self._lost)
            up = self._count[self._up_at <= now]
            loads["p50"][now], loads["p99"][now] = np.percentile(up, (50, 99)) / self._room
            loads["max"][now] = up.max() / self._room
            loads["lag"][now] = self._lag_s(float(up.max()))
        return Course(
            **counts,
            load_p50=loads["p50"],
            load_p99=loads["p99"],
            load_max=loads["max"],
            lag_max_s=loads["lag"],
            gaps_s=np.concatenate(self._gaps or [np.zeros(0)]),
            gap_times=np.concatenate(self._gap_times or [np.zeros(0, np.int64)]),
            deaths=self._deaths,
            restarts=self._restarts,
        )

    def _lag_s(self, streams: float) -> float:
        device = self._s.device
        load = min(0.999, streams * device.b_s / self._s.chunk_s)
        return 2 * (device.a_s + device.b_s) / (1 - load)

    def _arrivals(self, now: int) -> int:
        s = self._s
        rate = s.sessions / s.length_s
        if (s.starts_at_s + now) % HOUR_S < BURST_S:
            rate += s.burst * s.sessions / BURST_S
        return int(self._rng.poisson(rate))

    def _begin(self, now: int, arrivals: int) -> int:
        """Place new sessions; return how many were refused."""
        count = min(arrivals, len(self._free))
        homes = self._choose(now, count)
        placed = homes[homes != NOBODY]
        sessions = np.array([self._free.pop() for _ in range(len(placed))], np.int64)
        self._home[sessions] = placed
        lengths = 1 + self._rng.exponential(self._s.length_s, len(placed)).astype(np.int64)
        self._ends_at[sessions] = now + lengths
        return arrivals - len(placed)

    def _end(self, sessions: Ints) -> None:
        homes = self._home[sessions]
        np.subtract.at(self._count, homes[homes != NOBODY], 1)
        self._home[sessions] = self._ends_at[sessions] = NOBODY
        if self._lost:
            self._lost = [(since, np.setdiff1d(lost, sessions)) for since, lost in self._lost]
        self._free.extend(sessions.tolist())

    def _choose(self, now: int, count: int) -> Ints:
        """Return a worker for each of so many sessions, NOBODY where there is none.

        Two at random of those with room, the lower load; loads are as the second began.
        """
        homes = np.full(count, NOBODY, np.int64)
        for _ in range(4):  # those who came too late to a full worker ask again
            asking = np.flatnonzero(homes == NOBODY)
            fitting = np.flatnonzero((self._up_at <= now) & (self._count < self._room))
            if not len(asking) or not len(fitting):
                break
            two = fitting[self._rng.integers(len(fitting), size=(2, len(asking)))]
            best = np.where(self._count[two[0]] <= self._count[two[1]], two[0], two[1])
            order = np.argsort(best, kind="stable")
            ranked = best[order]
            rank = np.arange(len(ranked)) - np.searchsorted(ranked, ranked)
            has_room = self._count[ranked] + rank < self._room
            homes[asking[order[has_room]]] = ranked[has_room]
            np.add.at(self._count, ranked[has_room], 1)
        return homes

    def _break(self, now: int) -> None:
        s = self._s
        up = self._up_at <= now
        dying = np.flatnonzero(up & (self._rng.random(s.workers) < 1 / s.worker_mtbf_s))
        restarting = np.flatnonzero(up & (self._restart_at == now))
        self._deaths += len(dying)
        self._restarts += len(restarting)
        gone = np.union1d(dying, restarting)
        if not len(gone):
            return
        self._up_at[gone] = now + s.restart_s
        is_gone = np.zeros(s.workers + 1, np.bool_)  # the last one is NOBODY's
        is_gone[gone] = True
        lost = np.flatnonzero(is_gone[self._home])
        self._home[lost] = NOBODY
        self._count[gone] = 0
        is_dead = len(dying) > 0
        # a drained worker writes a last snapshot: nothing is detected, next to nothing is replayed
        self._lost.append((now if is_dead else NOBODY, lost))

    def _move(self, now: int) -> None:
        """Find new places for the sessions of workers that are gone."""
        waiting, self._lost = self._lost, []
        for since, sessions in waiting:
            homes = self._choose(now, len(sessions))
            found = homes != NOBODY
            self._home[sessions[found]] = homes[found]
            if since == NOBODY:
                gap_s = self._replay_s(homes[found], self._s.chunk_s)
            else:
                before_s = now - since + self._s.recovery.detection_s
                replayed_s = self._s.recovery.snapshot_s / 2
                gap_s = before_s + self._replay_s(homes[found], replayed_s)
            self._gaps.append(gap_s)
            self._gap_times.append(np.full(int(found.sum()), now, np.int64))
            if not found.all():
                self._lost.append((since if since != NOBODY else now, sessions[~found]))

    def _replay_s(self, homes: Ints, audio_s: float) -> Floats:
        """Return how long replays take beside live streams, which go first."""
        s = self._s
        together = np.bincount(homes, minlength=s.workers)[homes]
        work = together * audio_s * s.device.b_s / s.chunk_s / s.recovery.replay_gain
        load = np.minimum(0.95, self._count[homes] * s.device.b_s / s.chunk_s)
        result: Floats = s.device.a_s + work / (1 - load)
        return result
