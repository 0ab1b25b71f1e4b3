from pathlib import Path

import pytest
import torch

np = pytest.importorskip("numpy")
from asr.training.config import BadConfig  # noqa: E402
from asr.training.losses import likeness  # noqa: E402
from asr.training.teacher import FILE, LEVELS, SIZE, Heard, Teacher, rows_of  # noqa: E402

pytestmark = pytest.mark.model


@pytest.fixture
def teacher(tmp_path: Path) -> Teacher:
    """Two clips of 6 and 4 states; each state says its own number."""
    rows = np.repeat(np.arange(10, dtype=np.int8)[:, None], SIZE, 1)
    rows.tofile(tmp_path / FILE)
    return Teacher(tmp_path)


def _said(values: torch.Tensor) -> list[float]:
    return [round(float(v) * LEVELS) for v in values.reshape(-1, SIZE)[:, 0]]


def test_states_come_one_frame_late_and_silence_beyond_a_clip_does_not_count(
    teacher: Teacher,
) -> None:
    values, inside = teacher.targets([Heard(0, 6, 1.0), Heard(6, 4, 1.0)], 5)
    assert _said(values[0]) == [0, 0, 0, 1, 2, 3, 4, 5, 0, 0]
    assert inside[0].tolist() == [False, True, True, True, False]
    assert _said(values[1])[2:6] == [6, 7, 8, 9]
    assert inside[1].tolist() == [False, True, True, False, False]


def test_a_clip_played_faster_has_its_states_earlier(teacher: Teacher) -> None:
    values, inside = teacher.targets([Heard(0, 6, 1.5)], 5)
    assert _said(values[0])[2:6] == [0, 1, 3, 4]
    assert inside[0].tolist() == [False, True, True, False, False]


def test_states_are_cut_where_the_student_ends(teacher: Teacher) -> None:
    values, inside = teacher.targets([Heard(0, 6, 1.0)], 2)
    assert _said(values[0]) == [0, 0, 0, 1]
    assert inside[0].tolist() == [False, True]


def test_a_clip_the_teacher_has_not_heard_does_not_count(teacher: Teacher) -> None:
    _, inside = teacher.targets([Heard(6, 4, 1.0), Heard(10, 4, 1.0)], 3)
    assert inside.any(1).tolist() == [True, False]


def test_a_run_without_a_teachers_states_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"python -m asr\.training\.teacher"):
        Teacher(tmp_path)


def test_likeness_counts_only_frames_with_a_state() -> None:
    states, targets = torch.zeros(1, 3, 2), torch.tensor([[[9.0, 9.0], [1.0, 1.0], [2.0, 0.0]]])
    inside = torch.tensor([[False, True, True]])
    assert likeness(states, targets, inside).item() == pytest.approx((1 + 2) / 2)


def test_a_begun_state_is_kept_whole() -> None:
    assert [rows_of(n) for n in (640, 641, 1_280)] == [1, 2, 2]
