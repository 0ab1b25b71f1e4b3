"""The simulated service: sums that must hold, whatever the dice say."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np

from clients.plan.drawing import draw
from clients.plan.simulation import NOBODY, Scenario, Simulation
from clients.plan.sizing import Device, streams_of

SMALL = Scenario(
    device=Device(a_s=0.02, b_s=0.0035),
    sessions=1_000,
    workers=12,
    length_s=60.0,
    worker_mtbf_s=600.0,
    rolling=(60, 180),
    starts_at_s=3_600 - 30,
    seconds=240,
)


def test_the_same_seed_is_the_same_run_and_another_is_not() -> None:
    first, second = (Simulation(SMALL).run().summary() for _ in range(2))
    assert first == second
    assert Simulation(replace(SMALL, seed=2)).run().summary() != first


def test_every_session_is_on_a_worker_that_has_room_or_waits() -> None:
    simulation = Simulation(SMALL)
    course = simulation.run()
    homes = simulation._home[simulation._home != NOBODY]
    counts = np.bincount(homes, minlength=SMALL.workers)
    assert (counts == simulation._count).all()
    assert counts.max() <= streams_of(SMALL.device, SMALL.chunk_s)
    waiting = sum(len(sessions) for _, sessions in simulation._lost)
    assert len(homes) + waiting == len(simulation._home) - len(simulation._free)
    assert course.load_max.max() <= 1


def test_every_worker_is_restarted_and_those_that_die_lose_nobody() -> None:
    course = Simulation(SMALL).run()
    assert course.deaths > 0
    assert course.restarts >= SMALL.workers - course.deaths
    assert len(course.gaps_s) == len(course.gap_times) > 0
    assert course.gaps_s.min() > 0


def test_a_service_with_one_worker_to_spare_refuses_nobody_in_a_quiet_hour() -> None:
    quiet = replace(SMALL, burst=0.0, worker_mtbf_s=1e12, rolling=(10_000, 10_001))
    course = Simulation(quiet).run()
    assert course.refused.sum() == 0
    assert course.restarts == course.deaths == 0


def test_one_that_is_too_small_refuses() -> None:
    assert Simulation(replace(SMALL, workers=6)).run().refused.sum() > 0


def test_the_picture_is_a_picture() -> None:
    course = Simulation(SMALL).run()
    root = ET.fromstring(draw(course, SMALL))
    assert root.tag.endswith("svg")
    assert len(root.findall(".//{*}path")) == 6
