"""The wires with a port of their own: vosk, sherpa-onnx, Wyoming, Riva."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.wire import protobuf as pb
from server.wire.adapter import PATIENCE_MS, Adapter
from server.wire.errors import BadRequest
from server.wire.messages import Ack, AudioFormat, Done, Endpointing, Readable
from server.wire.rest import Recording
from server.wire.riva import RivaFile, RivaServer, configurations, read_config
from server.wire.sherpa import SherpaServer
from server.wire.vosk import VoskServer
from server.wire.wyoming import Event, Reader, WyomingServer, encode
from tests.unit.server.wire.foreign import DONE, Table, fatal, final, hello, partial, ready, turn

PCM = b"\1\0" * 100


# ---- vosk


def vosk(config: dict[str, Any] | None = None) -> Table:
    played = Table(VoskServer(hello()))
    if config is not None:
        played.hear({"config": config})
    return played


def test_vosk_answers_each_binary_message_with_exactly_one() -> None:
    played = vosk({"sample_rate": 16_000})
    assert played.frames == []
    played.hear(PCM)
    played.tell(ready(), partial("turn"))
    played.hear(PCM)
    played.tell(final("turn on"), partial("the", id=1), final("the light", id=1))
    played.hear(PCM, PCM)
    assert played.said() == [
        {"partial": ""},
        {"partial": "turn"},
        {"result": played.said()[2]["result"], "text": "turn on the light"},
        {"partial": ""},
    ]
    assert played.start.audio == AudioFormat(encoding="pcm_s16le", rate=16_000)


def test_vosk_says_the_rest_once_at_the_end() -> None:
    played = vosk()
    played.hear(PCM, {"eof": 1}, {"eof": 1}, PCM)
    played.tell(ready(), final("bye", cause="stop"), DONE)
    assert [value.get("text") for value in played.said()] == [None, "bye"]
    assert played.adapter.ending == (1000, "")
    assert played.start.audio.rate == 8_000
    assert played.kinds() == ["start", "audio", "stop"]


def test_vosk_says_an_empty_rest_when_nothing_was_heard() -> None:
    played = vosk()
    played.hear({"eof": 1})
    assert played.said() == [{"text": ""}]
    assert played.adapter.ending is not None


def test_vosk_begins_again_after_a_reset() -> None:
    played = vosk()
    played.hear(PCM, {"reset": 1})
    played.tell(ready(), final("one"), DONE)
    played.hear(PCM)
    assert played.kinds() == ["start", "audio", "stop", "start", "audio"]
    assert [value.get("text") for value in played.said()] == [None, "one", None]


def test_vosk_times_go_on_over_a_reset() -> None:
    played = vosk({"sample_rate": 16_000})
    played.hear(PCM, {"reset": 1})
    played.tell(ready(), final("one"), Done(samples=24_000, finals=1))
    played.hear(PCM, {"reset": 1})
    played.tell(ready(), final("two"), Done(samples=8_000, finals=1))
    played.hear(PCM, {"eof": 1})
    played.tell(ready(), final("three"), DONE)
    starts = [value["result"][0]["start"] for value in played.said() if value.get("text")]
    assert starts == [0.0, 1.5, 2.0]


def test_vosk_config_chooses_words_alternatives_and_phrases() -> None:
    played = vosk({"words": 0, "max_alternatives": 2, "phrase_list": ["moon", "[unk]"]})
    played.hear(PCM)
    played.tell(ready(), final("moon"))
    played.hear(PCM)
    assert played.said()[1] == {"alternatives": [{"confidence": 1.0, "text": "moon"}]}
    assert [boost.phrase for boost in played.start.boost or ()] == ["moon"]


@pytest.mark.parametrize(
    "bad", ["x", '{"config":{"sample_rate":"fast"}}', '{"config":{"sample_rate":5}}']
)
def test_vosk_closes_on_what_it_cannot_take(bad: str) -> None:
    played = vosk()
    played.hear(bad)
    assert played.adapter.ending is not None
    assert played.adapter.ending.code == 1011


# ---- sherpa-onnx


def test_sherpa_counts_segments_and_says_done() -> None:
    played = Table(SherpaServer(hello()))
    played.hear(b"\0" * 400)
    played.tell(ready(), partial("a", "b"), final("a b c"), partial("d", id=1), final("d", id=1))
    played.hear("Done", "Done", b"\0\0\0\0")
    played.tell(DONE)
    texts = [json.loads(frame) for frame in played.frames[:-1]]
    assert [(v["segment"], v["text"], v["is_final"]) for v in texts] == [
        (0, "a b", False), (0, "a b c", True), (1, "d", False), (1, "d", True),
    ]  # fmt: skip
    assert played.frames[-1] == "Done!"
    assert played.start.audio == AudioFormat(encoding="pcm_f32le", rate=16_000)
    assert played.kinds() == ["start", "audio", "stop"]
    assert played.adapter.ending == (1000, "")


def test_sherpa_counts_the_times_of_tokens_from_the_start_of_their_segment() -> None:
    played = Table(SherpaServer(hello()))
    played.hear(b"\0" * 400)
    played.tell(ready(), final("a b", at_ms=2_000))
    result = json.loads(played.frames[0])
    spans = final("a b").words
    assert spans is not None
    assert result["start_time"] == 2.0
    assert result["timestamps"] == [span.s / 1_000 for span in spans]


def test_sherpa_marks_the_result_that_the_end_of_the_audio_finished() -> None:
    played = Table(SherpaServer(hello()))
    played.hear(b"\0" * 400)
    played.tell(ready(), final("a"), partial("b", id=1))
    played.hear("Done")
    played.tell(final("b", id=1, cause="stop"), DONE)
    results = [json.loads(frame) for frame in played.frames[:-1]]
    assert [value["is_eof"] for value in results] == [False, False, True]


def test_sherpa_without_audio_is_done_at_once() -> None:
    played = Table(SherpaServer(hello()))
    played.hear("Done")
    assert played.frames == ["Done!"]


def test_sherpa_closes_on_other_text() -> None:
    played = Table(SherpaServer(hello()))
    played.hear("Hello")
    assert played.adapter.ending is not None


# ---- Wyoming


def wyoming() -> Table:
    return Table(WyomingServer(hello()))


def event(kind: str, payload: bytes = b"", **data: Any) -> bytes:
    return encode(Event(kind, data, payload))


def said(played: Table) -> list[Event]:
    return Reader().push(b"".join(f for f in played.frames if isinstance(f, bytes)))


def start(rate: int = 16_000, **more: Any) -> bytes:
    return event("audio-start", rate=rate, width=2, channels=1, **more)


@given(st.lists(st.integers(1, 50), max_size=20))
def test_wyoming_events_are_read_however_they_are_cut(cuts: list[int]) -> None:
    inline = b'{"type":"a","data":{"x":1},"payload_length":3}\n\1\2\3'
    stream = inline + event("b", b"payload\n", y=2) + event("c")
    reader, found, at = Reader(), list[Event](), 0
    for cut in [*cuts, len(stream)]:
        found += reader.push(stream[at : at + cut])
        at += cut
    assert found == [
        Event("a", {"x": 1}, b"\1\2\3"),
        Event("b", {"y": 2}, b"payload\n"),
        Event("c"),
    ]


def test_wyoming_describes_itself_and_answers_pings() -> None:
    played = wyoming()
    played.hear(event("describe"), event("ping", text="x"), event("satellite-connected"))
    info, pong = said(played)
    assert (
        info.data["asr"][0]["models"][0] | {"languages": ["en"]} == info.data["asr"][0]["models"][0]
    )
    assert info.data["asr"][0]["requires_external_vad"] is False
    assert (pong.type, pong.data) == ("pong", {"text": "x"})
    assert played.asked == []


def test_wyoming_gives_stable_chunks_and_the_whole() -> None:
    played = wyoming()
    played.hear(event("transcribe", language="en"), start(), event("audio-chunk", PCM))
    played.tell(ready(), partial("turn"), partial("turn on", rev=2))
    played.hear(event("audio-stop"))
    played.tell(final("turn on it", cause="stop"), DONE)
    events = said(played)
    assert [e.type for e in events] == [
        "transcript-start", "transcript-chunk", "transcript-chunk", "transcript-chunk",
        "transcript-stop", "transcript",
    ]  # fmt: skip
    assert "".join(e.data["text"] for e in events[1:4]) == events[-1].data["text"] == "turn on it"
    assert played.kinds() == ["start", "audio", "stop"]
    assert played.start.partials == "stable"


def test_wyoming_ends_an_utterance_at_a_pause_and_is_deaf_until_the_next() -> None:
    played = wyoming()
    played.hear(event("transcribe", vad_sensitivity="relaxed"), start(), event("audio-chunk", PCM))
    assert played.start.endpointing == Endpointing(silence_ms=1_250)
    played.tell(ready(), final("one"), turn("end", text="one", trigger="silence"))
    assert [e.data for e in said(played) if e.type == "transcript"] == [
        {"text": "one", "language": "en"}
    ]
    played.hear(event("audio-chunk", PCM), event("audio-stop"), start())
    played.tell(final("late", id=1), DONE)
    assert len([e for e in said(played) if e.type == "transcript"]) == 1
    assert played.kinds() == ["start", "audio", "stop", "start"]
    played.hear(event("audio-chunk", PCM), event("audio-stop"))
    played.tell(ready(), final("two", cause="stop"), DONE)
    assert [e.data["text"] for e in said(played) if e.type == "transcript"] == ["one", "two"]


def test_wyoming_a_file_sent_at_once_is_transcribed_whole() -> None:
    played = wyoming()
    played.hear(start(), event("audio-chunk", PCM), event("audio-stop"))
    played.tell(ready(), final("one"), turn("end", text="one", trigger="silence"))
    played.tell(final("two", id=1, cause="stop"), DONE)
    assert [e.data["text"] for e in said(played) if e.type == "transcript"] == ["one two"]
    assert (
        "".join(e.data["text"] for e in said(played) if e.type == "transcript-chunk") == "one two"
    )


@pytest.mark.parametrize("end", [event("audio-stop"), b""])
def test_wyoming_an_utterance_before_the_transcript_of_another_is_the_next(end: bytes) -> None:
    played = wyoming()
    played.hear(start(), event("audio-chunk", PCM), end, start(), event("audio-chunk", PCM))
    assert played.kinds() == ["start", "audio", "stop", "start", "audio"]
    played.tell(ready(), partial("one"), final("one", cause="stop"), DONE, ready())
    played.hear(event("audio-stop"))
    played.tell(partial("two"), final("two or", cause="stop"), DONE)
    assert [(e.type, e.data.get("text")) for e in said(played)] == [
        ("transcript-start", None), ("transcript-chunk", "one"), ("transcript-stop", None),
        ("transcript", "one"),
        ("transcript-start", None), ("transcript-chunk", "two"), ("transcript-chunk", " or"),
        ("transcript-stop", None), ("transcript", "two or"),
    ]  # fmt: skip
    assert played.adapter.ending is None


def test_wyoming_without_audio_answers_with_nothing() -> None:
    played = wyoming()
    played.hear(event("audio-stop"))
    assert said(played)[-1].data["text"] == ""


@pytest.mark.parametrize(
    "bad",
    [
        b"nope\n",
        b'{"type":1}\n',
        b'{"type":"x","data_length":-1}\n',
        b'{"type":"x","payload_length":99999999}\n',
        b"x" * 70_000,
        event("audio-start", rate=16_000, width=4),
        event("audio-start", rate=1, width=2),
        b"\xff\xfe\n",
    ],
)
def test_wyoming_says_an_error_and_closes(bad: bytes) -> None:
    played = wyoming()
    played.hear(bad)
    assert said(played)[-1].type == "error"
    assert played.adapter.ending is not None


# ---- Riva


def config(**numbers: int) -> bytes:
    fields = {1: 1, 2: 16_000, 8: 1} | {int(k[1:]): v for k, v in numbers.items()}
    return b"".join(pb.integer(n, v) for n, v in fields.items()) + pb.text(3, "en-US")


def riva(recognition: bytes | None = None, *, interim: bool = True) -> Table:
    played = Table(RivaServer(hello()))
    inner = pb.data(1, config() if recognition is None else recognition) + pb.integer(2, interim)
    played.hear(pb.data(1, inner))
    return played


def results(frames: list[Any]) -> list[tuple[str, int, float, int]]:
    found = list[tuple[str, int, float, int]]()
    for frame in frames:
        for result in pb.Fields(frame).messages(1):
            heard = result.message(1)
            done_s = round(result.floating(6), 3)
            found.append((heard.text(1), result.integer(2), done_s, len(heard.messages(3))))
    return found


def test_riva_gives_interim_and_final_results() -> None:
    played = riva()
    played.hear(pb.data(2, PCM))
    played.tell(ready(), Ack(at=9_600, done=8_000, durable=0), partial("a", "b"), final("a b"))
    played.hang_up()
    played.tell(DONE)
    assert results(played.frames) == [
        ("a b", 0, 0.5, 0),
        ("a b ", 1, 0.5, 2),
    ]
    assert played.kinds() == ["start", "audio", "stop"]
    assert played.adapter.ending == (0, "")


def test_riva_keeps_a_call_whose_microphone_is_muted() -> None:
    assert riva().adapter.idle_ms == PATIENCE_MS


def test_riva_has_processed_what_it_tells_of_and_never_less() -> None:
    played = riva()
    played.hear(pb.data(2, PCM))
    played.tell(ready(), partial("a"), final("a b", at_ms=2_000), final("c", id=1))
    played.tell(Ack(at=48_000, done=48_000, durable=0), final("d", id=2))
    assert [done_s for _, _, done_s, _ in results(played.frames)] == [0.4, 2.18, 2.18, 3.0]


def test_riva_names_the_request_in_its_responses() -> None:
    name = pb.text(1, "call 7")
    played = Table(RivaServer(hello()))
    played.hear(pb.data(1, pb.data(1, config())) + pb.data(100, name), pb.data(2, PCM))
    played.tell(ready(), final("a"))
    assert [pb.Fields(frame).data(100) for frame in played.frames] == [name]  # type: ignore[arg-type]
    audio = AudioFormat(encoding="pcm_s16le", rate=16_000)
    told = read_config(pb.Fields(config()))
    file = Table(RivaFile(hello(), Recording(audio, PCM), told, name))
    file.tell(ready(), final("a"), DONE)
    assert pb.Fields(file.frames[0]).data(100) == name  # type: ignore[arg-type]
    nameless = Table(RivaFile(hello(), Recording(audio, PCM), told))
    nameless.tell(ready(), final("a"), DONE)
    assert not pb.Fields(nameless.frames[0]).has(100)  # type: ignore[arg-type]


def test_riva_config_is_read() -> None:
    context = pb.text(1, "moon") + pb.text(1, "x" * 99) + pb.floating(4, 4.0)
    raw = config(_1=3, _2=8_000, _7=2) + pb.data(6, context) + pb.data(25, pb.integer(3, 900))
    found = read_config(pb.Fields(raw))
    assert (found.audio.encoding, found.audio.rate, found.audio.channels) == ("mulaw", 8_000, 2)
    assert [(boost.phrase, boost.weight) for boost in found.phrases] == [("moon", 4.0)]
    assert found.endpointing == Endpointing(silence_ms=900, hesitation_ms=0)


def test_riva_hears_channels_apart_where_it_is_asked_to() -> None:
    audio = AudioFormat(encoding="pcm_s16le", rate=16_000, channels=2)
    for apart in (0, 1):
        told = read_config(pb.Fields(config(_7=2, _12=apart)))
        assert RivaFile(hello(), Recording(audio, PCM), told).has_channels is bool(apart)


def test_riva_without_a_session_ends_well() -> None:
    played = Table(RivaServer(hello()))
    played.hang_up()
    assert played.adapter.ending == (0, "")


@pytest.mark.parametrize("bad", [b"\xff", pb.data(2, PCM), pb.data(1, pb.data(1, config(_1=2)))])
def test_riva_refuses_with_a_status(bad: bytes) -> None:
    played = Table(RivaServer(hello()))
    played.hear(bad)
    assert played.adapter.ending is not None
    assert played.adapter.ending.code == 3


def test_riva_capacity_is_resource_exhausted() -> None:
    played = riva()
    played.tell(fatal("over_capacity"))
    assert played.adapter.ending == (8, "because")


def test_riva_recognizes_a_whole_file() -> None:
    audio = AudioFormat(encoding="pcm_s16le", rate=16_000)
    played = Table(RivaFile(hello(), Recording(audio, PCM), read_config(pb.Fields(config()))))
    played.tell(ready(), final("a"), final("b", id=1), DONE)
    texts = [r.message(1).text(1) for r in pb.Fields(played.frames[0]).messages(1)]  # type: ignore[arg-type]
    assert texts == ["a ", "b "]


# ---- protobuf


@given(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(width=32, allow_nan=False),
    st.text(),
    st.binary(),
)
def test_protobuf_fields_come_back(number: int, real: float, text: str, data: bytes) -> None:
    raw = pb.integer(1, number) + pb.floating(2, real) + pb.text(3, text) + pb.data(4, data)
    fields = pb.Fields(raw)
    found = (fields.integer(1), fields.floating(2), fields.text(3), fields.data(4))
    assert found == (number, real, text, data)


@given(st.binary(max_size=60))
def test_any_bytes_are_protobuf_or_a_named_error(raw: bytes) -> None:
    try:
        fields = pb.Fields(raw)
        read_config(fields)
    except BadRequest:
        pass


def test_an_adapter_that_ended_takes_nothing_more() -> None:
    adapter: Adapter = VoskServer(hello())
    played = Table(adapter)
    played.hear("x", PCM, {"eof": 1})
    assert (played.asked, played.frames) == ([], [])


def test_riva_adds_marks_where_automatic_punctuation_is_asked_for() -> None:
    assert riva(config(f11=1)).start.readable == Readable(numbers=False)
    assert riva().start.readable is None


def test_riva_tells_what_it_has_for_streams_and_for_files_and_nothing_by_another_name() -> None:
    about = replace(hello(), model="small", languages=("en-US", "de-DE"))
    told = pb.Fields(configurations(b"", about)).messages(1)
    found = [
        (one.text(1), {entry.text(1): entry.text(2) for entry in one.messages(2)}) for one in told
    ]
    assert [(name, parameters["type"]) for name, parameters in found] == [
        ("small", "online"),
        ("small", "offline"),
    ]
    assert {parameters["language_code"] for _, parameters in found} == {"en-US,de-DE"}
    assert configurations(pb.text(1, "small"), about) == configurations(b"", about)
    assert configurations(pb.text(1, "large"), about) == b""
