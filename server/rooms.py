"""Meetings that people read along: what the speakers of a room say, for any number of viewers.

Does: keep a room's finals and open words within limits; gather changes for a moment, encode them
once and give the same bytes to every viewer; a viewer that falls behind gets the whole text again.
Does not know: sockets, engines, sessions. Times are ms since the room's first speaker came.
"""

import asyncio
import re
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from server.wire.errors import BadRequest, OverCapacity
from server.wire.messages import Final, Meeting, Partial, ServerMessage

MAX_ROOMS = 256
MAX_VIEWERS = 2_000
"""Of all rooms together."""
MAX_FINALS = 20_000
"""Of one room: days of talk; the oldest are dropped first."""
MAX_BYTES = 8 * 1024 * 1024
"""Of one room's finals."""
MAX_WAITING = 64
"""Changes kept for one viewer that does not read."""
GATHER_S = 0.15
"""Changes of so long go out together: viewers read words, not packets."""
MAX_GONE = 64
"""Voices of a room whose clients left and may come back."""
KEEP_S = 600.0
"""A room without speakers and viewers is kept so long for those who come late."""
RETRY_AFTER_S = 30.0
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""In a name these would break a line of a file, or turn the words behind it around."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A finished piece of speech; ``n`` counts up in a room and says what a viewer has."""

    n: int
    speaker: str
    start_ms: int
    end_ms: int
    text: str


class OpenLine(msgspec.Struct, frozen=True, kw_only=True):
    """Words that may still change."""

    speaker: str
    start_ms: int
    stable: str
    text: str


class Whole(msgspec.Struct, frozen=True, kw_only=True, tag="room"):
    """All there is: the first message of a viewer, and after it fell behind."""

    id: str
    life: str
    """Another one: the room was forgotten, or the server began anew; ``n`` counts from 0."""
    live: int
    """Speakers who are there."""
    dropped: int
    """Finals that were too many to keep."""
    finals: tuple[msgspec.Raw, ...]
    open: tuple[OpenLine, ...]


class Update(msgspec.Struct, frozen=True, kw_only=True, tag="update"):
    """New finals, and all open words: those before are void."""

    live: int
    finals: tuple[msgspec.Raw, ...]
    open: tuple[OpenLine, ...]


@dataclass(slots=True)
class Voice:
    """One session that speaks in a room, also while its client is cut off."""

    room: "Room"
    speakers: tuple[str, ...]
    offset_ms: int
    attached: int = 0
    finals: dict[int, int] = field(default_factory=dict)
    """Per channel: how many are known."""
    open: dict[int, Partial] = field(default_factory=dict)
    _strange: dict[int, str] = field(default_factory=dict)
    """What those are called who gave no name."""
    _given_up: asyncio.TimerHandle | None = None
    """When a client that was cut off is waited for no more."""

    def hear(self, message: ServerMessage) -> None:
        """Take what the session says; only its words matter."""
        if isinstance(message, Partial):
            if message.id >= self.finals.get(message.channel, 0):
                self.open[message.channel] = message
                self.room.changed()
        elif isinstance(message, Final) and message.id >= self.finals.get(message.channel, 0):
            self.finals[message.channel] = message.id + 1
            self.open.pop(message.channel, None)
            self.room.add(self, message)

    @property
    def is_awaited(self) -> bool:
        """Whether the client was cut off and may come back."""
        return self._given_up is not None

    def leave(self, *, is_for_good: bool = True) -> None:
        """Be gone; words that were open were said, or are said again by who comes back in time."""
        self.attached -= 1
        if self.attached:
            return
        if is_for_good:
            self.settle()
        else:
            self._given_up = self.room.later(self.settle)
        self.room.changed()

    def come_back(self) -> None:
        """Speak again; who was cut off says again what was open."""
        self.forgive()
        if not self.attached:
            self.open.clear()
        self.attached += 1
        self.room.changed()

    def settle(self) -> None:
        """Take what is open for said: nobody will say it again."""
        self.forgive()
        for partial in self.open.values():
            self.finals[partial.channel] = partial.id + 1
            self.room.add(self, partial)
        self.open.clear()

    def forgive(self) -> None:
        """Wait for nobody any more."""
        if self._given_up is not None:
            self._given_up.cancel()
            self._given_up = None

    def name(self, channel: int) -> str:
        """Return who speaks on a channel; nobody without a name is somebody else."""
        if channel < len(self.speakers) and self.speakers[channel]:
            return self.speakers[channel]
        if channel not in self._strange:
            self._strange[channel] = self.room.stranger()
        return self._strange[channel]


class Viewer:
    """One who reads; behind from the start, so the whole text comes first."""

    def __init__(self, room: "Room") -> None:
        self._room = room
        self._waiting = deque[bytes]()
        self._is_behind = True
        self._is_over = False
        self._wake = asyncio.Event()
        self._wake.set()
        self.resyncs = 0
        """How often it fell behind."""

    def put(self, change: bytes) -> None:
        """Queue a change; one too many turns them all into the whole text."""
        if not self._is_behind:
            self._waiting.append(change)
            if len(self._waiting) > MAX_WAITING:
                self._waiting.clear()
                self._is_behind = True
                self.resyncs += 1
        self._wake.set()

    def end(self) -> None:
        """Let nothing more come."""
        self._is_over = True
        self._wake.set()

    async def next(self) -> bytes | None:
        """Return what is to be sent now; None: it is over."""
        while not (self._is_behind or self._waiting or self._is_over):
            self._wake.clear()
            await self._wake.wait()
        if self._is_over:
            return None
        if self._is_behind:
            self._is_behind = False
            return self._room.whole()
        return self._waiting.popleft()


class Room:
    """The words of one meeting."""

    def __init__(self, name: str, *, away_s: float = KEEP_S) -> None:
        self.name = name
        self._away_s = away_s
        self._life = secrets.token_hex(4)
        self._strangers = 0
        self.voices: dict[str, Voice] = {}
        self.viewers: set[Viewer] = set()
        self._loop = asyncio.get_running_loop()
        self._began_s: float | None = None
        self._lines = deque[bytes]()
        self._bytes = 0
        self._count = 0
        self._fresh: list[bytes] = []
        self._whole: bytes | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def live(self) -> int:
        """Speakers who are there."""
        return sum(voice.attached > 0 for voice in self.voices.values())

    @property
    def is_empty(self) -> bool:
        """Whether nobody speaks and nobody reads."""
        return not self.viewers and not self.live

    @property
    def has_words(self) -> bool:
        """Whether anything was said."""
        return self._count > 0

    @property
    def is_awaiting(self) -> bool:
        """Whether somebody who was cut off may come back."""
        return any(voice.is_awaited for voice in self.voices.values())

    def later(self, act: Callable[[], None]) -> asyncio.TimerHandle:
        """Have something done when nobody can come back any more who is cut off now."""
        return self._loop.call_later(self._away_s, act)

    def stranger(self) -> str:
        """Return what one without a name is called."""
        self._strangers += 1
        return f"Speaker {self._strangers}"

    def enter(self, session: str, speakers: tuple[str, ...], *, age_s: float = 0.0) -> Voice:
        """Let a session speak; its audio began ``age_s`` ago."""
        began_s = self._loop.time() - age_s
        self._began_s = began_s if self._began_s is None else self._began_s
        gone = [name for name, voice in self.voices.items() if not voice.attached]
        for name in gone[:-MAX_GONE]:
            self.voices.pop(name).settle()
        names = tuple(" ".join(_UNSEEN.sub(" ", name).split()) for name in speakers)
        voice = Voice(self, names, round((began_s - self._began_s) * 1000), attached=1)
        self.voices[session] = voice
        self.changed()
        return voice

    def add(self, voice: Voice, said: Final | Partial) -> None:
        """Keep what was said, unless it has no words."""
        if said.text.strip():
            line = Line(
                n=self._count,
                speaker=voice.name(said.channel),
                start_ms=max(0, voice.offset_ms + said.start_ms),
                end_ms=max(0, voice.offset_ms + said.end_ms),
                text=said.text.strip(),
            )
            encoded = msgspec.json.encode(line)
            self._count += 1
            self._lines.append(encoded)
            self._fresh.append(encoded)
            self._bytes += len(encoded)
            while len(self._lines) > MAX_FINALS or self._bytes > MAX_BYTES:
                self._bytes -= len(self._lines.popleft())
        self.changed()

    def changed(self) -> None:
        """Have the viewers told, together with what else changes in the next moment."""
        self._whole = None
        if self._timer is None:
            self._timer = self._loop.call_later(GATHER_S, self.tell)

    def tell(self) -> None:
        """Give what changed to every viewer: the same bytes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        fresh, self._fresh = self._fresh, []
        if self.viewers:
            finals = tuple(map(msgspec.Raw, fresh))
            change = msgspec.json.encode(Update(live=self.live, finals=finals, open=self._open()))
            for viewer in self.viewers:
                viewer.put(change)

    def whole(self) -> bytes:
        """Return the whole text; many who come at once share it."""
        if self._whole is None:
            self._whole = msgspec.json.encode(
                Whole(
                    id=self.name,
                    life=self._life,
                    live=self.live,
                    dropped=self._count - len(self._lines),
                    finals=tuple(map(msgspec.Raw, self._lines)),
                    open=self._open(),
                )
            )
        return self._whole

    def close(self) -> None:
        """End every viewer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for voice in self.voices.values():
            voice.forgive()
        for viewer in self.viewers:
            viewer.end()

    def _open(self) -> tuple[OpenLine, ...]:
        lines = [
            OpenLine(
                speaker=voice.name(channel),
                start_ms=max(0, voice.offset_ms + partial.start_ms),
                stable=partial.stable,
                text=partial.text,
            )
            for voice in self.voices.values()
            for channel, partial in voice.open.items()
            if voice.attached and partial.text.strip()
        ]
        return tuple(sorted(lines, key=lambda line: line.start_ms))


class Rooms:
    """All rooms of a server, by name."""

    def __init__(self, *, is_open: bool = True, away_s: float = KEEP_S) -> None:
        self._is_open, self._away_s = is_open, away_s
        self._rooms: dict[str, Room] = {}
        self._kept: dict[str, asyncio.TimerHandle] = {}
        """When those that are empty are forgotten."""
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._rooms)

    def enter(self, meeting: Meeting, session: str, *, age_s: float = 0.0) -> Voice:
        """Let a session speak in a room; raises OverCapacity, BadRequest."""
        return self._room(meeting.id).enter(session, meeting.speakers, age_s=age_s)

    def back(self, session: str) -> Voice | None:
        """Let a session that was cut off speak again where it spoke before."""
        for room in self._rooms.values():
            if voice := room.voices.get(session):
                voice.come_back()
                return voice
        return None

    def leave(self, voice: Voice, *, is_for_good: bool = True) -> None:
        """Let a session go; ``is_for_good``: nobody will come back to it."""
        voice.leave(is_for_good=is_for_good)
        self._left(voice.room)

    def watch(self, name: str) -> Viewer:
        """Let somebody read, also before the first speaker comes; raises as enter."""
        if sum(len(room.viewers) for room in self._rooms.values()) >= MAX_VIEWERS:
            raise OverCapacity(f"{MAX_VIEWERS} people read along", retry_after=RETRY_AFTER_S)
        room = self._room(name)
        viewer = Viewer(room)
        room.viewers.add(viewer)
        return viewer

    def unwatch(self, viewer: Viewer, name: str) -> None:
        """Let a viewer go."""
        room = self._rooms.get(name)
        if room is not None and viewer in room.viewers:
            room.viewers.discard(viewer)
            self._left(room)

    def close(self) -> None:
        """End every viewer: the server goes."""
        for room in self._rooms.values():
            room.close()

    def _room(self, name: str) -> Room:
        if not self._is_open:  # speakers and readers would be in different processes
            raise BadRequest("a server with several gateways holds no meetings", param="meeting")
        room = self._rooms.get(name)
        if room is None:
            if len(self._rooms) >= MAX_ROOMS:
                raise OverCapacity(f"{MAX_ROOMS} meetings are held", retry_after=RETRY_AFTER_S)
            room = self._rooms[name] = Room(name, away_s=self._away_s)
        return room

    def _left(self, room: Room) -> None:
        if not room.is_empty:
            return
        if room.has_words or room.is_awaiting:
            if before := self._kept.pop(room.name, None):
                before.cancel()
            keep_s = KEEP_S + (self._away_s if room.is_awaiting else 0.0)
            self._kept[room.name] = self._loop.call_later(keep_s, self._forget, room)
        else:
            self._forget(room)

    def _forget(self, room: Room) -> None:
        self._kept.pop(room.name, None)
        if room.is_empty and self._rooms.get(room.name) is room:
            room.close()
            del self._rooms[room.name]
