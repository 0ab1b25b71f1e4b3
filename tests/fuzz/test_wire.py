"""Random text, bytes and orders: nothing but our own errors, never a state off the table."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from server.wire.codec import decode_object, decode_server
from server.wire.conversation import LEGAL, Audio, State
from server.wire.errors import LocalProtocolError, RemoteProtocolError, WireError
from server.wire.messages import (
    SAMPLE_BYTES,
    Ack,
    AudioFormat,
    ClientGap,
    Done,
    Error,
    Limits,
    Ready,
    Start,
    Stop,
)
from server.wire.native import MAX_MISTAKES, NativeClient, NativeServer, window_samples
from tests.fuzz.lengths import MINUTES, play_on

PAGE = (Path(__file__).parents[2] / "server" / "wire" / "PROTOCOL.md").read_text()
EXAMPLES = re.findall(r"^[cs] (\{.*\})$", PAGE, re.MULTILINE)
BY_SERVER = re.findall(r"^s (\{.*\})$", PAGE, re.MULTILINE)
ROUND = 2_000
"""Texts before the clock is looked at; a twentieth of it, of conversations."""
LIMITS = Limits(frame_bytes=4_000, window_ms=200)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


NASTY = st.sampled_from(["\ud800", "\\ud800", "\0", "[" * 2_000, "9" * 30, "1e999", "NaN", "\n"])


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Return noise, JSON, or an example of the protocol page with damage."""
    example = draw(st.sampled_from(EXAMPLES))
    match draw(st.integers(0, 4)):
        case 0:
            return draw(st.text(st.characters(exclude_categories=())))  # surrogates too
        case 1:
            return json.dumps(draw(json_values))
        case 2:
            at = draw(st.integers(0, len(example)))
            noise = draw(NASTY | st.text(max_size=5))
            return example[:at] + noise + example[at + draw(st.integers(0, 5)) :]
        case 3:
            value: dict[str, Any] = json.loads(example)
            value[draw(st.sampled_from([*value, "v", "audio", "meta", "req"]))] = draw(json_values)
            return json.dumps(value)
        case _:
            return example


binaries = st.binary(max_size=64) | st.integers(0, 5_000).map(bytes)


class ServerMachine(RuleBasedStateMachine):
    """One server and whatever a client sends, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.server = NativeServer(limits=LIMITS)
        self.before = State.NEW
        self.at = 0
        self.mistakes = 0
        self.is_fatal = False

    def receive(self, data: str | bytes) -> None:
        self.before, self.at = self.server.state, self.server.at
        try:
            if isinstance(data, str):
                heard = self.server.receive_text(data)
            else:
                heard = self.server.receive_binary(data)
        except RemoteProtocolError as error:
            self.refused(error)
        else:
            for request in heard:
                assert self.server.state is LEGAL[self.before][type(request)]
                self.counted(request)

    def refused(self, error: RemoteProtocolError) -> None:
        self.mistakes += not error.is_fatal
        self.is_fatal |= error.is_fatal
        assert self.server.state is (State.DRAINING if error.is_fatal else self.before)
        message = error.to_message()
        assert NativeClient().receive_text(NativeServer().render(message)) == message
        assert len(message.message) <= 200
        if error.is_fatal:
            self.server.render(message)
            assert self.server.state is State.CLOSED

    def counted(self, request: object) -> None:
        start = self.server.start
        assert start is not None
        added = self.server.at - self.at
        if isinstance(request, Audio):
            assert (
                added * start.audio.frame_bytes
                == len(request.data)
                <= self.server.limits.frame_bytes
            )
            assert self.server.at - self.server.done <= window_samples(
                start.audio, self.server.limits
            )
        else:
            assert added == (request.samples if isinstance(request, ClientGap) else 0)

    @rule(text=texts())
    def text_comes(self, text: str) -> None:
        self.receive(text)

    @precondition(lambda self: self.server.state is State.NEW)
    @rule(text=st.sampled_from([t for t in EXAMPLES if '"start","v"' in t]))
    def start_comes(self, text: str) -> None:
        self.receive(text)

    @rule(text=st.sampled_from([t for t in EXAMPLES if '"req"' in t or len(t) < 40]))
    def request_comes(self, text: str) -> None:
        self.receive(text)

    @rule(data=binaries)
    def audio_comes(self, data: bytes) -> None:
        self.receive(data)

    @rule(text=st.sampled_from(BY_SERVER))
    def server_speaks(self, text: str) -> None:
        message = decode_server(decode_object(text))
        assert message is not None
        before = self.server.state
        try:
            rendered = self.server.render(message)
        except LocalProtocolError:
            assert self.server.state is before
        else:
            assert json.loads(rendered)["type"] == json.loads(text)["type"]

    @rule()
    def ack_goes(self) -> None:
        ack = Ack(at=self.server.at, done=self.server.at, durable=0)
        try:
            self.server.render(ack)
        except LocalProtocolError:
            assert self.server.state is State.CLOSED or self.server.done <= self.server.at

    @invariant()
    def state_is_in_the_table(self) -> None:
        assert self.server.state in LEGAL
        assert self.mistakes <= MAX_MISTAKES
        assert (self.server.start is None) <= (self.server.at == 0)
        assert not self.is_fatal or self.server.state is State.CLOSED


TestServerMachine = ServerMachine.TestCase
TestServerMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def check_text(text: str) -> None:
    """Offer a text to both sides in every state they can be in."""
    for path in ([], ["start"], ["start", "pause"], ["start", "stop"]):
        server, client = NativeServer(), NativeClient()
        for kind in path:
            server.receive_text(
                '{"type":"start","v":1,"audio":{"encoding":"alaw","rate":8000}}'
                if kind == "start"
                else f'{{"type":"{kind}"}}'
            )
        for receive in (server.receive_text, client.receive_text):
            try:
                receive(text)
            except WireError as error:
                assert isinstance(error, RemoteProtocolError)
                NativeServer().render(error.to_message())
        assert {server.state, client.state} <= set(LEGAL)


@given(texts())
@settings(max_examples=200)
def test_any_text_is_a_message_or_a_named_error(text: str) -> None:
    check_text(text)


@pytest.mark.slow
def test_any_text_is_a_message_or_a_named_error_for_long() -> None:
    @given(texts())
    @settings(max_examples=ROUND, deadline=None, suppress_health_check=list(HealthCheck))
    def some(text: str) -> None:
        check_text(text)

    play_on(some, minutes=MINUTES / 2)


@pytest.mark.slow
def test_any_order_of_messages_keeps_to_the_table_for_long() -> None:
    some = settings(
        max_examples=ROUND // 20,
        stateful_step_count=100,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    play_on(lambda: run_state_machine_as_test(ServerMachine, settings=some), minutes=MINUTES / 2)


@given(st.data())
@settings(max_examples=60)
def test_both_sides_agree_about_positions_and_window(data: st.DataObject) -> None:
    """A client that keeps to ``room_bytes`` is never refused, whatever the acks."""
    server, client = NativeServer(limits=LIMITS), NativeClient()
    encoding = data.draw(st.sampled_from(sorted(SAMPLE_BYTES)))
    channels = data.draw(st.integers(1, 2))
    audio = AudioFormat(encoding=encoding, rate=8_000, channels=channels)
    server.receive_text(client.send(Start(v=1, audio=audio)))
    client.receive_text(
        server.render(
            Ready(
                v=1,
                session="s",
                token="t",
                model="m",
                resumed=False,
                at=0,
                chunk_ms=80,
                limits=LIMITS,
            )
        )
    )
    width = audio.frame_bytes
    for _ in range(data.draw(st.integers(0, 20))):
        if data.draw(st.booleans()):
            size = data.draw(st.integers(0, client.room_bytes // width)) * width
            server.receive_binary(client.send_audio(bytes(size)))
        else:
            done = data.draw(st.integers(server.done, server.at))
            client.receive_text(server.render(Ack(at=server.at, done=done, durable=0)))
        assert (client.sent, client.done) == (server.at, server.done)
    server.receive_text(client.send(Stop()))
    client.receive_text(server.render(Done(samples=server.at, finals=0)))
    assert server.state is client.state is State.CLOSED
    with pytest.raises(LocalProtocolError):
        server.render(Error(code="internal", message="", fatal=True))
