"""Where an engine runs: the device of its process."""

import os
import subprocess
import sys

import pytest

from asr.interface import EngineError
from server.worker.engines import EngineSpec, build

BUILD = """
import os, sys
from server.worker.engines import EngineSpec, build
build(EngineSpec(backend="scripted", device=sys.argv[1]))
print(sorted(os.sched_getaffinity(0)))
"""


def test_a_worker_on_a_core_has_that_core_and_no_other() -> None:
    core = max(os.sched_getaffinity(0))
    command = [sys.executable, "-c", BUILD, f"cpu:{core}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert said.stdout.strip() == f"[{core}]"


def test_a_worker_without_a_core_of_its_own_runs_on_any() -> None:
    before = os.sched_getaffinity(0)
    build(EngineSpec(backend="scripted", device="cpu"))
    assert os.sched_getaffinity(0) == before


def test_a_core_that_is_not_there_is_named() -> None:
    with pytest.raises(EngineError, match="no core 4000"):
        build(EngineSpec(backend="scripted", device="cpu:4000"))


@pytest.mark.model
def test_a_gpu_that_is_not_there_is_named() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineError, match="no GPU here for the device cuda:0"):
        build(EngineSpec(device="cuda:0"))
    with pytest.raises(EngineError, match="no GPU here for the device cuda:1"):
        build(EngineSpec(decoder_device="cuda:1"))


def test_a_second_gpu_is_not_taken_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for spec in (EngineSpec(device="cuda:1"), EngineSpec(decoder_device="cuda:1")):
        with pytest.raises(EngineError, match="no GPU here for the device cuda:1"):
            build(spec)
