"""A server on a Ray cluster of this machine, one node of which is lost.

Does: make an environment that has Ray once, run the nodes (ray_nodes) and ``rivulet serve
--cluster`` there, strike a node, see from outside when the server noticed and was whole again.
Does not know: how clients are compared, rows, files.
"""

import asyncio
import contextlib
import importlib.util
import site
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Literal

from clients.connection import Connection
from clients.load.host import Host, total
from tests.bench.faults_outside import POLL_S, READY_S, Program
from tests.bench.faults_stands import Phases, Setup, Stand, options

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 2
NODES = WORKERS + 1
"""One more than there are workers: the lost one's successor has a place at once."""
_INSTALL_S = 900.0
_LEAVE_S = 30.0


class NoRay(Exception):
    """There is no Ray here; the text is one sentence."""


def environment() -> Path:
    """Return an interpreter that has Ray beside all of ours; raises NoRay.

    Ray is large and only for clusters: it stays out of the environment of everything else.
    """
    if importlib.util.find_spec("ray") is not None:
        return Path(sys.executable)
    folder = ROOT / "build" / "ray"
    python, ready = folder / "bin" / "python", folder / "ready"
    constraints = ROOT / "constraints.txt"
    wanted = next(line for line in constraints.read_text().split() if line.startswith("ray=="))
    if ready.exists() and ready.read_text() == wanted:
        return python
    install = [str(python), "-m", "pip", "install", "-q", "-c", str(constraints), wanted]
    try:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=_INSTALL_S)
        ours = next(folder.glob("lib/python*/site-packages")) / "ours.pth"
        ours.write_text(f"{site.getsitepackages()[0]}\n{ROOT}\n")
        subprocess.run(install, check=True, timeout=_INSTALL_S, capture_output=True)
    except (OSError, subprocess.SubprocessError) as error:
        why = f"ray is not installed, and build/ray could not be made ({type(error).__name__})"
        raise NoRay(f"{why}: pip install -c constraints.txt -e '.[ray]'") from error
    ready.write_text(wanted)
    return python


class Nodes:
    """The process that has the cluster."""

    def __init__(self, python: Path) -> None:
        self._python = python
        self._process: subprocess.Popen[str] | None = None
        self.address = ""

    async def __aenter__(self) -> "Nodes":
        self._process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [self._python, "-m", "tests.bench.ray_nodes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            text=True,
        )
        self.address = await asyncio.to_thread(self._answer)
        return self

    async def __aexit__(self, *exception: object) -> None:
        process = self._process
        assert process is not None and process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.to_thread(process.wait, _LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)

    async def obey(self, order: str) -> None:
        """Have an order carried out; raises RuntimeError when it was not."""
        await asyncio.to_thread(self._ask, order)

    def _ask(self, order: str) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> str:
        assert self._process is not None and self._process.stdout is not None
        said = self._process.stdout.readline().strip()
        if not said:
            raise RuntimeError("the Ray cluster of this row ended")
        return said


def node_loss(how: Literal["SIGKILL", "SIGSTOP"], *, is_scripted: bool = False) -> Setup:
    """Return how to set up a server on a cluster whose node is killed, or falls silent."""

    @contextlib.asynccontextmanager
    async def stand(streams: int) -> AsyncIterator[Stand]:
        python = await asyncio.to_thread(environment)
        with tempfile.TemporaryDirectory() as folder:
            async with Nodes(python) as nodes, contextlib.AsyncExitStack() as stack:
                await nodes.obey(f"fill {NODES}")
                cluster = ["--cluster", nodes.address, "--workers", str(WORKERS)]
                module = "tests.bench.scripted_server" if is_scripted else "clients"
                program = Program(
                    [*options(folder, streams), *cluster], python=python, module=module
                )
                program.start()
                stack.push_async_callback(program.end)
                yield _standing(program, nodes, how)

    return stand


def _standing(program: Program, nodes: Nodes, how: str) -> Stand:
    phases, host = Phases(), Host(program.url)
    watching: list[asyncio.Task[None]] = []

    async def strike(connections: Sequence[Connection]) -> None:
        await nodes.obey("aim")
        watching.append(asyncio.create_task(_watch(host, phases)))
        phases.strike()
        await nodes.obey(f"strike {how}")

    async def ready() -> None:
        while watching:
            await watching.pop()
        await nodes.obey(f"fill {NODES}")
        async with asyncio.timeout(READY_S):
            await program.ready()
            await _count(host, lambda ready: ready == WORKERS)

    return Stand(url=program.url, strike=strike, ready=ready, leaked=program.leaked, phases=phases)


async def _watch(host: Host, phases: Phases) -> None:
    """Ask the server who is ready until it has missed a worker and has another."""
    async with asyncio.timeout(READY_S):
        await _count(host, lambda ready: ready < WORKERS)
        phases.detected_s = phases.now()
        await _count(host, lambda ready: ready == WORKERS)
        phases.standby_s = phases.now()


async def _count(host: Host, is_so: Callable[[float], bool]) -> None:
    """Wait until the number of ready workers is what is waited for."""
    while True:
        said = await asyncio.to_thread(host._get, "/metrics")
        if said is not None and is_so(total(said, "rivulet_workers_ready")):
            return
        await asyncio.sleep(POLL_S)
