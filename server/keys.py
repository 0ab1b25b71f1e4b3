"""API keys: the file that keeps their hashes, and who a key or token belongs to.

Does: make, keep, remove keys; key or token -> account; issue short-lived tokens.
Does not know: sockets, headers, how many streams an account has open.

A key is 256 random bits, so one round of SHA-256 is enough at rest: there is nothing to guess, and
a slow hash, made for passwords, would only slow every handshake down. The file also has the secret
that signs browser tokens, so that several servers with one file take each other's: keep it private
(it is written with mode 0600); who reads it can make tokens, and cannot learn a key.
"""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec

from server.wire.credentials import TOKEN_PREFIX, Claims, Presented, make_token, read_token

Scope = Literal["stream", "files", "tokens"]
"""Live streams; whole files by POST; making tokens for browsers."""
SCOPES: tuple[Scope, ...] = get_args(Scope)
KEY_PREFIX = "rvk_"
MAX_TOKEN_S = 3_600
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class KeyFileError(Exception):
    """The file of keys cannot be read or changed; the text is one sentence without keys."""


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key at rest."""

    name: str
    id: str
    """Part of the key, to find it by."""
    sha256: str
    scopes: tuple[Scope, ...] = ("stream", "files")
    streams: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Audio channels at once; None: as many as there are."""


class KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    secret: str
    """Signs tokens."""
    keys: tuple[Key, ...] = ()
    v: Literal[1] = 1


@dataclass(frozen=True, slots=True)
class Account:
    """Whoever a key was given to."""

    name: str
    key: str = ""
    """Its id."""
    scopes: frozenset[Scope] = frozenset(SCOPES)
    streams: int | None = None


def add_key(path: Path, name: str, scopes: Sequence[Scope], streams: int | None) -> str:
    """Make a key and return it: it is nowhere else. Raises KeyFileError."""
    if not _NAME.fullmatch(name):
        raise KeyFileError("a name is 1 to 64 letters, digits, dots, dashes and underscores")
    file = read(path) if path.exists() else KeyFile(secret=secrets.token_hex(32))
    if any(key.name == name for key in file.keys):
        raise KeyFileError(f"there is a key {name} already; remove it first")
    number = secrets.token_hex(4)
    text = f"{KEY_PREFIX}{number}_{secrets.token_urlsafe(32)}"
    key = Key(name, number, _hash(text), tuple(scopes), streams)
    _write(path, msgspec.structs.replace(file, keys=(*file.keys, key)))
    return text


def remove_key(path: Path, name: str) -> None:
    """Forget a key and, with it, its tokens. Raises KeyFileError."""
    file = read(path)
    rest = tuple(key for key in file.keys if key.name != name)
    if len(rest) == len(file.keys):
        raise KeyFileError(f"there is no key {name}")
    _write(path, msgspec.structs.replace(file, keys=rest))


def read(path: Path) -> KeyFile:
    """Read the file. Raises KeyFileError."""
    try:
        if path.exists() and not path.is_file():  # a device or a pipe: to read it may never end
            raise KeyFileError(f"{path} is no file: name one, `rivulet keys add` makes it")
        return msgspec.json.decode(path.read_bytes(), type=KeyFile)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError):
        raise KeyFileError(f"{path} is not a file of `rivulet keys`") from None


class Keyring:
    """The keys as they are now: a changed file is read again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._stamp_now()
        self._take(read(path))

    def account_of(self, shown: Presented, *, now_s: float) -> Account | None:
        """Return who shows this; None: nobody we know. A key in an address is nobody's."""
        self._refresh()
        if shown.text.startswith(TOKEN_PREFIX):
            claims = read_token(shown.text, self._secret)
            key = self._keys.get(claims.key) if claims and now_s < claims.expires_s else None
            return None if key is None else _account(key, ("stream",))
        number = shown.text.removeprefix(KEY_PREFIX).partition("_")[0]
        key = None if shown.is_in_url else self._keys.get(number)
        if key is None or not hmac.compare_digest(key.sha256, _hash(shown.text)):
            return None
        return _account(key, key.scopes)

    def token(self, account: Account, *, lasts_s: int, now_s: float) -> str:
        """Return a token that opens streams for an account for a while."""
        return make_token(Claims(account.key, int(now_s) + lasts_s), self._secret)

    def _refresh(self) -> None:
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        try:
            file = read(self._path)
        except KeyFileError:
            return  # half of an edit: the keys we know stay good until it can be read
        self._stamp = stamp
        self._take(file)

    def _take(self, file: KeyFile) -> None:
        self._secret = file.secret.encode()
        self._keys = {key.id: key for key in file.keys}

    def _stamp_now(self) -> tuple[int, int]:
        try:
            found = self._path.stat()
        except OSError:
            return (0, 0)
        return (found.st_mtime_ns, found.st_ino)


def _account(key: Key, scopes: Sequence[Scope]) -> Account:
    allowed = frozenset(scopes) & frozenset(key.scopes)
    return Account(key.name, key.id, allowed, key.streams)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write(path: Path, file: KeyFile) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.unlink(missing_ok=True)
        part.touch(mode=0o600, exist_ok=False)
        try:
            part.write_bytes(msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from error
