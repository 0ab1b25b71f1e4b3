"""Random clients of every foreign wire: no exception, no illegal request, only readable answers."""

import base64
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.wire import messages as native
from server.wire import protobuf as pb
from server.wire.adapter import Adapter, Hello, Refused
from server.wire.assemblyai import AssemblyServer
from server.wire.codec import encode
from server.wire.conversation import LEGAL, Audio, State
from server.wire.deepgram import DeepgramServer
from server.wire.flux import FluxServer
from server.wire.kyutai import KyutaiServer
from server.wire.nvidia_realtime import NvidiaServer
from server.wire.openai_realtime import RealtimeServer
from server.wire.riva import RivaServer
from server.wire.sherpa import SherpaServer
from server.wire.speechmatics import SpeechmaticsServer
from server.wire.vosk import VoskServer
from server.wire.wyoming import Event, Reader, WyomingServer
from server.wire.wyoming import encode as wyoming
from tests.fuzz.lengths import play_on
from tests.unit.server.wire.foreign import final, hello, partial, ready, turn

ROUND = 200
"""Clients before the clock is looked at."""
PCM = b"\1\0" * 40
TEXT_WIRES = (DeepgramServer, FluxServer, RealtimeServer, NvidiaServer, VoskServer, SherpaServer, AssemblyServer, SpeechmaticsServer)  # noqa: E501  # fmt: skip
BYTE_WIRES = (WyomingServer, RivaServer, KyutaiServer)
RIVA_START = pb.data(1, pb.data(1, pb.integer(1, 1) + pb.integer(2, 8_000)) + pb.integer(2, 1))
APPEND = base64.b64encode(PCM).decode()
PCM_IN = {"type": "raw", "encoding": "pcm_s16le", "sample_rate": 16_000}

TEXTS: dict[type[Adapter], list[Any]] = {
    DeepgramServer: [
        {"type": "KeepAlive"},
        {"type": "Finalize"},
        {"type": "CloseStream"},
        {"type": "Configure", "keyterms": ["a", "b"]},
    ],
    FluxServer: [
        {"type": "ForceEndTurn"},
        {"type": "CloseStream"},
        {"type": "Configure", "thresholds": {"eot_threshold": 0.8}, "keyterms": ["a"]},
    ],
    RealtimeServer: [
        {"type": "session.update", "session": {"audio": {"input": {"turn_detection": None}}}},
        {"type": "session.update", "session": {"input_audio_format": "g711_ulaw"}},
        {"type": "session.update", "session": {"turn_detection": {"type": "semantic_vad"}}},
        {"type": "input_audio_buffer.append", "audio": APPEND},
        {"type": "input_audio_buffer.commit"},
        {"type": "input_audio_buffer.clear"},
    ],
    NvidiaServer: [
        {"type": "transcription_session.update", "session": {"input_audio_format": "none", "input_audio_params": {"sample_rate_hz": 8_000}}},  # noqa: E501
        {"type": "transcription_session.update", "session": {"word_boosting": {"word_boosting_list": [{"phrases": ["a"], "boost": 1.0}]}}},  # noqa: E501
        {"type": "input_audio_buffer.append", "audio": APPEND},
        {"type": "input_audio_buffer.append", "audio": "UklGRg==", "runtime_config": {"force_eou": "true"}},  # noqa: E501
        {"type": "input_audio_buffer.commit"},
        {"type": "input_audio_buffer.done"},
    ],
    VoskServer: [
        {"config": {"sample_rate": 16_000, "max_alternatives": 1, "phrase_list": ["a"]}},
        {"reset": 1},
        {"eof": 1},
    ],
    SherpaServer: ["Done"],
    AssemblyServer: [
        {"type": "Terminate"},
        {"type": "ForceEndpoint"},
        {"type": "UpdateConfiguration", "min_turn_silence": 400, "keyterms_prompt": ["a"]},
    ],
    SpeechmaticsServer: [
        {"message": "StartRecognition", "audio_format": PCM_IN, "transcription_config": {"language": "en", "enable_partials": True}},  # noqa: E501
        {"message": "ForceEndOfUtterance"},
        {"message": "EndOfStream"},
    ],
}  # fmt: skip
BYTES: dict[type[Adapter], list[bytes]] = {
    WyomingServer: [
        wyoming(Event("describe")),
        wyoming(Event("transcribe", {"language": "en"})),
        wyoming(Event("audio-start", {"rate": 16_000, "width": 2, "channels": 1})),
        wyoming(Event("audio-chunk", {"rate": 16_000, "width": 2, "channels": 1}, PCM)),
        wyoming(Event("audio-stop")),
    ],
    RivaServer: [RIVA_START, pb.data(2, PCM)],
    KyutaiServer: [
        msgspec.msgpack.encode(message)
        for message in (
            {"type": "Audio", "pcm": [0.5, -0.25]},
            {"type": "Audio", "pcm": [0.0] * 9},
            {"type": "Audio", "pcm": [1e300]},
            {"type": "Marker", "id": 3},
            {"type": "Init"},
            {"type": "OggOpus", "data": b"OggS"},
        )
    ],
}
QUERIES = {
    "encoding": ["linear16", "mulaw", "pcm_s16le", "", "opus"],
    "sample_rate": ["16000", "8000", "x", "-1", "1e3"],
    "channels": ["1", "2", "9"],
    "interim_results": ["true", "false"],
    "vad_events": ["true"],
    "utterance_end_ms": ["1000", "0", "nan"],
    "endpointing": ["25", "false", "inf"],
    "keywords": ["moon:2", ":::", "a:b"],
    "eager_eot_threshold": ["0.4", "9"],
    "format_turns": ["True"],
    "keyterms_prompt": ['["a"]', "[", "7"],
    "language": ["en", "multi", "\ud800"],
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


RESULT = {
    "channel_index",
    "start",
    "duration",
    "is_final",
    "speech_final",
    "from_finalize",
    "channel",
    "metadata",
}
TURN = {
    "turn_index",
    "transcript",
    "words",
    "end_of_turn_confidence",
    "audio_window_start",
    "audio_window_end",
}
ITEM = "conversation.item.input_audio_transcription"
REQUIRED: dict[tuple[type[Adapter], str], set[str]] = {
    (DeepgramServer, "Results"): RESULT,
    (DeepgramServer, "Metadata"): {"request_id", "transaction_key", "sha256", "created", "duration", "channels"},  # noqa: E501
    (FluxServer, "EndOfTurn"): TURN | {"trigger", "sequence_id", "request_id"},
    **{(FluxServer, event): TURN for event in ("StartOfTurn", "Update", "EagerEndOfTurn", "TurnResumed")},  # noqa: E501
    (AssemblyServer, "Begin"): {"id", "expires_at"},
    (AssemblyServer, "Turn"): {"turn_order", "turn_is_formatted", "end_of_turn", "transcript", "end_of_turn_confidence", "words"},  # noqa: E501
    (AssemblyServer, "Termination"): {"audio_duration_seconds", "session_duration_seconds"},
    **{(SpeechmaticsServer, kind): {"metadata", "results", "format"} for kind in ("AddTranscript", "AddPartialTranscript")},  # noqa: E501
    (SpeechmaticsServer, "AudioAdded"): {"seq_no"},
    (SpeechmaticsServer, "Error"): {"type", "reason"},
    (RealtimeServer, f"{ITEM}.delta"): {"event_id", "item_id", "content_index", "delta"},
    (RealtimeServer, f"{ITEM}.completed"): {"event_id", "item_id", "content_index", "transcript", "usage"},  # noqa: E501
}  # fmt: skip
"""What clients read without asking whether it is there."""


class Judge:
    """Plays the session: every request must be legal and valid for the native wire."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.states: list[State] = []
        """Of the sessions asked for and not over, oldest first."""
        self.audio: list[native.AudioFormat] = []
        self.answers = 0

    def collect(self) -> None:
        for request in self.adapter.requests_to_serve():
            if isinstance(request, native.Start):
                assert not self.states or self.states[-1] is State.DRAINING
                self.states.append(State.NEW)
                self.audio.append(request.audio)
            assert self.states, f"{request} without a session"
            after = LEGAL[self.states[-1]].get(type(request))
            assert after is not None, f"{type(request)} in {self.states[-1]}"
            self.states[-1] = after
            if isinstance(request, Audio):
                assert request.data
                assert len(request.data) % self.audio[-1].frame_bytes == 0
            else:
                encode(request)
        for frame in self.adapter.frames_to_send():
            self.answers += 1
            if isinstance(frame, bytes):
                self.readable(frame)
            elif frame != "Done!":
                said = json.loads(frame)
                assert isinstance(said, dict)
                kind = str(said.get("event") or said.get("type") or said.get("message"))
                assert said.keys() >= REQUIRED.get((type(self.adapter), kind), set())

    def readable(self, frame: bytes) -> None:
        if isinstance(self.adapter, WyomingServer):
            assert Reader().push(frame)
        elif isinstance(self.adapter, KyutaiServer):
            assert msgspec.msgpack.decode(frame)["type"]
        else:
            pb.Fields(frame)

    def tell(self, message: native.ServerMessage) -> None:
        is_last = isinstance(message, native.Done) or (
            isinstance(message, native.Error) and message.fatal
        )
        if not self.states or (
            isinstance(message, native.Done) and self.states[0] is not State.DRAINING
        ):
            return
        if is_last:
            self.states.pop(0)
            self.audio.pop(0)
        self.adapter.tell(message)


words = st.sampled_from(["", "a", "a b", "über", "c d e"])
session_says = st.one_of(
    st.just(ready()),
    st.builds(partial, words, words, id=st.integers(0, 3), rev=st.integers(1, 5)),
    st.builds(
        final,
        words,
        id=st.integers(0, 3),
        cause=st.sampled_from(["endpoint", "finalize", "stop", "max", "gap"]),
        at_ms=st.integers(0, 9_000),
    ),
    st.builds(
        turn,
        st.sampled_from(["start", "eager_end", "resumed", "end"]),
        number=st.integers(0, 3),
        text=st.none() | words,
        trigger=st.sampled_from(["silence", "model", "finalize", "timeout"]),
    ),
    st.builds(
        lambda done: native.Ack(at=done, done=done, durable=0), st.integers(0, 10**6)
    ),
    st.builds(
        lambda code, fatal: native.Error(code=code, message="because", fatal=fatal),
        st.sampled_from(["internal", "idle_timeout", "over_capacity", "rate_limited"]),
        st.booleans(),
    ),
    st.just(native.Configured(req="configure", at=0, applied={})),
    st.just(native.Finalized(at=0, req="finalize")),
    st.just(native.Gap(at=0, samples=1, reason="client")),
    st.just(native.Done(samples=1, finals=0)),
)  # fmt: skip


@st.composite
def texts(draw: st.DrawFn, examples: list[Any]) -> str:
    example = draw(st.sampled_from(examples))
    match draw(st.integers(0, 5)):
        case 0:
            return draw(st.text(st.characters(exclude_categories=()), max_size=20))
        case 1:
            return json.dumps(draw(json_values))
        case 2 if isinstance(example, dict):
            changed = dict(example)
            changed[draw(st.sampled_from(list(example)))] = draw(json_values)
            return json.dumps(changed)
        case _:
            return example if isinstance(example, str) else json.dumps(example)


@st.composite
def pieces(draw: st.DrawFn, examples: list[bytes]) -> bytes:
    example = draw(st.sampled_from(examples))
    match draw(st.integers(0, 5)):
        case 0:
            return draw(st.binary(max_size=30))
        case 1:
            cut = draw(st.integers(0, len(example)))
            return example[:cut] + draw(st.binary(max_size=3)) + example[cut:]
        case _:
            return example


@st.composite
def hellos(draw: st.DrawFn) -> Hello:
    query = {
        name: draw(st.sampled_from(values))
        for name, values in QUERIES.items()
        if draw(st.booleans())
    }
    headers = draw(st.sampled_from([{}, {"openai-beta": "realtime=v1"}]))
    return hello(headers, **query)


@st.composite
def clients(draw: st.DrawFn, wire: type[Adapter]) -> list[str | bytes]:
    if wire in BYTES:
        return list(draw(st.lists(pieces(BYTES[wire]), max_size=12)))
    either = texts(TEXTS[wire]) | st.sampled_from([PCM, PCM[:7], b"", PCM * 900])
    return draw(st.lists(either, max_size=12))


def check(wire: type[Adapter], data: st.DataObject) -> None:
    make: Callable[[Hello], Adapter] = wire
    try:
        adapter = make(data.draw(hellos()))
    except Refused as refused:
        assert refused.status == 400
        json.dumps(refused.body)
        return
    judge = Judge(adapter)
    adapter.begin()
    judge.collect()
    for frame in data.draw(clients(wire)):
        before, is_over = judge.answers, adapter.ending is not None
        adapter.receive(frame)
        judge.collect()
        if isinstance(adapter, VoskServer) and isinstance(frame, bytes) and not adapter.ending:
            assert judge.answers - before == (not adapter._is_ending)
        assert not is_over or judge.answers == before
        for message in data.draw(st.lists(session_says, max_size=3)):
            judge.tell(message)
            judge.collect()
    adapter.hang_up()
    judge.collect()
    while judge.states and not adapter.ending:
        judge.tell(native.Error(code="internal", message="because", fatal=True))
        judge.collect()
    if adapter.ending:
        assert len(adapter.ending.reason.encode()) <= 123  # a close frame holds no more


@pytest.mark.parametrize("wire", [*TEXT_WIRES, *BYTE_WIRES], ids=lambda wire: wire.__name__)
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_client_gets_answers_of_its_own_wire(wire: type[Adapter], data: st.DataObject) -> None:
    check(wire, data)


@pytest.mark.slow
@pytest.mark.parametrize("wire", [*TEXT_WIRES, *BYTE_WIRES], ids=lambda wire: wire.__name__)
def test_any_client_gets_answers_of_its_own_wire_for_long(wire: type[Adapter]) -> None:
    @given(data=st.data())
    @settings(max_examples=ROUND, deadline=None, suppress_health_check=list(HealthCheck))
    def some(data: st.DataObject) -> None:
        check(wire, data)

    play_on(some)
