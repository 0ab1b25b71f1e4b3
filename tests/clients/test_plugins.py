"""Our plugins inside the frameworks, before a server with the scripted engine."""

import asyncio
import json
from itertools import groupby
from pathlib import Path

import pytest

from tests.clients.rig import DRIVERS, NoEnvironment, environment
from tests.io.serving import serving, speech

pytestmark = [pytest.mark.slow, pytest.mark.io]


def test_livekit_gets_every_event_and_a_quiet_session_pauses(tmp_path: Path) -> None:
    try:
        python = environment("livekit")
    except NoEnvironment as reason:
        pytest.skip(str(reason))
    clip = tmp_path / "clip.pcm"
    clip.write_bytes(speech("turn on the light", silence_ms=960))

    async def run() -> tuple[bytes, bytes]:
        async with serving() as server:
            process = await asyncio.create_subprocess_exec(
                python, DRIVERS / "drive_livekit_plugin.py", server.addresses.websocket, clip,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            return await asyncio.wait_for(process.communicate(), 120)

    out, err = asyncio.run(run())
    assert out, err.decode()
    said = json.loads(out.decode().splitlines()[-1])
    heard = [(kind, text) for kind, text in said["events"] if kind != "recognition_usage"]
    kinds = [kind for kind, _ in groupby(kind for kind, _ in heard)]
    turn = [
        "start_of_speech",
        "interim_transcript",
        "preflight_transcript",
        "final_transcript",
        "end_of_speech",
    ]
    assert kinds[:5] == turn
    assert kinds[5] == turn[0]
    assert kinds[-2:] == turn[-2:]  # the input ends at once: no eager end is due
    finals = [text for kind, text in heard if kind == "final_transcript"]
    assert finals == ["turn on the light"] * 2
    assert len(heard) < len(said["events"])  # usage was reported
    assert said["whole"] == "turn on the light"
    assert said["failure"] == "APIConnectionError"


def test_pipecat_outlives_a_server_that_goes_and_can_be_cancelled_meanwhile(
    tmp_path: Path,
) -> None:
    try:
        python = environment("pipecat")
    except NoEnvironment as reason:
        pytest.skip(str(reason))
    clip = tmp_path / "clip.pcm"
    clip.write_bytes(speech("turn on the light", silence_ms=1_600))

    async def run() -> tuple[bytes, bytes]:
        async with serving() as server:
            process = await asyncio.create_subprocess_exec(
                python, DRIVERS / "drive_pipecat_lost.py",
                f"127.0.0.1:{server.addresses.port}", clip,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            return await asyncio.wait_for(process.communicate(), 150)

    out, err = asyncio.run(run())
    assert out, err.decode()
    said = json.loads(out.decode().splitlines()[-1])
    assert said == {"texts": ["turn on the light"] * 2, "passed": True, "language": "en"}
