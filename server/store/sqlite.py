"""The store in one SQLite file: for one machine, whose gateway may be killed and come back.

Does: keep the interface of server.store.base in WAL mode; forget sessions nobody wrote to.
Does not know: what it keeps. One thread at a time; several processes may share the file.
The file holds spoken text: it is created for its owner only, and belongs on a memory-backed file
system unless somebody asked for a disk. NORMAL survives kill -9 and a full stop of every process,
not a loss of power.
"""

import math
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from server.store.base import Kept, Outcome, Snapshot, StoreUnavailable
from server.store.memory import KEEP_S

_LOCK_S = 5.0
_PURGE_EVERY_S = 30.0
_JUMP_S = 1.0
"""A clock that was set, not one that is slewed."""
_SCHEMA = (
    "create table if not exists session(name text primary key, epoch int, token blob, "
    "previous blob, entries int, about blob, record blob, touched real) without rowid",
    "create table if not exists entry(name text, number int, body blob, "
    "primary key(name, number)) without rowid",
    "create table if not exists snapshot(name text primary key, at int, entries int, blob blob)",
)
_TEXTS = ("entry", "snapshot")
_Execute = Callable[..., sqlite3.Cursor]
_T = TypeVar("_T")


class SqliteStore:
    """A file (server.store.base.Store)."""

    is_lasting = True

    def __init__(
        self,
        path: Path,
        *,
        keep_s: float = KEEP_S,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keep_s, self._clock, self._steady = keep_s, clock, steady
        self._purged, self._purged_steady = 0.0, -math.inf
        try:
            path.touch(mode=0o600, exist_ok=True)
            # every transaction is ours to begin; the clerk's thread is not the one that made us
            self._file = sqlite3.connect(
                path, isolation_level=None, timeout=_LOCK_S, check_same_thread=False
            )
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON"):
                self._file.execute(f"pragma {pragma}")
            for table in _SCHEMA:
                self._file.execute(table)
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(f"cannot open {path}: {error}") from error

    def create(self, session: str, token: bytes, about: bytes) -> Outcome:
        """Begin a session."""

        def write(do: _Execute) -> Outcome:
            self._purge(do)
            values = (session, token, about, self._clock())
            row = (
                "insert into session values(?,1,?,null,0,?,null,?) on conflict do update set "
                "epoch=1, token=excluded.token, about=excluded.about, touched=excluded.touched "
                "where epoch<0 or (epoch=1 and token=excluded.token)"
            )
            return _outcome(do, session, do(row, values).rowcount)

        return self._transaction(write)

    def acquire(self, session: str, token: bytes, new_token: bytes) -> Kept | None:
        """Become the owner."""

        def write(do: _Execute) -> Kept | None:
            query = "select epoch, token, previous, about, record from session where name=?"
            row = do(query, (session,)).fetchone()
            if row is None or token not in (row[1], row[2]):
                return None
            epoch = row[0] + 1
            do(
                "update session set epoch=?, token=?, previous=?, touched=? where name=?",
                (epoch, new_token, token, self._clock(), session),
            )
            bodies = do("select body from entry where name=? order by number", (session,))
            log = tuple(body for (body,) in bodies)
            query = "select at, entries, blob from snapshot where name=?"
            found = do(query, (session,)).fetchone()
            return Kept(epoch, row[3], log, row[4], None if found is None else Snapshot(*found))

        return self._transaction(write)

    def confirm(self, session: str, epoch: int) -> Outcome:
        """Spend the token before."""
        query = "update session set previous=null where name=? and epoch=?"

        def write(do: _Execute) -> Outcome:
            return _outcome(do, session, do(query, (session, epoch)).rowcount)

        return self._transaction(write)

    def commit(self, session: str, epoch: int, entry: int, body: bytes, record: bytes) -> Outcome:
        """Append to the log."""

        def write(do: _Execute) -> Outcome:
            changed = do(
                "update session set entries=entries+1, record=?, touched=? "
                "where name=? and epoch=? and entries=?",
                (record, self._clock(), session, epoch, entry),
            ).rowcount
            if changed:
                do("insert into entry values(?,?,?)", (session, entry, body))
                return Outcome.WRITTEN
            query = "select 1 from session where name=? and epoch=? and entries<?"
            if do(query, (session, epoch, entry)).fetchone() is not None:
                return Outcome.GONE
            query = (
                "select 1 from entry join session using(name) "
                "where name=? and epoch=? and number=? and body=?"
            )
            is_there = do(query, (session, epoch, entry, body)).fetchone() is not None
            return _outcome(do, session, is_there)

        return self._transaction(write)

    def put_snapshot(self, session: str, epoch: int, snapshot: Snapshot) -> Outcome:
        """Replace the snapshot."""

        def write(do: _Execute) -> Outcome:
            query = "update session set touched=? where name=? and epoch=?"
            changed = do(query, (self._clock(), session, epoch)).rowcount
            if changed:
                values = (session, snapshot.at, snapshot.entries, snapshot.blob)
                do("insert or replace into snapshot values(?,?,?,?)", values)
            return _outcome(do, session, changed)

        return self._transaction(write)

    def forget(self, session: str, epoch: int) -> Outcome:
        """Remove the session."""

        def write(do: _Execute) -> Outcome:
            query = (  # what is left says by whom it was ended
                "update session set epoch=-epoch, token=null, previous=null, entries=0, "
                "about=null, record=null, touched=? where name=? and epoch=?"
            )
            changed = do(query, (self._clock(), session, epoch)).rowcount
            if changed:
                for table in _TEXTS:
                    do(f"delete from {table} where name=?", (session,))
            else:
                query = "select 1 from session where name=? and epoch=?"
                changed = do(query, (session, -epoch)).fetchone() is not None
            return _outcome(do, session, changed)

        return self._transaction(write)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _transaction(self, write: Callable[[_Execute], _T]) -> _T:
        do = self._file.execute
        try:
            do("begin immediate")  # the write lock before reading, or two owners both win
            try:
                answer = write(do)
                do("commit")
            except BaseException:
                if self._file.in_transaction:
                    do("rollback")
                raise
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the store's file: {error}") from error
        return answer

    def _purge(self, do: _Execute) -> None:
        now, steady = self._clock(), self._steady()
        if steady < self._purged_steady + min(_PURGE_EVERY_S, self._keep_s):
            return
        # a clock that was set forward makes no session old, one that was set back none young
        jumped_s = now - self._purged - (steady - self._purged_steady)
        if self._purged and jumped_s > _JUMP_S:
            do("update session set touched=touched+?", (jumped_s,))
        do("update session set touched=? where touched>?", (now, now))
        self._purged, self._purged_steady = now, steady
        query = "select name from session where touched<?"
        for (name,) in do(query, (now - self._keep_s,)).fetchall():
            for table in ("session", *_TEXTS):
                do(f"delete from {table} where name=?", (name,))


def _outcome(do: _Execute, session: str, changed: int) -> Outcome:
    if changed:
        return Outcome.WRITTEN
    row = do("select 1 from session where name=?", (session,)).fetchone()
    return Outcome.GONE if row is None else Outcome.REFUSED
