"""Clients of our own protocol at a node: what they say, and how long they may say nothing."""

import json

import pytest

from edge.adapters.native import IDLE_S, LIMITS, NativeFeed, Over, Token

START = {"type": "start", "v": 1, "audio": {"encoding": "mulaw", "rate": 8_000}}


@pytest.fixture
def feed() -> NativeFeed:
    feed = NativeFeed()
    feed.receive_text(json.dumps(START))
    feed.ready(Token("a", "s", 1), 0, is_resumed=False)
    return feed


def test_a_client_that_paused_may_say_nothing_for_as_long_as_it_was_told(feed: NativeFeed) -> None:
    assert feed.patience_s == IDLE_S
    feed.receive_text('{"type":"pause"}')
    assert feed.patience_s == LIMITS.pause_ms / 1000 > IDLE_S
    feed.receive_text('{"type":"resume"}')
    assert feed.patience_s == IDLE_S


def test_a_client_that_said_all_waits_for_its_words_however_long_a_cut_is(feed: NativeFeed) -> None:
    assert feed.receive_text('{"type":"stop"}') == [Over()]
    assert feed.patience_s is None
