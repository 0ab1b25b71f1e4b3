"""The assistant, with a real server and real commands; speech is the scripted engine's."""

import asyncio
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.interface import Samples
from asr.scripted import silence, utter
from clients.__main__ import main
from tests.io.serving import RATE_HZ, serving

pytestmark = pytest.mark.io
UPPER = f"{sys.executable} -c 'import sys; print(sys.stdin.read().strip().upper())'"


def clip(folder: Path, *parts: Samples) -> Path:
    path = folder / "clip.wav"
    soundfile.write(path, np.concatenate(parts), RATE_HZ, subtype="PCM_16")
    return path


async def answered(
    path: Path, command: str, *options: str, status: int = 0
) -> tuple[list[str], str]:
    """What the command prints, line by line, and what it notes."""
    async with serving() as server:
        argv = ["assistant", str(path), "--run", command, "--url", server.addresses.websocket]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "clients", *argv, *options,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode == status, err.decode()
        return out.decode().splitlines(), err.decode()


async def test_every_turn_of_a_file_is_answered_and_timed(
    tmp_path: Path,
) -> None:
    path = clip(tmp_path, utter("turn on"), silence(720), utter("thank you"), silence(720))
    out, err = await answered(path, UPPER, "--silence-ms", "400")
    assert out == [
        "you: turn on",
        "assistant: TURN ON",
        "you: thank you",
        "assistant: THANK YOU",
    ]
    assert len(re.findall(r"turn \d: could act \d+ ms after the end of speech", err)) == 2


async def test_a_command_that_fails_is_told_of_and_so_is_the_exit_status(tmp_path: Path) -> None:
    path = clip(tmp_path, utter("thank you"), silence(1_200))
    out, err = await answered(path, "false", status=1)
    assert out == ["you: thank you"]
    assert "false failed: status 1" in err.splitlines()


async def test_a_turn_is_readable_where_that_is_wanted(tmp_path: Path) -> None:
    path = clip(tmp_path, utter("thank you"), silence(1_200))
    out, _ = await answered(path, "cat", "--readable")
    assert out == ["you: Thank you.", "assistant: Thank you."]


async def test_a_pause_in_a_turn_starts_the_command_in_vain_and_its_output_is_not_shown(
    tmp_path: Path,
) -> None:
    path = clip(tmp_path, utter("turn on"), silence(480), utter("the light"), silence(1_200))
    out, err = await answered(path, UPPER, "--eager-ms", "200", "--silence-ms", "900")
    assert [line for line in out if line.startswith("assistant")] == [
        "assistant: TURN ON THE LIGHT"
    ]
    assert "resumed: the answer begun ahead was dropped" in err
    assert ", started " in err


async def test_speech_over_an_answer_is_a_barge_in(
    tmp_path: Path,
) -> None:
    path = clip(tmp_path, utter("speak"), silence(800), utter("yes"), silence(600))
    slow = """sh -c 'read words; echo "$words"; [ "$words" = yes ] || exec sleep 600'"""
    out, err = await answered(path, slow, "--silence-ms", "300")
    assert "barge-in" in err
    assert out[-1] == "assistant: yes"


async def test_an_output_that_nobody_reads_is_an_end_without_a_traceback(tmp_path: Path) -> None:
    path = clip(tmp_path, utter("thank you"), silence(1_200))
    async with serving() as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "clients", "assistant", str(path), "--run", "seq 100000",
            "--url", server.addresses.websocket,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        pipe = process._transport.get_pipe_transport(1)  # type: ignore[attr-defined]
        assert process.stdout is not None
        assert process.stderr is not None
        await process.stdout.readuntil(b"assistant: 1\n")
        pipe.close()
        err = await process.stderr.read()
        assert await process.wait() == 1
    assert b"Traceback" not in err
    assert b"does not start" not in err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["assistant", "--run", "cat"], "needs either a FILE or --microphone"),
        (["assistant", "x.wav", "--run", "no-such-program"], "there is no program"),
        (["assistant", "x.wav", "--run", "'"], "--run"),
        (["assistant", "x.wav", "--run", "cat"], "there is no such file"),
        (
            ["assistant", "--microphone", "--run", "cat", "--silence-ms", "-5"],
            "100 to 5000, not -5",
        ),
        (["assistant", "--microphone", "--run", "cat", "--eager-ms", "9"], "80 to 2000, not 9"),
        (["assistant", "--microphone", "--run", "cat", "--language", "klingon"], "such as en"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 1
    assert said in capsys.readouterr().err
