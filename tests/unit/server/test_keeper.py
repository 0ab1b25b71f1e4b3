"""Sessions outlive workers, clients and gateways: real engine hosts, a real store, no threads."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr.events import Event, Final, Finalized, Partial, Stopped, TurnEnd, TurnStart
from asr.scripted import silence, utter
from server.gate import Gate
from server.keeper import Keeper
from server.ledger import Ledger
from server.ledger import _Channel as Channel
from server.listener import LOST, POISON
from server.lives import MAX_DEATHS, SUSPECT_DEATHS
from server.store.base import Outcome, StoreUnavailable
from server.store.memory import MemoryStore
from server.ticket import Ticket
from server.wire.errors import OverCapacity
from server.worker import link
from tests.unit.server.house import Client, House, opening

TEXT = "turn on the kitchen light please thank you now we are here and there it is good"
PACKET = 3_200


def speech() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    words = TEXT.split()
    groups = [" ".join(words[i : i + 3]) for i in range(0, len(words), 3)]
    return np.concatenate([part for g in groups for part in (utter(g), silence(640))])


PACKETS = [speech()[i : i + PACKET].tobytes() for i in range(0, len(speech()), PACKET)]
PACKETS = [p for p in PACKETS if len(p) == 4 * PACKET]


async def begun(store: MemoryStore | None = None) -> tuple[House, Client, Ticket]:
    """A session under way in a house of its own."""
    house, client = await House(store).open(), Client()
    return house, client, house.begin(client)


def undisturbed() -> list[Final]:
    async def run() -> list[Final]:
        house, client, _ = await begun()
        for packet in PACKETS:
            house.keeper.send(link.Audio(1, packet, 0.0), 1)
        house.keeper.send(link.Stop(1), 1)
        await house.settle()
        return client.finals()

    return asyncio.run(run())


EXPECTED = undisturbed()


def check_stream(events: Sequence[tuple[int, Event]]) -> None:
    """Turns are legal, and a stable prefix only grows within an id."""
    stable, shown, turn = "", -1, "idle"
    for _, event in events:
        if isinstance(event, Partial):
            stable = stable if event.id == shown else ""
            assert event.stable.startswith(stable)
            stable, shown = event.stable, event.id
        elif isinstance(event, TurnStart):
            assert turn == "idle"
            turn = "open"
        elif isinstance(event, TurnEnd):
            assert turn == "open"
            turn = "idle"


async def test_the_undisturbed_run_says_everything_once() -> None:
    assert " ".join(final.text for final in EXPECTED) == TEXT


KILLS, STAYS = ["kill", "kill in a step"], ["save", "return", "lose the reply", "rest"]
MOVES = ["restart", "steal", "go home"]
COMINGS = ["return", "lose the reply", *MOVES]
ACT = st.sampled_from([*KILLS, *STAYS, *MOVES, "fail over"])


class Primary(MemoryStore):
    """A store whose standby, when it takes over, has less of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.before = list[tuple[list[bytes], bytes | None]]()
        """Logs with their records, since anything else was written."""

    def commit(self, session: str, *values: Any) -> Outcome:
        kept = self._sessions.get(session)
        before = None if kept is None else ([*kept.log], kept.record)
        outcome = super().commit(session, *values)
        if outcome is Outcome.WRITTEN and before is not None:
            self.before.append(before)
        return outcome

    def put_snapshot(self, *values: Any) -> Outcome:
        self.before.clear()
        return super().put_snapshot(*values)

    def acquire(self, *values: Any) -> Any:
        self.before.clear()
        return super().acquire(*values)

    def fail_over(self, session: str, entries: int) -> None:
        """Lose as many entries, if that is all that was written last."""
        if lost := self.before[-entries:]:
            kept = self._sessions[session]
            kept.log, kept.record = lost[0]
            self.before.clear()


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    acts=st.dictionaries(st.integers(0, len(PACKETS) - 1), ACT, max_size=6),
    workers=st.integers(1, 2),
)
def test_whatever_dies_the_finals_are_those_of_an_undisturbed_session(
    acts: dict[int, str], workers: int
) -> None:
    asyncio.run(_disturbed(dict(acts), workers))


class Play:
    """One session through everything that can happen to it."""

    def __init__(self, workers: int) -> None:
        self.store, self.workers = Primary(), workers
        self.client, self.number, self.sent = Client(), 1, 0
        self.others = list[House]()
        """Gateways that had the session and may not know that they have it no more."""

    async def run(self, acts: dict[int, str]) -> None:
        self.house = await House(self.store, self.workers).open()
        self.ticket = self.house.begin(self.client)
        while self.sent < len(PACKETS):
            act = acts.pop(self.sent, "")
            self.house.keeper.send(link.Audio(self.number, PACKETS[self.sent], 0.0), self.number)
            self.sent += 1
            self.house.run(1 if act == "kill in a step" else 1_000)
            if act not in COMINGS or not self.is_behind:
                await self.strike(act)
            if act or self.sent % 4 == 0:
                await self.house.settle()
        self.house.keeper.send(link.Stop(self.number), self.number)
        await self.house.settle()
        for other in self.others:  # an owner that was only slow wakes up
            await other.settle()

    async def strike(self, act: str) -> None:
        if act.startswith("kill"):
            for worker in self.house.living:
                worker.kill()
        elif act == "save":
            self.house.keeper._tenants[self.number]._send(link.Checkpoint(0))
        elif act == "rest":
            self.rest()
        elif act == "return":
            if self.sent % 2:
                self.house.keeper.put_away(self.number, self.client)
            await self.come_back(self.number)
        elif act == "lose the reply":
            await self.house.keeper.come_back(self.ticket.token, Client(), self.number + 10)
            await self.come_back(self.number + 20)
        elif act:
            await self.move(act)

    @property
    def is_behind(self) -> bool:
        """Whether the store lacks what its owner has written: nobody tells that to who comes."""
        gate = self.house.keeper._tenants[self.number].gate
        return gate is not None and len(self.store._sessions["s1"].log) < gate.owner.entries

    async def move(self, act: str) -> None:
        """Have another gateway take the session, a new one or one that had it; or the standby of
        the store all sessions.
        """
        if act == "fail over":
            await self.house.settle()
            self.store.fail_over("s1", entries=1 + self.sent % 3)
        elif act == "go home" and self.others:
            self.others.append(self.house)
            self.house = self.others.pop(0)
            await self.come_back(self.number + 10)
        else:
            self.others.append(self.house)
            self.house = await House(self.store, self.workers).open()
            if act == "restart":
                await self.others[-1].settle()
            before = self.number
            await self.come_back(self.number + 10)
            for packet in PACKETS[self.sent : self.sent + 12]:  # the old owner does not know yet
                self.others[-1].keeper.send(link.Audio(before, packet, 0.0), before)
            await self.others[-1].settle()

    def rest(self) -> None:
        """Give the slots back at the worst of moments: whether it is still is not asked."""
        one = self.house.keeper._tenants[self.number]
        if one.is_served and one._leaving_to is None:
            one._rest()

    async def come_back(self, number: int) -> None:
        keeper = self.house.keeper
        found = await keeper.come_back(self.ticket.token, self.client, number)
        assert found is not None
        self.ticket, self.number = found.ticket, keeper._named["s1"]
        number = self.number
        have = len(self.client.finals())
        for channel, event in (item for entry in found.finals for item in entry):
            if isinstance(event, Final) and event.id >= have:
                self.client.events.append((channel, event))
        at = keeper._tenants[number].ledger.at
        assert at >= self.client.safe, "the client has thrown this audio away"
        self.client.safe = 0
        keeper.resume(number)
        keeper.confirm(number)
        self.sent = at // PACKET


async def _disturbed(acts: dict[int, str], workers: int) -> None:
    play = Play(workers)
    await play.run(acts)
    assert play.client.notes.count("opened") == 1
    assert play.client.logged_at == 0 and "unlogged" not in play.client.notes
    assert play.client.finals() == EXPECTED
    assert isinstance(play.client.events[-1][1], Stopped)
    play.house.keeper.release(play.number)
    await play.house.settle()
    assert play.house.slots_in_use == 0
    assert not play.store._sessions


def _no_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    def commit(
        store: MemoryStore, name: str, _: int, entry: int, body: bytes, record: bytes
    ) -> Any:
        kept = store._sessions[name]
        kept.log.append(body)
        kept.record = record
        return Outcome.WRITTEN

    monkeypatch.setattr(MemoryStore, "commit", commit)


def _an_old_copy_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    def current(keeper: Keeper, name: str, epoch: int) -> int | None:
        known = keeper._named.get(name)
        gate = None if known is None else keeper._tenants[known].gate
        if gate is not None:
            gate.owner.epoch = gate.owner.known_epoch = epoch
        return known

    monkeypatch.setattr(Keeper, "_current", current)


def _a_token_is_spent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    acquire = MemoryStore.acquire

    def strictly(store: MemoryStore, name: str, token: bytes, new: bytes) -> Any:
        return acquire(store, name, token, new) if token == store._sessions[name].token else None

    monkeypatch.setattr(MemoryStore, "acquire", strictly)


def _acknowledged_before_it_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = Gate.snapshot

    def too_soon(gate: Gate, at: int, blob: bytes) -> None:
        gate._outlets.kept(at + 4 * PACKET)
        snapshot(gate, at, blob)

    monkeypatch.setattr(Gate, "snapshot", too_soon)


def _said_before_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    put = Gate.put

    def too_soon(gate: Gate, events: Any, record: Any) -> None:
        gate._outlets.passed(events)
        put(gate, [event for event in events if isinstance(event[1], Final)], record)

    monkeypatch.setattr(Gate, "put", too_soon)


def _a_replay_decides_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fresh(channel: Any, event: Event) -> Event:
        if isinstance(event, Stopped):
            channel.state = link.State(is_closed=True)
        return event

    def take(keep: Any) -> Any:
        return lambda channel, state: keep(channel, replace_record(state))

    def replace_record(state: link.State) -> link.State:
        return link.State(snapshot=state.snapshot, is_closed=state.is_closed)

    monkeypatch.setattr(Channel, "fresh", fresh)
    monkeypatch.setattr(Channel, "keep", take(Channel.keep))


def _what_is_lost_stays_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.gate.KEPT_ENTRIES", 1)


def _nothing_is_heard_again(monkeypatch: pytest.MonkeyPatch) -> None:
    revive = Ledger.revive
    monkeypatch.setattr(Ledger, "revive", lambda *args, **now: revive(*args, **now)[:1])


@pytest.mark.parametrize(
    ("remove", "acts"),
    [
        (_no_fence, {12: "steal"}),
        (_an_old_copy_is_good, {16: "steal", 20: "go home"}),
        (_a_token_is_spent_at_once, {12: "lose the reply"}),
        (_acknowledged_before_it_is_safe, {12: "save", 13: "steal"}),
        (_said_before_it_is_written, {12: "steal"}),
        (_a_replay_decides_again, {20: "kill"}),
        (_nothing_is_heard_again, {12: "kill"}),
        (_what_is_lost_stays_lost, {20: "fail over"}),
    ],
)
def test_a_rule_that_is_removed_is_missed(
    remove: Callable[[pytest.MonkeyPatch], None],
    acts: dict[int, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asyncio.run(_disturbed(dict(acts), 1))
    remove(monkeypatch)
    with pytest.raises((AssertionError, KeyError)):
        for _ in range(30):  # when snapshots are taken is left to chance
            asyncio.run(_disturbed(dict(acts), 1))


@pytest.mark.parametrize("act", ["steal", "restart"])
async def test_an_open_turn_outlives_its_gateway(act: str) -> None:
    await _disturbed({20: "save", 21: act, 31: act}, 1)


async def test_a_session_goes_on_when_its_only_worker_is_killed() -> None:
    house, client, _ = await begun()
    for number, packet in enumerate(PACKETS):
        house.keeper.send(link.Audio(1, packet, 0.0), 1)
        house.run()
        if number in (5, 15, 16):
            house.living[0].kill()
            await house.settle()
    house.keeper.send(link.Stop(1), 1)
    await house.settle()
    assert client.finals() == EXPECTED
    check_stream(client.events)
    assert client.notes == ["opened"]


async def test_a_finalize_is_answered_once_though_the_worker_dies() -> None:
    house, client, _ = await begun()
    for packet in PACKETS[:6]:
        house.keeper.send(link.Audio(1, packet, 0.0), 1)
    house.run()
    house.keeper.send(link.Finalize(1, "a"), 1)
    house.living[0].kill()
    await house.settle()
    house.living[0].kill()
    await house.settle()
    answers = [event for _, event in client.events if isinstance(event, Finalized)]
    assert [answer.req for answer in answers] == ["a"]
    assert client.finals()


async def test_nothing_is_said_before_it_is_written_and_nothing_when_it_is_refused() -> None:
    class Slow(MemoryStore):
        is_owner = True

        def commit(self, *entry: Any) -> Outcome:
            assert not client.finals()
            return super().commit(*entry) if self.is_owner else Outcome.REFUSED

    store = Slow()
    house, client, _ = await begun(store)
    store.is_owner = False
    for packet in PACKETS:
        house.keeper.send(link.Audio(1, packet, 0.0), 1)
    await house.settle()
    assert client.finals() == []
    assert client.notes == ["opened", "fenced"]
    assert house.slots_in_use == 0


async def test_a_session_that_the_store_has_lost_says_every_word_and_cannot_be_come_back_to() -> (
    None
):
    store = MemoryStore()
    house, client, ticket = await begun(store)
    for number, packet in enumerate(PACKETS):
        house.keeper.send(link.Audio(1, packet, 0.0), 1)
        if number == 12:
            await house.settle()
            assert client.finals()
            store._sessions.clear()  # its server was started again without what it had
        if number in (14, 20):
            house.living[0].kill()
            await house.settle()
    house.keeper.send(link.Stop(1), 1)
    await house.settle()
    assert client.finals() == EXPECTED
    check_stream(client.events)
    assert client.notes == ["opened", "unlogged"]
    assert await house.keeper.come_back(ticket.token, Client(), 2) is None
    house.keeper.put_away(1, client)
    assert (house.keeper.away, house.slots_in_use) == (0, 0)
    assert not house.keeper._holders and not house.keeper._named


@pytest.mark.parametrize("kept_entries", [2, 4])
async def test_a_store_that_lost_the_end_of_a_log_is_told_it_again_or_the_whole_is_forgotten(
    kept_entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.gate.KEPT_ENTRIES", kept_entries)
    is_too_much = kept_entries == 2
    store = Primary()
    house, client = await House(store).open(), Client()
    ticket, is_lost = house.begin(client), False
    for packet in PACKETS:
        house.keeper.send(link.Audio(1, packet, 0.0), 1)
        await house.settle()
        if not is_lost and len(store.before) >= 2:  # no snapshot came between
            store.fail_over("s1", entries=2)
            is_lost = True
    assert is_lost
    house.keeper.send(link.Stop(1), 1)
    await house.settle()
    assert client.finals() == EXPECTED
    check_stream(client.events)
    assert client.notes == (["opened", "unlogged"] if is_too_much else ["opened"])
    found = await house.keeper.come_back(ticket.token, Client(), 2)
    if is_too_much:
        assert found is None and not store._sessions
    else:
        assert found is not None
        logged = [event for entry in found.finals for _, event in entry]
        assert [event for event in logged if isinstance(event, Final)] == EXPECTED


async def test_a_session_that_ended_elsewhere_is_not_lost_and_says_nothing_here() -> None:
    store, heir = MemoryStore(), Client()
    first, client, ticket = await begun(store)
    second = await House(store).open()
    await first.settle()  # it is written: each has a thread of its own in front of the store
    assert await second.keeper.come_back(ticket.token, heir, 1) is not None
    second.keeper.release(1)
    await second.settle()
    for packet in PACKETS:
        first.keeper.send(link.Audio(1, packet, 0.0), 1)
    await first.settle()
    assert client.notes == ["opened", "fenced"]
    assert client.finals() == []


async def test_a_store_that_does_not_answer_ends_the_session_by_name() -> None:
    class Broken(MemoryStore):
        def commit(self, *entry: Any) -> Outcome:
            raise StoreUnavailable

    house, client, _ = await begun(Broken())
    assert house.keeper._clerk is not None
    house.keeper._clerk._give_up_s = 0.0
    for packet in PACKETS:
        house.keeper.send(link.Audio(1, packet, 0.0), 1)
    async with asyncio.timeout(10):
        while client.notes == ["opened"]:
            await house.settle()
    assert client.notes[1] == ("internal", "the store of sessions does not answer")


async def test_nothing_is_said_of_a_session_that_nobody_could_come_back_to() -> None:
    may_create = threading.Event()

    class Slow(MemoryStore):
        def create(self, *values: Any) -> Outcome:
            may_create.wait(10)
            return super().create(*values)

    store = Slow()
    house, client = await House(store).open(), Client()
    ticket = house.begin(client)
    for packet in PACKETS:
        house.keeper.send(link.Audio(1, packet, 0.0), 1)
    house.run()  # what was heard is decoded: it waits
    assert (client.logged_at, client.events) == (None, [])
    may_create.set()
    house.keeper.send(link.Stop(1), 1)
    await house.settle()
    assert (client.logged_at, client.finals()) == (0, EXPECTED)
    second = await House(store).open()
    assert await second.keeper.come_back(ticket.token, Client(), 2) is not None


async def test_a_session_that_was_begun_though_the_answer_was_lost_is_ours() -> None:
    class Lossy(MemoryStore):
        is_lost = True

        def create(self, *values: Any) -> Outcome:
            outcome = super().create(*values)
            if self.is_lost:
                self.is_lost = False
                raise StoreUnavailable
            return outcome

    house, client = await House(Lossy()).open(), Client()
    house.begin(client)
    await house.settle()
    assert (client.notes, client.logged_at) == (["opened"], 0)


async def test_a_session_that_the_store_never_heard_of_ends_by_name() -> None:
    class Away(MemoryStore):
        def create(self, *values: Any) -> Outcome:
            raise StoreUnavailable

    house, client = await House(Away()).open(), Client()
    house.keeper._clerk_()._give_up_s = 0.0
    house.begin(client)
    for packet in PACKETS:  # the store is back, and would refuse what is said
        house.keeper.send(link.Audio(1, packet, 0.0), 1)
    await house.settle()
    assert client.notes == ["opened", ("internal", "the store of sessions does not answer")]
    assert (client.logged_at, client.events) == (None, [])
    assert house.slots_in_use == 0


async def test_who_has_an_old_copy_of_a_session_goes_on_with_what_the_store_has() -> None:
    store = MemoryStore()
    first, client, ticket = await begun(store)
    second = await House(store).open()
    for packet in PACKETS[:8]:
        first.keeper.send(link.Audio(1, packet, 0.0), 1)
    await first.settle()
    first.keeper.put_away(1, client)
    await first.settle()
    sent, number = 8, 2
    for house, until in ((second, 30), (first, len(PACKETS))):
        found = await house.keeper.come_back(ticket.token, client, number)
        assert found is not None
        ticket = found.ticket
        house.keeper.resume(number)
        sent = house.keeper._tenants[number].ledger.at // PACKET
        for packet in PACKETS[sent:until]:
            house.keeper.send(link.Audio(number, packet, 0.0), number)
        await house.settle()
        number += 1
    assert first.keeper.away == 0
    first.keeper.send(link.Stop(3), 3)
    await first.settle()
    assert client.finals() == EXPECTED
    assert second.keeper._tenants  # it does not know yet, and says nothing
    second.keeper.send(link.Stop(2), 2)
    await second.settle()
    assert client.finals() == EXPECTED
    assert client.notes[-1] == "fenced"


async def test_a_session_is_as_old_as_it_is_wherever_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, now = MemoryStore(), [1e9]
    monkeypatch.setattr("server.keeper.time", SimpleNamespace(time=lambda: now[0]))
    first, _, ticket = await begun(store)
    second = await House(store).open()
    await first.settle()
    now[0] += 5_000
    found = await second.keeper.come_back(ticket.token, Client(), 1)
    assert found is not None and found.age_s == 5_000
    now[0] -= 9_000  # a clock that is wrong makes no session younger than new
    found = await second.keeper.come_back(found.ticket.token, Client(), 1)
    assert found is not None and found.age_s == 0


async def test_a_session_put_away_has_no_slot_and_comes_back_where_it_was() -> None:
    house, client, ticket = await begun()
    for packet in PACKETS[:8]:
        house.keeper.send(link.Audio(1, packet, 0.0), 1)
    house.keeper.put_away(1, client)
    await house.settle()
    assert (house.slots_in_use, house.manager.sessions, house.keeper.away) == (0, 0, 1)
    found = await house.keeper.come_back(ticket.token, client, 2)
    assert found is not None
    house.keeper.resume(1)
    for packet in PACKETS[8:]:
        house.keeper.send(link.Audio(1, packet, 0.0), 1)
    house.keeper.send(link.Stop(1), 1)
    await house.settle()
    assert client.finals() == EXPECTED


async def test_a_session_away_is_forgotten_in_time() -> None:
    house, client = await House().open(), Client()
    house.keeper._away.seconds = 0.0
    ticket = house.begin(client)
    house.keeper.put_away(1, client)
    await house.settle()
    assert await house.keeper.come_back(ticket.token, client, 2) is None
    assert house.keeper.away == house.slots_in_use == 0


async def left_behind(*, count: int, **settings: int) -> tuple[House, list[Ticket]]:
    """Sessions whose clients are gone, in this order."""
    house = await House(slots=8).open()
    house.keeper = Keeper(house.manager, house.store, **settings)
    tickets = list[Ticket]()
    for number in range(1, count + 1):
        client = Client()
        tickets.append(house.begin(client, number))
        for packet in PACKETS[:8]:
            house.keeper.send(link.Audio(number, packet, 0.0), number)
        house.run()
        house.keeper._tenants[number].write_down()  # of the audio before it nothing is kept
        await house.settle()
        house.keeper.put_away(number, client)
        await house.settle()
    return house, tickets


async def test_sessions_away_keep_to_their_bytes_and_the_oldest_is_forgotten_everywhere() -> None:
    house, _ = await left_behind(count=1)
    size = house.keeper.away_bytes
    assert size > 0
    house, tickets = await left_behind(count=5, away_bytes=3 * size + size // 2)
    assert (house.keeper.away, house.keeper.away_bytes) == (3, 3 * size)
    assert set(house.store._sessions) == {"s3", "s4", "s5"}  # type: ignore[attr-defined]
    back = [await house.keeper.come_back(t.token, Client(), n) for n, t in enumerate(tickets, 9)]
    assert [found is not None for found in back] == [False, False, True, True, True]
    assert (house.keeper.away, house.keeper.away_bytes) == (0, 0)


async def test_a_session_away_counts_with_what_its_snapshot_takes() -> None:
    house, client, _ = await begun()
    for packet in PACKETS[:8]:
        house.keeper.send(link.Audio(1, packet, 0.0), 1)
    house.keeper.put_away(1, client)
    assert house.keeper.away_bytes == sum(map(len, PACKETS[:8]))  # the audio until then
    await house.settle()
    assert house.keeper.away_bytes == house.keeper._tenants[1].ledger.state_bytes
    house.keeper.release(1)
    assert house.keeper.away_bytes == 0


async def test_of_too_many_sessions_away_the_oldest_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.away.MAX_AWAY", 2)
    house, _ = await left_behind(count=3)
    assert house.keeper.away == 2
    assert set(house.store._sessions) == {"s2", "s3"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_session_that_is_forgotten_as_its_client_comes_back_is_the_clients(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, client, ticket = await begun()
    for packet in PACKETS[:8]:
        house.keeper.send(link.Audio(1, packet, 0.0), 1)
    house.keeper.put_away(1, client)
    await house.settle()
    loop, acquire, acquiring = (
        asyncio.get_running_loop(),
        house.store.acquire,
        house.keeper._acquiring,
    )

    def forget() -> None:
        async def release() -> None:
            house.keeper.release(1)

        asyncio.run_coroutine_threadsafe(release(), loop).result()

    def acquired(*values: Any) -> Any:
        forget()
        return acquire(*values)

    def acquiring_then(*values: Any) -> Any:
        def act(store: Any) -> Any:
            kept = acquiring(*values)(store)
            forget()
            return kept

        return act

    if when == "after":
        monkeypatch.setattr(house.keeper, "_acquiring", acquiring_then)
    else:
        monkeypatch.setattr(house.store, "acquire", acquired)
    found = await house.keeper.come_back(ticket.token, client, 2)
    assert found is not None
    house.keeper.resume(2)
    for packet in PACKETS[8:]:
        house.keeper.send(link.Audio(2, packet, 0.0), 2)
    house.keeper.send(link.Stop(2), 2)
    await house.settle()
    assert client.finals() == EXPECTED
    assert client.notes == ["opened"]


async def test_a_final_that_is_written_while_its_client_comes_back_reaches_the_new_connection() -> (
    None
):
    house, old, new = await House().open(), Client(), Client()
    ticket = house.begin(old)
    coming = asyncio.create_task(house.keeper.come_back(ticket.token, new, 2))
    await asyncio.sleep(0)  # the store is asked for the session, then to write a final
    half = len(PACKETS) // 2
    for packet in PACKETS[:half]:
        house.keeper.send(link.Audio(1, packet, 0.0), 1)
    house.run()
    assert house.keeper._clerk is not None
    house.keeper._clerk._thread.submit(int).result()  # both were done before the loop hears of it
    for packet in PACKETS[half:]:
        house.keeper.send(link.Audio(1, packet, 0.0), 1)
    asyncio.get_running_loop().call_soon(house.run)  # and more is said before anybody else's turn
    found = await coming
    assert found is not None
    house.keeper.resume(1)
    house.keeper.send(link.Stop(1), 1)
    await house.settle()
    logged = [event for entry in found.finals for _, event in entry if isinstance(event, Final)]
    assert logged + new.finals() == EXPECTED
    assert old.finals() == []


@pytest.mark.parametrize("token", ["", "s1", "s1.", ".x", "s1.wrong", "s2.x", "x" * 300 + ".y"])
async def test_a_wrong_token_gives_nothing_and_changes_nothing(token: str) -> None:
    house, client, ticket = await begun()
    assert await house.keeper.come_back(token, client, 2) is None
    assert client.notes == ["opened"]
    assert await house.keeper.come_back(ticket.token, client, 2) is not None


@pytest.mark.parametrize("part", ["about", "log", "snapshot"])
async def test_what_another_version_has_written_is_no_session_here(part: str) -> None:
    store = MemoryStore()
    first, _, ticket = await begun(store)
    second = await House(store).open()
    for packet in PACKETS[:8]:
        first.keeper.send(link.Audio(1, packet, 0.0), 1)
    first.run()
    first.keeper._tenants[1].write_down()
    await first.settle()
    kept = store._sessions["s1"]
    if part == "about":
        kept.about = b"?"
    elif part == "log":
        kept.log[0] = b"?"
    else:
        assert kept.snapshot is not None
        kept.snapshot = replace(kept.snapshot, blob=b"?")
    assert await second.keeper.come_back(ticket.token, Client(), 2) is None
    assert not second.keeper._tenants


async def test_a_lost_reply_locks_nobody_out_and_a_used_token_is_spent() -> None:
    house, client = await House().open(), Client()
    first = house.begin(client)
    assert await house.keeper.come_back(first.token, client, 2) is not None  # the reply is lost
    second = await house.keeper.come_back(first.token, client, 2)
    assert second is not None
    house.keeper.confirm(1)
    assert await house.keeper.come_back(first.token, client, 2) is None
    assert await house.keeper.come_back(second.ticket.token, client, 2) is not None


async def test_a_session_that_kills_its_workers_is_not_served_for_ever() -> None:
    house, client, _ = await begun()
    house.keeper.send(link.Audio(1, PACKETS[0], 0.0), 1)
    for _ in range(SUSPECT_DEATHS + 1):
        house.living[0].kill()
        await ready_again()
    assert client.notes[-1] == ("quarantined", POISON)
    assert house.manager.sessions == 0


@pytest.mark.parametrize("deaths", range(1, SUSPECT_DEATHS + 1))
async def test_deaths_are_counted_wherever_the_session_goes_on(deaths: int) -> None:
    """What was heard before is heard again there first: that is no progress."""
    store, client = MemoryStore(), Client()
    house = await House(store).open()
    ticket = house.begin(client)
    for packet in PACKETS[:12]:
        house.keeper.send(link.Audio(1, packet, 0.0), 1)
    house.run()
    house.keeper.send(link.Audio(1, PACKETS[12], 0.0), 1)
    for number in range(2, SUSPECT_DEATHS + 3):
        assert client.notes == ["opened"]
        house.living[0].kill()
        await ready_again()
        if number == deaths + 1:
            await house.settle_store()
            house = await House(store).open()
            found = await house.keeper.come_back(ticket.token, client, 1)
            assert found is not None
            house.keeper.resume(1)
            for packet in PACKETS[found.opening.at // PACKET : 12]:
                house.keeper.send(link.Audio(1, packet, 0.0), 1)
            await ready_again()
            house.run()
            house.keeper.send(link.Audio(1, PACKETS[12], 0.0), 1)
    assert client.notes[-1] == ("quarantined", POISON)


async def test_deaths_before_progress_are_forgotten_elsewhere_too() -> None:
    store, client, heir = MemoryStore(), Client(), Client()
    first, second = await House(store).open(), await House(store).open()
    ticket = first.begin(client)
    first.keeper.send(link.Audio(1, PACKETS[0], 0.0), 1)
    first.living[0].kill()
    await ready_again()
    for packet in PACKETS[1:12]:
        first.keeper.send(link.Audio(1, packet, 0.0), 1)
    await first.settle()
    assert client.finals()
    assert await second.keeper.come_back(ticket.token, heir, 1) is not None
    books = second.keeper._tenants[1].ledger
    assert books.deaths == 0 and books.reached


async def ready_again() -> None:
    """Let a worker be started again."""
    for _ in range(4):
        await asyncio.sleep(0)


async def suspects(house: House, count: int) -> list[Client]:
    """Sessions whose workers died often enough for each to be suspected."""
    clients = [Client() for _ in range(count)]
    for number, client in enumerate(clients, 1):
        house.begin(client, number)
        house.keeper.send(link.Audio(number, PACKETS[0], 0.0), number)
    for _ in range(SUSPECT_DEATHS):
        house.living[0].kill()
        await ready_again()
    return clients


async def test_suspects_are_tried_alone_and_the_innocent_go_on() -> None:
    house = await House().open()
    first, second, third = await suspects(house, 3)
    assert house.manager.sessions == 1  # the first is on trial
    house.living[0].kill()
    await house.settle()
    assert first.notes[-1] == ("quarantined", POISON)
    for number in (2, 3):
        for packet in PACKETS[1:]:
            house.keeper.send(link.Audio(number, packet, 0.0), number)
        house.keeper.send(link.Stop(number), number)
    await house.settle()
    assert second.finals() == third.finals() == EXPECTED
    assert house.slots_in_use == 0


async def test_a_suspect_that_is_silent_makes_room_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.tenant.TRIAL_S", 0.001)
    house = await House().open()
    await suspects(house, 2)
    assert house.manager.sessions == 1
    while house.manager.sessions < 2:  # noqa: ASYNC110 - it is a timer that is waited for
        await asyncio.sleep(0.001)


async def test_a_suspect_is_not_given_up_while_it_waits_for_its_trial() -> None:
    house = await House().open()
    await suspects(house, 3)
    waiting = [house.keeper._tenants[number] for number in (2, 3)]
    assert [*house.keeper._lives.suspects] == waiting
    assert [one._deadline is None for one in waiting] == [True, True]
    house.manager._is_closing = True  # no worker will come
    house.living[0].kill()
    await ready_again()
    # in its turn it waits for a place, and not for ever
    assert [one._deadline is None for one in waiting] == [False, True]


async def test_a_suspect_that_leaves_ends_its_trial() -> None:
    house = await House().open()
    await suspects(house, 3)
    house.keeper.release(2)
    house.keeper.release(1)
    await asyncio.sleep(0)
    assert house.manager.sessions == 1
    house.keeper.release(3)
    assert house.manager.sessions == 0
    assert house.keeper._lives.trial is None


async def test_a_session_that_hangs_every_worker_it_shares_ends_too() -> None:
    house = await House().open()
    (client,) = await suspects(house, 1)
    for _ in range(MAX_DEATHS - SUSPECT_DEATHS):
        house.keeper._tenants[1]._let_go()  # its trial was over before the worker was killed
        await asyncio.sleep(0)
        house.living[0].kill()
        await ready_again()
    assert client.notes[-1] == ("quarantined", POISON)


async def test_a_session_that_finds_no_place_in_time_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.tenant.RETURN_WITHIN_S", 0.01)
    house, client, _ = await begun()
    house.manager._is_closing = True  # no worker will come
    house.living[0].kill()
    async with asyncio.timeout(10):
        while client.notes == ["opened"]:
            await house.settle()
    assert client.notes[-1] == ("internal", LOST)


async def test_a_session_without_a_client_that_finds_no_place_in_time_can_be_come_back_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.tenant.RETURN_WITHIN_S", 0.01)
    house, client, ticket = await begun()
    for packet in PACKETS[:8]:
        house.keeper.send(link.Audio(1, packet, 0.0), 1)
    house.keeper.put_away(1, client)
    restart, house.manager._restart = house.manager._restart, _never  # type: ignore[method-assign]
    house.living[0].kill()  # before it has written down what it heard
    async with asyncio.timeout(10):
        while house.manager.waiting:  # noqa: ASYNC110 - it is a timer that is waited for
            await asyncio.sleep(0.001)
    assert (client.notes, house.keeper.away) == (["opened"], 1)
    await restart(house.manager._places[0], 0.0)
    assert await house.keeper.come_back(ticket.token, client, 2) is not None
    house.keeper.resume(1)
    for packet in PACKETS[8:]:
        house.keeper.send(link.Audio(1, packet, 0.0), 1)
    house.keeper.send(link.Stop(1), 1)
    await house.settle()
    assert client.finals() == EXPECTED


async def test_sessions_of_a_dead_worker_wait_for_room_and_new_ones_wait_behind_them() -> None:
    house = await House(workers=2, slots=3).open()
    clients = [Client() for _ in range(4)]
    for number, client in enumerate(clients):
        house.keeper.attach(opening(number), client)
    house.run()
    house.manager._restart = _never  # type: ignore[method-assign]
    house.living[0].kill()
    with pytest.raises(OverCapacity):
        house.keeper.attach(opening(9), Client())
    served = [n for n in range(4) if house.keeper.is_served(n)]
    assert len(served) == 2
    house.keeper.release(served[0])
    assert sum(house.keeper.is_served(n) for n in range(4)) == 2


async def _never(place: object, backoff_s: float) -> None: ...


async def test_both_channels_go_on_when_their_worker_is_killed() -> None:
    ends = list[list[Final]]()
    for kills in ((), (4, 11, 12, 30)):
        house, client = await House(slots=6).open(), Client()
        house.begin(client, channels=2)
        for number, packet in enumerate(PACKETS):
            left = np.frombuffer(packet, np.float32)
            right = np.frombuffer(PACKETS[number - 6], np.float32)
            both = np.stack([left, right], axis=1).tobytes()
            house.keeper.send(link.Audio(1, both, 0.0), 1)
            house.run()
            if number in kills:
                house.living[0].kill()
                await house.settle()
        house.keeper.send(link.Stop(1), 1)
        await house.settle()
        ends.append([*client.finals(0), *client.finals(1)])
    assert ends[0] == ends[1]
    assert len(ends[0]) > len(EXPECTED)


async def test_an_owner_of_before_says_nothing_more_and_the_new_one_all_the_rest() -> None:
    store, one, two = MemoryStore(), Client(), Client()
    old, new = await House(store).open(), await House(store).open()
    ticket = old.begin(one)
    for packet in PACKETS[:21]:
        old.keeper.send(link.Audio(1, packet, 0.0), 1)
    await old.settle()
    told = one.finals()
    found = await new.keeper.come_back(ticket.token, two, 2)
    assert found is not None
    new.keeper.resume(2)
    begin = new.keeper._tenants[2].ledger.at // PACKET
    for packet in PACKETS[21:]:
        old.keeper.send(link.Audio(1, packet, 0.0), 1)
    await old.settle()
    assert one.finals() == told
    assert (one.notes, old.slots_in_use) == (["opened", "fenced"], 0)
    for packet in PACKETS[begin:]:
        new.keeper.send(link.Audio(2, packet, 0.0), 2)
    new.keeper.send(link.Stop(2), 2)
    await new.settle()
    rest = [event for _, event in two.events if isinstance(event, Final)]
    assert told + rest == EXPECTED
