"""A session on its way from one store to another: taken out whole, put in whole.

Does: take a session out, which fences whoever serves it; put it in under the token it left with.
Does not know: what bodies, records and snapshots hold; how it travels.
"""

import hashlib
from collections.abc import Callable

import msgspec

from server.store.base import Kept, Outcome, Snapshot, Store


class Moved(msgspec.Struct, frozen=True, array_like=True):
    """Everything a store has of a session, and the secret of its token."""

    name: str
    secret: str
    about: bytes
    log: tuple[bytes, ...]
    record: bytes | None
    snapshot: tuple[int, int, bytes] | None
    """(sample, entries, blob)."""

    @property
    def token(self) -> str:
        """What brings the session back where it is put in."""
        return f"{self.name}.{self.secret}"

    @property
    def at(self) -> int:
        """Where the audio begins that has to be heard again."""
        return 0 if self.snapshot is None else self.snapshot[0]


def taking_out(name: str, secret: str) -> Callable[[Store], Moved | None]:
    """Return the call that removes a session from a store; None: there is none by this token.

    Whoever serves it is not its owner any more: what it still writes is refused. After
    StoreUnavailable the same call goes on where it was: the session may be removed already.
    """
    kept: Kept | None = None

    def take_out(store: Store) -> Moved | None:
        nonlocal kept
        kept = kept or store.acquire(name, _hash(secret), _hash(secret))
        if kept is None or store.forget(name, kept.epoch) is Outcome.REFUSED:
            return None  # in between its client came back elsewhere
        snapshot = kept.snapshot
        place = None if snapshot is None else (snapshot.at, snapshot.entries, snapshot.blob)
        return Moved(name, secret, kept.about, kept.log, kept.record, place)

    return take_out


def put_in(store: Store, moved: Moved) -> bool:
    """Put a session into a store. False: there is one of this name."""
    if store.create(moved.name, _hash(moved.secret), moved.about) is not Outcome.WRITTEN:
        return False
    for entry, body in enumerate(moved.log):
        store.commit(moved.name, 1, entry, body, moved.record or b"")
    if moved.snapshot is not None:
        store.put_snapshot(moved.name, 1, Snapshot(*moved.snapshot))
    return True


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
