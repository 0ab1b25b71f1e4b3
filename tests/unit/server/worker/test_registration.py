"""What external workers and gateways say first, and the secret that both have."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.worker import registration
from server.worker.registration import (
    HEAD_BYTES,
    MAX_BYTES,
    SECRET_VARIABLE,
    Admitted,
    Refused,
    Register,
    SecretError,
    shared_secret,
)

ABOUT = Register("p", "machine", "cuda:0", "a model", "f" * 64)


@given(said=st.builds(Register, *[st.text(max_size=100)] * 5))
def test_a_registration_is_read_as_it_was_said(said: Register) -> None:
    frame = registration.frame(said)
    assert registration.length(frame[:HEAD_BYTES]) == len(frame) - HEAD_BYTES
    assert registration.register_of(frame[HEAD_BYTES:]) == said


@pytest.mark.parametrize("said", [Admitted(7), Refused("no room", is_final=False)])
def test_an_answer_is_read_as_it_was_said(said: Admitted | Refused) -> None:
    assert registration.answer_of(registration.frame(said)[HEAD_BYTES:]) == said


@given(data=st.binary(max_size=200))
def test_what_is_no_registration_is_a_value_error(data: bytes) -> None:
    for read in (registration.register_of, registration.answer_of):
        try:
            read(data)
        except ValueError:
            continue
        assert data


def test_a_long_registration_is_refused_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="short"):
        registration.length((MAX_BYTES + 1).to_bytes(HEAD_BYTES, "big"))


def test_a_registration_is_no_answer() -> None:
    with pytest.raises(ValueError, match="Register"):
        registration.answer_of(registration.frame(ABOUT)[HEAD_BYTES:])


def test_the_secret_comes_from_a_file_or_the_environment_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "secret"
    file.write_text("a secret of many characters\n")
    monkeypatch.setenv(SECRET_VARIABLE, "a secret of many characters")
    assert shared_secret("") == shared_secret(str(file))
    assert len(shared_secret("")) == 32


def test_a_short_a_missing_and_no_secret_are_said_in_a_sentence_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, "12345")
    with pytest.raises(SecretError, match="16 characters") as short:
        shared_secret("")
    assert "12345" not in str(short.value)
    with pytest.raises(SecretError, match="cannot be read"):
        shared_secret(str(tmp_path / "nowhere"))
    monkeypatch.delenv(SECRET_VARIABLE)
    with pytest.raises(SecretError, match=SECRET_VARIABLE):
        shared_secret("")
