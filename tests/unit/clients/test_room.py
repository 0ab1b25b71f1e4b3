"""A LiveKit room as voices: tracks that come late, fall silent, go and come again; the token."""

import asyncio
import base64
import hmac
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest

from clients import meeting, room
from clients.console import CaptionScreen
from clients.errors import CommandError
from clients.meeting import Participant, Wish, merged
from clients.room import Entry, Lobby, entry_of, joined, signed
from tests.io.serving import serving, speech

PACKET = b"\1\0" * (room.RATE * room.PACKET_MS // 1000)
AUDIO, VIDEO, MICROPHONE, SCREEN = range(4)


@dataclass
class Track:
    """A track of a participant, with what is heard on it."""

    sid: str
    kind: int = AUDIO
    source: int = MICROPHONE
    heard: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    is_asked_for: bool = False

    def set_subscribed(self, is_asked_for: bool) -> None:  # noqa: FBT001  (LiveKit's)
        self.is_asked_for = is_asked_for

    def say(self, pcm: bytes) -> None:
        for at in range(0, len(pcm), len(PACKET)):
            self.heard.put_nowait(pcm[at : at + len(PACKET)])


class AudioStream:
    """What LiveKit's package makes of a track."""

    def __init__(self, track: Track, **_: object) -> None:
        self.track = track

    async def __anext__(self) -> Any:
        if (packet := await self.track.heard.get()) is None:
            raise StopAsyncIteration
        return SimpleNamespace(frame=SimpleNamespace(data=memoryview(packet).cast("h")))

    async def aclose(self) -> None:
        return


class ConnectError(Exception):
    message = "no room for you"


class Room:
    """A room in which the test says what happens."""

    made: list["Room"]
    is_open = True

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[..., None]] = {}
        self.remote_participants: dict[str, Any] = {}
        Room.made.append(self)

    def on(self, event: str, heard: Callable[..., None]) -> None:
        self.handlers[event] = heard

    async def connect(self, url: str, token: str, options: object) -> None:
        if not Room.is_open:
            raise ConnectError

    async def disconnect(self) -> None:
        self.handlers["disconnected"]()

    def comes(self, identity: str, track: Track) -> None:
        who = SimpleNamespace(identity=identity)
        self.handlers["track_published"](track, who)
        if track.is_asked_for:
            self.handlers["track_subscribed"](track, track, who)

    def goes(self, identity: str, track: Track) -> None:
        who = SimpleNamespace(identity=identity)
        self.handlers["track_unsubscribed"](track, track, who)


RTC = SimpleNamespace(
    Room=Room,
    AudioStream=AudioStream,
    ConnectError=ConnectError,
    RoomOptions=lambda **_: None,
    TrackKind=SimpleNamespace(KIND_AUDIO=AUDIO),
    TrackSource=SimpleNamespace(SOURCE_SCREENSHARE_AUDIO=SCREEN),
)


@pytest.fixture(autouse=True)
def rtc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "livekit.rtc", RTC)
    monkeypatch.setattr(Room, "made", [], raising=False)
    monkeypatch.setattr(Room, "is_open", True)


def fields(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    read: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return read


def test_a_token_of_a_key_lets_a_listener_into_one_room() -> None:
    token = signed("key", "secret", "standup", now_s=1_000)
    claims = fields(token)
    assert (claims["iss"], claims["exp"]) == ("key", 1_000 + room.TOKEN_S)
    assert claims["video"] == {
        "roomJoin": True,
        "room": "standup",
        "canSubscribe": True,
        "canPublish": False,
        "canPublishData": False,
    }
    text, _, signature = token.rpartition(".")
    digest = base64.urlsafe_b64encode(hmac.digest(b"secret", text.encode(), "sha256"))
    assert signature == digest.decode().rstrip("=")


def test_the_environment_lets_in_and_nothing_of_it_is_shown() -> None:
    pair = {"LIVEKIT_API_KEY": "k", "LIVEKIT_API_SECRET": "s"}
    given = entry_of("ws://h", None, pair | {"LIVEKIT_TOKEN": "given"})
    assert given.token == "given"
    assert "given" not in repr(given)
    assert fields(entry_of("ws://h", "standup", pair).token)["video"]["room"] == "standup"
    for chosen, environment in (
        (None, pair),
        ("standup", {}),
        ("standup", {"LIVEKIT_API_KEY": "k"}),
    ):
        with pytest.raises(CommandError, match="LIVEKIT_TOKEN"):
            entry_of("ws://h", chosen, environment)


async def test_a_muted_track_is_silent_and_its_words_come_behind_the_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "PATIENCE_S", 0.01)
    track, lobby = Track("TR_1"), Lobby(RTC)
    who = SimpleNamespace(identity="ann")
    lobby.subscribed(track, track, who)
    packets = (await anext(lobby.voices())).packets()
    track.say(PACKET)
    assert await anext(packets) == PACKET
    silent = await anext(packets)
    while not silent:
        silent = await anext(packets)
    assert set(silent) == {0}
    track.say(PACKET)
    while (packet := await anext(packets)) != PACKET:
        assert set(packet) == {0}
    track.say(PACKET)
    lobby.unsubscribed(track, track, who)
    assert [packet async for packet in packets if any(packet)] == [PACKET]


async def test_a_long_standstill_is_made_up_in_packets_that_the_wire_takes() -> None:
    track, lobby = Track("TR_1"), Lobby(RTC)
    lobby.subscribed(track, track, SimpleNamespace(identity="ann"))
    voice = await anext(lobby.voices())
    voice.began_s -= 3_600
    assert len(await anext(voice.packets())) == 2 * room.RATE


async def test_who_leaves_without_news_of_the_track_ends_too() -> None:
    track, lobby = Track("TR_1"), Lobby(RTC)
    lobby.subscribed(track, track, SimpleNamespace(identity="ann"))
    voice = await anext(lobby.voices())
    lobby.left(SimpleNamespace(identity="bob"))
    lobby.left(SimpleNamespace(identity="ann"))
    assert [packet async for packet in voice.packets()] == []


async def test_pictures_are_not_asked_for_and_a_shared_screen_has_a_name_of_its_own() -> None:
    camera, screen = Track("TR_1", kind=VIDEO), Track("TR_2", source=SCREEN)
    until = asyncio.Event()
    async with joined(Entry("ws://h", "t"), until) as voices:
        Room.made[0].comes("ann", camera)
        Room.made[0].comes("ann", screen)
        assert not camera.is_asked_for
        assert (await anext(voices)).name == "ann (screen)"
        until.set()
        assert [voice async for voice in voices] == []


async def test_who_was_there_before_us_is_heard() -> None:
    track = Track("TR_1")
    there = SimpleNamespace(identity="ann", track_publications={"TR_1": track})
    make = Room.__init__

    def with_ann(self: Room) -> None:
        make(self)
        self.remote_participants["ann"] = there

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Room, "__init__", with_ann)
        async with joined(Entry("ws://h", "t"), asyncio.Event()):
            assert track.is_asked_for


class Lines(StringIO):
    """What is written, and a way to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = asyncio.Queue[str]()

    def write(self, text: str) -> int:
        self.written.put_nowait(text)
        return super().write(text)

    async def until(self, word: str) -> None:
        while word not in await self.written.get():
            pass


@asynccontextmanager
async def meeting_in(url: str) -> AsyncIterator[tuple[Room, list[Participant], Lines, Lines]]:
    """A meeting that goes on; the room ends it."""
    said, notes, participants = Lines(), Lines(), list[Participant]()
    wish = Wish(
        url=url, token=None, latency="low", language="en", room="monday", device=None,
        readable=None, livekit=Entry("ws://h", "t"),
    )  # fmt: skip
    screen = CaptionScreen(said, notes, is_terminal=False)
    going = asyncio.create_task(meeting._meet(participants, wish, screen))
    await notes.until("in the LiveKit room")
    yield Room.made[0], participants, said, notes
    await going


async def test_tracks_that_come_late_and_come_again_are_one_transcript_in_the_order_of_time() -> (
    None
):
    ann, bob, again = Track("TR_1"), Track("TR_2"), Track("TR_3")
    async with serving() as server, meeting_in(server.addresses.websocket) as (lk, all_, said, _):
        lk.comes("ann", ann)
        ann.say(speech("turn on the light"))
        await said.until("light")
        lk.comes("bob", bob)
        bob.say(speech("yes"))
        lk.goes("ann", ann)
        await said.until("yes")
        lk.comes("ann", again)
        again.say(speech("thank you"))
        await said.until("thank you")
        lk.handlers["disconnected"]()
    assert [(s.speaker, s.text) for s in merged(all_) if s.text] == [
        ("ann", "turn on the light"),
        ("bob", "yes"),
        ("ann", "thank you"),
    ]


async def test_who_was_refused_is_heard_when_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "RETRY_S", 0.01)
    monkeypatch.setattr(meeting, "RETRY_MOST_S", 0.01)
    ann, bob = Track("TR_1"), Track("TR_2")
    async with (
        serving(slots=2) as server,
        meeting_in(server.addresses.websocket) as (lk, all_, said, notes),
    ):
        lk.comes("ann", ann)
        ann.say(speech("yes"))
        await said.until("yes")
        lk.comes("bob", bob)
        await notes.until("bob: over_capacity")
        lk.goes("ann", ann)
        bob.say(speech("thank you"))
        await said.until("thank you")
        lk.handlers["disconnected"]()
    assert [(s.speaker, s.text) for s in merged(all_) if s.text] == [
        ("ann", "yes"),
        ("bob", "thank you"),
    ]


async def test_a_room_that_lets_nobody_in_is_one_sentence() -> None:
    Room.is_open = False
    said = list[Participant]()
    wish = Wish(
        url="ws://127.0.0.1:9/v1/stream", token=None, latency=None, language=None, room="r",
        device=None, readable=None, livekit=Entry("ws://h", "t"),
    )  # fmt: skip
    await meeting._meet(said, wish, CaptionScreen(StringIO(), StringIO(), is_terminal=False))
    assert [p.error for p in said] == ["the LiveKit room cannot be joined: no room for you"]


async def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "livekit.rtc", None)
    monkeypatch.setitem(sys.modules, "livekit", None)
    with pytest.raises(CommandError, match="the extra 'livekit' brings"):
        async with joined(Entry("ws://h", "t"), asyncio.Event()):
            pass


async def test_a_name_cannot_draw_on_the_terminal_and_fits_the_meeting() -> None:
    track, lobby = Track("TR_1", source=SCREEN), Lobby(RTC)
    lobby.subscribed(track, track, SimpleNamespace(identity="\x1b[2Jann" + 80 * "x"))
    name = (await anext(lobby.voices())).name
    assert name.isprintable()
    assert len(name) == 64
