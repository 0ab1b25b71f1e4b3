"""The GPU script, rehearsed where there is none, with what that machine has and no more."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_THERE = ("yaml", "soundfile", "websockets", "msgspec", "nemo", "hypothesis", "pytest")


@pytest.mark.slow
def test_the_rehearsal_measures_every_variant_and_survives_one_that_fails(tmp_path: Path) -> None:
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({NOT_THERE}));"
        "from tests.bench.gpu import main; main(sys.argv[1:])"
    )
    subprocess.run(
        [sys.executable, "-c", script, "--rehearse", "--out", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    lines = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    costs = {(one["shape"], one["numbers"], one["mode"]) for one in lines if one["kind"] == "cost"}
    assert costs == {
        ("600M", "bf16", "graphs"),
        ("115M", "tf32", "graphs"),
        ("115M", "fp32", "eager"),
    }
    assert [one["what"] for one in lines if one["kind"] == "error"] == ["1M fp32 graphs"]
    rates = [point["tokens_a_second"] for one in lines for point in one.get("points", ())]
    assert max(rates) > 0.5
    words = [one for one in lines if one["kind"] == "words" and one["numbers"] == "fp32"]
    assert len(words) == 8 and sum(one["tokens"] for one in words) > 40
    assert lines[-1]["kind"] == "summary" and lines[-1]["fp32_words_identical"]
