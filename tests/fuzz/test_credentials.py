"""Whatever stands where a key should stand: nothing breaks, and nothing but ours is taken."""

import base64
import hmac

from hypothesis import given
from hypothesis import strategies as st

from server.wire.credentials import (
    MAX_CHARS,
    TOKEN_PREFIX,
    Claims,
    make_token,
    presented,
    read_token,
)

SECRET = b"s" * 32
GOOD = make_token(Claims("0a1b2c3d", 1_000), SECRET)
TEXTS = st.text(max_size=80) | st.from_regex(r"[A-Za-z0-9._=-]{0,60}", fullmatch=True)


@given(st.text(max_size=16), st.integers(0, 2**53))
def test_a_token_says_what_it_was_made_with(key: str, expires_s: int) -> None:
    token = make_token(Claims(key, expires_s), SECRET)
    assert read_token(token, SECRET) == Claims(key, expires_s)
    assert read_token(token, b"another") is None


@given(TEXTS)
def test_no_other_text_is_a_token(text: str) -> None:
    assert read_token(text, SECRET) is None
    assert read_token(TOKEN_PREFIX + text, SECRET) is None


@given(st.integers(0, len(GOOD) - 1), st.characters())
def test_a_token_with_a_changed_character_is_none(at: int, character: str) -> None:
    changed = GOOD[:at] + character + GOOD[at + 1 :]
    claims = read_token(changed, SECRET)
    # the last character of a signature has bits that say nothing
    assert claims is None or claims == Claims("0a1b2c3d", 1_000)
    if at < len(GOOD) - 1 and changed != GOOD:
        assert claims is None


@given(st.binary(max_size=80))
def test_a_rightly_signed_body_that_is_no_claims_is_none(body: bytes) -> None:
    text = base64.urlsafe_b64encode(body).rstrip(b"=").decode()
    mac = hmac.digest(SECRET, text.encode(), "sha256")
    signature = base64.urlsafe_b64encode(mac).rstrip(b"=").decode()
    claims = read_token(f"{TOKEN_PREFIX}{text}.{signature}", SECRET)
    assert claims is None or isinstance(claims, Claims)


@given(TEXTS, TEXTS, st.dictionaries(st.sampled_from(["token", "jwt", "x"]), st.lists(TEXTS)))
def test_any_headers_and_query_present_something_short_or_nothing(
    authorization: str, subprotocols: str, query: dict[str, list[str]]
) -> None:
    headers = {"authorization": authorization, "sec-websocket-protocol": subprotocols}
    shown = presented(headers, query)
    assert shown is None or 0 < len(shown.text) <= MAX_CHARS
    assert shown is None or shown.text not in repr(shown) or shown.text in "Presented(...)"
