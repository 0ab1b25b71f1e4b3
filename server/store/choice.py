"""Which store a setting names.

Does: ``auto``, ``memory``, ``sqlite:PATH`` or the URL of a Valkey or Redis -> an open store.
Does not know: what is kept there.
"""

import contextlib
import os
from pathlib import Path

from server.store.base import Store, StoreUnavailable
from server.store.memory import MemoryStore
from server.store.sqlite import SqliteStore

_SHARED_MEMORY = Path("/dev/shm")


def open_store(setting: str, keep_s: float) -> Store:
    """Open a store that forgets after ``keep_s``. Raises StoreUnavailable."""
    kind, _, place = setting.partition(":")
    if kind == "memory":
        return MemoryStore(keep_s=keep_s)
    if kind == "sqlite":
        return SqliteStore(Path(place), keep_s=keep_s)
    if kind == "auto":
        return _in_memory(keep_s)
    try:
        from server.store.valkey import ValkeyStore
    except ImportError as error:
        raise StoreUnavailable("this store needs the extra 'cluster' (redis)") from error
    return ValkeyStore(setting, keep_s=keep_s)


def _in_memory(keep_s: float) -> Store:
    """Return the best store that puts no word on a disk."""
    folder = _folder_in_memory()
    if folder is not None:
        with contextlib.suppress(StoreUnavailable):
            return SqliteStore(folder / "sessions.db", keep_s=keep_s)
    return MemoryStore(keep_s=keep_s)


def _folder_in_memory() -> Path | None:
    """Return a folder of our own on a file system that is memory: words are not put on a disk."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    for parent in (Path(runtime) if runtime else None, _SHARED_MEMORY):
        if parent is None or not parent.is_dir():
            continue
        folder = parent / f"rivulet-{os.getuid()}"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.stat().st_uid == os.getuid():
                folder.chmod(0o700)
                return folder
        except OSError:
            continue
    return None
