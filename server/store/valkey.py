"""The store in Valkey or Redis 7: for many machines. Needs the extra ``cluster``.

Does: keep the interface of server.store.base; each write is one Lua script; sessions expire.
Does not know: what it keeps. One thread at a time.
The server must not evict (``maxmemory-policy noeviction``). A failover may lose the newest finals
unless it appends to a file or the writes wait for a replica; a gateway that lives writes the last
few again.
"""

from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from server.store.base import Kept, Outcome, Snapshot, StoreUnavailable
from server.store.memory import KEEP_S

_TOUCH = "for i=1,3 do redis.call('PEXPIRE', KEYS[i], ARGV[1]) end"
_OWNED = (
    "local e = redis.call('HGET', KEYS[1], 'epoch') if not e then return 2 end "
    "if e ~= ARGV[2] then return 0 end "
)
"""ARGV[1] is always the time to live in ms, ARGV[2] the writer's epoch where there is one."""
_OUTCOMES = (Outcome.REFUSED, Outcome.WRITTEN, Outcome.GONE)
"""By what a script returns."""
_SCRIPTS = {
    "create": "local m = redis.call('HMGET', KEYS[1], 'token', 'epoch') "
    "if m[1] then return m[1] == ARGV[2] and m[2] == '1' and 1 or 0 end "
    "redis.call('HSET', KEYS[1], 'epoch', 1, 'token', ARGV[2], 'previous', '', 'about', ARGV[3]) "
    f"{_TOUCH} return 1",
    "acquire": "local m = redis.call('HMGET', KEYS[1], 'epoch', 'token', 'previous', 'about') "
    "if not m[1] or (ARGV[2] ~= m[2] and ARGV[2] ~= m[3]) then return false end "
    "redis.call('HSET', KEYS[1], 'epoch', m[1] + 1, 'token', ARGV[3], 'previous', ARGV[2]) "
    f"{_TOUCH} "
    "return {m[1] + 1, m[4], redis.call('LRANGE', KEYS[2], 0, -1), "
    "redis.call('HGET', KEYS[1], 'record'), redis.call('HMGET', KEYS[3], 'at', 'entries', 'blob')}",
    "confirm": f"{_OWNED} redis.call('HSET', KEYS[1], 'previous', '') return 1",
    "commit": f"{_OWNED} if redis.call('LINDEX', KEYS[2], ARGV[3]) == ARGV[4] then return 1 end "
    "local n = redis.call('LLEN', KEYS[2]) - ARGV[3] "
    "if n ~= 0 then return n < 0 and 2 or 0 end "
    "redis.call('RPUSH', KEYS[2], ARGV[4]) redis.call('HSET', KEYS[1], 'record', ARGV[5]) "
    f"{_TOUCH} return 1",
    "put": f"{_OWNED} "
    "redis.call('HSET', KEYS[3], 'at', ARGV[3], 'entries', ARGV[4], 'blob', ARGV[5]) "
    f"{_TOUCH} return 1",
    # what is left says by whom it was ended
    "forget": "if redis.call('HGET', KEYS[1], 'epoch') == '-' .. ARGV[2] then return 1 end "
    f"{_OWNED} redis.call('DEL', KEYS[1], KEYS[2], KEYS[3]) "
    f"redis.call('HSET', KEYS[1], 'epoch', '-' .. ARGV[2]) {_TOUCH} return 1",
}


class ValkeyStore:
    """A server elsewhere (server.store.base.Store)."""

    is_lasting = True

    def __init__(self, url: str, *, keep_s: float = KEEP_S, timeout_s: float = 2.0) -> None:
        self._server = Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
        )
        self._keep_ms = round(keep_s * 1000)
        self._scripts = {name: self._server.register_script(s) for name, s in _SCRIPTS.items()}

    def create(self, session: str, token: bytes, about: bytes) -> Outcome:
        """Begin a session."""
        return self._write("create", session, token, about)

    def acquire(self, session: str, token: bytes, new_token: bytes) -> Kept | None:
        """Become the owner."""
        found = self._run("acquire", session, token, new_token) if token else None
        if found is None:
            return None
        epoch, about, log, record, (at, entries, blob) = found
        snapshot = None if blob is None else Snapshot(int(at), int(entries), blob)
        return Kept(int(epoch), about, tuple(log), record, snapshot)

    def confirm(self, session: str, epoch: int) -> Outcome:
        """Spend the token before."""
        return self._write("confirm", session, epoch)

    def commit(self, session: str, epoch: int, entry: int, body: bytes, record: bytes) -> Outcome:
        """Append to the log."""
        return self._write("commit", session, epoch, entry, body, record)

    def put_snapshot(self, session: str, epoch: int, snapshot: Snapshot) -> Outcome:
        """Replace the snapshot."""
        values = snapshot.at, snapshot.entries, snapshot.blob
        return self._write("put", session, epoch, *values)

    def forget(self, session: str, epoch: int) -> Outcome:
        """Remove the session."""
        return self._write("forget", session, epoch)

    def close(self) -> None:
        """Close the sockets."""
        self._server.close()

    def _write(self, script: str, session: str, *values: bytes | int) -> Outcome:
        return _OUTCOMES[self._run(script, session, *values)]

    def _run(self, script: str, session: str, *values: bytes | int) -> Any:
        # the braces keep the keys of a session on one node of a cluster
        keys = [f"rivulet:{{{session}}}:{part}" for part in ("session", "log", "snapshot")]
        try:
            return self._scripts[script](keys=keys, args=[self._keep_ms, *values])
        except RedisError as error:
            raise StoreUnavailable(f"the store's server: {type(error).__name__}") from error
