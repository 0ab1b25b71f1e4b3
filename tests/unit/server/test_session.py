"""One conversation, driven by hand: requests and events in, messages and commands out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.events import (
    EagerEnd,
    Event,
    Final,
    Finalized,
    Partial,
    Progress,
    Stopped,
    TurnEnd,
    TurnResumed,
    TurnStart,
    Word,
)
from server.asked import MAX_WAITING
from server.config import ServerConfig
from server.patience import Phase
from server.session import Identity, Session
from server.wire import messages as wire
from server.wire.codec import decode_client
from server.wire.conversation import Audio
from server.wire.errors import RemoteProtocolError
from server.wire.native import NativeServer, Request
from server.worker import link

MODEL = link.Model("m", "f", (13, 6, 1, 0), 8, "fp32", "rnnt", 0, ("en",))
RATE = 16_000


def request(kind: str, **fields: Any) -> wire.ClientMessage:
    return decode_client({"type": kind, **fields})


def start(channels: int = 1, **wishes: Any) -> wire.ClientMessage:
    audio = {"encoding": "pcm_s16le", "rate": RATE, "channels": channels}
    return request("start", v=1, audio=audio, **wishes)


class Table:
    """A session between a client and a worker that the test plays."""

    def __init__(self, **settings: Any) -> None:
        limits = wire.Limits(**settings.pop("limits", {}))
        config = ServerConfig(limits=limits, **settings)
        self.now = 100.0
        self.session = Session(Identity(number=7, name="s", token="t"), config, now=self.now)
        self.said: list[wire.ServerMessage] = []
        self.commands: list[link.Command] = []

    def _collect(self) -> None:
        self.said += self.session.messages_to_send()
        self.commands += self.session.commands_to_send()

    def hear(self, *requests: Request, model: link.Model | None = MODEL) -> None:
        for item in requests:
            self.session.receive(item, now=self.now, model=model)
        self._collect()

    def opened(self, channels: int = 1, **wishes: Any) -> None:
        self.hear(start(channels, **wishes))
        self.session.opened(now=self.now)
        self._collect()

    def event(self, event: Event, channel: int = 0) -> None:
        self.session.happened(channel, event, now=self.now)
        self._collect()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.session.handle_timer(now=self.now)
        self._collect()

    def kinds(self) -> list[str]:
        return [wire.type_of(type(message)) for message in self.said]

    def last(self) -> wire.ServerMessage:
        return self.said[-1]

    def error(self) -> wire.Error:
        last = self.last()
        assert isinstance(last, wire.Error)
        return last


def audio(ms: int, channels: int = 1) -> Audio:
    return Audio(bytes(ms * RATE // 1000 * 2 * channels))


def test_ready_comes_when_the_worker_has_a_place_and_answers_wait_for_it() -> None:
    table = Table()
    table.hear(start(), audio(100), request("pause"), request("configure", req="a"))
    assert table.said == []
    table.session.opened(now=table.now)
    table._collect()
    assert table.kinds() == ["ready", "state", "configured"]
    assert [type(command) for command in table.commands] == [link.Open, link.Audio, link.Configure]


def test_progress_is_acknowledged_once_per_80_ms_of_audio() -> None:
    table = Table()
    table.opened()
    table.hear(audio(500))
    for done_ms in range(0, 500, 20):
        table.event(Progress(done_ms * 16))
    acks = [m for m in table.said if isinstance(m, wire.Ack)]
    assert [ack.done // 16 for ack in acks] == [80, 160, 240, 320, 400, 480]
    assert all(ack.at == 8_000 and ack.durable == 0 for ack in acks)


def test_received_audio_is_acknowledged_every_second_though_nothing_is_decoded() -> None:
    table = Table()
    table.opened()
    table.hear(*[audio(100)] * 25)
    assert [(m.at, m.done) for m in table.said if isinstance(m, wire.Ack)] == [
        (16_000, 0),
        (32_000, 0),
    ]


def test_done_of_two_channels_is_the_slower_one() -> None:
    table = Table()
    table.opened(channels=2)
    table.hear(audio(1_000, channels=2))
    table.event(Progress(16_000), channel=0)
    assert table.session.done == 0
    table.event(Progress(8_000), channel=1)
    assert table.session.done == 8_000


def test_a_gap_moves_time_and_keeps_the_backlog_as_it_was() -> None:
    table = Table()
    table.opened()
    table.hear(audio(100), request("gap", samples=10_000_000))
    assert table.session.at - table.session.done == 1_600
    assert wire.Gap(at=1_600, samples=10_000_000, reason="client") in table.said
    assert link.Gap(7, 10_000_000) in table.commands


def test_finalize_of_two_channels_is_answered_once_both_have() -> None:
    table = Table()
    table.opened(channels=2)
    table.hear(audio(100, channels=2), request("finalize", req="a"), request("finalize"))
    keys = [command.req for command in table.commands if isinstance(command, link.Finalize)]
    table.event(Finalized(keys[0], 1_600), channel=0)
    assert "finalized" not in table.kinds()
    table.event(Finalized(keys[0], 1_600), channel=1)
    assert table.last() == wire.Finalized(req="a", at=1_600)
    table.event(Finalized(keys[1], 1_600), channel=1)
    table.event(Finalized(keys[1], 1_600), channel=0)
    assert table.last() == wire.Finalized(at=1_600)


def test_too_many_waiting_finalizes_are_refused_without_ending() -> None:
    table = Table()
    table.opened()
    table.hear(*[request("finalize", req="a")] * (MAX_WAITING + 1))
    assert (table.error().code, table.error().fatal, table.error().req) == (
        "rate_limited",
        False,
        "a",
    )


def test_stop_is_done_when_every_channel_has_stopped() -> None:
    table = Table()
    table.opened(channels=2)
    table.hear(audio(100, channels=2), request("stop"))
    assert link.Stop(7) in table.commands
    table.event(Stopped(1_600, 2), channel=0)
    assert table.session.close_code is None
    table.event(Stopped(1_600, 3), channel=1)
    assert table.last() == wire.Done(samples=1_600, finals=5)
    assert table.session.close_code == 1000


def test_events_are_said_in_the_words_of_the_wire() -> None:
    table = Table()
    table.opened(words=True)
    before = len(table.said)
    word = Word("Hi", 0, 80, 0.5)
    for event in (
        TurnStart(0, 0),
        Partial(0, 1, "h", "hi", 0, 80),
        EagerEnd(0, 80, "hi", 0.5),
        TurnResumed(0, 90),
        Final(0, "Hi", 0, 80, 0.5, "endpoint", (word,)),
        TurnEnd(0, 100, "hi", "silence"),
    ):
        table.event(event, channel=0)
    said = table.said[before:]
    assert [getattr(m, "event", wire.type_of(type(m))) for m in said] == [
        "start", "partial", "eager_end", "resumed", "final", "end",
    ]  # fmt: skip
    final = said[4]
    assert isinstance(final, wire.Final)
    assert final.words == (wire.WordSpan(w="Hi", s=0, e=80, c=0.5),)


@pytest.mark.parametrize(
    ("settings", "prepare", "seconds", "code", "close_code"),
    [
        ({"start_timeout_s": 5}, [], 5, "idle_timeout", 4408),
        ({"limits": {"idle_ms": 2_000}}, ["open"], 2, "idle_timeout", 4408),
        ({"limits": {"pause_ms": 3_000}}, ["open", "pause"], 3, "idle_timeout", 4408),
        ({"flush_timeout_s": 4}, ["open", "stop"], 4, "internal", 1011),
        ({"start_timeout_s": 5}, ["ask"], 5, "internal", 1011),
    ],
)
def test_every_wait_has_an_end(
    settings: dict[str, Any], prepare: list[str], seconds: float, code: str, close_code: int
) -> None:
    table = Table(**settings)
    for step in prepare:
        if step == "open":
            table.opened()
        else:
            table.hear(start() if step == "ask" else request(step))
    table.wait(seconds - 0.01)
    assert table.session.close_code is None
    assert table.session.next_deadline() == pytest.approx(table.now + 0.01)
    table.wait(0.02)
    assert table.error().code == code
    assert table.session.close_code == close_code


def test_a_paused_session_is_not_idle_and_a_decoding_one_neither() -> None:
    table = Table(limits={"idle_ms": 2_000})
    table.opened()
    table.hear(request("pause"))
    table.wait(60)
    table.hear(request("resume"), audio(1_000))
    for done in range(1, 5):
        table.wait(1.5)
        table.event(Progress(done * 1_000))
    assert table.session.phase is Phase.STREAMING


def test_a_client_that_only_says_that_it_is_there_is_not_idle() -> None:
    """Deepgram's KeepAlive becomes such a message."""
    table = Table(limits={"idle_ms": 2_000})
    table.opened()
    for _ in range(5):
        table.wait(1.5)
        table.hear(request("configure", req=""))
    assert table.session.phase is Phase.STREAMING
    table.wait(2.1)
    assert table.error().code == "idle_timeout"


def test_an_old_session_is_warned_and_then_ended() -> None:
    table = Table(limits={"session_ms": 100_000, "idle_ms": 1_000_000})
    table.opened()
    table.wait(95)
    going = table.last()
    assert isinstance(going, wire.GoAway)
    assert (going.reason, going.deadline_ms) == ("session_limit", 5_000)
    table.wait(4)
    assert table.session.close_code is None
    assert table.kinds().count("goaway") == 1
    assert table.session.next_deadline() == pytest.approx(table.now + 1)
    table.wait(1)
    assert table.error().code == "session_limit"


def test_a_session_that_began_elsewhere_is_no_younger_here() -> None:
    table = Table(limits={"session_ms": 100_000, "idle_ms": 1_000_000})
    table.opened()
    table.session.born(table.now - 90)
    table.wait(5)
    assert isinstance(table.last(), wire.GoAway)
    table.wait(5)
    assert table.error().code == "session_limit"


def test_a_start_before_any_model_is_ready_is_told_to_come_back() -> None:
    table = Table()
    table.hear(start(), model=None)
    assert table.error().code == "over_capacity"
    assert table.error().retry_after


@pytest.mark.parametrize(
    ("code", "close_code"),
    [
        ("internal", 1011),
        ("over_capacity", 4429),
        ("unsupported_audio", 4400),
        ("bad_request", 4400),
    ],
)
def test_a_failure_of_the_worker_ends_the_session_by_name(
    code: link.FailureCode, close_code: int
) -> None:
    table = Table()
    table.opened()
    table.session.failed(code, "because")
    table._collect()
    assert table.error().code == code
    assert table.session.close_code == close_code
    table.hear(audio(100), request("stop"))
    table.event(Stopped(0, 0))
    assert table.kinds()[-1] == "error"


def test_a_leaving_server_flushes_without_done() -> None:
    table = Table()
    table.opened()
    table.session.drain(deadline_ms=5_000)
    table.session.leave(now=table.now)
    table._collect()
    assert table.kinds()[-1] == "goaway"
    assert table.commands[-1] == link.Stop(7)
    table.event(Stopped(0, 0))
    assert table.session.close_code == 1001
    assert "done" not in table.kinds()


def test_what_comes_while_a_leaving_server_flushes_does_not_reach_the_engine() -> None:
    table = Table()
    table.opened()
    table.session.leave(now=table.now)
    table.hear(audio(100), request("gap", samples=5), request("pause"), request("finalize"))
    assert table.commands[-1] == link.Stop(7)  # an engine refuses what comes behind it
    table.event(Stopped(0, 0))
    assert table.session.close_code == 1001


def test_a_client_that_said_stop_before_its_server_leaves_is_told_the_end() -> None:
    table = Table()
    table.opened()
    table.hear(audio(100), request("stop"))
    table.session.leave(now=table.now)
    table.event(Stopped(0, 0))
    assert table.kinds()[-1] == "done"
    assert table.session.close_code == 1000


def test_lag_is_told_when_it_begins_and_when_it_is_over() -> None:
    table = Table()
    table.opened()
    for tick in range(40):
        table.now += 0.1
        table.hear(audio(100))
        if tick == 30:
            table.event(Progress(16_000))
    table.event(Progress(64_000))
    assert [m.level for m in table.said if isinstance(m, wire.Lag)] == ["warn", "ok"]


# ---- any order of requests and events

TEXTS = [
    '{"type":"start","v":1,"audio":{"encoding":"pcm_s16le","rate":16000,"channels":2}}',
    '{"type":"pause"}', '{"type":"resume"}', '{"type":"stop"}', '{"type":"finalize","req":"x"}',
    '{"type":"configure","req":"y","partials":"none"}', '{"type":"gap","samples":500}', "junk",
    '{"type":"configure","req":"z","language":"xx"}',
]  # fmt: skip
moves = st.one_of(
    st.sampled_from(TEXTS),
    st.integers(0, 4_000).map(lambda frames: bytes(frames * 4)),
    st.just(b"odd"),
    st.sampled_from(["opened", "fail", "drain", "leave"]),
    st.tuples(st.integers(0, 1), st.integers(0, 1)),
    st.floats(0.01, 20),
)


class Play:
    """A table where the protocol guards both sides and the worker owes its answers."""

    def __init__(self) -> None:
        self.table, self.protocol = Table(), NativeServer()
        self.owed: list[list[Event]] = [[], []]
        self.seen = (0, 0)

    def move(self, move: Any) -> None:
        session, now = self.table.session, self.table.now
        match move:
            case "opened" if session.phase is Phase.OPENING:
                session.opened(now=now)
            case "fail":
                session.failed("internal", "because")
            case "drain":
                session.drain(deadline_ms=1)
            case "leave":
                session.leave(now=now)
            case (int(channel), _) if self.owed[channel]:
                self.table.event(self.owed[channel].pop(0), channel=channel)
            case float():
                self.table.wait(move)
            case bytes() | str():
                self.client(move)
        self.check()

    def client(self, data: bytes | str) -> None:
        try:
            if isinstance(data, bytes):
                self.table.hear(*self.protocol.receive_binary(data))
            else:
                self.table.hear(*self.protocol.receive_text(data))
        except RemoteProtocolError as error:
            self.table.session.fail(error)

    def check(self) -> None:
        table, session = self.table, self.table.session
        table._collect()
        for command in table.commands:
            for events in self.owed:
                events += answers(command, session.at)
        table.commands.clear()
        for message in table.said:
            self.protocol.render(message)  # raises when the protocol forbids it
        table.said.clear()
        seen = (session.at, session.done)
        assert seen[0] >= max(seen[1], self.seen[0])
        assert seen[1] >= self.seen[1]
        self.seen = seen
        assert (session.close_code is not None) is (session.phase is Phase.CLOSED)


@given(st.lists(moves, max_size=60))
def test_whatever_comes_the_answers_are_legal_and_the_counters_only_grow(script: list[Any]) -> None:
    play = Play()
    for move in [TEXTS[0], *script]:
        play.move(move)


def answers(command: link.Command, at: int) -> list[Event]:
    match command:
        case link.Audio() | link.Gap():
            return [Progress(at)]
        case link.Finalize(req=req):
            return [Final(0, "", 0, 0, 0.5, "finalize", ()), Finalized(req, at)]
        case link.Stop():
            return [Stopped(at, 1)]
        case _:
            return []
