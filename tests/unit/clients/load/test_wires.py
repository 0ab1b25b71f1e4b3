"""Servers' languages, message by message."""

import json
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from clients.load.wires import WIRES
from clients.load.wires.base import Event, Failed, Over, Progress, Spoken, Wire, Words, samples_of
from clients.load.wires.native import NativeWire
from clients.load.wires.nemo_speech import NemoSpeechWire
from clients.load.wires.resampled import To24
from clients.load.wires.sherpa import SherpaWire

READY = (
    '{"type":"ready","v":1,"session":"s","token":"t","model":"m","resumed":false,"at":0,'
    '"chunk_ms":560,"limits":{"window_ms":1000}}'
)
DELTA = "conversation.item.input_audio_transcription.delta"
COMPLETED = "conversation.item.input_audio_transcription.completed"


def said(wire: Wire, *messages: object) -> list[Event]:
    """What a wire makes of messages."""
    events: list[Event] = []
    for message in messages:
        text = message if isinstance(message, str) else json.dumps(message)
        events += wire.receive(text)
    return events


def texts(messages: Sequence[str | bytes]) -> list[dict[str, object]]:
    return [json.loads(message) for message in messages]


def final(number: int, text: str, end_ms: int) -> dict[str, object]:
    return {
        "type": "final",
        "id": number,
        "channel": 0,
        "text": text,
        "start_ms": 0,
        "end_ms": end_ms,
        "cause": "stop",
    }


def test_our_wire_starts_with_the_latency_and_knows_the_chunk_from_the_answer() -> None:
    wire = NativeWire("low")
    assert texts(wire.hello())[0]["latency"] == "low"
    assert texts(NativeWire("240").hello())[0]["latency"] == {"chunk_ms": 240}
    assert (wire.is_open, wire.chunk_ms) == (False, None)
    assert said(wire, READY) == []
    assert (wire.is_open, wire.chunk_ms) == (True, 560)


def test_our_wire_keeps_the_flow_window() -> None:
    wire = NativeWire("low")
    wire.hello()
    said(wire, READY)
    assert wire.room_bytes == 32_000
    assert wire.audio(bytes(32_000)) == (bytes(32_000),)
    assert wire.room_bytes == 0
    assert said(wire, {"type": "ack", "at": 16000, "done": 8960, "durable": 0}) == [Progress(8960)]
    assert wire.room_bytes == 2 * 8960


def test_our_wire_tells_words_once_and_finals_in_order() -> None:
    wire = NativeWire("low")
    wire.hello()
    partial = {"type": "partial", "id": 0, "channel": 0, "rev": 1, "stable": "", "text": "one"}
    said(wire, READY)
    wire.goodbye()
    events = said(
        wire,
        partial | {"start_ms": 0, "end_ms": 400},
        partial | {"rev": 2, "start_ms": 0, "end_ms": 400},
        final(0, "one two", 800),
        final(1, "", 900),
        {"type": "done", "samples": 16000, "finals": 2},
    )
    assert events == [Words(400), Words(800), Spoken("one two"), Spoken(""), Over()]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([final(1, "two", 800)], "finals out of order"),
        ([{"type": "done", "samples": 0, "finals": 1}], "finals went missing"),
        (
            [{"type": "error", "code": "over_capacity", "message": "full", "fatal": True}],
            "over_capacity",
        ),
    ],
)
def test_our_wire_names_a_failure(messages: list[object], reason: str) -> None:
    wire = NativeWire("low")
    wire.hello()
    said(wire, READY)
    wire.goodbye()
    assert said(wire, *messages)[-1] == Failed(reason)


def test_sherpa_hears_floats_and_ends_with_done() -> None:
    wire = SherpaWire("560")
    (sent,) = wire.audio(np.array([0, 16384, -32768], "<i2").tobytes())
    assert isinstance(sent, bytes)
    assert np.frombuffer(sent, "<f4").tolist() == [0.0, 0.5, -1.0]
    assert wire.goodbye() == ("Done",)


def test_sherpa_answers_once_a_chunk_the_first_after_its_window() -> None:
    wire = SherpaWire("560")
    result = {"text": "HI", "segment": 0, "timestamps": [0.24], "start_time": 0.0}
    longer = result | {"text": "HI YOU", "timestamps": [0.24, 0.8]}
    assert said(wire, result, longer) == [
        Progress(samples_of(670), is_cumulative=False),
        Words(240),
        Progress(samples_of(1230), is_cumulative=False),
        Words(800),
    ]


def test_sherpa_segments_become_the_transcript() -> None:
    wire = SherpaWire("160")
    events = said(
        wire,
        {"text": "ONE", "segment": 0},
        {"text": "ONE TWO", "segment": 0, "is_final": True},
        {"text": "", "segment": 1},
        {"text": "THREE", "segment": 1},
        "Done!",
    )
    spoken = [event for event in events if isinstance(event, Spoken | Over)]
    assert spoken == [Spoken("ONE TWO"), Spoken("THREE"), Over()]


def test_sherpa_in_python_counts_segments_without_saying_that_one_is_final() -> None:
    wire = SherpaWire("160")
    events = said(wire, {"text": "ONE", "segment": 0}, {"text": "TWO", "segment": 1}, "Done!")
    assert [e for e in events if isinstance(e, Spoken)] == [Spoken("ONE"), Spoken("TWO")]


def test_nemo_speech_is_asked_for_word_times_before_the_audio() -> None:
    wire = NemoSpeechWire("560")
    assert wire.hello() == ()
    assert wire.answer() == ()
    said(wire, {"type": "session.created", "session": {}})
    (update,) = texts(wire.answer())
    assert update["session"] == {"sample_rate": 16000, "word_timestamps": True}
    assert wire.is_open
    assert wire.answer() == ()
    assert texts(wire.goodbye()) == [{"type": "input_audio_buffer.commit"}]


def test_nemo_speech_speaks_of_chunks_with_words_only() -> None:
    wire = NemoSpeechWire("560")
    events = said(
        wire,
        {"type": DELTA, "delta": "one", "audio_processed": 1.12},
        {"type": DELTA, "delta": " two"},
        {
            "type": COMPLETED,
            "transcript": "one two",
            "audio_processed": 2.0,
            "words": [{"word": "one", "start": 0.2, "end": 0.5}, {"word": "two", "end": 0.9}],
        },
        {"type": "input_audio_buffer.committed"},
    )
    assert events == [
        Progress(17920, is_cumulative=False),
        Progress(32000, is_cumulative=False),
        Words(900.0),
        Spoken("one two"),
        Over(),
    ]


def test_nemo_speech_errors_end_the_call_without_their_text() -> None:
    error = {"type": "error", "error": {"message": "what was said", "type": "server_error"}}
    (failed,) = said(NemoSpeechWire("560"), error)
    assert isinstance(failed, Failed)
    assert "what was said" not in failed.reason


@pytest.mark.parametrize(("name", "latency"), [("rivulet", "fast"), ("rivulet", "79")])
def test_a_latency_that_does_not_exist_is_refused(name: str, latency: str) -> None:
    with pytest.raises(ValueError, match="a latency is low"):
        WIRES[name](latency)


@pytest.mark.parametrize("name", ["sherpa-onnx", "nemo-speech"])
def test_a_server_that_cannot_be_asked_needs_its_chunk_as_a_number(name: str) -> None:
    with pytest.raises(ValueError, match="needs the chunk"):
        WIRES[name]("balanced")


@pytest.mark.parametrize("wire", sorted(set(WIRES) - {"rivulet"}))
def test_a_server_that_does_not_tell_its_chunk_is_told_it(wire: str) -> None:
    assert WIRES[wire]("160").chunk_ms == 160
    with pytest.raises(ValueError, match=r"the wire .* needs the chunk"):
        WIRES[wire]("low")


def test_deepgrams_words_are_news_once_and_only_finals_are_spoken() -> None:
    wire = WIRES["deepgram"]("160")

    def results(text: str, end: float, *, is_final: bool) -> dict[str, object]:
        said = {"transcript": text, "words": [{"word": text, "end": end}]}
        return {"type": "Results", "is_final": is_final, "channel": {"alternatives": [said]}}

    assert said(
        wire,
        results("a", 0.4, is_final=False),
        results("a", 0.4, is_final=True),
        {"type": "SpeechStarted"},
        {"type": "Metadata"},
    ) == [Words(400.0), Spoken("a"), Over()]


def test_vosk_is_over_with_the_answer_to_eof_however_many_come_before_it() -> None:
    wire = WIRES["vosk"]("160")
    wire.audio(b"")
    wire.audio(b"")
    wire.goodbye()
    assert said(wire, {"partial": "a"}, {"text": "a"}) == [Spoken("a")]
    assert said(wire, {"text": ""}) == [Over()]


def test_kyutais_steps_say_how_far_it_has_decoded() -> None:
    wire = WIRES["kyutai"]("160")
    packed = [
        msgspec.msgpack.encode(message)
        for message in (
            {"type": "Ready"},
            {"type": "Step", "step_idx": 1, "prs": [], "buffered_pcm": 0},
            {"type": "Word", "text": "a", "start_time": 0.1},
            {"type": "EndWord", "stop_time": 0.2},
            {"type": "Marker", "id": 1},
        )
    ]
    events = [event for message in packed for event in wire.receive(message)]
    assert wire.is_open
    assert events == [Progress(2_560), Spoken("a"), Words(200.0), Over()]


def test_nvidias_last_result_repeats_and_is_not_spoken_again() -> None:
    wire = WIRES["nvidia"]("160")
    assert said(wire, {"type": "conversation.created"}) == []
    assert texts(wire.answer())[0]["type"] == "transcription_session.update"
    words = {"words": [{"word": "a", "end_time": 300}]}
    first = {"type": COMPLETED, "transcript": "a", "is_last_result": False, "words_info": words}
    last = {"type": COMPLETED, "transcript": "a", "is_last_result": True}
    assert said(wire, first, last) == [Words(300.0), Spoken("a"), Over()]


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        ("assemblyai", {"type": "Error", "error": "x"}),
        ("flux", {"type": "Error", "code": "x"}),
        ("nvidia", {"type": "error"}),
        ("openai", {"type": "error"}),
        ("speechmatics", {"message": "Error"}),
    ],
)
def test_an_error_of_the_server_fails_the_call(wire: str, message: dict[str, object]) -> None:
    assert isinstance(said(WIRES[wire]("160"), message)[0], Failed)


@pytest.mark.parametrize("cut", [1, 7, 320])
def test_the_faster_rate_does_not_depend_on_how_audio_is_cut(cut: int) -> None:
    audio = np.random.default_rng(0).integers(-9_000, 9_000, 960).astype("<i2")
    stream = To24()
    pieces = [stream.push(audio[i : i + cut].tobytes()) for i in range(0, len(audio), cut)]
    whole = To24().push(audio.tobytes())
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-6)
    assert len(whole) == pytest.approx(1_440, abs=2)
    np.testing.assert_allclose(whole[::3], audio[::2][: len(whole[::3])] / 32768, atol=1e-6)
