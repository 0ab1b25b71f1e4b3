import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from asr.training.config import BadConfig
from asr.training.curves import PICTURE, RESULTS, clips_of, main
from asr.training.export import read, save_folder
from asr.training.train import run

HOUR = 3_600 * 16_000


def _index() -> list[dict[str, Any]]:
    sources = ["old"] * 40 + ["new"] * 24 + ["newer"] * 24
    return [{"source": s, "length": HOUR // 8, "start": i} for i, s in enumerate(sources)]


def _wanted(config: Path, folder: Path, **runs: Any) -> argparse.Namespace:
    none: dict[str, Any] = {"vary": [], "hours": [], "layers": []}
    return argparse.Namespace(config=config, folder=folder, **(none | runs))


def _count(clips: list[dict[str, Any]], *sources: str) -> int:
    return sum(clip["source"] in sources for clip in clips)


def test_fewer_hours_are_some_of_the_clips_of_more() -> None:
    less, more = (clips_of(_index(), ["new", "newer"], hours) for hours in (1.0, 3.0))
    assert (_count(less, "new", "newer"), _count(more, "new", "newer")) == (8, 24)
    assert all(clip in more for clip in less)
    assert _count(more, "new") and _count(more, "newer")


@pytest.mark.parametrize(("hours", "kept"), [(0.0, 0), (3.0, 24), (99.0, 24)])
def test_other_sources_stay_whole(hours: float, kept: int) -> None:
    clips = clips_of(_index(), ["new"], hours)
    assert [_count(clips, s) for s in ("old", "new", "newer")] == [40, kept, 24]
    assert [clip["start"] for clip in clips] == sorted(clip["start"] for clip in clips)


@pytest.mark.model
def test_a_source_that_is_not_there_is_named(tiny_config: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="tones: not among dev, manifest"):
        main(_wanted(tiny_config, tmp_path, vary=["tones"], hours=[1.0]))


def test_no_layers_are_refused(tiny_config: Path, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="layers must be more than 0"):
        main(_wanted(tiny_config, tmp_path, layers=[0]))


@pytest.fixture
def begun(tiny_config: Path, tmp_path: Path) -> Path:
    """A config of three steps that begins with a model of two layers."""
    tiny_config.write_text(tiny_config.read_text().replace("steps = 150", "steps = 3"))
    assert run(tiny_config, out=tmp_path / "run", resume=False) == 0
    save_folder(read(tmp_path / "run"), tmp_path / "begun")
    tiny_config.write_text(tiny_config.read_text() + 'start = "begun"\n')
    return tiny_config


@pytest.mark.model
def test_runs_with_fewer_and_more_hours_are_judged_and_drawn(begun: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    folder = tmp_path / "curves"
    main(_wanted(begun, folder, vary=["manifest"], hours=[1.0, 0.01]))
    whole, less = json.loads((folder / RESULTS).read_text())
    assert less["varied_hours"] == 0.01 < whole["varied_hours"] == whole["real_hours"]
    assert set(whole["dev_wer"]) == set(whole["dev_wer_of_mean"]) == {"all", "dev"}
    assert "hours of manifest" in (folder / PICTURE).read_text()


@pytest.mark.model
def test_runs_of_fewer_and_more_layers_are_judged_and_drawn(begun: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    folder = tmp_path / "curves"
    main(_wanted(begun, folder, layers=[1, 3]))
    one, three = json.loads((folder / RESULTS).read_text())
    assert (one["layers"], three["layers"]) == (1, 3)
    assert one["parameters"] < three["parameters"] < 3 * one["parameters"]
    assert one["real_hours"] == three["real_hours"] > 0
    assert one["dev_wer_of_mean"] is three["dev_wer_of_mean"] is None
    assert "million parameters" in (folder / PICTURE).read_text()
