"""One contract for every store: the same tests, and the same random histories against a model."""

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from server.store.base import Kept, Outcome, Snapshot, Store, StoreUnavailable
from server.store.sqlite import SqliteStore

WRITTEN, REFUSED, GONE = Outcome.WRITTEN, Outcome.REFUSED, Outcome.GONE


def name() -> str:
    return secrets.token_hex(8)


def begun(store: Store, *, token: bytes = b"t0") -> str:
    session = name()
    assert store.create(session, token, b"about") is WRITTEN
    return session


def taken(store: Store, session: str, token: bytes, new: bytes) -> Kept:
    kept = store.acquire(session, token, new)
    assert kept is not None
    return kept


def test_a_new_owner_finds_all_that_was_written(make_store: Callable[..., Store]) -> None:
    store = make_store()
    session = begun(store)
    assert store.commit(session, 1, 0, b"first", b"r1") is WRITTEN
    assert store.put_snapshot(session, 1, Snapshot(160, 1, b"\0state\xff")) is WRITTEN
    assert store.commit(session, 1, 1, b"second\0", b"r2\xfe") is WRITTEN
    kept = taken(store, session, b"t0", b"t1")
    snapshot = Snapshot(160, 1, b"\0state\xff")
    assert kept == Kept(2, b"about", (b"first", b"second\0"), b"r2\xfe", snapshot)


def test_a_session_without_words_has_no_record_and_no_snapshot(
    make_store: Callable[..., Store],
) -> None:
    store = make_store()
    assert taken(store, begun(store), b"t0", b"t1") == Kept(2, b"about", (), None, None)


def test_a_name_is_given_once(make_store: Callable[..., Store]) -> None:
    store = make_store()
    session = begun(store)
    assert store.create(session, b"other", b"") is REFUSED
    assert store.create(session, b"t0", b"about") is WRITTEN  # the answer was lost
    assert store.acquire(session, b"other", b"t1") is None
    assert taken(store, session, b"t0", b"t1") == Kept(2, b"about", (), None, None)
    assert store.create(session, b"t1", b"") is REFUSED


def test_an_owner_of_an_older_epoch_writes_nothing(make_store: Callable[..., Store]) -> None:
    store = make_store()
    session = begun(store)
    taken(store, session, b"t0", b"t1")
    assert store.commit(session, 1, 0, b"late", b"r") is REFUSED
    assert store.put_snapshot(session, 1, Snapshot(1, 0, b"late")) is REFUSED
    assert store.confirm(session, 1) is REFUSED
    assert store.forget(session, 1) is REFUSED
    assert taken(store, session, b"t1", b"t2") == Kept(3, b"about", (), None, None)


def test_entries_are_numbered_without_gap_or_repetition(make_store: Callable[..., Store]) -> None:
    store = make_store()
    session = begun(store)
    assert store.commit(session, 1, 1, b"x", b"r") is GONE  # the one before it is not there
    assert store.commit(session, 1, 0, b"a", b"r") is WRITTEN
    assert store.commit(session, 1, 0, b"b", b"r") is REFUSED
    assert taken(store, session, b"t0", b"t1").log == (b"a",)


def test_the_same_entry_may_be_written_again_when_the_answer_was_lost(
    make_store: Callable[..., Store],
) -> None:
    store = make_store()
    session = begun(store)
    assert store.commit(session, 1, 0, b"a", b"r") is WRITTEN
    assert store.commit(session, 1, 0, b"a", b"r") is WRITTEN
    assert taken(store, session, b"t0", b"t1").log == (b"a",)
    assert store.commit(session, 1, 0, b"a", b"r") is REFUSED  # not the owner any more


def test_a_lost_reply_locks_nobody_out_and_a_spent_token_is_spent(
    make_store: Callable[..., Store],
) -> None:
    store = make_store()
    session = begun(store)
    taken(store, session, b"t0", b"t1")  # the reply with t1 is lost
    assert taken(store, session, b"t0", b"t2").epoch == 3
    assert store.acquire(session, b"t1", b"t9") is None  # nobody ever saw it
    assert store.confirm(session, 3) is WRITTEN
    assert store.acquire(session, b"t0", b"t9") is None
    assert store.acquire(session, b"", b"t9") is None
    assert taken(store, session, b"t2", b"t3").epoch == 4


def test_a_forgotten_session_is_gone(make_store: Callable[..., Store]) -> None:
    store = make_store()
    session = begun(store)
    store.commit(session, 1, 0, b"words", b"r")
    assert store.forget(session, 1) is WRITTEN
    assert store.acquire(session, b"t0", b"t1") is None
    assert store.commit(session, 1, 1, b"words", b"r") is REFUSED
    assert store.create(session, b"t0", b"") is WRITTEN
    assert taken(store, session, b"t0", b"t1").log == ()


def test_what_was_lost_is_told_from_what_another_has_or_has_ended(
    make_store: Callable[..., Store],
) -> None:
    store = make_store()
    session, lost, snapshot = begun(store), name(), Snapshot(1, 0, b"late")
    taken(store, session, b"t0", b"t1")

    def outcomes(session: str) -> set[Outcome]:
        confirmed, forgotten = store.confirm(session, 1), store.forget(session, 1)
        committed = store.commit(session, 1, 0, b"late", b"r")
        return {confirmed, forgotten, committed, store.put_snapshot(session, 1, snapshot)}

    assert outcomes(session) == {REFUSED}
    assert store.forget(session, 2) is WRITTEN
    assert outcomes(session) == {REFUSED}
    assert store.forget(session, 2) is WRITTEN  # the answer was lost
    assert store.acquire(session, b"t1", b"t2") is None
    assert outcomes(lost) == {GONE}


def test_a_session_nobody_writes_to_is_gone_after_a_while(
    make_store: Callable[..., Store],
) -> None:
    store = make_store(keep_s=0.02)
    session = begun(store)
    deadline = time.monotonic() + 10
    while store.create(session, b"new", b"") is REFUSED:
        assert time.monotonic() < deadline
    assert store.acquire(session, b"t0", b"t1") is None


def test_a_clock_that_is_set_back_keeps_no_session_for_ever(tmp_path: Path) -> None:
    now, steady = [2e9], [0.0]
    store = SqliteStore(
        tmp_path / "s.db", keep_s=100.0, clock=lambda: now[0], steady=lambda: steady[0]
    )
    store.create("old", b"t", b"")
    now[0] -= 1e6
    for number in range(4):
        store.create(f"{number}", b"t", b"")
        now[0], steady[0] = now[0] + 60, steady[0] + 60
    store.create("last", b"t", b"")
    there = [name for name in ("old", *"0123", "last") if store.acquire(name, b"t", b"n")]
    assert there == ["3", "last"]
    store.close()


def test_a_clock_that_is_set_forward_ends_no_session(tmp_path: Path) -> None:
    now, steady = [1_000.0], [50.0]
    store = SqliteStore(
        tmp_path / "s.db", keep_s=100.0, clock=lambda: now[0], steady=lambda: steady[0]
    )
    store.create("begun before", b"token", b"")
    now[0], steady[0] = now[0] + 3_600, steady[0] + 40
    store.create("begun behind", b"token", b"")
    assert store.commit("begun before", 1, 0, b"final", b"record") is WRITTEN
    now[0], steady[0] = now[0] + 101, steady[0] + 101
    store.create("much later", b"token", b"")
    assert store.commit("begun before", 1, 1, b"final", b"record") is GONE
    store.close()


def test_of_many_who_take_a_session_at_once_each_gets_another_epoch(database: Path) -> None:
    with closing(SqliteStore(database)) as store:
        session = begun(store)
    epochs = list[int]()

    def take(number: int) -> None:
        with closing(SqliteStore(database)) as store:
            kept = store.acquire(session, b"t0", b"n%d" % number)
        if kept is not None:
            epochs.append(kept.epoch)

    threads = [threading.Thread(target=take, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(epochs) == list(range(2, 2 + len(epochs))) and epochs


def test_a_file_outlives_its_process_and_is_for_its_owner_only(database: Path) -> None:
    with closing(SqliteStore(database)) as first, closing(SqliteStore(database)) as second:
        session = begun(first)
        first.commit(session, 1, 0, b"words", b"r")
        kept = taken(second, session, b"t0", b"t1")  # the first is not closed
        assert kept.log == (b"words",)
        assert database.stat().st_mode & 0o077 == 0
        assert database.with_name("store.db-wal").stat().st_mode & 0o077 == 0


def test_a_place_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        SqliteStore(tmp_path / "nowhere" / "store.db")


def test_a_server_that_is_not_there_is_unavailable_and_not_a_refusal() -> None:
    pytest.importorskip("redis", reason="needs the Python package redis (extra 'cluster')")
    from server.store.valkey import ValkeyStore

    with pytest.raises(StoreUnavailable):
        ValkeyStore("redis://127.0.0.1:1/0", timeout_s=0.2).create("s", b"t", b"")


class _Model:
    """What a store ought to answer, as plainly as possible."""

    def __init__(self) -> None:
        self.epoch = 1
        self.tokens = {b"t0"}
        self.log = list[bytes]()
        self.record: bytes | None = None
        self.snapshot: Snapshot | None = None


class Histories(RuleBasedStateMachine):
    """Random histories of one session, owners old and new."""

    make: Callable[..., Store]

    def __init__(self) -> None:
        super().__init__()
        self.store = self.make()
        self.session = begun(self.store)
        self.model: _Model | None = _Model()
        self.issued = 0

    def is_owner(self, age: int) -> tuple[int, bool]:
        epoch = max(1, self.model.epoch - age) if self.model else 1
        return epoch, self.model is not None and epoch == self.model.epoch

    @rule(which=st.integers(0, 4))
    def acquire(self, which: int) -> None:
        token = b"t%d" % max(0, self.issued - which)
        new = b"t%d" % (self.issued + 1)
        kept = self.store.acquire(self.session, token, new)
        if self.model is None or token not in self.model.tokens:
            assert kept is None
            return
        self.issued += 1
        self.model.epoch += 1
        self.model.tokens = {token, new}
        log = tuple(self.model.log)
        expected = Kept(self.model.epoch, b"about", log, self.model.record, self.model.snapshot)
        assert kept == expected

    @rule(age=st.integers(0, 2))
    def confirm(self, age: int) -> None:
        epoch, is_owner = self.is_owner(age)
        assert self.store.confirm(self.session, epoch) is (WRITTEN if is_owner else REFUSED)
        if is_owner and self.model and self.model.epoch > 1:
            self.model.tokens = {b"t%d" % self.issued}

    @rule(age=st.sampled_from([0, 0, 0, 1]), back=st.integers(-1, 1), body=st.binary(max_size=4))
    def commit(self, age: int, back: int, body: bytes) -> None:
        epoch, is_owner = self.is_owner(age)
        log = self.model.log if self.model else []
        entry = max(0, len(log) - back)
        outcome = self.store.commit(self.session, epoch, entry, body, b"r" + body)
        is_again = is_owner and log[entry : entry + 1] == [body]
        if is_again:
            assert outcome is WRITTEN
        elif is_owner and entry == len(log) and self.model:
            assert outcome is WRITTEN
            log.append(body)
            self.model.record = b"r" + body
        else:
            assert outcome is (GONE if is_owner and entry > len(log) else REFUSED)

    @rule(age=st.sampled_from([0, 0, 1]), at=st.integers(0, 2**40), blob=st.binary(max_size=9))
    def put_snapshot(self, age: int, at: int, blob: bytes) -> None:
        epoch, is_owner = self.is_owner(age)
        snapshot = Snapshot(at, 0, blob)
        outcome = self.store.put_snapshot(self.session, epoch, snapshot)
        assert outcome is (WRITTEN if is_owner else REFUSED)
        if is_owner and self.model:
            self.model.snapshot = snapshot

    @precondition(lambda self: self.model is not None and self.model.epoch > 3)
    @rule(age=st.integers(0, 1))
    def forget(self, age: int) -> None:
        epoch, is_owner = self.is_owner(age)
        assert self.store.forget(self.session, epoch) is (WRITTEN if is_owner else REFUSED)
        if is_owner:
            self.model = None


def test_any_history_is_answered_as_the_model_answers(make_store: Callable[..., Store]) -> None:
    kind = type("Histories", (Histories,), {"make": staticmethod(_shared(make_store))})
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def _shared(make_store: Callable[..., Store]) -> Callable[[], Store]:
    """One store for all histories: every session has a name of its own."""
    store = make_store()
    return lambda: store
