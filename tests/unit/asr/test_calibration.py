"""Calibration: the curve rises, undoes what it was fitted on, and refuses nonsense."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asr
from asr import judging
from asr.calibration import BadCurve, Curve, expected_calibration_error, fit
from asr.checkpoint import UnreadableCheckpoint, load_checkpoint
from asr.engine import Engine, EngineConfig
from asr.events import Event, Final, TurnStart
from asr.live import ChannelOptions, Recognizer
from asr.offline import ManifestError, Recording, read_audio, transcribe

SHARES = st.floats(0, 1)


@given(st.lists(st.tuples(SHARES, st.booleans()), max_size=80), SHARES, SHARES)
def test_a_fitted_curve_rises_and_stays_between_0_and_1(
    words: list[tuple[float, bool]], one: float, other: float
) -> None:
    curve = fit(words)
    low, high = sorted((one, other))
    assert 0 <= curve(low) <= curve(high) <= 1


def test_what_is_too_sure_is_put_right() -> None:
    random = np.random.default_rng(0)
    sure = random.random(4000)
    words = [(float(s), bool(random.random() < s * s)) for s in sure]
    curve = fit(words[::2])
    mapped = [(curve(s), ok) for s, ok in words[1::2]]
    assert expected_calibration_error(words[1::2]) > 0.12
    assert expected_calibration_error(mapped) < 0.03
    assert curve(0.5) == pytest.approx(0.25, abs=0.05)


def test_without_points_nothing_changes() -> None:
    assert Curve()(0.37) == 0.37


def test_perfect_confidence_has_no_error() -> None:
    assert expected_calibration_error([(1.0, True), (0.0, False)]) == 0


@pytest.mark.parametrize(
    "points", [((0.0, 0.5), (0.5, 0.4)), ((0.5, 0.1), (0.5, 0.2)), ((0.0, 1.2),)]
)
def test_points_that_are_no_rising_curve_are_refused(points: tuple[tuple[float, float]]) -> None:
    with pytest.raises(BadCurve):
        Curve(points)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The embedded model under another roof."""
    place = tmp_path / "model"
    shutil.copytree(Path(asr.__file__).parent / "models" / "rivulet-en", place)
    return place


def test_a_folder_brings_its_curve_and_words_are_rated_by_it(folder: Path) -> None:
    (folder / "calibration.json").write_text('{"confidence": [[0.0, 0.25], [1.0, 0.5]]}')
    checkpoint = load_checkpoint(folder)
    assert checkpoint.calibration.confidence(1.0) == 0.5
    engine = Engine(checkpoint, EngineConfig(slots=1, precision="fp32"))
    samples = read_audio(Path(__file__).parents[3] / "samples" / "02-timer.ogg")
    (heard,) = transcribe(engine, [Recording("timer", samples)], 6)
    assert heard.words
    assert all(0.25 <= (word.confidence or 0) <= 0.5 for word in heard.words)


def test_words_are_told_as_early_as_they_were_spoken(folder: Path) -> None:
    samples = read_audio(Path(__file__).parents[3] / "samples" / "02-timer.ogg")
    starts = list[list[int]]()
    for late_ms in (0, 120):
        (folder / "calibration.json").write_text(json.dumps({"late_ms": late_ms}))
        engine = Engine(load_checkpoint(folder), EngineConfig(slots=2, precision="fp32"))
        (heard,) = transcribe(engine, [Recording("timer", samples)], 6)
        recognizer, live = Recognizer(engine), list[Event]()
        channel = recognizer.open(ChannelOptions(look_ahead=6))
        recognizer.feed(channel, samples)
        recognizer.stop(channel)
        while recognizer.is_ready():
            live += [event for _, event in recognizer.step()]
        words = [word for event in live if isinstance(event, Final) for word in event.words]
        assert [w.start_ms for w in words] == [w.start_ms for w in heard.words]
        (began,) = [event.at_ms for event in live if isinstance(event, TurnStart)]
        assert began == words[0].start_ms
        starts.append([w.start_ms for w in words])
    assert [max(0, at - 120) for at in starts[0]] == starts[1] != starts[0]


@pytest.mark.parametrize(
    "text", ['{"confidence": [[1, 0], [0, 1]]}', '{"confidence": 7}', '{"late_ms": -1}']
)
def test_a_folder_with_nonsense_for_a_curve_is_refused(folder: Path, text: str) -> None:
    (folder / "calibration.json").write_text(text)
    with pytest.raises(UnreadableCheckpoint, match=r"calibration\.json"):
        load_checkpoint(folder)


SAMPLES = Path(__file__).parents[3] / "samples"


def _calibrated(folder: Path, manifest: Path, lm: str = "auto") -> dict[str, Any]:
    return judging.calibrate(folder, manifest, lm, on_progress=lambda _done, _all: None)


def test_a_model_is_measured_and_what_it_says_next_is_put_right(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "FEWEST", 10)
    rows = [json.loads(line) for line in (SAMPLES / "manifest.jsonl").read_text().splitlines()][:6]
    for row in rows:
        row["audio_filepath"] = str(SAMPLES / row["audio_filepath"])
        row["words"] = [[-0.5, 0.0] for _ in row["text"].split()]
    manifest = tmp_path / "dev.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copy(folder / "calibration.json", tmp_path / "before.json")
    made = _calibrated(folder, manifest)
    after = load_checkpoint(folder).calibration
    assert made["words"] == made["timed_words"] + round(made["words"] * (1 - made["right"]))
    assert after.late_ms == made["late_ms"] > 500  # of words that were said at -0.5 s
    again = _calibrated(folder, manifest)
    assert again == made  # what was measured before is not measured with
    greedy = _calibrated(folder, manifest, "none")
    assert greedy["right"] < made["right"]
    assert (folder / "calibration.json").read_text() != (tmp_path / "before.json").read_text()


def test_a_few_words_are_no_measure(folder: Path) -> None:
    before = (folder / "calibration.json").read_text()
    with pytest.raises(ManifestError, match=r"words were heard: a curve needs 500"):
        _calibrated(folder, SAMPLES / "manifest.jsonl")
    assert (folder / "calibration.json").read_text() == before
