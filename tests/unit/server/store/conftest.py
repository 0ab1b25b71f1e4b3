"""Every store as a fixture; one that cannot run here says which package is missing."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.store.base import Store
from server.store.memory import MemoryStore
from server.store.sqlite import SqliteStore

MakeStore = Callable[..., Store]
"""``keep_s`` -> a store with a home of its own."""


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """A server of our own on a free port, without a disk."""
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    if program is None:
        pytest.skip("needs Debian's package redis-server (or valkey-server)")
    pytest.importorskip("redis", reason="needs the Python package redis (extra 'cluster')")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--save", "", "--dir", folder, "--bind", "127.0.0.1"]
        server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        try:
            _wait_for(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait()


@pytest.fixture(scope="session", params=["memory", "sqlite", "valkey"])
def make_store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeStore]:
    """Open stores of one kind; all are closed at the end."""
    opened = list[Store]()
    url = request.getfixturevalue("valkey_url") if request.param == "valkey" else ""

    def make(keep_s: float = 600.0) -> Store:
        store: Store
        if request.param == "memory":
            store = MemoryStore(keep_s=keep_s)
        elif request.param == "sqlite":
            store = SqliteStore(tmp_path_factory.mktemp("store") / "store.db", keep_s=keep_s)
        else:
            from server.store.valkey import ValkeyStore

            store = ValkeyStore(url, keep_s=keep_s)
        opened.append(store)
        return store

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A place for a file."""
    return tmp_path / "store.db"


def _wait_for(port: int) -> None:
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.01)  # a process that starts has no event to wait for
        else:
            return
    raise AssertionError("the store's server did not start")
