"""``rivulet edge core`` and ``rivulet edge`` as programs: a call goes in, transcripts come out."""

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clients.__main__ import main
from edge.core import Core, CoreConfig, accepting
from edge.listeners import FeedConfig
from edge.node import NodeConfig
from edge.run import NodeSettings, RunError, run_node
from edge.uplink import CoreAddress
from server.config import ServerConfig
from server.keys import add_key
from tests.edge_rig import PACKET, sentences, spoken
from tests.io.serving import serving, speech
from tests.io.test_edge_node import CALL, datagrams, frame

pytestmark = pytest.mark.io

Program = asyncio.subprocess.Process


@contextlib.asynccontextmanager
async def program(*arguments: str) -> AsyncIterator[tuple[Program, str]]:
    """Start ``rivulet edge`` with arguments; gives it and the line it says when it is ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "clients", "edge", *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield process, (await process.stdout.readline()).decode()
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def test_a_call_through_both_programs_to_a_server_with_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (text,) = sentences(1)
    said, here, there = speech(text, silence_ms=960), tmp_path / "node", tmp_path / "core"
    keys, key = tmp_path / "keys.json", tmp_path / "key"
    key.write_text(add_key(keys, "edge", ("stream",), None) + "\n")
    async with serving(keys=str(keys)) as server:
        door = program(
            "core", "--server", server.addresses.websocket, "--server-key-file", str(key),
            "--listen", "127.0.0.1:0", "--web", "0", "--out", str(there),
        )  # fmt: skip
        async with door as (_, told):
            (port,) = re.findall(r"dial 127\.0\.0\.1:(\d+)", told)
            node = program(
                "--core", f"tcp://127.0.0.1:{port}", "--name", "n1",
                "--audiosocket", "0", "--web", "0", "--out", str(here),
            )  # fmt: skip
            async with node as (_, ready):
                (feed,) = re.findall(r"AudioSocket (\d+)", ready)
                (web,) = re.findall(r"web (\d+)", ready)
                assert await asyncio.to_thread(main, ["edge", "status", "--web", web]) == 0
                assert "n1, policy core, link" in capsys.readouterr().out
                _, writer = await asyncio.open_connection("127.0.0.1", int(feed))
                writer.write(frame(1, CALL.bytes))
                for at in range(0, len(said), 2 * PACKET):
                    writer.write(frame(0x12, said[at : at + 2 * PACKET]))
                writer.write(frame(0))
                while not any(line["kind"] == "closed" for line in lines(here)):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                writer.close()
    for path in (here, there):
        finals = [line["text"] for line in lines(path) if line["kind"] == "final"]
        assert " ".join(filter(None, finals)) == text
        assert {line["name"] for line in lines(path)} == {str(CALL)}


async def test_what_a_node_that_ends_still_holds_for_packets_that_are_late_becomes_words(
    tmp_path: Path,
) -> None:
    texts, out = sentences(2, words=3), tmp_path / "out"
    sent = datagrams(spoken(texts, pause_ms=480))[:-24]  # without the pause at the end
    del sent[-30]  # in the pause between them
    async with serving() as server:
        core = Core(CoreConfig(url=server.addresses.websocket, port=0))
        async with accepting(core) as port:
            node = program(
                "--core", f"tcp://127.0.0.1:{port}", "--name", "n1", "--web", "0",
                "--rtp", "0", "--window-ms", "60000", "--out", str(out),
            )  # fmt: skip
            async with node as (_, ready):
                (rtp,) = re.findall(r"RTP (\d+)", ready)
                (web,) = re.findall(r"web (\d+)", ready)
                transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                    asyncio.DatagramProtocol, remote_addr=("127.0.0.1", int(rtp))
                )
                for packet in [*sent, b"no RTP"]:
                    transport.sendto(packet)
                    await asyncio.sleep(0.0005)
                status = f"http://127.0.0.1:{web}/status"
                while not (await asyncio.to_thread(read, status))["refused"]:
                    pass
                transport.close()
    assert " ".join(line["text"] for line in lines(out) if line.get("text")) == " ".join(texts)


def read(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url) as reply:
        found: dict[str, Any] = json.load(reply)
    return found


def test_a_page_whose_port_is_taken_is_told_with_the_option_for_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert main(["edge", "core", "--listen", "127.0.0.1:0", "--web", port]) == 1
        assert "--web takes another" in capsys.readouterr().err


async def test_a_node_that_failed_takes_no_calls_any_more() -> None:
    settings = NodeSettings(
        node=NodeConfig(name="caf\udce9"),  # as Python reads an argument that is no UTF-8
        feeds=FeedConfig(web_port=0),
    )
    core = Core(CoreConfig(url="ws://127.0.0.1:1", port=0))
    async with accepting(core) as port:
        settings = dataclasses.replace(settings, core=CoreAddress(host="127.0.0.1", port=port))
        async with asyncio.timeout(15):
            with pytest.raises(RunError, match="the node failed: UnicodeEncodeError"):
                await run_node(settings, lambda _: None)


async def test_a_node_that_still_loads_its_model_can_be_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Loading:
        async def ready(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()

    @contextlib.asynccontextmanager
    async def running(_: ServerConfig) -> AsyncIterator[Any]:
        yield SimpleNamespace(manager=Loading())

    monkeypatch.setattr("edge.run.running", running)
    settings = NodeSettings(
        node=NodeConfig(name="n", policy="edge"),
        feeds=FeedConfig(web_port=0),
        local=ServerConfig(port=0),
    )
    ready = list[object]()
    await run_node(settings, ready.append)
    assert not ready
