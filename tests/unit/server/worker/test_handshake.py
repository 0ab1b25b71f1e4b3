"""Two ends that share a secret and a version find each other; nobody else does."""

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.worker import handshake
from server.worker.handshake import ANSWER_BYTES, Gateway, HandshakeError, Host

SECRET = secrets.token_bytes(32)
LINK = secrets.token_bytes(32)


def test_two_ends_with_one_secret_agree() -> None:
    gateway = Gateway(SECRET, LINK)
    host = Host(SECRET, gateway.hello, LINK)
    assert len(host.answer) == ANSWER_BYTES
    host.check(gateway.answered(host.answer))


def test_a_host_without_the_secret_is_refused() -> None:
    gateway = Gateway(SECRET, LINK)
    with pytest.raises(HandshakeError, match="engine process did not prove"):
        gateway.answered(Host(bytes(32), gateway.hello, LINK).answer)


def test_a_gateway_without_the_secret_is_refused() -> None:
    gateway = Gateway(bytes(32), LINK)
    with pytest.raises(HandshakeError, match="gateway did not prove"):
        Host(SECRET, gateway.hello, LINK).check(bytes(32))


def test_a_proof_passed_on_from_another_link_is_worth_nothing() -> None:
    elsewhere = secrets.token_bytes(32)
    gateway = Gateway(SECRET, LINK)
    with pytest.raises(HandshakeError, match="engine process did not prove"):
        gateway.answered(Host(SECRET, gateway.hello, elsewhere).answer)
    host = Host(SECRET, gateway.hello, LINK)
    other = Gateway(SECRET, elsewhere)
    other.hello = gateway.hello
    for_elsewhere = Host(SECRET, gateway.hello, elsewhere)
    for_elsewhere._nonce = host._nonce
    with pytest.raises(HandshakeError, match="gateway did not prove"):
        host.check(other.answered(for_elsewhere.answer))


def test_an_answer_to_another_hello_is_worth_nothing() -> None:
    old = Host(SECRET, Gateway(SECRET, LINK).hello, LINK).answer
    with pytest.raises(HandshakeError):
        Gateway(SECRET, LINK).answered(old)


def test_an_answer_sent_back_is_no_proof_of_a_gateway() -> None:
    gateway = Gateway(SECRET, LINK)
    host = Host(SECRET, gateway.hello, LINK)
    with pytest.raises(HandshakeError):
        host.check(host.answer[-32:])


def test_a_host_of_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(SECRET, LINK)
    with monkeypatch.context() as patch:
        patch.setattr(handshake, "link_version", lambda: bytes(32))
        answer = Host(SECRET, gateway.hello, LINK).answer
    with pytest.raises(HandshakeError, match="another version"):
        gateway.answered(answer)


def test_the_version_is_the_same_in_every_process_of_one_build() -> None:
    assert handshake.link_version() == handshake.link_version()
    assert len(handshake.link_version()) == 32


@given(st.binary(max_size=200))
def test_no_bytes_of_others_pass(data: bytes) -> None:
    with pytest.raises(HandshakeError):
        Gateway(SECRET, LINK).answered(data)
    with pytest.raises(HandshakeError):
        Host(SECRET, bytes(32), LINK).check(data)
