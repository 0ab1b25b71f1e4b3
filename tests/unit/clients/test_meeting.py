"""The verb: files as participants before a real server, one transcript, files of it."""

import asyncio
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from websockets.asyncio.client import connect

from asr.interface import Samples
from asr.scripted import silence, utter
from asr.speakers import encoder
from clients.__main__ import main
from clients.meeting import link_of, participants_of
from tests.io.serving import RATE_HZ, serving

pytestmark = pytest.mark.io


def clip(path: Path, *channels: Samples) -> Path:
    length = max(map(len, channels))
    padded = [np.pad(channel, (0, length - len(channel))) for channel in channels]
    soundfile.write(path, np.stack(padded, axis=1), RATE_HZ, subtype="PCM_16")
    return path


async def command(*argv: str) -> tuple[int, list[str], str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "clients", "meeting", *argv,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode or 0, out.decode().splitlines(), err.decode()


async def test_participants_become_one_transcript_in_files_and_for_viewers(tmp_path: Path) -> None:
    ann = clip(tmp_path / "a.wav", np.concatenate([utter("turn on the light"), silence(800)]))
    bob = clip(tmp_path / "bob.wav", np.concatenate([silence(640), utter("yes"), silence(800)]))
    saved = [tmp_path / f"m.{form}" for form in ("txt", "md", "srt", "vtt", "json")]
    options = [part for path in saved for part in ("--save", str(path))]
    async with serving() as server:
        url = server.addresses.websocket
        async with connect(url.replace("/v1/stream", "/v1/meeting/monday")) as viewer:
            code, out, err = await command(
                f"Ann={ann}", str(bob), "--room", "monday", "--url", url, *options
            )
            assert code == 0, err
            lines = list[dict[str, object]]()
            while len(lines) < 2:
                lines += json.loads(await viewer.recv())["finals"]
    assert sorted(out) == ["Ann: turn on the light", "bob: yes"]
    assert "/meeting/monday" in err
    assert {(line["speaker"], line["text"]) for line in lines} == {
        ("Ann", "turn on the light"),
        ("bob", "yes"),
    }
    assert saved[0].read_text() == "Ann: turn on the light\nbob: yes\n"
    assert "**00:00:00 Ann**: turn on the light" in saved[1].read_text()
    assert "Ann: turn on the light" in saved[2].read_text()
    assert "<v bob>yes" in saved[3].read_text()
    assert [s["speaker"] for s in json.loads(saved[4].read_text())["segments"]] == ["Ann", "bob"]


async def test_two_channels_are_two_participants(tmp_path: Path) -> None:
    both = clip(
        tmp_path / "talk.wav", utter("turn on"), np.concatenate([silence(960), utter("yes")])
    )
    async with serving() as server:
        code, out, err = await command(str(both), "--url", server.addresses.websocket)
    assert code == 0, err
    assert sorted(out) == ["talk 1: turn on", "talk 2: yes"]


def test_voices_are_not_told_apart_without_the_package_and_nothing_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(encoder, "PACKAGE", "no-such-package-of-voices")
    saved = tmp_path / "m.md"
    path = clip(tmp_path / "a.wav", silence(80))
    assert main(["meeting", str(path), "--speakers", "--save", str(saved)]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith("pip install --no-deps resemblyzer==0.1.4")
    assert not saved.exists()


@pytest.mark.skipif(encoder.weights_path() is None, reason=encoder.MISSING)
async def test_voices_of_a_file_are_numbered_where_it_has_one_channel(tmp_path: Path) -> None:
    path = clip(tmp_path / "talk.wav", np.concatenate([utter("turn on the light"), silence(800)]))
    saved = tmp_path / "m.txt"
    async with serving() as server:
        code, out, err = await command(
            str(path), "--speakers", "--url", server.addresses.websocket, "--save", str(saved)
        )
    assert code == 0, err
    assert out == ["talk 1: turn on the light"]
    assert saved.read_text() == "talk 1: turn on the light\n"


async def test_a_file_that_breaks_off_leaves_the_others_in_the_meeting(tmp_path: Path) -> None:
    speech = np.concatenate([utter("turn on the light"), silence(800)])
    ann = tmp_path / "ann.flac"
    soundfile.write(ann, np.tile(speech, 3), RATE_HZ)
    whole = ann.read_bytes()
    ann.write_bytes(whole[: len(whole) // 2])
    bob = clip(tmp_path / "bob.wav", np.tile(speech, 3))
    async with serving() as server:
        code, out, err = await command(str(ann), str(bob), "--url", server.addresses.websocket)
    assert code == 1
    assert out.count("bob: turn on the light") == 3
    assert f"ann: {ann}: cannot be read on" in err


def test_a_participant_is_named_by_hand_or_by_file(tmp_path: Path) -> None:
    path = clip(tmp_path / "ann=x.wav", silence(80))
    assert participants_of([str(path)])[0].name == "ann=x"
    assert participants_of([f"Ann={path}"])[0].name == "Ann"


@pytest.mark.parametrize(
    ("url", "link"),
    [
        ("ws://127.0.0.1:8765/v1/stream", "http://127.0.0.1:8765/meeting/r"),
        ("wss://here.example/v1/stream?token=t", "https://here.example/meeting/r"),
    ],
)
def test_the_link_is_the_page_of_the_same_server_without_the_token(url: str, link: str) -> None:
    assert link_of(url, "/meeting/r") == link


@pytest.fixture
def without_nohup() -> Iterator[None]:
    """Who runs the tests may have SIGHUP ignored, which programs inherit and heed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("without_nohup")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    "verb",
    [["captions", "--save", "{0}"], ["meeting", "--save", "{0}"], ["assistant", "--run=cat"]],
)
async def test_a_file_that_was_cut_short_is_told_by_the_exit_code(
    tmp_path: Path, verb: list[str], end: signal.Signals
) -> None:
    path = clip(tmp_path / "a.wav", np.concatenate([utter("turn on"), silence(60_000)]))
    saved = tmp_path / "cut.txt"
    async with serving() as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "clients", *(part.format(saved) for part in verb), str(path),
            "--url", server.addresses.websocket,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        assert b"turn on" in await process.stdout.readline()
        process.send_signal(end)
        assert await process.wait() == 130
    assert saved.exists() == ("--save" in verb)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "needs FILEs, --microphone or --livekit"),
        (["{clip}", "--save", "x.doc"], "the ending must be one of"),
        (["{clip}", "--save", "nowhere/x.md"], "there is no such folder"),
        (["{clip}", "{clip}"], "two participants have the same name"),
        (["Me={clip}", "--microphone"], "two participants have the same name"),
        (["nothing.wav"], "there is no such file"),
        (["{clip}", "--room", "a room"], "--room is 1 to 64"),
        (["{clip}", "--most-speakers", "0"], "--most-speakers is 1 or more"),
        (["{clip}", "--url", "ws://127.0.0.1:9/v1/stream"], "`rivulet serve` starts a server"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    argv: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = clip(tmp_path / "a.wav", silence(80))
    assert main(["meeting", *(part.format(clip=path) for part in argv)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("rivulet: ")
    assert said in last
