"""Keys at rest, and whose they are."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from server.keys import (
    Account,
    KeyFileError,
    Keyring,
    add_key,
    read,
    remove_key,
)
from server.wire.credentials import Presented


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_the_file_has_no_key_and_is_private(path: Path) -> None:
    text = add_key(path, "shop", ("stream",), 3)
    assert text.rpartition("_")[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [(key.name, key.scopes, key.streams) for key in read(path).keys] == [
        ("shop", ("stream",), 3)
    ]


def test_a_key_is_its_accounts_and_no_other_text_is(path: Path) -> None:
    text = add_key(path, "shop", ("stream",), 3)
    ring, number = Keyring(path), text.split("_")[1]
    account = Account("shop", number, frozenset({"stream"}), 3)
    assert ring.account_of(Presented(text), now_s=0) == account
    wrong = [text[:-1] + ("a" if text[-1] != "a" else "b"), text + "a", "", "rvk_", number]
    for shown in wrong:
        assert ring.account_of(Presented(shown), now_s=0) is None
    assert ring.account_of(Presented(text, is_in_url=True), now_s=0) is None


def test_a_token_opens_streams_until_it_is_over_or_its_key_is_removed(path: Path) -> None:
    text = add_key(path, "web", ("stream", "files", "tokens"), None)
    ring = Keyring(path)
    account = ring.account_of(Presented(text), now_s=0)
    assert account is not None
    token = Presented(ring.token(account, lasts_s=60, now_s=100), is_in_url=True)
    found = ring.account_of(token, now_s=159)
    assert found is not None
    assert found.scopes == {"stream"}
    assert ring.account_of(token, now_s=160) is None
    assert Keyring(path).account_of(token, now_s=159) == found  # another server with this file
    remove_key(path, "web")
    assert ring.account_of(token, now_s=159) is None


def test_a_changed_file_is_read_again_and_a_broken_one_is_not(path: Path) -> None:
    first = add_key(path, "one", ("stream",), None)
    ring = Keyring(path)
    second = add_key(path, "two", ("stream",), None)
    assert ring.account_of(Presented(second), now_s=0) is not None
    path.write_text("{")
    os.utime(path, ns=(1, 1))
    assert ring.account_of(Presented(first), now_s=0) is not None


def test_a_full_disk_is_said_and_nothing_is_left_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path, __: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(KeyFileError, match="No space left"):
        add_key(path, "shop", ("stream",), None)
    assert list(path.parent.iterdir()) == []


def test_what_cannot_be_is_said_in_a_sentence_without_keys(path: Path) -> None:
    add_key(path, "shop", ("stream",), None)
    with pytest.raises(KeyFileError, match="already"):
        add_key(path, "shop", ("stream",), None)
    with pytest.raises(KeyFileError, match="letters"):
        add_key(path, "a shop\n", ("stream",), None)
    with pytest.raises(KeyFileError, match="no key"):
        remove_key(path, "nobody")
    whole = json.loads(path.read_text()) | {"more": "secret"}
    path.write_text(json.dumps(whole))
    with pytest.raises(KeyFileError) as caught:
        read(path)
    assert whole["secret"] not in str(caught.value)
    with pytest.raises(KeyFileError, match="No such file"):
        Keyring(path.with_name("other"))
