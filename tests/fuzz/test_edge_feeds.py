"""Whatever a peer sends, a feed answers with events or a FeedError."""

import contextlib
import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.adapters.asterisk import AsteriskSocket
from edge.adapters.audiohook import AudioHook
from edge.adapters.audiosocket import AudioSocket
from edge.adapters.events import Audio, Event, FeedError, Started
from edge.adapters.l16 import L16
from edge.adapters.native import Begin, Heard, NativeFeed, Token
from edge.adapters.rtcp import leaving
from edge.adapters.rtp import RtpStream
from edge.adapters.twilio import Twilio
from edge.g722 import G722Decoder, is_available
from edge.wire import Result
from tests.fuzz.lengths import UNHURRIED, play_on

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["event", "start", "media", "payload", "track", "mediaFormat", "dtmf"])
            | st.text(max_size=6),
            inner,
            max_size=5,
        )
    ),
    max_leaves=5,
)
EVENTS = st.sampled_from(["connected", "start", "media", "dtmf", "mark", "stop", "x"])
TWILIO = st.builds(
    lambda event, rest: json.dumps({**rest, "event": event}),
    EVENTS,
    st.dictionaries(st.sampled_from(["start", "media", "dtmf", "streamSid"]), JSON, max_size=4),
)
ASTERISK = st.builds(
    lambda event, pairs: " ".join([event, *(f"{key}:{value}" for key, value in pairs.items())]),
    st.sampled_from(["MEDIA_START", "DTMF_END", "MEDIA_XOFF"]),
    st.dictionaries(
        st.sampled_from(["format", "digit", "channel_id", "x"]),
        st.sampled_from(["ulaw", "slin16", "opus"]) | st.text(max_size=5),
    ),
)
FRAMES = st.builds(
    lambda kind, body: bytes([kind]) + len(body).to_bytes(2, "big") + body,
    st.sampled_from([0, 1, 3, 0x10, 0x11, 0x12, 0x16, 0x18, 0xFF, 0x55]),
    st.binary(max_size=40) | st.binary(min_size=16, max_size=16),
)


def drive(calls: list[tuple[Callable[..., list[Event]], object]]) -> None:
    """Make the calls; audio only comes behind a start."""
    events = list[Event]()
    with contextlib.suppress(FeedError):
        for receive, data in calls:
            events += receive(data)
    kinds = [type(event) for event in events]
    assert Audio not in kinds or kinds.index(Started) < kinds.index(Audio)


@settings(UNHURRIED, max_examples=50)
@given(st.lists(FRAMES | st.binary(max_size=30), max_size=12))
def test_audiosocket(pieces: list[bytes]) -> None:
    call = AudioSocket()
    drive([(call.receive, piece) for piece in pieces])


@settings(UNHURRIED, max_examples=50)
@given(st.lists(TWILIO | JSON.map(json.dumps) | st.text(max_size=40), max_size=8))
def test_twilio(texts: list[str]) -> None:
    stream = Twilio()
    drive([(stream.receive_text, text) for text in texts])


@settings(UNHURRIED, max_examples=50)
@given(st.lists(st.binary(max_size=40) | ASTERISK | JSON.map(json.dumps), max_size=8))
def test_asterisk(pieces: list[bytes | str]) -> None:
    call = AsteriskSocket()
    drive([(call.receive_text if isinstance(p, str) else call.receive_binary, p) for p in pieces])


@settings(UNHURRIED, max_examples=50)
@given(st.lists(st.binary(max_size=40) | st.text(max_size=40) | JSON.map(json.dumps), max_size=8))
def test_l16(pieces: list[bytes | str]) -> None:
    stream = L16()
    drive(
        [(stream.receive_text if isinstance(p, str) else stream.receive_binary, p) for p in pieces]
    )


@settings(UNHURRIED, max_examples=50)
@given(
    st.lists(
        st.binary(max_size=40)
        | st.builds(
            lambda first, kind, rest: bytes([0x80 | first, kind]) + rest,
            st.integers(0, 63),
            st.sampled_from([0, 8, 11, 13, 96, 101]),
            st.binary(max_size=60),
        ),
        max_size=20,
    )
)
def test_rtp_never_raises_and_never_gives_an_empty_piece(datagrams: list[bytes]) -> None:
    stream = RtpStream()
    pieces = []
    for number, datagram in enumerate(datagrams):
        pieces += stream.receive(datagram, now=number * 0.02)
    pieces += stream.handle_timer(now=99.0) + stream.flush()
    assert all(piece.samples > 0 for piece in pieces)


@settings(UNHURRIED, max_examples=50)
@given(st.binary(max_size=60).map(lambda rest: b"\x81\xcb\0" + rest))
def test_rtcp_names_sources_or_an_error(datagram: bytes) -> None:
    with contextlib.suppress(FeedError):
        assert len(leaving(datagram)) <= len(datagram) // 4


HOOK_MEDIA = st.fixed_dictionaries(
    {
        "format": st.sampled_from(["PCMU", "L16", "opus"]),
        "rate": st.sampled_from([8_000, 16_000]),
        "channels": st.lists(st.sampled_from(["external", "internal"]), max_size=3),
    }
)
HOOK = st.builds(
    lambda kind, seq, parameters: json.dumps(
        {"type": kind, "seq": seq, "id": "u", "parameters": parameters}
    ),
    st.sampled_from(["open", "ping", "discarded", "resumed", "paused", "close", "x"]),
    st.integers(0, 6),
    st.fixed_dictionaries(
        {},
        optional={
            "media": st.lists(HOOK_MEDIA, max_size=3),
            "discarded": st.sampled_from(["PT1S", "PT0.02S", "P1D", ""]),
            "conversationId": st.text(max_size=5),
        },
    ),
)


@settings(UNHURRIED, max_examples=50)
@given(st.lists(HOOK | st.binary(max_size=40) | st.text(max_size=20), max_size=8))
def test_audiohook(pieces: list[bytes | str]) -> None:
    hook = AudioHook()
    drive([(hook.receive_text if isinstance(p, str) else hook.receive_binary, p) for p in pieces])


NATIVE = st.builds(
    lambda kind, rest: json.dumps({"type": kind} | rest),
    st.sampled_from(["start", "gap", "pause", "resume", "stop", "finalize", "configure", "x"]),
    st.fixed_dictionaries(
        {},
        optional={
            "v": st.just(1),
            "audio": st.fixed_dictionaries(
                {"encoding": st.sampled_from(["mulaw", "pcm_f32le"]), "rate": st.just(8_000)},
                optional={"channels": st.integers(1, 2)},
            ),
            "resume": st.fixed_dictionaries(
                {"token": st.sampled_from(["a.1.s", "a.x.s", "", "é.1.s"])}
            ),
            "samples": st.integers(0, 10),
            "req": st.just("r"),
        },
    ),
)
START = json.dumps({"type": "start", "v": 1, "audio": {"encoding": "pcm_f32le", "rate": 8_000}})


@settings(UNHURRIED, max_examples=50)
@given(st.lists(st.just(START) | NATIVE | st.binary(max_size=16) | st.text(max_size=9), max_size=9))
def test_native_clients_are_answered_and_never_raise(pieces: list[bytes | str]) -> None:
    feed, result = NativeFeed(), Result(text="a", start_ms=0, end_ms=9, cause="odd")
    for piece in pieces:
        for event in (
            feed.receive_text(piece) if isinstance(piece, str) else feed.receive_binary(piece)
        ):
            if isinstance(event, Begin):
                feed.ready(Token("a", "s", 1), 0, is_resumed=False)
            elif isinstance(event, Heard):
                feed.taken(0)
                feed.partial(result)
                feed.final(result)
            else:
                feed.done()
    for text in feed.texts_to_send():
        assert isinstance(json.loads(text)["type"], str)


@pytest.mark.parametrize("rate", [8_000, 16_000])
def test_half_a_sample_never_passes(rate: int) -> None:
    with pytest.raises(FeedError):
        L16(rate=rate).receive_binary(b"\0")


@pytest.mark.skipif(not is_available(), reason="the package G722 is not installed")
@settings(UNHURRIED, max_examples=50)
@given(st.lists(st.tuples(st.none() | st.binary(max_size=200), st.integers(0, 500)), max_size=8))
def test_g722_makes_exactly_the_samples_that_were_asked_for(
    pieces: list[tuple[bytes | None, int]],
) -> None:
    decoder = G722Decoder()
    for packet, samples in pieces:
        made = decoder.conceal(samples) if packet is None else decoder.decode(packet, samples)
        assert len(made) == 2 * samples


@pytest.mark.slow
@pytest.mark.parametrize(
    "play",
    [
        test_audiosocket,
        test_twilio,
        test_asterisk,
        test_l16,
        test_rtp_never_raises_and_never_gives_an_empty_piece,
        test_rtcp_names_sources_or_an_error,
        test_audiohook,
        test_native_clients_are_answered_and_never_raise,
    ],
)
def test_any_peer_gets_events_or_an_error_for_long(play: Callable[[], None]) -> None:
    play_on(play)
