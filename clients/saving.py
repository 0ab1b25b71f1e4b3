"""Words in files of the user's choice: whole or not at all.

Does: refuse what could not be written before anybody speaks; write beside the file and
put that in its place.
Does not know: what is written.
"""

import os
import stat
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from clients.errors import CommandError

MOST_OF_NAME = 32
"""Letters that the file beside has of it: the longest name that is possible has no room for it."""


def check(paths: Sequence[Path], endings: Collection[str]) -> None:
    """Look whether ``--save`` can be done at the end. Raises CommandError."""
    for path in paths:
        if path.suffix[1:] not in endings:
            raise CommandError(f"--save {path}: the ending must be one of {', '.join(endings)}")
        if problem := obstacle(path):
            raise CommandError(f"--save {path}: {problem}")


def obstacle(path: Path) -> str:
    """Return why a file could not be put there; nothing: it can."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "there is something that is no file"
    except (FileNotFoundError, NotADirectoryError):
        pass  # it will be made, or its folder is missed below
    except OSError as error:
        return f"{error.strerror}: choose another name"
    folder = path.resolve().parent
    if not folder.is_dir():
        return "there is no such folder"
    return "" if os.access(folder, os.W_OK) else "the folder cannot be written"


def save(texts: Mapping[Path, str]) -> None:
    """Write every file that can be written. Raises CommandError for the others."""
    failed = [f"--save {path}: {why}" for path, text in texts.items() if (why := _save(path, text))]
    if failed:
        raise CommandError("; ".join(failed))


def _save(path: Path, text: str) -> str:
    """Write one file; return what went wrong, or nothing."""
    path = path.resolve()
    part = path.with_name(f".{path.name[:MOST_OF_NAME]}.{os.getpid()}")
    try:
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        return error.strerror or str(error)
    return ""
