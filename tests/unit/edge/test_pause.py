"""A silent peer and a stuck link are told apart, and no time is told twice."""

import pytest

from edge.pause import Pause


def test_silence_is_sure_up_to_the_question_that_was_answered() -> None:
    pause = Pause(10.0)
    pause.ask(10.5)
    assert pause.answered() == pytest.approx(0.5)
    pause.ask(11.0)
    assert pause.answered() == pytest.approx(0.5)
    assert pause.end(11.7) == pytest.approx(0.7)
    assert pause.end(12.0) == 0.0  # that was audio


def test_what_a_stuck_link_held_back_is_no_pause() -> None:
    pause = Pause(10.0)
    pause.ask(10.5)
    assert pause.end(14.0) == 0.0
    pause.ask(14.5)
    assert pause.answered() == pytest.approx(0.5)
