"""``rivulet plan`` as a command."""

import json
from pathlib import Path

import pytest

from clients.__main__ import main

BASE = ["plan", "--sessions", "500", "--chunk-ms", "560"]


def test_a_plan_is_said_in_words_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    given = [*BASE, "--a-ms", "20", "--b-ms", "3.5", "--price", "0.5"]
    assert main(given) == 0
    assert "one of them to spare" in capsys.readouterr().out
    assert main([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["load"] < found["most_load"]


def test_a_and_b_come_from_a_measurement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "capacity.json"
    engines = {"bf16": {"a_ms": 20, "b_ms": 3.5}}
    path.write_text(json.dumps({"periods": {"560": {"engines": engines}}}))
    assert main([*BASE, "--measured", str(path), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert main([*BASE, "--a-ms", "20", "--b-ms", "3.5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == measured
    assert main([*BASE, "--measured", str(path), "--engine", "fp32"]) == 1
    assert "fp32 at 560 ms" in capsys.readouterr().err


def test_what_cannot_be_is_said_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(BASE) == 1
    assert main([*BASE, "--a-ms", "300", "--b-ms", "1"]) == 1
    assert "too long" in capsys.readouterr().err
