"""Who may come in."""

from pathlib import Path

import pytest
from websockets.datastructures import Headers

from server.config import ServerConfig
from server.guard import MAX_ADDRESSES, Caller, Guard, network_of
from server.keys import Keyring, add_key
from server.wire.errors import ForbiddenOrigin, RateLimited, Unauthorized


def caller(**headers: str) -> Caller:
    return Caller(Headers({"Host": "127.0.0.1:8765"} | headers), {}, "10.0.0.1")


def test_without_keys_everybody_comes_in() -> None:
    guard = Guard(ServerConfig())
    assert guard.admit(caller(), "stream") is None
    assert guard.admit(caller(Authorization="Bearer anything"), "files") is None


def test_with_keys_only_theirs_do_and_only_for_their_scope(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys", "shop", ("stream",), None)
    guard = Guard(ServerConfig(), Keyring(tmp_path / "keys"))
    account = guard.admit(caller(Authorization=f"Token {key}"), "stream")
    assert account is not None
    assert account.name == "shop"
    for wrong in (caller(), caller(Authorization=f"Token {key}x")):
        with pytest.raises(Unauthorized) as caught:
            guard.admit(wrong, "stream")
        assert key not in str(caught.value)
    with pytest.raises(Unauthorized, match="not for files"):
        guard.admit(caller(Authorization=f"Token {key}"), "files")


def test_pages_of_other_sites_stay_out_unless_allowed() -> None:
    guard = Guard(ServerConfig(origins=("https://shop.example",)))
    guard.admit(caller(Origin="http://127.0.0.1:8765"), "stream")
    guard.admit(caller(Origin="https://shop.example"), "stream")
    with pytest.raises(ForbiddenOrigin):
        guard.admit(caller(Origin="https://evil.example"), "stream")


def test_an_address_that_calls_too_often_waits_and_others_do_not() -> None:
    now = [0.0]
    guard = Guard(ServerConfig(opens_per_minute=2), clock=lambda: now[0])
    for _ in range(2):
        guard.admit(caller(), "stream")
    with pytest.raises(RateLimited) as caught:
        guard.admit(caller(), "stream")
    wait_s = caught.value.retry_after
    assert wait_s == 30
    guard.admit(Caller(address="10.0.0.2"), "stream")
    now[0] += 30.5
    guard.admit(caller(), "stream")
    with pytest.raises(RateLimited):
        guard.admit(caller(), "stream")


def test_the_addresses_that_are_remembered_are_bounded() -> None:
    guard = Guard(ServerConfig(opens_per_minute=2))
    for number in range(MAX_ADDRESSES + 10):
        guard.admit(Caller(address=str(number)), "stream")
    assert len(guard._tokens) == MAX_ADDRESSES


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1:2:3", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("/run/socket", "/run/socket"),
    ],
)
def test_an_ipv6_caller_is_its_network(address: str, network: str) -> None:
    assert network_of(address) == network
