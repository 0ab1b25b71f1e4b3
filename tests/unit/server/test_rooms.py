"""Rooms over days: what is kept of those who left, and for how long."""

from server.rooms import MAX_GONE, Room, Rooms
from server.wire.messages import Final, Meeting

WORDS = Final(id=0, channel=0, text="good day", start_ms=0, end_ms=500, cause="stop")
TUESDAY = Meeting(id="tuesday")


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
