"""Which node for this user: hard filters, then near, then the less loaded of two."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.registry import FORGET_S, NEAR_MS, TTL_S, NoNode, Question, Registry, TokenRefused
from edge.wire import Beat, Hello, Policy

RNG = random.Random(1)


def hello(node: str, **changes: object) -> Hello:
    given = {"zone": "east", "slots": 10, "codecs": ("mulaw", "g722"), "policies": ("core",)}
    return Hello(node=node, epoch=1, **(given | changes))  # type: ignore[arg-type]


def registry(*nodes: Hello) -> Registry:
    made = Registry()
    for node in nodes:
        made.join(node, now=0.0)
    return made


def chosen(here: Registry, now: float = 1.0, **question: Any) -> set[str]:
    """Who is ever chosen; promises do not pile up."""
    found = set[str]()
    for _ in range(40):
        node = here.place(Question(**question), now=now, rng=RNG)
        node.promised = 0
        found.add(node.hello.node)
    return found


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ({}, {"relay", "local"}),
        ({"policy": "edge"}, {"local"}),
        ({"zone": "west"}, {"local"}),
        ({"codec": "opus"}, {"local"}),
        ({"model": "other"}, {"relay"}),
        ({"model": "en"}, {"relay", "local"}),
    ],
)
def test_a_node_that_does_not_fit_is_never_chosen(
    question: dict[str, Any], names: set[str]
) -> None:
    local = hello("local", zone="west", policies=("edge",), models=("en",), codecs=("opus",))
    assert chosen(registry(hello("relay"), local), **question) == names


@pytest.mark.parametrize(
    ("question", "what"),
    [
        ({"zone": "north"}, "zone"),
        ({"policy": "edge"}, "policy"),
        ({"codec": "opus"}, "codec"),
    ],
)
def test_the_filter_that_left_nobody_is_named(question: dict[str, Any], what: str) -> None:
    with pytest.raises(NoNode, match=what):
        chosen(registry(hello("n1")), **question)


def test_a_node_without_room_gets_nobody_and_promises_count_until_its_next_heartbeat() -> None:
    here = registry(hello("n1", slots=2))
    for _ in range(2):
        here.place(Question(), now=1.0, rng=RNG)
    with pytest.raises(NoNode, match="room"):
        here.place(Question(), now=1.0, rng=RNG)
    here.beat("n1", Beat(legs=1), now=1.0)
    here.place(Question(), now=1.0, rng=RNG)
    with pytest.raises(NoNode, match="room"):
        here.place(Question(), now=1.0, rng=RNG)


def test_a_node_that_misses_heartbeats_gets_nobody_and_comes_back_with_the_next() -> None:
    here = registry(hello("n1"))
    with pytest.raises(NoNode, match="no node is here"):
        chosen(here, now=TTL_S + 0.1)
    here.beat("n1", None, now=TTL_S)
    assert chosen(here, now=TTL_S + 0.1) == {"n1"}
    here.leave("n1")
    with pytest.raises(NoNode):
        chosen(here, now=TTL_S + 0.1)


def test_a_node_that_stays_away_is_forgotten_unless_legs_wait_for_it() -> None:
    here = registry(hello("n1"), hello("n2"), hello("n3"))
    here.leave("n1")
    here.leave("n2")
    here.forget_old(now=FORGET_S + 1, busy=["n2"])
    assert set(here.nodes) == {"n2", "n3"}


def test_only_nodes_near_the_nearest_are_chosen_and_what_the_user_measured_wins() -> None:
    here = registry(hello("n1"), hello("n2"), hello("n3"))
    for name, rtt_ms in (("n1", 5.0), ("n2", 5.0 + NEAR_MS), ("n3", 5.1 + NEAR_MS)):
        here.beat(name, Beat(legs=0, rtt_ms=rtt_ms), now=1.0)
    assert chosen(here) == {"n1", "n2"}
    assert chosen(here, rtt_ms={"n3": 1.0}) == {"n3"}
    assert chosen(here, rtt_ms={"stranger": 1.0}) == {"n1", "n2", "n3"}


def test_of_two_the_less_loaded_one_is_chosen() -> None:
    here = registry(hello("n1"), hello("n2"))
    here.beat("n1", Beat(legs=1, load=0.9), now=1.0)
    here.beat("n2", Beat(legs=5, load=0.5), now=1.0)
    assert chosen(here) == {"n2"}


def test_a_token_lets_one_node_in_and_no_other() -> None:
    here = Registry(tokens=frozenset({"a", "b"}))
    with pytest.raises(TokenRefused, match="asks for"):
        here.admit(hello("n1"))
    with pytest.raises(TokenRefused, match="none of this core's"):
        here.admit(hello("n1", token="c"))
    here.admit(hello("n1", token="a"))
    here.admit(hello("n1", token="a"))
    with pytest.raises(TokenRefused, match="another node"):
        here.admit(hello("n2", token="a"))
    here.admit(hello("n2", token="b"))
    Registry().admit(hello("n1"))


POLICIES: list[Policy] = ["core", "edge"]
NODES = st.builds(
    lambda zone, policy, slots, legs, rtt: (zone, policy, slots, legs, rtt),
    st.sampled_from(["east", "west"]),
    st.sampled_from(POLICIES),
    st.integers(0, 4),
    st.integers(0, 4),
    st.none() | st.floats(0, 50),
)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(NODES, max_size=6),
    st.sampled_from(["", "east", "west"]),
    st.none() | st.sampled_from(POLICIES),
    st.integers(0, 1000),
)
def test_whoever_is_chosen_fits_and_nobody_is_chosen_only_when_nobody_fits(
    nodes: list[tuple[str, Policy, int, int, float | None]],
    zone: str,
    policy: Policy | None,
    seed: int,
) -> None:
    here = Registry()
    fits = set[str]()
    for number, (where, what, slots, legs, rtt_ms) in enumerate(nodes):
        name = f"n{number}"
        here.join(hello(name, zone=where, policies=(what,), slots=slots), now=0.0)
        here.beat(name, Beat(legs=legs, rtt_ms=rtt_ms), now=0.0)
        if zone in ("", where) and policy in (None, what) and legs < slots:
            fits.add(name)
    question = Question(zone=zone, policy=policy)
    try:
        node = here.place(question, now=0.0, rng=random.Random(seed))
    except NoNode:
        assert not fits
    else:
        assert node.hello.node in fits
