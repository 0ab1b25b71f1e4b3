"""The native protocol without I/O: legal moves, named errors, flow, bad input."""

import json
from typing import Any

import msgspec
import pytest

from server.wire.conversation import LEGAL, LEGAL_ANSWERS, Audio, Move, Said, State
from server.wire.errors import (
    BinaryBeforeStart,
    LocalProtocolError,
    RemoteProtocolError,
    TooFarAhead,
)
from server.wire.messages import (
    CLIENT_TYPES,
    SERVER_TYPES,
    Ack,
    AudioFormat,
    ClientGap,
    ClientMessage,
    Configure,
    Configured,
    Done,
    Error,
    Final,
    Finalize,
    Finalized,
    Gap,
    GoAway,
    Lag,
    Limits,
    Message,
    Partial,
    Pause,
    Ready,
    Resume,
    ResumeFrom,
    ServerMessage,
    Start,
    StateChanged,
    Stop,
    Turn,
)
from server.wire.native import NativeClient, NativeServer

S16 = AudioFormat(encoding="pcm_s16le", rate=16_000)
START = Start(v=1, audio=S16)
CLIENT: dict[Move, ClientMessage] = {
    type(message): message
    for message in (
        START,
        Configure(req="c"),
        Finalize(req="f"),
        ClientGap(samples=1),
        Pause(),
        Resume(),
        Stop(),
    )
}
SERVER: dict[Move, ServerMessage] = {
    type(message): message
    for message in (
        Ready(
            v=1,
            session="s",
            token="t",
            model="m",
            resumed=False,
            at=0,
            chunk_ms=160,
            limits=Limits(),
        ),
        Ack(at=0, done=0, durable=0),
        Partial(id=0, channel=0, rev=1, stable="", text="", start_ms=0, end_ms=0),
        Final(id=0, channel=0, text="", start_ms=0, end_ms=0, cause="stop"),
        Turn(event="start", turn=0, channel=0, at_ms=0),
        Configured(req="c", at=0, applied={}),
        Finalized(at=0),
        StateChanged(state="paused", at=0),
        Lag(ms=0, level="ok"),
        Gap(at=0, samples=1, reason="client"),
        GoAway(reason="drain", deadline_ms=0, token="t"),
        Done(samples=0, finals=0),
        Error(code="bad_request", message="", fatal=False),
    )
}
READY = SERVER[Ready]
FATAL = Error(code="internal", message="", fatal=True)
PATHS: dict[State, list[Move]] = {
    State.NEW: [],
    State.STREAMING: [Start],
    State.PAUSED: [Start, Pause],
    State.DRAINING: [Start, Stop],
}


def raw(message: Message, **more: Any) -> str:
    """Return the JSON text of a message without asking whether it is legal."""
    return json.dumps(msgspec.to_builtins(message) | more)


def server_in(state: State) -> NativeServer:
    server = NativeServer()
    for kind in PATHS[state]:
        server.receive_text(raw(CLIENT[kind]))
    return server


def client_in(state: State) -> NativeClient:
    client = NativeClient()
    for kind in PATHS[state]:
        client.send(CLIENT[kind])
    return client


def started(start: Start = START, **limits: int) -> NativeServer:
    server = NativeServer(limits=Limits(**limits))
    server.receive_text(raw(start))
    return server


def refusal(server: NativeServer, message: str | bytes) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as caught:
        if isinstance(message, str):
            server.receive_text(message)
        else:
            server.receive_binary(message)
    return caught.value


# ---- legal moves


@pytest.mark.parametrize("state", PATHS, ids=lambda state: state.value)
@pytest.mark.parametrize("kind", CLIENT, ids=lambda kind: kind.__name__)
def test_the_client_makes_only_the_moves_of_the_table(state: State, kind: Move) -> None:
    server, client = server_in(state), client_in(state)
    after = LEGAL[state].get(kind)
    if after is None:
        error = refusal(server, raw(CLIENT[kind]))
        assert (error.code, error.is_fatal, error.param) == ("bad_request", False, "type")
        with pytest.raises(LocalProtocolError):
            client.send(CLIENT[kind])
    else:
        assert server.receive_text(raw(CLIENT[kind])) == [CLIENT[kind]]
        client.send(CLIENT[kind])
    assert server.state is client.state is (after or state)


@pytest.mark.parametrize("state", PATHS, ids=lambda state: state.value)
@pytest.mark.parametrize("kind", SERVER, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("said", Said, ids=lambda said: said.value)
def test_the_server_says_only_what_the_table_allows(state: State, kind: Move, said: Said) -> None:
    server, client = server_in(state), client_in(state)
    is_legal = kind in LEGAL_ANSWERS[said]
    is_legal &= kind is not Ready or state is not State.NEW
    is_legal &= kind is not Done or state is State.DRAINING
    before = {Said.NOTHING: None, Said.READY: READY, Said.ALL: FATAL}[said]
    if state is State.NEW and said is Said.READY:
        return  # cannot be: 'ready' answers 'start'
    if before is not None:
        client.receive_text(server.render(before))
    if is_legal:
        assert client.receive_text(server.render(SERVER[kind])) == SERVER[kind]
        assert (server.state is State.CLOSED) is (kind is Done)
    else:
        with pytest.raises(LocalProtocolError):
            server.render(SERVER[kind])
        with pytest.raises(RemoteProtocolError):
            client.receive_text(raw(SERVER[kind]))


def test_the_tables_name_every_message_and_state() -> None:
    assert set(CLIENT) == set(CLIENT_TYPES.values())
    assert set(SERVER) == set(SERVER_TYPES.values())
    assert set(LEGAL) == set(State)
    assert {kind for moves in LEGAL.values() for kind in moves} == {*CLIENT, Audio}


def test_a_fatal_error_is_the_last_word() -> None:
    server = server_in(State.STREAMING)
    error = refusal(server, b"odd")
    assert server.state.value == "draining"
    server.render(error.to_message())
    assert server.state.value == "closed"
    assert server.receive_text(raw(Stop())) == server.receive_binary(b"odd") == []
    with pytest.raises(LocalProtocolError):
        server.render(error.to_message())


def test_a_fatal_error_after_the_fatal_error_changes_nothing() -> None:
    server = NativeServer()
    server.render(FATAL)
    server._conversation.give_up()
    assert server.state is State.CLOSED


def test_a_request_that_is_refused_is_named_by_its_req() -> None:
    server = server_in(State.DRAINING)
    assert refusal(server, raw(Finalize(req="f7"))).req == "f7"
    assert refusal(server, '{"type":"finalize","req":7}').req is None
    late = '{"type":"configure","req":"c1","partials":"some"}'
    assert (refusal(server, late).req, refusal(server, late).param) == ("c1", "partials")


# ---- audio and the flow window


def test_audio_before_start_closes_with_1003() -> None:
    error = refusal(NativeServer(), bytes(2))
    assert (type(error), error.code, error.close_code) == (BinaryBeforeStart, "bad_request", 1003)


@pytest.mark.parametrize(
    ("audio", "size", "is_whole"),
    [
        (S16, 3, False),
        (S16, 4, True),
        (AudioFormat(encoding="pcm_s16le", rate=8_000, channels=2), 6, False),
        (AudioFormat(encoding="pcm_f32le", rate=8_000, channels=2), 8, True),
        (AudioFormat(encoding="mulaw", rate=8_000, channels=2), 7, False),
        (AudioFormat(encoding="alaw", rate=8_000), 7, True),
    ],
)
def test_audio_is_whole_sample_frames(audio: AudioFormat, size: int, *, is_whole: bool) -> None:
    server = started(Start(v=1, audio=audio))
    if is_whole:
        assert server.receive_binary(bytes(size)) == [Audio(bytes(size))]
        assert server.at == size // audio.frame_bytes
    else:
        error = refusal(server, bytes(size))
        assert error.is_fatal
        assert f"{size} bytes" in error.message
        assert f"{audio.frame_bytes}-byte sample frames" in error.message


def test_an_empty_binary_message_says_nothing() -> None:
    assert started().receive_binary(b"") == []


def test_a_binary_message_beyond_the_limit_closes_with_1009() -> None:
    server = started(frame_bytes=100)
    assert server.receive_binary(bytes(100))
    assert refusal(server, bytes(102)).close_code == 1009


def test_audio_while_paused_is_fatal_and_after_stop_is_not() -> None:
    assert refusal(server_in(State.PAUSED), bytes(2)).is_fatal
    assert not refusal(server_in(State.DRAINING), bytes(2)).is_fatal


def test_audio_beyond_the_window_is_too_far_ahead_and_an_ack_makes_room() -> None:
    server = started(window_ms=100)
    server.render(msgspec.structs.replace(READY, limits=server.limits))
    server.receive_binary(bytes(3_200))
    server.render(Ack(at=1_600, done=1_000, durable=0))
    server.receive_binary(bytes(2_000))
    error = refusal(server, bytes(2))
    assert (type(error), error.close_code) == (TooFarAhead, 4413)


def test_a_gap_counts_as_sent_but_may_pass_the_window() -> None:
    server = started(window_ms=100)
    server.receive_text(raw(ClientGap(samples=99_999)))
    assert server.at == 99_999
    assert isinstance(refusal(server, bytes(2)), TooFarAhead)


def test_a_resumed_session_counts_from_at_and_waits_for_ready() -> None:
    start = msgspec.structs.replace(START, resume=ResumeFrom(token="t"))
    assert refusal(started(start), bytes(2)).is_fatal
    server, client = started(start), NativeClient()
    client.send(start)
    client.receive_text(server.render(msgspec.structs.replace(READY, at=480_000, resumed=True)))
    server.receive_binary(client.send_audio(bytes(2)))
    assert server.at == client.sent == 480_001


def test_audio_sent_right_behind_start_is_counted_once() -> None:
    server = started()
    server.receive_binary(bytes(200))
    server.render(READY)
    assert (server.at, server.done) == (100, 0)


# ---- the client


def test_the_client_knows_its_window() -> None:
    client = NativeClient()
    assert client.room_bytes == 0
    with pytest.raises(LocalProtocolError, match="before 'start'"):
        client.send_audio(b"")
    client.send(START)
    limits = Limits(window_ms=100, frame_bytes=2_001)
    client.receive_text(raw(msgspec.structs.replace(READY, limits=limits)))
    assert client.room_bytes == 2_000
    client.send_audio(bytes(2_000))
    assert client.room_bytes == 1_200
    client.send_audio(bytes(1_200))
    assert client.room_bytes == 0
    with pytest.raises(LocalProtocolError, match="room for 0"):
        client.send_audio(bytes(2))
    client.receive_text(raw(Ack(at=1_600, done=800, durable=400)))
    assert (client.room_bytes, client.at, client.done, client.durable) == (1_600, 1_600, 800, 400)
    client.send(ClientGap(samples=9_999))
    assert (client.room_bytes, client.sent) == (0, 11_599)


def test_a_window_that_opens_by_little_is_not_worth_a_message() -> None:
    client = NativeClient()
    assert not client.has_room(2)
    client.send(START)
    client.receive_text(raw(msgspec.structs.replace(READY, limits=Limits(window_ms=100))))
    assert client.has_room(10_000)
    client.send_audio(bytes(3_000))
    assert client.has_room(200)  # all of what there is
    assert not client.has_room(202)  # the window is 3,200 bytes, a quarter of it 800
    client.receive_text(raw(Ack(at=1_500, done=299, durable=0)))
    assert not client.has_room(10_000)
    client.receive_text(raw(Ack(at=1_500, done=300, durable=0)))
    assert client.has_room(10_000)


def test_a_message_of_odd_size_at_most_fits_the_window() -> None:
    client = NativeClient()
    client.send(START)
    limits = Limits(window_ms=10_000, frame_bytes=2_001)
    client.receive_text(raw(msgspec.structs.replace(READY, limits=limits)))
    assert client.has_room(10_000)


def test_the_client_refuses_to_send_half_a_sample_or_audio_while_paused() -> None:
    with pytest.raises(LocalProtocolError, match="3 bytes"):
        client_in(State.STREAMING).send_audio(bytes(3))
    with pytest.raises(LocalProtocolError, match="paused"):
        client_in(State.PAUSED).send_audio(bytes(2))


def test_the_client_skips_types_and_fields_it_does_not_know() -> None:
    client = client_in(State.STREAMING)
    assert client.receive_text('{"type":"weather","sun":true}') is None
    assert client.receive_text(raw(READY, colour="red")) == READY


def test_the_client_takes_an_unknown_error_code_for_internal() -> None:
    text = raw(Error(code="internal", message="m", fatal=True), code="quota")
    assert client_in(State.NEW).receive_text(text) == Error(
        code="internal", message="m", fatal=True
    )


def test_the_client_names_a_message_that_is_not_valid() -> None:
    with pytest.raises(RemoteProtocolError, match="bad 'ack'"):
        client_in(State.STREAMING).receive_text('{"type":"ack","at":-1}')
