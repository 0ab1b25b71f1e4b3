"""A session that is taken out of one store and put into another is the same session."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.store import moving
from server.store.base import Outcome, Snapshot, Store, StoreUnavailable
from server.store.memory import MemoryStore
from server.store.sqlite import SqliteStore

SECRET = "secret"


@pytest.fixture(params=["memory", "sqlite"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Store]]:
    made = list[Store]()

    def make(name: str) -> Store:
        is_memory = request.param == "memory"
        made.append(MemoryStore() if is_memory else SqliteStore(tmp_path / f"{name}.db", keep_s=60))
        return made[-1]

    yield make
    for store in made:
        store.close()


def begun(store: Store) -> None:
    moved = moving.Moved("s", SECRET, b"about", (), None, None)
    assert moving.put_in(store, moved)
    for entry in range(3):
        assert store.commit("s", 1, entry, b"%d" % entry, b"r%d" % entry) is Outcome.WRITTEN
    assert store.put_snapshot("s", 1, Snapshot(800, 2, b"blob")) is Outcome.WRITTEN


def test_everything_moves_along_and_the_token_works_where_it_went(
    new_store: Callable[[str], Store],
) -> None:
    here, there = new_store("a"), new_store("b")
    begun(here)
    moved = moving.taking_out("s", SECRET)(here)
    assert moved is not None and (moved.at, moved.token) == (800, "s.secret")
    assert moving.put_in(there, moved)
    again = moving.taking_out("s", SECRET)(there)
    assert again == moved
    assert again.log == (b"0", b"1", b"2") and again.record == b"r2"


def test_who_served_it_may_not_write_any_more(new_store: Callable[[str], Store]) -> None:
    here = new_store("a")
    begun(here)
    assert moving.taking_out("s", SECRET)(here) is not None
    assert here.commit("s", 1, 3, b"3", b"r3") is Outcome.REFUSED
    assert moving.taking_out("s", SECRET)(here) is None


def test_a_wrong_secret_takes_nothing_and_fences_nobody(new_store: Callable[[str], Store]) -> None:
    here = new_store("a")
    begun(here)
    assert moving.taking_out("s", "guess")(here) is None
    assert here.commit("s", 1, 3, b"3", b"r3") is Outcome.WRITTEN


def test_a_name_that_is_taken_is_left_alone(new_store: Callable[[str], Store]) -> None:
    here = new_store("a")
    begun(here)
    assert not moving.put_in(here, moving.Moved("s", "other", b"x", (), None, None))
    assert moving.taking_out("s", SECRET)(here) is not None


@pytest.mark.parametrize("lost", ["acquire", "forget"])
def test_a_lost_reply_loses_no_session(
    lost: str, new_store: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = new_store("a")
    begun(here)
    done = getattr(here, lost)

    def do_and_lose_the_reply(*values: object) -> None:
        done(*values)
        monkeypatch.undo()
        raise StoreUnavailable

    monkeypatch.setattr(here, lost, do_and_lose_the_reply)
    take_out = moving.taking_out("s", SECRET)
    with pytest.raises(StoreUnavailable):
        take_out(here)
    moved = take_out(here)
    assert moved is not None and moved.log == (b"0", b"1", b"2")
    assert moving.taking_out("s", SECRET)(here) is None


def test_what_its_client_came_back_to_in_between_is_not_taken_out(
    new_store: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = new_store("a")
    begun(here)
    forget = here.forget

    def be_late(session: str, epoch: int) -> Outcome:
        token = moving._hash(SECRET)
        assert here.acquire(session, token, token) is not None
        return forget(session, epoch)

    monkeypatch.setattr(here, "forget", be_late)
    assert moving.taking_out("s", SECRET)(here) is None
