"""AudioHook's signature: the published example, and what is done to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.adapters.signature import SIGNED, TOLERANCE_S, Signatures
from tests import audiohook

TARGET = "/api/v1/voicebiometrics/ws"
# The worked example of Genesys's documentation: names, secret and signature are public.
SECRET = "TXlTdXBlclNlY3JldEtleVRlbGxOby0xITJAMyM0JDU="
CREATED = 1641013200
HEADERS = {
    "host": "audiohook.example.com",
    "audiohook-organization-id": "d7934305-0972-4844-938e-9060eef73d05",
    "audiohook-session-id": "30b0e395-84d3-4570-ac13-9a62d8f514c0",
    "audiohook-correlation-id": "e160e428-53e2-487c-977d-96989bf5c99d",
    "x-api-key": "SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh",
    "signature": "sig1=:NZBwyBHRRyRoeLqy1IzOa9VYBuI8TgMFt2GRDkDuJh4=:",
    "signature-input": (
        'sig1=("@request-target" "@authority" "audiohook-organization-id" "audiohook-session-id" '
        '"audiohook-correlation-id" "x-api-key");keyid="SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh";'
        'nonce="VGhpc0lzQVVuaXF1ZU5vbmNl";alg="hmac-sha256";created=1641013200;expires=3282026430'
    ),
}


def signed(parameters: str, names: tuple[str, ...] = SIGNED) -> dict[str, str]:
    """Sign as Genesys does, with other parameters."""
    return HEADERS | audiohook.signed(TARGET, HEADERS, SECRET, parameters, names)


def test_the_published_example_is_genuine_once() -> None:
    signatures = Signatures(SECRET)
    assert signatures.refusal(TARGET, HEADERS, now=CREATED + 1) == ""
    assert "before" in signatures.refusal(TARGET, HEADERS, now=CREATED + 2)


@pytest.mark.parametrize("name", [*HEADERS, "target"])
def test_a_request_that_was_changed_anywhere_is_refused(name: str) -> None:
    headers = dict(HEADERS)
    if name != "target":
        headers[name] = headers[name].replace("e", "f", 1) if "e" in headers[name] else ""
    target = TARGET + "?x" if name == "target" else TARGET
    assert Signatures(SECRET).refusal(target, headers, now=CREATED)


@pytest.mark.parametrize("off_s", [-TOLERANCE_S - 1, TOLERANCE_S + 1])
def test_a_signature_of_another_time_is_refused(off_s: float) -> None:
    assert "time" in Signatures(SECRET).refusal(TARGET, HEADERS, now=CREATED + off_s)


@pytest.mark.parametrize(
    "parameters", [";created=1641013200", ';nonce="a"', ';nonce="a";created=1641013200;x', ""]
)
def test_a_signature_without_time_and_nonce_is_refused(parameters: str) -> None:
    assert Signatures(SECRET).refusal(TARGET, signed(parameters), now=CREATED)


def test_a_signature_that_leaves_out_the_host_is_refused() -> None:
    parameters = ';nonce="a";created=1641013200'
    assert Signatures(SECRET).refusal(TARGET, signed(parameters), now=CREATED) == ""
    names = tuple(name for name in SIGNED if name != "@authority")
    assert "cover" in Signatures(SECRET).refusal(TARGET, signed(parameters, names), now=CREATED)


def test_an_expired_signature_is_refused() -> None:
    headers = signed(';nonce="a";created=1641013200;expires=1641013100')
    assert "expired" in Signatures(SECRET).refusal(TARGET, headers, now=CREATED)


def test_nonces_are_forgotten_when_their_time_has_passed() -> None:
    signatures = Signatures(SECRET)
    for second in range(0, 400, 10):
        headers = signed(f';nonce="n{second}";created={CREATED + second}')
        assert signatures.refusal(TARGET, headers, now=CREATED + second) == ""
    assert len(signatures._nonces) < 10


@pytest.mark.parametrize("secret", ["", "not base64!", "AAA"])
def test_a_secret_that_is_none_is_refused_at_once(secret: str) -> None:
    with pytest.raises(ValueError, match="client secret"):
        Signatures(secret)


@given(st.text(max_size=300), st.text(max_size=80))
def test_no_header_breaks_the_check(signature_input: str, signature: str) -> None:
    headers = HEADERS | {"signature-input": signature_input, "signature": signature}
    assert Signatures(SECRET).refusal(TARGET, headers, now=CREATED)
