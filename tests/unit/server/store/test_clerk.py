"""A queue in front of a store that does not answer."""

import asyncio
import threading

import pytest

from server.store.base import Outcome, Store, StoreUnavailable
from server.store.clerk import LONGEST_WAIT_S, Clerk
from server.store.memory import MemoryStore

GIVE_UP_S = 20.0


class Clock:
    """Goes on while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def refuse(_: Store) -> Outcome:
    raise StoreUnavailable


async def test_all_that_wait_for_a_store_that_is_gone_give_up_together() -> None:
    clock, may_begin = Clock(), threading.Event()
    clerk = Clerk(MemoryStore(), give_up_s=GIVE_UP_S, clock=clock.read, sleep=clock.sleep)
    clerk.submit(lambda _: may_begin.wait())
    waiting = [clerk.submit(refuse) for _ in range(50)]
    may_begin.set()
    for answer in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(answer, StoreUnavailable)
    assert clock.now <= GIVE_UP_S + LONGEST_WAIT_S
    await clerk.close()


async def test_a_store_that_goes_and_comes_back_is_told_of_once_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, is_there = Clock(), threading.Event()

    def knock(_: Store) -> Outcome:
        if is_there.is_set():
            return Outcome.REFUSED
        raise StoreUnavailable("nobody listens")

    clerk = Clerk(MemoryStore(), give_up_s=GIVE_UP_S, clock=clock.read, sleep=clock.sleep)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await clerk.submit(knock)
    told = [clerk.is_away]
    is_there.set()
    for _ in range(2):
        await clerk.submit(knock)
    told.append(clerk.is_away)
    assert told == [True, False]
    assert [record.message for record in caplog.records] == [
        "the store of sessions does not answer",
        "the store of sessions answers again",
    ]
    assert caplog.records[0].__dict__["reason"] == "nobody listens"
    await clerk.close()


async def test_who_waited_long_behind_others_is_still_tried_once() -> None:
    clock, may_begin = Clock(), threading.Event()
    clerk = Clerk(MemoryStore(), give_up_s=GIVE_UP_S, clock=clock.read, sleep=clock.sleep)
    clerk.submit(lambda _: may_begin.wait())
    refused = clerk.submit(refuse)
    created = clerk.submit(lambda store: store.create("s", b"token", b"about"))
    may_begin.set()
    with pytest.raises(StoreUnavailable):
        await refused
    assert await created is Outcome.WRITTEN
    await clerk.close()
