"""What runs on a machine of a Ray cluster for each engine process: an actor that starts it.

Does: start the engine process that a single machine runs, listening for its gateway; end with it.
Does not know: links, engines, sessions, where else processes run.
"""

import contextlib
import os
import subprocess

from server.worker.engines import EngineSpec
from server.worker.process import command, environment


class Starter:
    """The actor."""

    def start(self, spec: EngineSpec, secret: bytes) -> tuple[str, int]:
        """Start the process and return where it listens; it ends with this actor."""
        import ray

        host = ray.util.get_node_ip_address()
        self._process = process = subprocess.Popen(
            command(spec, "--listen", host),
            stdin=subprocess.PIPE,  # when we are gone it ends, and so does the process
            stdout=subprocess.PIPE,
            env=environment(),
        )
        _as_urgent_as_the_node(process.pid)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(secret)
        process.stdin.flush()
        said = process.stdout.readline()
        if not said:
            raise RuntimeError(f"the engine process ended with status {process.wait()}")
        return host, int(said)


def _as_urgent_as_the_node(pid: int) -> None:
    """Take back what Ray does to its workers (nice 15): this one has words to say in time.

    Who may not do that starts Ray with RAY_worker_niceness=0.
    """
    with contextlib.suppress(OSError):
        node = os.getpriority(os.PRIO_PROCESS, os.getppid())
        os.setpriority(os.PRIO_PROCESS, pid, node)
