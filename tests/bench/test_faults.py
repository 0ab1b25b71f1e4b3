"""What ``make faults`` says where it cannot measure."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench import faults, faults_ray


def test_without_ray_its_rows_say_what_to_install_and_fail_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_network(*command: Any, **options: Any) -> None:
        raise subprocess.CalledProcessError(1, "pip")

    (tmp_path / "constraints.txt").write_text("ray==1.2.3\n")
    monkeypatch.setattr(faults_ray, "ROOT", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", no_network)
    monkeypatch.setattr(faults, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["faults", "--row", "under Ray"])
    blow = {"case": "slow reader"} | dict.fromkeys(("runs", "identical", "same_words"), 1)
    blow |= dict.fromkeys(("duplicate_finals", "lost_finals", "errors"), 0)
    before = {"machine": "another one", "cases": [blow]}
    (tmp_path / "faults.json").write_text(json.dumps(before))
    assert faults.main() == 0
    result = json.loads((tmp_path / "faults.json").read_text())
    assert result["failed"] == []
    assert [row["machine"] == "another one" for row in result["cases"]] == [
        True,
        False,
        False,
        False,
    ]
    del result["cases"][0]
    assert "node loss under Ray" in result["not_run"]
    for row in result["cases"]:
        assert "ray is not installed" in row["not_run"]
        assert "pip install" in row["not_run"]
