"""What the laboratory shows: on a terminal, on plain output, as a picture."""

import io
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from clients.load.host import Cost
from clients.load.judge import Judge, Limits, Point
from clients.load.lab import beyond, short, system_of
from clients.load.picture import draw
from clients.load.share import Tick
from clients.load.view import View, bars
from tests.unit.clients.load.test_judge import QUIET, WINDOW, tally

TICK = Tick(live=3, lags_s=(0.05, 0.4), late_s=0.0012, ended=1, failed=0)


def point(streams: int, **run: Any) -> Point:
    judge = Judge(
        limits=Limits(), window_s=WINDOW, references=["one two three four", "five"], quiet=QUIET
    )
    return judge.point(streams, tally(**run), Cost(cpu_ms_per_audio_s=12.5))


def report(most: int | None, *points: Point) -> dict[str, Any]:
    return {
        "wire": "rivulet",
        "machine": "a machine",
        "streams": most,
        "is_client_limited": False,
        "points": [p.as_json() for p in points],
    }


def test_a_run_on_a_terminal_is_two_rows_that_are_drawn_again() -> None:
    stream = io.StringIO()
    view = View(stream, is_terminal=True)
    view.begin("3 streams", 60.0)
    view.tick(30.0, TICK)
    first = stream.getvalue()
    assert "3 streams  [############------------]" in first
    assert "p50    50  p99   400 ms" in first
    view.tick(31.0, TICK)
    assert stream.getvalue()[len(first) :].count("\x1b[A") == 1


def test_without_a_terminal_only_finished_runs_are_written() -> None:
    stream = io.StringIO()
    view = View(stream, is_terminal=False)
    view.begin("3 streams", 60.0)
    view.tick(30.0, TICK)
    assert stream.getvalue() == ""
    view.end(point(3))
    assert stream.getvalue().startswith("    3 streams  held   low: lag p50/95/99/max 50 / 50")


def test_the_line_of_a_broken_run_names_what_broke() -> None:
    stream = io.StringIO()
    View(stream, is_terminal=False).end(point(9, lag_s=0.5))
    assert "broke" in stream.getvalue()
    assert "p99 chunk lag 500 ms > 160 ms" in stream.getvalue()


def test_a_bar_grows_with_lag_and_ends_at_the_top() -> None:
    assert bars([0.0, 200.0, 400.0, 9_999.0, -3.0]) == "▁▄██▁"


def test_the_short_report_is_the_run_at_n_star_and_the_one_beyond() -> None:
    whole = report(10, point(10), point(20, lag_s=2.0), point(12, lag_s=0.3), point(10))
    brief = short(whole)
    assert (brief["streams"], brief["runs"]) == (10, 4)
    assert brief["at"]["streams"] == 10
    assert brief["beyond"]["streams"] == 12
    assert "timeline" not in brief["at"]


@pytest.mark.parametrize(("most", "streams"), [(1, 2), (10, 12), (11, 14)])
def test_beyond_is_at_least_a_fifth_and_at_least_one_more(most: int, streams: int) -> None:
    assert beyond(most) == streams


def test_the_picture_is_sound_svg_with_a_curve_for_each_system() -> None:
    ours = system_of("ours", report(8, point(4), point(8), point(10, lag_s=0.3)))
    theirs = system_of("<theirs>", report(None, point(1), point(2, lag_s=3.0, growth_s=9.0)))
    root = ElementTree.fromstring(draw([ours, theirs], limit_ms=200))
    kind = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{kind}polyline")) == 8
    labels = [text.text for text in root.findall(f"{kind}text")]
    assert "ours: N* 8, over time with 10 streams" in labels
    assert "<theirs>: over time with 2 streams" in labels
    names = [text for text in root.findall(f"{kind}text") if "over time" in (text.text or "")]
    assert len({text.get("y") for text in names}) == len(names)  # none over another


def test_void_runs_are_not_drawn() -> None:
    system = system_of("ours", report(4, point(4), point(8, late_s=1.0)))
    assert [x for x, _ in system.by_streams[0].points] == [4]


def test_a_report_without_runs_still_draws() -> None:
    ElementTree.fromstring(draw([system_of("empty", report(None))], limit_ms=200))
