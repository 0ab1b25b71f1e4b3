"""Our plugins inside the frameworks, before a server with the scripted engine."""

import asyncio
import json
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from server.app import Addresses
from tests.clients.rig import DRIVERS, NoEnvironment, environment
from tests.io.serving import serving, speech

pytestmark = [pytest.mark.slow, pytest.mark.io]

SAID, LIMIT_S = "turn on the light", 150.0
Drive = Callable[[str, int, Callable[[Addresses], str]], Any]


def _native(addresses: Addresses) -> str:
    return addresses.websocket


def _port(addresses: Addresses) -> str:
    return f"127.0.0.1:{addresses.port}"


@pytest.fixture
def drive(tmp_path: Path) -> Drive:
    """Run a driver before a server, with a clip that ends in so much silence; what it prints."""

    def run(driver: str, silence_ms: int, where: Callable[[Addresses], str]) -> Any:
        try:
            python = environment(driver.split("_")[1])
        except NoEnvironment as reason:
            pytest.skip(str(reason))
        clip = tmp_path / "clip.pcm"
        clip.write_bytes(speech(SAID, silence_ms=silence_ms))

        async def drive() -> tuple[bytes, bytes]:
            async with serving() as server:
                process = await asyncio.create_subprocess_exec(
                    python, DRIVERS / f"{driver}.py", where(server.addresses), clip,
                    stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                )  # fmt: skip
                return await asyncio.wait_for(process.communicate(), LIMIT_S)

        out, err = asyncio.run(drive())
        assert out, err.decode()
        return json.loads(out.decode().splitlines()[-1])

    return run


def test_livekit_gets_every_event_and_a_quiet_session_pauses(drive: Drive) -> None:
    said = drive("drive_livekit_plugin", 960, _native)
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
    assert finals == [SAID] * 2
    assert len(heard) < len(said["events"])  # usage was reported
    assert said["whole"] == SAID
    assert said["failure"] == "APIConnectionError"


def test_livekit_hears_the_end_of_speech_that_was_lost_and_new_options_at_once(
    drive: Drive,
) -> None:
    kinds = [kind for kind, _ in groupby(drive("drive_livekit_lost", 960, _port))]
    lost = ["start_of_speech", "interim_transcript", "end_of_speech"]
    assert kinds == [*lost, *lost[:2], "final_transcript", lost[2]]


def test_pipecat_outlives_a_server_that_goes_and_can_be_cancelled_meanwhile(drive: Drive) -> None:
    said = drive("drive_pipecat_lost", 1_600, _port)
    assert said == {"texts": [SAID] * 2, "passed": True, "language": "en"}
