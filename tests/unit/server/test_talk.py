"""A talk over a line and with an adapter that the test plays."""

import asyncio
import struct
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import msgspec
import pytest

from asr.events import Final, Progress, Stopped
from server import talk as module
from server.config import ServerConfig
from server.keeper import Keeper
from server.ledger import SMALL_BYTES
from server.manager import Manager
from server.metrics import Metrics
from server.session import Identity
from server.store.memory import MemoryStore
from server.talk import House, Talk
from server.ticket import Ticket
from server.wire import messages as native
from server.wire.adapter import Adapter, Frame, Hello, Request
from server.wire.conversation import Audio
from server.wire.messages import Limits
from server.wire.values import audio_format, phrases_in
from server.worker import link
from tests.unit.server import test_connection
from tests.unit.server.test_connection import Silent

RATE = 8_000
SECOND = bytes(2 * RATE)


class Line:
    """Takes frames while ``may_send`` is set."""

    def __init__(self, *, may_half_close: bool = False) -> None:
        self.may_half_close = may_half_close
        self.incoming: asyncio.Queue[Frame | None] = asyncio.Queue()
        self.sent: list[Frame] = []
        self.may_send = asyncio.Event()
        self.may_send.set()
        self.closed: tuple[int, str] | None = None
        self.is_aborted = False

    async def frames(self) -> AsyncIterator[Frame]:
        while (frame := await self.incoming.get()) is not None:
            yield frame
        if self.is_aborted:
            raise ConnectionError

    async def send(self, frame: Frame) -> None:
        await self.may_send.wait()
        self.sent.append(frame)

    async def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)
        self.incoming.put_nowait(None)

    def abort(self) -> None:
        self.is_aborted = True
        self.incoming.put_nowait(None)


class Simple(Adapter):
    """Text: start, stop, finalize, echo; binary: audio."""

    def on_text(self, text: str) -> None:
        match text:
            case "start":
                self.start(audio_format("pcm_s16le", RATE))
            case "stop":
                self.stop()
            case "finalize":
                self.finalize()
            case _:
                self.send(text)

    def on_final(self, message: native.Final) -> None:
        self.send(message.text)

    def on_done(self, message: native.Done) -> None:
        self.send("done")

    def on_error(self, error: native.Error) -> None:
        self.send(f"error {error.code}")
        self.end(1011, error.message)


class Patient(Simple):
    """A wire that waits longer, or not so long, as others."""

    idle_ms = 123

    def on_answer(self, message: native.Ready | native.Finalized | native.Configured) -> None:
        assert isinstance(message, native.Ready)
        self.send(f"idle {message.limits.idle_ms}")


class Stereo(Simple):
    """A wire that cannot say which channel spoke."""

    has_channels = False

    def on_open(self) -> None:
        self.start(audio_format("pcm_s16le", RATE, 2))


class Boosting(Simple):
    """A wire whose clients name what they like."""

    def on_open(self) -> None:
        self.start(audio_format("pcm_s16le", RATE), phrases=phrases_in(["moon", "GPT-4"]))

    def on_text(self, text: str) -> None:
        if text == "change":
            self.configure(phrases=phrases_in(["\u6771\u4eac", "Sun."]), req="c")
        else:
            super().on_text(text)


class Endless(Simple):
    """A file without an end."""

    def on_open(self) -> None:
        self.start(audio_format("pcm_s16le", RATE))

    def more(self) -> list[Request]:
        return [Audio(SECOND)]


class Scene:
    """A talk that runs, its line, its worker."""

    def __init__(self, line: Line, kind: type[Adapter] = Simple, **settings: Any) -> None:
        self.line, self.worker = line, Silent()
        limits = Limits(window_ms=2_000)
        config = ServerConfig(limits=limits, **settings)
        metrics = Metrics()
        self.manager = Manager(lambda _: self.worker, 1, observer=metrics)
        numbers = count(1)
        house = House(
            config=config,
            keeper=Keeper(self.manager, MemoryStore()),
            metrics=metrics,
            identify=lambda: Identity(number=next(numbers), name="s", token=Ticket.new("s").token),
        )
        self.talk = Talk(kind(Hello(name="n", born_s=0)), line, house)

    async def __aenter__(self) -> "Scene":
        await self.manager.start()
        self.running = asyncio.create_task(self.talk.run())
        return self

    async def __aexit__(self, *exception: object) -> None:
        if not self.running.done():
            self.line.abort()
            await self.running
        assert self.manager.sessions == 0

    def hear(self, *frames: Frame) -> None:
        for frame in frames:
            self.line.incoming.put_nowait(frame)

    async def next(self, kind: type[link.Command]) -> link.Command:
        while not isinstance(command := await self.worker.commands.get(), kind):
            pass
        return command

    async def all_heard(self) -> list[link.Command]:
        """What the worker was told once nothing more comes."""
        self.hear("echo")
        while "echo" not in self.line.sent:  # noqa: ASYNC110 - a list has no event
            await asyncio.sleep(0)
        self.line.sent.remove("echo")
        commands = list[link.Command]()
        while not self.worker.commands.empty():
            command = self.worker.commands.get_nowait()
            if not isinstance(command, link.Checkpoint):  # the keeper's own business
                commands.append(command)
        return commands


async def test_audio_beyond_the_window_waits_until_some_is_decoded() -> None:
    async with Scene(Line()) as scene:
        scene.hear("start", *[SECOND] * 5, "stop")
        told = await scene.all_heard()
        assert [type(command) for command in told] == [link.Open, link.Audio, link.Audio]
        scene.talk.opened()
        scene.talk.happened(0, Progress(2 * RATE))
        assert [type(command) for command in await scene.all_heard()] == [link.Audio, link.Audio]
        scene.talk.happened(0, Progress(4 * RATE))
        assert [type(command) for command in await scene.all_heard()] == [link.Audio, link.Stop]


async def test_what_is_long_known_is_heard_as_it_is_decoded_until_the_server_goes() -> None:
    async with Scene(Line(), Endless) as scene:
        told = await scene.all_heard()
        assert [type(command) for command in told] == [link.Open, link.Audio, link.Audio]
        assert scene.talk._waiting_bytes == len(SECOND)
        scene.talk.opened()
        scene.talk.happened(0, Progress(RATE))
        assert [type(command) for command in await scene.all_heard()] == [link.Audio]
        scene.talk.leave()
        scene.talk.happened(0, Progress(3 * RATE))
        assert [type(command) for command in await scene.all_heard()] == [link.Stop]


async def test_the_next_session_waits_for_the_end_of_the_one_before() -> None:
    async with Scene(Line()) as scene:
        scene.hear("start", SECOND, "stop", "start", SECOND)
        kinds = [type(command) for command in await scene.all_heard()]
        assert kinds == [link.Open, link.Audio, link.Stop]
        scene.talk.opened()
        scene.talk.happened(0, Final(0, "one", 0, 0, 0.5, "stop", ()))
        scene.talk.happened(0, Stopped(RATE, 1))
        told = await scene.all_heard()
        assert [type(command) for command in told] == [link.Drop, link.Open, link.Audio]
        assert isinstance(told[1], link.Open)
        assert told[1].session == 2
        assert scene.line.sent == ["one", "done"]


async def test_more_than_we_keep_is_refused_in_the_words_of_the_wire(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_BACKLOG_BYTES", len(SECOND) * 3)
    async with Scene(Line()) as scene:
        scene.hear("start", *[SECOND] * 9)
        await scene.next(link.Open)
        scene.talk.opened()
        await scene.running
        assert scene.line.sent == ["error too_far_ahead"]
        assert scene.line.closed is not None


async def test_audio_that_waits_takes_little_more_than_it_is() -> None:
    async with Scene(Line()) as scene:
        scene.hear("start", *[SECOND] * 3, *[b"ab"] * 10_000, "stop")
        await scene.all_heard()
        waiting = [one.data for one in scene.talk._waiting if isinstance(one, Audio)]
        assert b"".join(waiting) == SECOND + b"ab" * 10_000
        assert len(waiting) <= 2 + 20_000 // SMALL_BYTES
        scene.talk.opened()
        scene.talk.happened(0, Progress(3 * RATE))
        told = await scene.all_heard()
        assert b"".join(c.data for c in told if isinstance(c, link.Audio)) == b"".join(waiting)
        assert scene.talk._waiting_bytes == 0


async def test_requests_that_wait_behind_audio_are_bounded_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_BACKLOG_BYTES", len(SECOND) * 3)
    async with Scene(Line()) as scene:
        scene.hear("start", *[SECOND] * 3, *["finalize"] * 64)
        await scene.next(link.Open)
        scene.talk.opened()
        await scene.running
        assert scene.line.sent == ["error too_far_ahead"]


async def test_a_reader_that_stalls_is_dropped_and_its_slot_is_free() -> None:
    async with Scene(Line(), stalled_reader_s=0.01) as scene:
        scene.line.may_send.clear()
        scene.hear("start", "hello")
        await scene.next(link.Open)
        await scene.running
        assert scene.line.is_aborted
        assert isinstance(await scene.next(link.Drop), link.Drop)


async def test_a_client_that_makes_us_talk_and_does_not_read_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_FRAMES", 8)
    async with Scene(Line()) as scene:
        scene.line.may_send.clear()
        scene.hear(*["hello"] * 20)
        while not scene.line.is_aborted:  # noqa: ASYNC110 - nor has a flag
            await asyncio.sleep(0)
        scene.line.may_send.set()
        await scene.running


async def test_a_client_that_never_begins_is_told_and_closed() -> None:
    async with Scene(Line(), start_timeout_s=0.01) as scene:
        await scene.running
        assert scene.line.sent == ["error idle_timeout"]
        assert scene.line.closed == (1011, "nothing came for too long")


async def test_a_wire_says_how_long_a_client_of_it_may_be_silent() -> None:
    async with Scene(Line(), Patient) as scene:
        scene.hear("start")
        await scene.all_heard()
        scene.talk.opened()
        await scene.all_heard()
        assert scene.line.sent == ["idle 123"]


async def test_channels_are_mixed_where_the_wire_has_none() -> None:
    async with Scene(Line(), Stereo) as scene:
        scene.hear(struct.pack("<5h", 16_384, 0, -8_192, -8_192, 1), struct.pack("<h", 1))
        opening, *pieces = await scene.all_heard()
        assert isinstance(opening, link.Open)
        assert (opening.encoding, opening.channels) == ("pcm_f32le", 1)
        heard = b"".join(piece.data for piece in pieces if isinstance(piece, link.Audio))
        assert struct.unpack("<3f", heard) == (0.25, -0.25, 2**-15)


async def test_channels_that_cannot_be_mixed_are_refused_in_the_words_of_the_wire() -> None:
    class Broken(Stereo):
        def on_open(self) -> None:
            self.start(audio_format("pcm_f32le", RATE, 2))

    async with Scene(Line(), Broken) as scene:
        scene.hear(struct.pack("<2f", float("nan"), 0.0))
        await scene.running
        assert scene.line.sent == ["error unsupported_audio"]


async def test_phrases_that_the_model_cannot_write_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = msgspec.structs.replace(test_connection.MODEL, alphabet=" abcdefghijklmnopqrstuvwxyz")
    monkeypatch.setattr(test_connection, "MODEL", model)
    async with Scene(Line(), Boosting) as scene:
        (opening,) = await scene.all_heard()
        assert isinstance(opening, link.Open)
        assert [phrase for phrase, _ in opening.boost] == ["moon"]
        scene.talk.opened()
        scene.hear("change")
        (change,) = await scene.all_heard()
        assert isinstance(change, link.Configure)
        assert [phrase for phrase, _ in change.boost or ()] == ["Sun."]


async def test_a_client_that_vanishes_frees_its_slot() -> None:
    async with Scene(Line()) as scene:
        scene.hear("start")
        await scene.next(link.Open)
        scene.line.abort()
        await scene.running
        assert isinstance(await scene.next(link.Drop), link.Drop)


async def test_a_client_that_ended_its_input_still_gets_the_last_words() -> None:
    async with Scene(Line(may_half_close=True)) as scene:
        scene.hear("start", SECOND)
        scene.line.incoming.put_nowait(None)
        await scene.next(link.Stop)
        scene.talk.opened()
        scene.talk.happened(0, Final(0, "last", 0, 0, 0.5, "stop", ()))
        scene.talk.happened(0, Stopped(RATE, 1))
        await scene.running
        assert scene.line.sent == ["last", "done"]


async def test_a_client_that_ended_its_input_and_waits_for_nothing_is_let_go() -> None:
    async with Scene(Line(may_half_close=True)) as scene:
        scene.hear("hello")
        scene.line.incoming.put_nowait(None)
        await scene.running
        assert (scene.line.sent, scene.line.closed) == (["hello"], (1001, ""))


async def test_a_server_that_leaves_flushes_first() -> None:
    async with Scene(Line()) as scene:
        scene.hear("start", SECOND)
        await scene.next(link.Audio)
        scene.talk.opened()
        scene.talk.leave()
        await scene.next(link.Stop)
        scene.talk.happened(0, Final(0, "last", 0, 0, 0.5, "stop", ()))
        scene.talk.happened(0, Stopped(RATE, 1))
        await scene.running
        assert scene.line.sent == ["last"]
        assert scene.line.closed == (1001, "")
