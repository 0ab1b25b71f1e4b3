"""``python -m server.worker.driver ADDRESS``: the process that talks to Ray.

Does: join a cluster, obey the orders on standard input (server.worker.cluster), one a line, answer
on standard output; leave when the input ends, with everything that it started.
Does not know: who orders, sessions, links.
"""

import os
import sys
import threading
from typing import Any, BinaryIO

import msgspec

from server.worker.cluster import ANY, Answer, Failed, Joined, Order, Remove, Start, Started
from server.worker.starter import Starter

MISSING = "--cluster needs the package ray: pip install -e '.[ray]'"


class Driver:
    """Actors of one cluster by number."""

    def __init__(self, ray: Any, tell: "Tongue") -> None:
        self._ray = ray
        self._tell = tell
        self._remote = ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(Starter)
        self._actors: dict[int, Any] = {}

    def obey(self, order: Order) -> None:
        """Carry one order out; the answer to a start comes when there was room for it."""
        match order:
            case Start(number=number):
                actor = self._actors[number] = self._remote.remote()
                told = actor.start.remote(order.spec, order.secret)
                told.future().add_done_callback(lambda done: self._say(number, done))
            case Remove(number=number):
                actor = self._actors.pop(number, None)
                if actor is not None:
                    self._ray.kill(actor)

    def _say(self, number: int, done: Any) -> None:
        error = done.exception()
        if error is None:
            self._tell.say(Started(number, *done.result()))
            return
        self._actors.pop(number, None)
        why = f"the cluster could not start an engine process ({type(error).__name__})"
        self._tell.say(Failed(why, number))


class Tongue:
    """Where answers go, from any thread."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._lock = threading.Lock()

    def say(self, answer: Answer) -> None:
        """Write one line."""
        with self._lock:
            self._out.write(msgspec.json.encode(answer) + b"\n")
            self._out.flush()


def join(address: str) -> Any:
    """Join a cluster; return the package, or a sentence that says why not."""
    try:
        import ray
    except ImportError:
        return MISSING
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError):
        where = "this machine is in no Ray cluster" if address == ANY else f"no Ray at {address}"
        return f"{where}; `ray start` makes one"
    return ray


def main() -> int:
    """Serve until the input ends."""
    tongue = Tongue(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)  # whatever Ray prints is no answer
    ray = join(sys.argv[1])
    if isinstance(ray, str):
        tongue.say(Failed(ray))
        return 1
    tongue.say(Joined())
    driver = Driver(ray, tongue)
    orders = msgspec.json.Decoder(Order)
    for line in sys.stdin.buffer:
        driver.obey(orders.decode(line))
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
