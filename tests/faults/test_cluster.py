"""A Ray cluster of several nodes on this machine: one is lost under live sessions.

The nodes are real (a raylet each), so are the actors, engine processes and links; the engine is
scripted. Ray is not in the tests' environment: without it the last test makes one that has it.
"""

import asyncio
import importlib.util
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.app import Running, running
from tests.bench.faults_ray import NoRay, environment
from tests.bench.ray_nodes import Raylets, running_below
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


@pytest.fixture(scope="module")
def cluster() -> Iterator[Raylets]:
    """A head that runs no engine; nodes are added by ``nodes``."""
    cluster = Raylets()
    try:
        yield cluster
    finally:
        cluster.end()


@pytest.fixture
def nodes(cluster: Raylets) -> Raylets:
    """The cluster with three nodes of one core each: one more than there are workers."""
    cluster.fill(3)
    return cluster


def lose(cluster: Raylets, how: signal.Signals) -> None:
    """Strike a node that runs an engine, and all that runs there."""
    cluster.aim()
    cluster.strike(how)


async def all_ready(server: Running) -> None:
    while await figure(server, "rivulet_workers_ready") < 2:  # noqa: ASYNC110 - a metric
        await asyncio.sleep(0.05)


async def a_restart(server: Running) -> None:
    while not await figure(server, "rivulet_worker_restarts_total"):  # noqa: ASYNC110 - a metric
        await asyncio.sleep(0.05)


async def survive(cluster: Raylets, how: signal.Signals) -> None:
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
            await asyncio.to_thread(lose, cluster, how)
            for socket in (first, second):
                for begin in range(began, len(said), 32_000):
                    await socket.send(said[begin : begin + 32_000])
                await socket.send('{"type":"stop"}')
            for socket in (first, second):
                assert transcript(await rest(socket)) == expected == TEXT
                assert socket.close_code == 1000
        cluster.strike(signal.SIGCONT)  # the node comes back from its sleep, and is nobody
        await a_restart(server)
        await all_ready(server)  # on the node that was idle
        assert transcript(await talk(server, speech("here we are"))) == "here we are"
        await all_slots_free(server)


@NEEDS_RAY
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_session_says_the_same_once_when_its_node_is_lost(
    nodes: Raylets, how: signal.Signals
) -> None:
    asyncio.run(asyncio.wait_for(survive(nodes, how), LIMIT_S))


@NEEDS_RAY
def test_a_server_outlives_the_process_that_talks_to_ray(nodes: Raylets) -> None:
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
    try:
        python = environment()
    except NoRay as error:
        pytest.skip(str(error))
    again = [str(python), "-m", "pytest", "-q", "-m", "slow", __file__]
    done = subprocess.run(again, cwd=ROOT, timeout=4 * LIMIT_S, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4_000:]
