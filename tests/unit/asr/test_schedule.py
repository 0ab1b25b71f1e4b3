"""The plan of a step: urgent first, one look-ahead, bounded."""

from hypothesis import given
from hypothesis import strategies as st

from asr.interface import PATIENT
from asr.schedule import BUCKETS, Limits, Ready, bucket, plan_step

READY = st.lists(
    st.builds(
        Ready,
        stream=st.integers(0, 50),
        look_ahead=st.sampled_from([0, 1, 6, 13]),
        chunks=st.integers(1, 40),
        deadline=st.floats(0, 10) | st.just(PATIENT),
    ),
    max_size=50,
    unique_by=lambda r: r.stream,
)


def test_nothing_ready_is_no_plan() -> None:
    assert plan_step([], Limits()) is None


def test_the_most_urgent_stream_chooses_the_class() -> None:
    ready = [Ready(0, 6, 1, 0.5), Ready(1, 1, 1, 0.2), Ready(2, 1, 1, 0.9), Ready(3, 6, 1, 0.3)]
    plan = plan_step(ready, Limits())
    assert plan is not None
    assert (plan.look_ahead, plan.chunks, plan.streams) == (1, 1, (1, 2))


def test_a_backlog_runs_in_one_pass() -> None:
    plan = plan_step([Ready(0, 1, 30, 0.0), Ready(1, 1, 1, 0.1)], Limits(max_steps=56))
    assert plan is not None
    assert (plan.chunks, plan.streams) == (16, (0,))


def test_what_may_wait_runs_when_nothing_else_is_ready_in_short_passes() -> None:
    limits = Limits(patient_frames=14)
    ready = [Ready(number, 6, 1, PATIENT) for number in range(8)]
    plan = plan_step(ready, limits)
    assert plan is not None
    assert plan.streams == (0, 1)
    plan = plan_step([*ready, Ready(9, 6, 1, 3.0), Ready(10, 6, 1, 2.0)], limits)
    assert plan is not None
    assert plan.streams == (10, 9)


@given(READY)
def test_every_plan_keeps_the_bounds_and_takes_the_most_urgent(ready: list[Ready]) -> None:
    limits = Limits(max_rows=8, max_steps=28, max_frames=112, patient_frames=28)
    plan = plan_step(ready, limits)
    assert (plan is None) == (not ready)
    if plan is None:
        return
    by_stream = {r.stream: r for r in ready}
    steps = plan.chunks * (plan.look_ahead + 1)
    assert steps <= limits.max_steps
    assert len(plan.streams) <= limits.max_rows
    assert len(plan.streams) * steps <= limits.max_frames
    assert len(set(plan.streams)) == len(plan.streams)
    chosen = [by_stream[stream] for stream in plan.streams]
    assert all(r.look_ahead == plan.look_ahead and r.chunks >= plan.chunks for r in chosen)
    assert min(r.deadline for r in ready) == chosen[0].deadline
    if any(r.deadline == PATIENT for r in chosen):
        assert all(r.deadline == PATIENT for r in ready)
        assert len(plan.streams) * steps <= max(limits.patient_frames, steps)


@given(st.integers(1, 200))
def test_a_bucket_holds_the_rows(rows: int) -> None:
    assert bucket(rows) >= rows
    assert bucket(rows) in BUCKETS or rows > max(BUCKETS)
