"""AudioSocket, Twilio, Asterisk's WebSocket and L16: what peers say becomes the same few events."""

import base64
import json
import struct
import uuid
from typing import Any

import pytest

from edge.adapters import twilio
from edge.adapters.asterisk import AsteriskSocket
from edge.adapters.audiosocket import AudioSocket
from edge.adapters.events import Audio, Digit, Ended, Event, FeedError, Missing, Started
from edge.adapters.l16 import L16
from edge.adapters.twilio import Twilio

CALL = uuid.UUID("11223344-5566-7788-99aa-bbccddeeff00")


def frame(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BH", kind, len(payload)) + payload


def socket_call() -> bytes:
    return (
        frame(0x01, CALL.bytes)
        + frame(0x10, b"\x05\x00\xfa\xff")
        + frame(0x03, b"7")
        + frame(0x77, b"later")
        + frame(0x10, b"\x01\x00")
        + frame(0x00)
    )


CALL_EVENTS: list[Event] = [
    Started(str(CALL), "pcm_s16le", 8_000),
    Audio(b"\x05\x00\xfa\xff"),
    Digit("7"),
    Audio(b"\x01\x00"),
    Ended(),
]


@pytest.mark.parametrize("cut", range(1, len(socket_call())))
def test_an_audiosocket_call_does_not_depend_on_how_it_is_cut(cut: int) -> None:
    call, raw = AudioSocket(), socket_call()
    assert call.receive(raw[:cut]) + call.receive(raw[cut:]) == CALL_EVENTS


def test_audiosocket_at_16_khz_says_so() -> None:
    events = AudioSocket().receive(frame(1, CALL.bytes) + frame(0x12, b"ab"))
    assert events[0] == Started(str(CALL), "pcm_s16le", 16_000)


@pytest.mark.parametrize(
    "raw",
    [
        frame(0x10, b"ab"),
        frame(1, b"short"),
        frame(1, CALL.bytes) * 2,
        frame(1, CALL.bytes) + frame(0x10, b"abc"),
        frame(1, CALL.bytes) + frame(0x10, b"ab") + frame(0x12, b"ab"),
    ],
)
def test_an_audiosocket_that_breaks_its_rules_is_named(raw: bytes) -> None:
    with pytest.raises(FeedError):
        AudioSocket().receive(raw)


def test_an_error_of_asterisk_ends_the_call() -> None:
    assert AudioSocket().receive(frame(1, CALL.bytes) + frame(0xFF, b"\x01")) == [
        Ended("the peer reports an error")
    ]


def message(event: str, **fields: Any) -> str:
    return json.dumps({"event": event, "streamSid": "MZ1", "sequenceNumber": "1", **fields})


def media(payload: bytes, stamp: str = "0", track: str = "inbound") -> str:
    text = base64.b64encode(payload).decode()
    return message("media", media={"track": track, "timestamp": stamp, "payload": text})


START = message(
    "start",
    start={
        "streamSid": "MZ1",
        "callSid": "CA1",
        "tracks": ["inbound", "outbound"],
        "customParameters": {},
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
    },
)


def test_a_track_that_twilio_names_twice_is_one() -> None:
    begun = Twilio().receive_text(START.replace("outbound", "inbound"))
    assert begun == [Started("CA1", "mulaw", 8_000, ("inbound",))]


def test_a_twilio_stream_in_the_order_of_its_documentation() -> None:
    stream, events = Twilio(), list[Event]()
    for text in (
        '{"event":"connected","protocol":"Call","version":"1.0.0"}',
        START,
        media(b"\xff" * 160, "20"),
        media(b"\x00" * 160, "40", "outbound"),
        message("dtmf", dtmf={"track": "inbound_track", "digit": "5"}),
        message("mark", mark={"name": "m"}),
        message("stop", stop={"callSid": "CA1"}),
        media(b"\xff" * 160),
    ):
        events += stream.receive_text(text)
    assert events == [
        Started("CA1", "mulaw", 8_000, ("inbound", "outbound")),
        Audio(b"\xff" * 160, "inbound", 160),
        Audio(b"\x00" * 160, "outbound", 320),
        Digit("5"),
        Ended(),
    ]


@pytest.mark.parametrize(
    "texts",
    [
        ["not json"],
        ["[]"],
        [media(b"ab")],
        [START, START],
        [START, media(b"ab", track="third")],
        [START, message("media", media={"payload": "%%%"})],
        [START, message("media")],
        [message("start")],
        [START.replace("8000", "16000")],
    ],
)
def test_a_twilio_stream_that_breaks_the_rules_is_named(texts: list[str]) -> None:
    stream = Twilio()
    with pytest.raises(FeedError):
        for text in texts:
            stream.receive_text(text)


def test_the_signature_is_that_of_the_documentation() -> None:
    # Twilio's worked example of request validation (a POST): URL and sorted parameters in one.
    url = (
        "https://mycompany.com/myapp.php?foo=1&bar=2CallSidCA1234567890ABCDE"
        "Caller+12349013030Digits1234From+12349013030To+18005551212"
    )
    assert twilio.signature(url, "12345") == "0/KCTR6DLpKmkAf8muzZqo1nDgQ="


def test_a_wrong_signature_is_no_signature() -> None:
    good = twilio.signature("wss://edge.example/twilio", "secret")
    assert twilio.is_signed("wss://edge.example/twilio/", good, "secret")
    assert not twilio.is_signed("wss://edge.example/other", good, "secret")
    assert not twilio.is_signed("wss://edge.example/twilio", good, "other")
    assert not twilio.is_signed("wss://edge.example/twilio", "é", "secret")


def test_vonage_names_the_rate_and_freeswitch_the_address() -> None:
    vonage = L16()
    vonage.receive_text('{"event":"websocket:connected","content-type":"audio/l16;rate=8000"}')
    assert vonage.receive_binary(b"ab")[0] == Started("", "pcm_s16le", 8_000)
    fork = L16(rate=8_000)
    assert fork.receive_text("anything at all") == []
    assert fork.receive_text('{"callid":"c1"}') == []
    assert fork.receive_binary(b"ab") == [Started("c1", "pcm_s16le", 8_000), Audio(b"ab")]
    assert fork.receive_binary(b"cd") == [Audio(b"cd")]


def test_a_stereo_fork_is_two_speakers() -> None:
    fork = L16(rate=8_000, channels=2)
    assert fork.receive_text('{"uuid":"stereo"}') == []
    tracks = ("inbound", "outbound")
    assert fork.receive_binary(b"ab12cd34") == [
        Started("stereo", "pcm_s16le", 8_000, tracks),
        Audio(b"abcd", "inbound"),
        Audio(b"1234", "outbound"),
    ]
    with pytest.raises(FeedError):
        fork.receive_binary(b"ab")


def test_an_empty_frame_ends_a_fork() -> None:
    # mod_audio_fork after graceful-shutdown: one at once, then one with every pong, and no close
    fork = L16(rate=8_000)
    fork.receive_binary(bytes(320))
    assert fork.receive_binary(b"") == [Ended()]


def test_a_fork_that_was_jammed_sends_all_it_held_in_one_frame() -> None:
    fork = L16(rate=16_000, channels=2)
    assert len(fork.receive_binary(bytes(2 * 64_000))) == 3


def test_time_on_hold_is_missing_once_a_call_has_begun() -> None:
    fork = L16(rate=8_000)
    assert fork.receive_nothing(1.0) == []
    fork.receive_binary(b"ab")
    assert fork.receive_nothing(1.0) == [Missing(8_000)]
    call = AudioSocket()
    assert call.receive_nothing(1.0) == []
    call.receive(frame(1, CALL.bytes) + frame(0x12, b"ab"))
    assert call.receive_nothing(1.0) == [Missing(16_000)]


# What Asterisk 22.10.1 sent: Dial(WebSocket/dump/c(ulaw)d(in)), and with f(json).
WORDS = (
    "MEDIA_START connection_id:dump channel:WebSocket/dump/0x7fdbcc007f80 "
    "channel_id:1795359631.15 format:ulaw optimal_frame_size:160 ptime:20"
)
OBJECT = (
    '{"event":"MEDIA_START","connection_id":"dump","channel":"WebSocket/dump/0x7fdbdc0080c0",'
    '"channel_id":"1795359631.18","format":"slin16","optimal_frame_size":640,"ptime":20,'
    '"channel_variables":{"DIALEDPEERNUMBER":"dump/c(slin16)d(in)f(json)"}}'
)


def test_asterisk_says_the_format_in_words_or_as_json() -> None:
    call = AsteriskSocket()
    assert call.receive_nothing(1.0) == []
    assert call.receive_text(WORDS) == [Started("1795359631.15", "mulaw", 8_000)]
    assert call.receive_binary(b"abc") == [Audio(b"abc")]
    assert call.receive_text("DTMF_END digit:1 channel_id:1795359631.15") == [Digit("1")]
    assert call.receive_nothing(1.0) == [Missing(8_000)]
    assert call.receive_text("MEDIA_XON") == call.receive_binary(b"") == []
    call = AsteriskSocket(name="Ann")
    assert call.receive_text(OBJECT) == [Started("Ann", "pcm_s16le", 16_000)]
    assert call.receive_text('{"event":"DTMF_END","channel_id":"x","digit":"2"}') == [Digit("2")]
    assert call.receive_nothing(0.5) == [Missing(8_000)]


@pytest.mark.parametrize(
    "said",
    [
        [b"ab"],
        [WORDS, WORDS],
        [OBJECT, b"abc"],
        [WORDS, bytes(65_537)],
        [WORDS.replace("ulaw", "g729")],
        ['{"event":'],
    ],
)
def test_an_asterisk_that_breaks_its_rules_is_named(said: list[str | bytes]) -> None:
    call = AsteriskSocket()
    with pytest.raises(FeedError):
        for message in said:
            if isinstance(message, str):
                call.receive_text(message)
            else:
                call.receive_binary(message)


def test_l16_that_breaks_the_rules_is_named() -> None:
    with pytest.raises(FeedError):
        L16().receive_binary(b"abc")
    with pytest.raises(FeedError):
        L16(rate=11_025).receive_binary(b"ab")
    with pytest.raises(FeedError):
        L16(channels=3).receive_binary(bytes(6))
    with pytest.raises(FeedError):
        L16().receive_text('{"event":"websocket:connected","content-type":"audio/opus"}')
