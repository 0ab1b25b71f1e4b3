"""A Ray cluster of several nodes on this machine: one is lost under live sessions.

The nodes are real (a raylet each), so are the actors, engine processes and links; the engine is
scripted. Ray is not in the tests' environment: without it the last test makes one that has it.
"""

import asyncio
import contextlib
import importlib.util
import os
import signal
import site
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.app import Running, running
from tests.io.serving import (
    all_slots_free,
    config,
    dial,
    figure,
    read_until,
    rest,
    speech,
    start,
    talk,
    transcript,
)

ROOT = Path(__file__).resolve().parents[2]
HAS_RAY = importlib.util.find_spec("ray") is not None
NEEDS_RAY = pytest.mark.skipif(not HAS_RAY, reason="the package ray is not installed")
pytestmark = [pytest.mark.io, pytest.mark.slow]

TEXT = "turn on the kitchen light please thank you"
LIMIT_S = 400
"""Ray starts a dozen processes; on a busy machine they take their time."""
NODE = {"object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that runs no engine; nodes are added by ``nodes``."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"num_cpus": 0})
    try:
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def nodes(cluster: Any) -> Any:
    """The cluster with three nodes of one core each: one more than there are workers."""
    while len(cluster.worker_nodes) < 3:
        cluster.add_node(num_cpus=1, **NODE)
    return cluster


def below(parent: int) -> set[int]:
    """All descendants of a process."""
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
    """A descendant that runs one of our modules."""
    for pid in below(parent):
        with contextlib.suppress(OSError):  # it has just ended
            if module in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return pid
    return None


def strike(pids: set[int], how: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)


def raylet_of(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def lose(cluster: Any, how: signal.Signals) -> set[int]:
    """Strike a node that runs an engine and all else there; return what may still be there."""
    node = next(n for n in cluster.worker_nodes if running_below(raylet_of(n), b"server.worker"))
    raylet = raylet_of(node)
    all_there = below(raylet) | {raylet}
    strike(all_there, how)
    cluster.remove_node(node, allow_graceful=False)
    return all_there - {raylet}


async def all_ready(server: Running) -> None:
    while await figure(server, "rivulet_workers_ready") < 2:  # noqa: ASYNC110 - a metric
        await asyncio.sleep(0.05)


async def a_restart(server: Running) -> None:
    while not await figure(server, "rivulet_worker_restarts_total"):  # noqa: ASYNC110 - a metric
        await asyncio.sleep(0.05)


async def survive(cluster: Any, how: signal.Signals) -> None:
    """Hold two sessions, one on each node, over the loss of one of them."""
    said, began = speech(TEXT), 40_000
    async with running(config(workers=2, cluster=cluster.address)) as server:
        await all_ready(server)
        expected = transcript(await talk(server, said))
        async with dial(server) as first, dial(server) as second:
            for socket in (first, second):
                await socket.send(start())
                await read_until(socket, "ready")
                await socket.send(said[:began])
                await read_until(socket, "partial")
            assert [len(place.sessions) for place in server.manager._places] == [1, 1]
            left = await asyncio.to_thread(lose, cluster, how)
            for socket in (first, second):
                for begin in range(began, len(said), 32_000):
                    await socket.send(said[begin : begin + 32_000])
                await socket.send('{"type":"stop"}')
            for socket in (first, second):
                assert transcript(await rest(socket)) == expected == TEXT
                assert socket.close_code == 1000
        strike(left, signal.SIGCONT)  # the node comes back from its sleep, and is nobody
        await a_restart(server)
        await all_ready(server)  # on the node that was idle
        assert transcript(await talk(server, speech("here we are"))) == "here we are"
        await all_slots_free(server)


@NEEDS_RAY
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_session_says_the_same_once_when_its_node_is_lost(
    nodes: Any, how: signal.Signals
) -> None:
    asyncio.run(asyncio.wait_for(survive(nodes, how), LIMIT_S))


@NEEDS_RAY
def test_a_server_outlives_the_process_that_talks_to_ray(nodes: Any) -> None:
    async def run() -> None:
        async with running(config(workers=2, cluster=nodes.address)) as server:
            await all_ready(server)
            driver = running_below(os.getpid(), b"server.worker.driver")
            assert driver is not None
            os.kill(driver, signal.SIGKILL)  # its actors end with it
            await a_restart(server)
            await all_ready(server)
            assert transcript(await talk(server, speech("here we are"))) == "here we are"

    asyncio.run(asyncio.wait_for(run(), LIMIT_S))


@pytest.mark.skipif(HAS_RAY, reason="the package ray is installed: the tests above were run")
def test_in_an_environment_that_has_ray() -> None:
    folder = ROOT / "build" / "ray"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=600)
            ours = next(folder.glob("lib/python*/site-packages")) / "ours.pth"
            ours.write_text(f"{site.getsitepackages()[0]}\n{ROOT}\n")
            pinned = str(ROOT / "constraints.txt")
            install = [str(python), "-m", "pip", "install", "-q", "-c", pinned, "ray"]
            subprocess.run(install, check=True, timeout=900, capture_output=True)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"the package ray cannot be installed ({type(error).__name__})")
        (folder / "ready").touch()
    again = [str(python), "-m", "pytest", "-q", "-m", "slow", __file__]
    done = subprocess.run(again, cwd=ROOT, timeout=4 * LIMIT_S, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4_000:]
