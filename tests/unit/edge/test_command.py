"""``rivulet edge``: wrong arguments are one sentence; status and doctor say what they find."""

import json
from pathlib import Path

import pytest

from asr.precision import fast_precisions
from clients.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "needs --core"),
        (["--policy", "core+local"], "needs --core"),
        (["--core", "http://x:1"], "tls://HOST:PORT or tcp://HOST:PORT"),
        (["--core", "tcp://x"], "tls://HOST:PORT or tcp://HOST:PORT"),
        (["--core", "tcp://x:99999"], "tls://HOST:PORT or tcp://HOST:PORT"),
        (["--core", "tls://x:1"], "TLS needs --cert, --key and --ca"),
        (["--core", "tcp://x:1", "--codec", "96=g729"], "known are PCMU"),
        (["--core", "tcp://x:1", "--codec", "opus"], "--codec opus"),
        (["--core", "tcp://x:1", "--codec", "72=opus"], "less the 64 to 95"),
        (["--core", "tcp://x:1", "--codec", "128=opus"], "PT is 0 to 127"),
        (["--core", "tcp://x:1", "--codec", "96=L16/0"], "RATE is 8000 to 48000"),
        (["--core", "tcp://x:1", "--idle-s", "0"], "--idle-s is"),
        (["--core", "tcp://x:1", "--spill", "/nowhere/at/all"], "there is no such folder"),
        (["--core", "tcp://x:1", "--token-file", "/nowhere"], "No such file"),
        (["core", "--listen", "8770"], "HOST:PORT"),
        (["core", "--keys", "/nowhere"], "No such file"),
        (["--core", "tcp://127.0.0.1:1", "--keys", "/nowhere"], "No such file"),
        (["status", "--web", "1"], "no node answers"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert main(["edge", *arguments]) == 1
    told = capsys.readouterr().err
    assert sentence in told and told.count("\n") == 1


def test_a_voice_gate_without_its_package_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.command.find_spec", lambda _: None)
    assert main(["edge", "--core", "tcp://x:1", "--voice-gate"]) == 1
    assert "pip install -e '.[edge]'" in capsys.readouterr().err


def test_a_secret_that_is_none_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not base64!")
    assert main(["edge", "--core", "tcp://x:1", "--audiohook-secret-file", str(secret)]) == 1
    assert "client secret is base64" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "why"), [(b" \n", "there is nothing in it"), (b"\xff\xfe", "this is no text")]
)
@pytest.mark.parametrize(
    "arguments",
    [
        ["--core", "tcp://x:1", "--audiohook-key-file"],
        ["--core", "tcp://x:1", "--token-file"],
        ["core", "--token-file"],
    ],
)
def test_a_secret_of_nothing_lets_nobody_in(
    arguments: list[str],
    content: bytes,
    why: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(content)
    assert main(["edge", *arguments, str(secret)]) == 1
    assert capsys.readouterr().err == f"rivulet: {secret}: {why}\n"


def test_the_doctor_of_a_relay_needs_no_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["edge", "--doctor", "--json", "--spill", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "us a packet" in report["relay"]
    assert "MB/s sealed" in report["spill"]
    assert "recognising here" not in report
    assert not list(tmp_path.iterdir())


def test_the_doctor_of_a_recogniser_tries_every_precision_of_this_processor(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.doctor.local_streams", lambda _: 12.0)
    assert main(["edge", "--doctor", "--json", "--policy", "edge", "--slots", "1"]) == 0
    report = json.loads(capsys.readouterr().out)
    said = {name: value for name, value in report.items() if "streams on one core" in value}
    told = [value.split(" in ")[1].split(",")[0] for value in said.values()]
    assert next(iter(said)) == "recognising here"
    assert sorted(told) == sorted({*fast_precisions(), "fp32"})
