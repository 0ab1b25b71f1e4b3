"""Every wire's own place for a key is found."""

import pytest

from server.wire.credentials import Presented, presented


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"authorization": "Bearer K"}, {}),
        ({"authorization": "Token K"}, {}),
        ({"authorization": "bearer  K "}, {}),
        ({"authorization": "K"}, {}),
        ({"authorization": "Basic YW55Ym9keTpL"}, {}),  # anybody:K
        ({"sec-websocket-protocol": "rivulet.v1, auth.K"}, {}),
        ({"sec-websocket-protocol": "token, K"}, {}),
        ({"sec-websocket-protocol": "realtime, openai-insecure-api-key.K"}, {}),
        ({"sec-websocket-protocol": "realtime, realtime-token.K"}, {}),
        ({"kyutai-api-key": "K"}, {}),
    ],
)
def test_a_key_is_found_where_clients_put_it(
    headers: dict[str, str], query: dict[str, list[str]]
) -> None:
    assert presented(headers, query) == Presented("K")


@pytest.mark.parametrize("name", ["token", "jwt", "auth_id"])
def test_what_stands_in_the_address_is_marked(name: str) -> None:
    assert presented({}, {name: ["K"]}) == Presented("K", is_in_url=True)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Basic K"},
        {"authorization": "Basic YW55Ym9keQ=="},  # anybody
        {"authorization": "Basic /w=="},
        {"authorization": "Bearer K L"},
        {"authorization": "Bearer " + "K" * 600},
        {"sec-websocket-protocol": "rivulet.v1"},
        {"sec-websocket-protocol": "auth."},
    ],
)
def test_anything_else_is_no_key(headers: dict[str, str]) -> None:
    assert presented(headers, {}) is None
