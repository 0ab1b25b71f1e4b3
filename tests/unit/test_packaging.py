"""The four folders are imported from this checkout, and the light part of it stays light."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "asr", "nemo", "sentencepiece", "sounddevice"}


def loaded_after(code: str) -> set[str]:
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize("name", ["asr", "server", "clients", "edge"])
def test_package_is_imported_from_this_checkout(name: str) -> None:
    origin = importlib.import_module(name).__file__
    assert origin is not None, f"{name} has no __init__.py"
    assert Path(origin).parent == ROOT / name


@pytest.mark.parametrize(
    "module", ["server.wire.native", "clients.connection", "clients.captions", "clients.demo"]
)
def test_light_module_loads_no_engine(module: str) -> None:
    assert not loaded_after(f"import {module}") & HEAVY


def test_command_knows_all_its_verbs_without_loading_an_engine() -> None:
    code = "from clients.__main__ import VERBS, parser_of\nfor v in VERBS: parser_of(v)"
    assert not loaded_after(code) & HEAVY


def test_server_side_of_the_command_loads_the_engine_only_when_a_verb_needs_it() -> None:
    assert not loaded_after("import server.cli") & (HEAVY - {"asr"})


def test_samples_are_small_and_all_listed() -> None:
    folder = ROOT / "samples"
    clips = {path.name for path in folder.iterdir() if path.suffix in (".ogg", ".wav", ".flac")}
    lines = [json.loads(x) for x in (folder / "manifest.jsonl").read_text().splitlines()]
    assert {line["audio_filepath"] for line in lines} == clips
    assert len(clips) >= 10
    assert sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) < 8_000_000


def test_nobody_is_told_to_install_us_from_an_index_that_does_not_have_us() -> None:
    sources = [
        path
        for name in ("asr", "server", "clients", "edge")
        for path in ROOT.glob(f"{name}/**/*.py")
    ]
    assert [str(path) for path in sources if "install 'rivulet-asr" in path.read_text()] == []
