"""``rivulet meeting --livekit`` with LiveKit's own package in a room that speaks its protocol.

The room is a stand-in (``drivers/livekit_room.py``): LiveKit's server is in no package index. The
package, its WebRTC, Opus and the embedded model are the real ones.
"""

import asyncio
import contextlib
import difflib
import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from server.app import Running
from tests.clients.rig import DRIVERS, ROOT, NoEnvironment, environment, serving

pytestmark = [pytest.mark.slow, pytest.mark.io]

LIMIT_S = 200.0


KITCHEN, TIMER = "01-kitchen.ogg", "02-timer.ogg"
SAID = {
    line["audio_filepath"]: line["text"]
    for line in map(json.loads, (ROOT / "samples" / "manifest.jsonl").read_text().splitlines())
}


def recording(folder: Path, name: str) -> Path:
    """A sample as 16 kHz PCM."""
    samples, rate = soundfile.read(ROOT / "samples" / name, dtype="float32")
    assert rate == 16_000
    path = folder / f"{name}.pcm"
    path.write_bytes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


class Room:
    """The stand-in, in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self.orders, self.news = process, process.stdin, process.stdout

    async def line(self) -> str:
        return (await self.news.readline()).decode().strip()

    async def until(self, line: str) -> None:
        while (found := await self.line()) != line:
            assert found, f"the room ended before {line!r}"

    def do(self, what: str, who: str = "", sid: str = "", file: Path | str = "") -> None:
        order = {"do": what, "who": who, "sid": sid, "file": str(file)}
        self.orders.write(json.dumps(order).encode() + b"\n")


@contextlib.asynccontextmanager
async def room(python: Path) -> AsyncIterator[tuple[Room, str]]:
    process = await asyncio.create_subprocess_exec(
        python, DRIVERS / "livekit_room.py",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    made = Room(process)
    try:
        yield made, f"ws://127.0.0.1:{await made.line()}"
    finally:
        made.orders.close()
        process.kill()
        await process.wait()


async def take_part(python: Path, server: Running, folder: Path) -> list[dict[str, Any]]:
    """Ann speaks, is muted; Bob comes late and leaves; Ann publishes again; the room is closed."""
    kitchen, timer = recording(folder, KITCHEN), recording(folder, TIMER)
    saved = folder / "minutes.json"
    async with asyncio.timeout(LIMIT_S), room(python) as (there, url):
        there.do("publish", "ann", "TR_1", kitchen)
        client = await asyncio.create_subprocess_exec(
            python, "-m", "clients", "meeting", "--livekit", url, "--save", saved,
            "--url", server.addresses.websocket,
            cwd=ROOT, env=os.environ | {"LIVEKIT_TOKEN": "any"},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await there.until("said TR_1")
        there.do("mute", "ann")
        there.do("publish", "bob", "TR_2", timer)
        await there.until("said TR_2")
        there.do("leave", "bob")
        there.do("unpublish", "ann", "TR_1")
        there.do("publish", "ann", "TR_3", timer)
        await there.until("said TR_3")
        there.do("close")
        _, errors = await client.communicate()
    assert client.returncode == 0, errors.decode()
    segments: list[dict[str, Any]] = json.loads(saved.read_text())["segments"]
    return [segment for segment in segments if segment["text"]]


def test_who_speaks_in_a_room_is_heard_however_tracks_come_and_go(tmp_path: Path) -> None:
    try:
        python = environment("room")
    except NoEnvironment as reason:
        pytest.skip(str(reason))

    async def run() -> list[dict[str, Any]]:
        async with serving() as server:
            return await take_part(python, server, tmp_path)

    segments = asyncio.run(run())
    assert [segment["speaker"] for segment in segments] == ["ann", "bob", "ann"]
    for segment, name in zip(segments, (KITCHEN, TIMER, TIMER), strict=True):
        heard, said = segment["text"].lower().split(), SAID[name].split()
        share = difflib.SequenceMatcher(None, heard, said).ratio()
        assert share > 0.6, (heard, said)  # Opus and the network's clock are in between


def test_a_room_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    try:
        python = environment("room")
    except NoEnvironment as reason:
        pytest.skip(str(reason))
    ended = subprocess.run(
        [python, "-m", "clients", "meeting", "--livekit", "ws://127.0.0.1:9"],
        cwd=ROOT, env=os.environ | {"LIVEKIT_TOKEN": "any"}, capture_output=True, text=True,
        timeout=LIMIT_S,
    )  # fmt: skip
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("rivulet: the LiveKit room cannot be joined")
    assert len(ended.stderr.strip().splitlines()) == 4  # two links, a note, the end; no log
