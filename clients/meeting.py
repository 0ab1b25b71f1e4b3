"""``rivulet meeting``: files, the microphone and a LiveKit room as the participants of one meeting.

Does: arguments, a stream for each participant, captions with names, one transcript in the order of
time, saved in several forms; others read along by a link.
Does not know: how captions are drawn, how words are found, who reads along.
"""

import argparse
import asyncio
import contextlib
import os
import re
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from clients.audiofile import AudioFile, open_audio
from clients.captions import (
    add_session_arguments,
    interrupts,
    language_of,
    latency_of,
    later,
    line_notes,
    paced,
    why,
)
from clients.connection import RivuletError
from clients.console import CaptionScreen, can_redraw
from clients.errors import CommandError
from clients.glue import engine_side
from clients.live import Captions, Heard, Latency, Session, stream_live
from clients.microphone import Microphone
from clients.minutes import WRITERS
from clients.room import RATE, Entry, Voice, entry_of, joined
from clients.saving import check, save
from clients.voices import Listeners, Voices
from server.wire.errors import LocalProtocolError
from server.wire.messages import AudioFormat, Meeting, Readable
from server.wire.subtitles import Segment, segment_of

EXAMPLES = """\
examples:
  rivulet meeting Ann=ann.wav Bob=bob.wav --save minutes.md --save meeting.srt
  rivulet meeting --microphone --name Ann --room monday-7f3a      others join with the same room
  rivulet meeting interview.wav                     two channels are two participants
  rivulet meeting talk.wav --speakers --save minutes.md     several voices on one channel
  rivulet meeting --livekit wss://host --room standup --save minutes.md     who speaks in a LiveKit
      room (token: LIVEKIT_TOKEN, or LIVEKIT_API_KEY and LIVEKIT_API_SECRET); Ctrl+C ends

The first link that is shown lets others read along in a browser; `?overlay` behind it makes
captions for OBS and the like. The second lets them speak there: from a microphone, or with the
sound of a tab, such as a call (Chrome, Edge). Who knows the links may read and speak."""


ROOM = re.compile(r"[A-Za-z0-9_-]{1,64}")
MOST_NAME = 64
RETRY_S, RETRY_MOST_S = 2.0, 60.0
"""Who speaks in a room and was refused is tried again after so long."""


@dataclass(slots=True)
class Participant:
    """One stream: a file, a track of a LiveKit room, or the microphone."""

    name: str
    file: AudioFile | None = None
    voice: Voice | None = None
    offset_ms: int = 0
    """When it came, on the clock of the meeting."""
    heard: Heard = field(default_factory=Heard)
    voices: Voices | None = None
    """Who speaks, where several voices share the channel."""
    error: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each channel."""
        if self.file is None or self.file.channels == 1:
            return (self.name,)
        return tuple(f"{self.name} {channel + 1}" for channel in range(self.file.channels))

    def segments(self) -> list[Segment]:
        """Return what was said, on the clock of the meeting."""
        if self.voices is not None:  # of a file or the microphone: these begin with the meeting
            return self.voices.segments
        return [
            segment_of(later(final, self.offset_ms), self.names[final.channel])
            for final in self.heard.finals
        ]


@dataclass(frozen=True, slots=True)
class Wish:
    """What all streams of the meeting ask for."""

    url: str
    token: str | None
    latency: Latency
    language: str | None
    room: str
    device: str | None
    readable: Readable | None
    livekit: Entry | None
    is_alone: bool = False
    """Whether there is one participant, who needs no name where it fails."""
    listeners: Listeners | None = None
    """Where voices that share a channel are told apart."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "files", nargs="*", metavar="[NAME=]FILE", help="wav, flac, ogg or mp3 of one participant"
    )
    parser.add_argument("--microphone", action="store_true", help="needs the extra 'microphone'")
    parser.add_argument("--device", help="number or name of the microphone; else the default one")
    parser.add_argument("--name", default="Me", help="who speaks into the microphone")
    parser.add_argument(
        "--livekit", metavar="URL", help="also the tracks of a LiveKit room; extra 'livekit'"
    )
    parser.add_argument(
        "--speakers",
        action="store_true",
        help="tell the voices on one channel apart (NAME 1, NAME 2), here and in what is saved; "
        "readers of the link see NAME alone; needs: pip install --no-deps resemblyzer==0.1.4",
    )
    parser.add_argument(
        "--most-speakers", type=int, metavar="N", help="the same, and no more than N of them"
    )
    parser.add_argument("--room", metavar="ID", help="letters, digits, - and _; default: random")
    add_session_arguments(parser)
    parser.add_argument(
        "--save",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help=f"write the transcript; may be repeated; the ending chooses: {', '.join(WRITERS)}",
    )


def run(args: argparse.Namespace) -> int:
    """Hold the meeting."""
    participants = participants_of(args.files)
    if args.microphone:
        participants.append(Participant(args.name))
    if not participants and not args.livekit:
        raise CommandError("meeting needs FILEs, --microphone or --livekit")
    check(args.save, WRITERS)
    check_names(participants, args.room)
    latency = latency_of(args.latency)
    room = args.room or secrets.token_urlsafe(9)
    screen = CaptionScreen(sys.stdout, sys.stderr, is_terminal=can_redraw(sys.stdout))
    wish = Wish(
        url=args.url,
        token=args.token,
        latency=latency,
        language=language_of(args.language),
        room=room,
        device=args.device,
        readable=Readable() if args.readable else None,
        livekit=entry_of(args.livekit, args.room, os.environ) if args.livekit else None,
        is_alone=len(participants) == 1 and not args.livekit,
        listeners=listeners_of(args),
    )
    screen.note(f"read along: {link_of(args.url, f'/meeting/{room}')}")
    screen.note(f"speak in a browser: {link_of(args.url, '/', f'meeting={room}')}")
    try:
        is_cut = asyncio.run(_meet(participants, wish, screen))
    except asyncio.CancelledError:
        return 130
    finally:
        segments = merged(participants)
        if segments or not all(participant.error for participant in participants):
            title = f"Meeting {room}"
            save({path: WRITERS[path.suffix[1:]](segments, title) for path in args.save})
        screen.close()
    failed = [participant for participant in participants if participant.error]
    if failed and wish.is_alone:
        raise CommandError(failed[0].error)
    is_early = is_cut and not args.microphone and not args.livekit  # which end by Ctrl+C
    if is_early and len(failed) < len(participants):
        return 130
    return 1 if failed else 0


def listeners_of(args: argparse.Namespace) -> Listeners | None:
    """Return what tells voices apart, where that is wanted. Raises CommandError."""
    if args.most_speakers is not None and args.most_speakers < 1:
        raise CommandError("--most-speakers is 1 or more")
    if not args.speakers and args.most_speakers is None:
        return None
    with engine_side() as engine:
        listeners: Listeners = engine.listener_of_voices(args.most_speakers)
    return listeners


def participants_of(texts: Sequence[str]) -> list[Participant]:
    """Read ``NAME=FILE`` or ``FILE``, whose name is then the participant's. Raises CommandError."""
    found = list[Participant]()
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or Path(text).is_file():
            name, path = Path(text).stem, text
        said = os.fsencode(name).decode(errors="replace")  # a file's name may be any bytes
        found.append(Participant(said, open_audio(Path(path))))
    return found


def check_names(participants: Sequence[Participant], room: str | None) -> None:
    """Look at what the server would refuse, before links are shown. Raises CommandError."""
    if room is not None and not ROOM.fullmatch(room):
        raise CommandError(f"--room is 1 to 64 letters, digits, - and _, not {room!r}")
    names = [name for participant in participants for name in participant.names]
    for name in names:
        if not 1 <= len(name) <= MOST_NAME:
            raise CommandError(f"a name has 1 to {MOST_NAME} characters, not {name!r}")
    if len(set(names)) < len(names):
        raise CommandError("two participants have the same name: say NAME=FILE")


def merged(participants: Sequence[Participant]) -> list[Segment]:
    """Return what all said, in the order in which they began to say it."""
    segments = [segment for participant in participants for segment in participant.segments()]
    return sorted(segments, key=lambda segment: segment.start_ms)


def link_of(url: str, path: str, query: str = "") -> str:
    """Return the address of a page of the server."""
    parts = urlsplit(url)
    scheme = "https" if parts.scheme == "wss" else "http"
    return urlunsplit((scheme, parts.netloc, path, query, ""))


async def _meet(participants: list[Participant], wish: Wish, screen: CaptionScreen) -> bool:
    """Hold it; return whether Ctrl+C ended it."""
    until = asyncio.Event()
    with interrupts(until):
        async with asyncio.TaskGroup() as group:
            for participant in participants:
                group.create_task(_take_part(participant, wish, screen, until))
            if wish.livekit is not None:
                group.create_task(_listen(wish.livekit, participants, wish, screen, until))
    return until.is_set()


async def _listen(
    entry: Entry,
    participants: list[Participant],
    wish: Wish,
    screen: CaptionScreen,
    until: asyncio.Event,
) -> None:
    """Add who speaks in a LiveKit room; without the room, the others go on."""
    began_s = asyncio.get_running_loop().time()

    async def follow(voice: Voice) -> None:
        pause_s = RETRY_S
        while True:
            offset_ms = round(1000 * (voice.began_s - began_s))
            participant = Participant(voice.name, voice=voice, offset_ms=offset_ms)
            participants.append(participant)
            await _take_part(participant, wish, screen, until)
            if not participant.error:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(until.wait(), pause_s)
            if until.is_set() or voice.is_over:
                return
            pause_s = min(2 * pause_s, RETRY_MOST_S)
            await voice.again()

    try:
        async with joined(entry, until) as voices, asyncio.TaskGroup() as group:
            screen.note(f"in the LiveKit room of {entry.url}; Ctrl+C ends")
            async for voice in voices:
                group.create_task(follow(voice))
    except CommandError as error:
        participants.append(Participant("LiveKit", error=str(error)))
        screen.note(str(error))


async def _take_part(
    participant: Participant, wish: Wish, screen: CaptionScreen, until: asyncio.Event
) -> None:
    """Stream one participant; the others go on when it fails."""

    async def stream(packets: AsyncIterator[bytes], rate: int, channels: int) -> None:
        session = Session(
            url=wish.url,
            audio=AudioFormat(encoding="pcm_s16le", rate=rate, channels=channels),
            latency=wish.latency,
            language=wish.language,
            token=wish.token,
            meeting=Meeting(id=wish.room, speakers=participant.names),
            readable=wish.readable,
            names=participant.names,
            on_line=line_notes(screen, "" if wish.is_alone else participant.name),
        )
        captions: Captions = screen
        if wish.listeners is not None and channels == 1 and participant.voice is None:
            voices = Voices(wish.listeners(rate), participant.heard, screen)
            captions, packets, participant.voices = voices, voices.overhear(packets), voices
        await stream_live(packets, session, captions, heard=participant.heard, until=until)

    try:
        if (file := participant.file) is not None:
            await stream(paced(file), file.rate, file.channels)
            return
        if participant.voice is not None:
            await stream(participant.voice.packets(), RATE, 1)
            return
        async with Microphone(wish.device) as microphone:
            await stream(microphone.packets(), microphone.rate, 1)
    except RivuletError as error:
        participant.error = why(error, wish.url)
    except (LocalProtocolError, CommandError) as error:
        participant.error = str(error)
    if participant.error and not wish.is_alone:
        screen.note(f"{participant.name}: {participant.error}")
