"""How many streams an account may have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.keys import Account
from server.quota import Quota, Room
from server.wire.errors import RateLimited

WIDE = Room(100, 90)


def test_an_account_has_its_streams_and_no_more() -> None:
    quota, account = Quota(), Account("a", streams=3)
    quota.check(account, 2, WIDE)
    quota.take(1, account, 2)
    quota.check(account, 1, WIDE)
    with pytest.raises(RateLimited) as caught:
        quota.check(account, 2, WIDE)
    assert caught.value.retry_after
    quota.check(Account("b", streams=3), 3, WIDE)
    quota.give(1)
    quota.give(1)
    quota.check(account, 3, WIDE)


def test_what_an_account_may_come_back_to_is_within_its_limit_too() -> None:
    quota, account = Quota(), Account("a", streams=3)
    for session in (1, 2, 3):
        quota.take(session, account, 1)
    quota.set_aside(2)
    quota.set_aside(1)
    quota.check(account, 2, WIDE)
    assert quota.surplus(account, 2) == [2, 1]
    assert quota.surplus(account, 1) == [2]
    quota.give(2)
    assert quota.surplus(account, 1) == []
    quota.take(1, account, 1)  # its client is there again
    assert quota.surplus(account, 1) == []
    assert quota.used("a") == 2
    quota.set_aside(3)
    assert quota.surplus(Account("b", streams=3), 3) == quota.surplus(Account("a"), 3) == []


def test_when_room_is_short_nobody_takes_more_than_a_share() -> None:
    quota, greedy, other = Quota(), Account("greedy"), Account("other")
    for session in range(9):
        quota.take(session, greedy, 1)
    quota.check(greedy, 1, Room(10, 1))  # alone, it may have all
    quota.take(9, other, 1)
    with pytest.raises(RateLimited, match="share"):
        quota.check(greedy, 1, Room(10, 1))
    quota.check(other, 1, Room(10, 1))
    quota.check(greedy, 1, Room(100, 90))


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("ab"), st.integers(0, 2))))
def test_the_counts_are_those_of_the_sessions_held(acts: list[tuple[int, str, int]]) -> None:
    quota, held = Quota(), dict[int, tuple[str, int]]()
    for session, name, channels in acts:
        if channels:
            quota.take(session, Account(name), channels)
            held[session] = (name, channels)
        else:
            quota.give(session)
            held.pop(session, None)
    for name in "ab":
        assert quota.used(name) == sum(n for owner, n in held.values() if owner == name)
