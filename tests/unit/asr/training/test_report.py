import json
from pathlib import Path

import pytest

from asr.training.report import LOG, draw, read

ROWS = [
    {"hours": 1.0, "minutes": 2.0, "losses": {"ctc": 5.0}},
    {
        "hours": 2.0,
        "minutes": 4.0,
        "losses": {"ctc": 4.0},
        "dev_wer": {"all": 90.0, "digits": 70.0},
    },
    {
        "hours": 3.0,
        "minutes": 6.0,
        "losses": {"ctc": 3.0},
        "dev_wer": {"all": 80.0, "digits": 75.0},
    },
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / LOG).write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def test_a_report_says_what_was_heard_how_long_and_the_best_error(run: Path) -> None:
    report = read(run)
    assert report.figures() == {"audio_hours": 3.0, "wall_minutes": 6.0, "best_dev_wer": 0.8}
    assert report.losses["ctc"].hours == [1.0, 2.0, 3.0]
    assert report.errors["digits"].values == [70.0, 75.0]


def test_the_picture_names_every_source(run: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    draw(read(run), run / "curve.svg")
    assert "<svg" in (run / "curve.svg").read_text()


def test_what_was_taken_back_is_left_out(run: Path) -> None:
    part = {"all": 10.0, "digits": 10.0}
    later = [
        {"hours": 2.5, "minutes": 7.0, "losses": {"ctc": 2.0}},
        {"hours": 3.5, "minutes": 8.0, "losses": {"ctc": 1.0}, "dev_wer": part, "dev_every": 3},
    ]
    with (run / LOG).open("a") as log:
        log.writelines(json.dumps(row) + "\n" for row in later)
    report = read(run)
    assert report.losses["ctc"].hours == [1.0, 2.0, 2.5, 3.5]
    assert report.errors["all"].values == [90.0]  # nor is the error of a part of the set


def test_a_line_that_a_full_disk_cut_is_passed_over(run: Path) -> None:
    with (run / LOG).open("a") as log:
        log.write('{"hours": 4.0, "min{"hours": 5.0}\n{"hours": 6.0, "min')
    assert read(run).hours == 3.0
