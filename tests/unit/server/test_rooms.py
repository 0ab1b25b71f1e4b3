"""Rooms over days: what is kept of those who left, and for how long."""

import asyncio
import json
from typing import Any

from server.rooms import MAX_GONE, Room, Rooms
from server.wire.messages import Final, Meeting, Partial

WORDS = Final(id=0, channel=0, text="good day", start_ms=0, end_ms=500, cause="stop")
OPEN = Partial(id=0, channel=0, rev=1, stable="good", text="good night", start_ms=0, end_ms=500)
TUESDAY = Meeting(id="tuesday")


def whole(room: Room) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(room.whole())
    return found


async def test_a_room_is_kept_from_when_the_last_one_left() -> None:
    rooms = Rooms()
    ann = rooms.enter(TUESDAY, "ann")
    ann.hear(WORDS)
    rooms.leave(ann)
    first = rooms._kept["tuesday"]
    rooms.leave(rooms.enter(TUESDAY, "bob"))
    last = rooms._kept["tuesday"]
    assert (first.cancelled(), last.cancelled()) == (True, False)
    last._run()
    assert (len(rooms), rooms._kept) == (0, {})


async def test_a_room_remembers_the_last_of_those_who_left_and_all_who_are_there() -> None:
    room = Room("always on")
    room.enter("here", ())
    for number in range(10 * MAX_GONE):
        room.enter(f"{number}", ()).leave()
    assert len(room.voices) <= MAX_GONE + 2
    assert {"here", f"{10 * MAX_GONE - 1}"} <= room.voices.keys()
    room.close()


async def test_who_gives_no_name_is_not_taken_for_another_who_gives_none() -> None:
    room = Room("open house")
    for session, names in (("a", ()), ("b", ("",)), ("c", ("Cy",))):
        room.enter(session, names).hear(WORDS)
    assert [line["speaker"] for line in whole(room)["finals"]] == ["Speaker 1", "Speaker 2", "Cy"]
    room.close()


async def test_a_name_is_one_line_and_turns_nothing_around() -> None:
    room = Room("rude")
    for session, name in enumerate(("Ann\n\n# Bob\x07", "\u202eevil", " \t ", "👩‍🚒 Zoë")):
        room.enter(f"{session}", (name,)).hear(WORDS)
    names = [line["speaker"] for line in whole(room)["finals"]]
    assert names == ["Ann # Bob", "evil", "Speaker 1", "👩‍🚒 Zoë"]
    room.close()


async def test_open_words_are_kept_of_who_left_for_good_and_not_of_who_may_come_back() -> None:
    rooms = Rooms()
    ann, bob = rooms.enter(TUESDAY, "ann"), rooms.enter(TUESDAY, "bob")
    ann.hear(OPEN)
    bob.hear(OPEN)
    rooms.leave(bob, is_for_good=False)
    rooms.leave(ann)
    assert [line["text"] for line in whole(ann.room)["finals"]] == ["good night"]
    assert whole(ann.room)["open"] == []
    assert rooms.back("bob") is bob
    bob.hear(WORDS)
    assert [line["text"] for line in whole(ann.room)["finals"]] == ["good night", "good day"]
    rooms.leave(bob)


async def test_open_words_of_who_never_comes_back_are_kept_when_nobody_waits_any_more() -> None:
    rooms = Rooms(away_s=0.0)
    ann = rooms.enter(TUESDAY, "ann")
    reader = rooms.watch(TUESDAY.id)
    ann.hear(OPEN)
    rooms.leave(ann, is_for_good=False)
    async with asyncio.timeout(10):
        while not (seen := json.loads(await reader.next() or "{}"))["finals"]:
            assert not seen["open"]
    assert [line["text"] for line in seen["finals"]] == [OPEN.text]
    rooms.close()


async def test_a_room_where_nothing_was_finished_waits_for_who_was_cut_off() -> None:
    rooms = Rooms()
    ann = rooms.enter(TUESDAY, "ann")
    ann.hear(OPEN)
    rooms.leave(ann, is_for_good=False)
    assert len(rooms) == 1 and rooms.back("ann") is ann
    ann.hear(WORDS)
    rooms.leave(ann)
    assert [line["text"] for line in whole(ann.room)["finals"]] == [WORDS.text]
    rooms.close()


async def test_a_session_from_before_keeps_its_place_in_time() -> None:
    room = Room("restarted")
    young = room.enter("young", (), age_s=60)
    old = room.enter("old", (), age_s=100)
    old.hear(Final(id=0, channel=0, text="early", start_ms=0, end_ms=900, cause="stop"))
    old.hear(Final(id=1, channel=0, text="now", start_ms=99_000, end_ms=99_900, cause="stop"))
    young.hear(Final(id=0, channel=0, text="too", start_ms=59_000, end_ms=59_900, cause="stop"))
    early, now, too = whole(room)["finals"]
    assert (early["start_ms"], early["end_ms"]) == (0, 0)
    assert abs(now["start_ms"] - too["start_ms"]) < 1000
    room.close()


async def test_a_room_that_began_anew_says_so() -> None:
    before, after = Room("monday"), Room("monday")
    assert whole(before)["life"] == whole(before)["life"] != whole(after)["life"]
    before.close()
    after.close()
