"""Meetings over real sockets: rooms, late viewers, two hundred viewers, slow ones, strangers."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from server import rooms
from server.app import Running
from server.wire.messages import Final
from tests.io.serving import (
    Message,
    dial,
    figure,
    get,
    read,
    read_until,
    serving,
    speech,
    start,
    talk,
)

pytestmark = pytest.mark.io
VIEWERS = 200


def meeting(*speakers: str, room: str = "monday") -> Message:
    return {"meeting": {"id": room, "speakers": list(speakers)}}


@contextlib.asynccontextmanager
async def viewing(
    server: Running, room: str = "monday", **options: Any
) -> AsyncIterator[ClientConnection]:
    url = server.addresses.websocket.replace("/v1/stream", f"/v1/meeting/{room}")
    async with connect(url, **options) as socket:
        yield socket


async def lines_until(socket: ClientConnection, count: int) -> list[Message]:
    """What a viewer knows once it has so many finals."""
    known = dict[int, Message]()
    while len(known) < count:
        known |= {line["n"]: line for line in (await read(socket))["finals"]}
    return sorted(known.values(), key=lambda line: (line["start_ms"], line["n"]))


def said(lines: list[Message]) -> list[tuple[str, str]]:
    return [(line["speaker"], line["text"]) for line in lines]


async def test_a_viewer_reads_what_every_speaker_says_and_a_late_one_reads_it_all() -> None:
    async with serving() as server, viewing(server) as early:
        first = await read(early)
        assert first.pop("life")
        assert first == {
            "type": "room", "id": "monday", "live": 0, "dropped": 0, "finals": [], "open": []
        }  # fmt: skip
        await talk(server, speech("turn on the light"), **meeting("Ann"))
        await talk(server, speech("yes thank you"), **meeting("Bob"))
        heard = await lines_until(early, 2)
        assert said(heard) == [("Ann", "turn on the light"), ("Bob", "yes thank you")]
        async with viewing(server) as late:
            whole = await read(late)
            assert whole["type"] == "room"
            assert whole["finals"] == heard


async def test_words_that_may_change_are_shown_until_their_final_or_their_speaker_goes() -> None:
    async with serving() as server, viewing(server) as viewer:
        async with dial(server) as socket:
            await socket.send(start(**meeting("Ann")))
            await read_until(socket, "ready")
            await socket.send(speech("turn on the light", silence_ms=160))
            while not (update := await read(viewer))["open"]:
                pass
            assert update["open"][0]["speaker"] == "Ann"
            assert "turn on the light".startswith(update["open"][0]["text"])
            assert update["live"] == 1
        while (update := await read(viewer))["open"] or update["live"]:
            pass


async def test_words_that_were_open_when_their_speaker_left_for_good_are_kept() -> None:
    async with serving() as server, viewing(server) as viewer:
        async with dial(server) as socket:
            await socket.send(start(**meeting("Ann")))
            await socket.send(speech("turn on the light", silence_ms=160))
            while (await read_until(socket, "partial"))["text"] != "turn on the light":
                pass
        # the socket closed as one of a page does that is closed or loaded again: no stop came
        assert said(await lines_until(viewer, 1)) == [("Ann", "turn on the light")]


async def test_two_channels_are_two_speakers() -> None:
    mono = speech("yes", silence_ms=800)
    both = b"".join(mono[i : i + 2] * 2 for i in range(0, len(mono), 2))
    audio = {"encoding": "pcm_s16le", "rate": 16_000, "channels": 2}
    async with serving() as server, viewing(server) as viewer:
        await talk(server, both, audio=audio, **meeting("Ann", "Bob"))
        assert sorted(said(await lines_until(viewer, 2))) == [("Ann", "yes"), ("Bob", "yes")]


async def test_a_client_that_comes_back_speaks_on_in_its_room_and_nothing_is_said_twice() -> None:
    first, second = speech("turn on the light"), speech("thank you")
    async with serving() as server, viewing(server) as viewer:
        async with dial(server) as socket:
            await socket.send(start(**meeting("Ann")))
            token = (await read_until(socket, "ready"))["token"]
            await socket.send(first)
            await read_until(socket, "final")
            socket.transport.abort()
        async with dial(server) as socket:
            await socket.send(start(resume={"token": token}))
            at = (await read_until(socket, "ready"))["at"]
            await socket.send((first + second)[2 * at :])
            await socket.send('{"type":"stop"}')
            await read_until(socket, "done")
        lines = await lines_until(viewer, 2)
        assert said(lines) == [("Ann", "turn on the light"), ("Ann", "thank you")]


async def test_two_hundred_viewers_read_the_same_and_the_engine_does_not_notice() -> None:
    async with serving(max_connections=8) as server, contextlib.AsyncExitStack() as stack:
        viewers = [await stack.enter_async_context(viewing(server)) for _ in range(VIEWERS)]
        talks = [talk(server, speech("turn on the light"), **meeting(name)) for name in "ABCD"]
        readers = asyncio.gather(*(lines_until(viewer, 4) for viewer in viewers))
        _, seen = await asyncio.gather(asyncio.gather(*talks), readers)
        assert len(seen) == VIEWERS
        assert all(lines == seen[0] for lines in seen)
        assert {line["text"] for line in seen[0]} == {"turn on the light"}
        assert await figure(server, "rivulet_slots_in_use") == 0
        await talk(server, speech("yes"), **meeting("E"))  # there is room for speakers still


async def test_a_viewer_who_does_not_read_is_dropped_and_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rooms, "MAX_BYTES", 400_000)
    async with serving(stalled_reader_s=0.3) as server, viewing(server, max_size=None) as viewer:
        async with viewing(
            server, max_size=None, max_queue=1, ping_interval=None, close_timeout=0.1
        ):
            room = server.gateway._rooms._rooms["monday"]
            while len(room.viewers) < 2:  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(0.01)
            voice, number = room.enter("test", ("Ann",)), 0
            while len(room.viewers) > 1:
                room.add(voice, _final(number, "word " * 10_000))
                room.tell()
                number += 1
                await asyncio.sleep(0.01)
            room.add(voice, _final(number, "still here"))
            room.tell()
            while not (finals := (await read(viewer))["finals"]) or finals[-1]["n"] < number:
                pass
            assert finals[-1]["text"] == "still here"


async def test_a_viewer_who_falls_behind_gets_the_whole_text_again() -> None:
    room = rooms.Room("monday")
    viewer = rooms.Viewer(room)
    room.viewers.add(viewer)
    first = await viewer.next()
    assert first is not None
    assert json.loads(first)["type"] == "room"
    voice = room.enter("s", ("Ann",))
    for number in range(rooms.MAX_WAITING + 1):
        room.add(voice, _final(number, "yes"))
        room.tell()
    again = json.loads(await viewer.next() or b"")
    assert (again["type"], len(again["finals"])) == ("room", rooms.MAX_WAITING + 1)
    room.add(voice, _final(number + 1, "no"))
    room.tell()
    update = json.loads(await viewer.next() or b"")
    assert (update["type"], [line["text"] for line in update["finals"]]) == ("update", ["no"])


async def test_a_room_keeps_a_bounded_text_and_says_what_it_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rooms, "MAX_FINALS", 3)
    room = rooms.Room("monday")
    voice = room.enter("s", ("Ann",))
    for number in range(5):
        room.add(voice, _final(number, f"word {number}"))
    whole = json.loads(room.whole())
    assert whole["dropped"] == 2
    assert [line["n"] for line in whole["finals"]] == [2, 3, 4]
    room.close()


async def test_rooms_and_viewers_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "MAX_ROOMS", 1)
    monkeypatch.setattr(rooms, "MAX_VIEWERS", 1)
    async with serving() as server, viewing(server) as viewer:
        await read(viewer)
        async with viewing(server) as other:
            with pytest.raises(ConnectionClosed) as closed:
                await other.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1013
        async with dial(server) as socket:
            await socket.send(start(**meeting("Ann", room="tuesday")))
            assert (await read(socket))["code"] == "over_capacity"


async def test_a_room_that_nobody_spoke_in_is_forgotten_with_its_last_viewer() -> None:
    async with serving() as server:
        async with viewing(server) as viewer:
            await read(viewer)
            assert len(server.gateway._rooms) == 1
        while len(server.gateway._rooms):  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)


async def test_a_viewer_who_speaks_is_shown_out() -> None:
    async with serving() as server, viewing(server) as viewer:
        await read(viewer)
        await viewer.send("let me in")
        with pytest.raises(ConnectionClosed) as closed:
            await viewer.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1003


async def test_pages_of_strangers_may_not_read() -> None:
    async with serving() as server:
        with pytest.raises(InvalidStatus) as refused:
            async with viewing(server, additional_headers={"Origin": "https://evil.example"}):
                pass
        assert refused.value.response.status_code == 403


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/meeting/monday", 200),
        ("/meeting/monday?overlay", 200),
        ("/meeting/a/b", 404),
        ("/meeting/", 404),
    ],
)
async def test_the_page_of_a_meeting_is_there(path: str, status: int) -> None:
    async with serving() as server:
        assert (await get(server, path))["status"] == status


async def test_viewers_are_told_that_the_server_goes() -> None:
    async with serving() as server:
        async with viewing(server) as viewer:
            await read(viewer)
            await server.gateway.stop()
            with pytest.raises(ConnectionClosed) as closed:
                await viewer.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001


def _final(number: int, text: str) -> Final:
    return Final(
        id=number, channel=0, text=text, start_ms=number * 100, end_ms=number * 100 + 80,
        cause="endpoint",
    )  # fmt: skip
