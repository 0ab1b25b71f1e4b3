"""``python -m tests.bench.ray_nodes``: a Ray cluster of several nodes here, to be struck.

Does: run a head without room and nodes of one core, a raylet each; strike a node that runs an
engine, with all that runs there, and put another in its place. As a program it obeys lines of
standard input (``fill N``, ``aim``, ``strike SIGNAL``) and answers each on standard output; it ends
with its input.
Does not know: servers, clients, what is measured. It runs where the package ray is installed.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

ENGINE = b"server.worker"
_NODE = {"object_store_memory": 80 * 2**20, "include_dashboard": False}


def below(parent: int) -> set[int]:
    """Return all descendants of a process."""
    parents = dict[int, int]()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found, new = set[int](), {parent}
    while new:
        found |= new
        new = {pid for pid, of in parents.items() if of in new} - found
    return found - {parent}


def running_below(parent: int, module: bytes) -> int | None:
    """Return a descendant that runs one of our modules."""
    for pid in below(parent):
        with contextlib.suppress(OSError):  # it has just ended
            if module in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return pid
    return None


class Raylets:
    """The cluster."""

    def __init__(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(initialize_head=True, head_node_args=_NODE | {"num_cpus": 0})
        self._target: Any = None
        self._there: AbstractSet[int] = frozenset()
        """All processes of the target."""

    @property
    def address(self) -> str:
        """Where it is joined."""
        return str(self._cluster.address)

    def fill(self, count: int) -> None:
        """Clear away the node that was struck; have so many that run engines."""
        if self._target is not None:
            self._cluster.remove_node(self._target, allow_graceful=False)
            strike(self._there, signal.SIGKILL)
            self._target = None
        while len(self._cluster.worker_nodes) < count:
            self._cluster.add_node(num_cpus=1, **_NODE)

    def aim(self) -> None:
        """Choose a node that runs an engine."""
        nodes = self._cluster.worker_nodes
        self._target = next(node for node in nodes if running_below(raylet_of(node), ENGINE))
        raylet = raylet_of(self._target)
        self._there = below(raylet) | {raylet}

    def strike(self, how: signal.Signals) -> None:
        """Strike everything there at once."""
        strike(self._there, how)

    def end(self) -> None:
        """End all of it."""
        strike(self._there, signal.SIGKILL)
        self._cluster.shutdown()


def raylet_of(node: Any) -> int:
    """Return the process of a node from which all others there descend."""
    return int(node.all_processes["raylet"][0].process.pid)


def strike(pids: AbstractSet[int], how: signal.Signals) -> None:
    """Send a signal to those that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)


def main() -> int:
    """Obey until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever Ray prints is no answer
    raylets = Raylets()
    try:
        print(raylets.address, file=answers, flush=True)
        for line in sys.stdin:
            match line.split():
                case ["fill", count]:
                    raylets.fill(int(count))
                case ["aim"]:
                    raylets.aim()
                case ["strike", name]:
                    raylets.strike(signal.Signals[name])
            print("done", file=answers, flush=True)
    finally:
        raylets.end()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
