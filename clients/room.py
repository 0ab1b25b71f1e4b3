"""A LiveKit room: every audio track in it as packets for the wire (the extra ``livekit``).

Does: a token from the environment, join as a listener that all can see, a voice for each audio
track from its coming to its going; silence where a muted track sends nothing, so that a stream
keeps the time of the room.
Does not know: our servers, captions. WebRTC runs on threads of LiveKit's own package.
"""

import asyncio
import base64
import hashlib
import hmac
import importlib
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from clients.console import clean
from clients.errors import CommandError, missing_module

RATE = 16_000
PACKET_MS = 40
QUEUE_PACKETS = 500
"""20 s: when the loop stands still longer than this, the oldest audio is lost."""
PATIENCE_S = 0.3
"""Without sound for so long, silence stands in."""
DRAIN_S = 0.01
NAME_CHARACTERS = 55
"""A speaker's name has 64 in a meeting; the screen takes nine."""
TOKEN_S = 6 * 3600
"""A token lets in for so long; LiveKit renews it for who is in the room."""
NO_TOKEN = (
    "--livekit needs LIVEKIT_TOKEN in the environment, or LIVEKIT_API_KEY and LIVEKIT_API_SECRET "
    "with the room's name in --room"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a room is, and what lets in."""

    url: str
    token: str = field(repr=False)


def entry_of(url: str, room: str | None, environment: Mapping[str, str]) -> Entry:
    """Return the way into a room. Raises CommandError: nothing lets in."""
    if token := environment.get("LIVEKIT_TOKEN"):
        return Entry(url, token)
    key, secret = environment.get("LIVEKIT_API_KEY"), environment.get("LIVEKIT_API_SECRET")
    if not (key and secret and room):
        raise CommandError(NO_TOKEN)
    return Entry(url, signed(key, secret, room, now_s=time.time()))


def signed(key: str, secret: str, room: str, *, now_s: float) -> str:
    """Return a token of LiveKit's (a JSON Web Token) that lets a listener into one room."""
    claims = {
        "iss": key,
        "sub": f"rivulet-{secrets.token_hex(4)}",
        "name": "Captions",
        "nbf": int(now_s) - 60,  # clocks differ
        "exp": int(now_s) + TOKEN_S,
        "video": {
            "roomJoin": True,
            "room": room,
            "canSubscribe": True,
            "canPublish": False,
            "canPublishData": False,
        },
    }
    text = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{_part(claims)}"
    digest = hmac.digest(secret.encode(), text.encode(), hashlib.sha256)
    return f"{text}.{_base64(digest)}"


def _part(content: object) -> str:
    return _base64(json.dumps(content, separators=(",", ":")).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Voice:
    """One audio track of a participant, from its coming to its going."""

    def __init__(self, name: str, listen: Callable[[], Any]) -> None:
        """``listen`` makes an AudioStream of LiveKit's package."""
        self.name = name
        self.is_over = False
        self._clock = asyncio.get_running_loop().time
        self.began_s = self._clock()
        """On the clock of the loop; the first packet is of this moment."""
        self._listen = listen
        self._stream = listen()

    def end(self) -> None:
        """Let the packets end behind those that are already here."""
        self.is_over = True

    async def again(self) -> None:
        """Begin anew, from now on; what nobody took is lost."""
        await self._stream.aclose()
        self._stream, self.began_s = self._listen(), self._clock()

    async def packets(self) -> AsyncIterator[bytes]:
        """Packets until the track goes; a muted one is silent."""
        samples = 0
        coming = self._next()
        try:
            while True:
                await asyncio.wait([coming], timeout=DRAIN_S if self.is_over else PATIENCE_S)
                if coming.done():
                    if (event := coming.result()) is None:
                        return
                    packet = bytes(event.frame.data)
                    coming = self._next()
                elif self.is_over:
                    return
                else:
                    packet = self._silence(samples)
                samples += len(packet) // 2
                if packet:
                    yield packet
        finally:
            coming.cancel()
            await self._stream.aclose()

    def _next(self) -> asyncio.Future[Any]:
        return asyncio.ensure_future(anext(self._stream, None))

    def _silence(self, samples: int) -> bytes:
        """Return what is missing until now; a second at most, a packet has its limits."""
        due = int((self._clock() - self.began_s) * RATE)
        return bytes(2 * min(max(due - samples, 0), RATE))


class Lobby:
    """What happens in a room, as voices; its methods are called by LiveKit's package."""

    def __init__(self, rtc: Any) -> None:
        """``rtc`` is the module ``livekit.rtc``."""
        self._rtc = rtc
        self._arrived = asyncio.Queue[Voice | None]()
        self._voices: dict[tuple[str, str], Voice] = {}
        """By identity and track."""

    def published(self, publication: Any, participant: Any) -> None:
        """Ask for the sound of a participant, not for pictures."""
        if publication.kind == self._rtc.TrackKind.KIND_AUDIO:
            publication.set_subscribed(True)

    def subscribed(self, track: Any, publication: Any, participant: Any) -> None:
        """Make a voice of an audio track; a second one of a participant is the shared screen."""
        if track.kind != self._rtc.TrackKind.KIND_AUDIO:
            return
        is_screen = publication.source == self._rtc.TrackSource.SOURCE_SCREENSHARE_AUDIO
        listen = partial(
            self._rtc.AudioStream,
            track,
            sample_rate=RATE,
            num_channels=1,
            frame_size_ms=PACKET_MS,
            capacity=QUEUE_PACKETS,
        )
        name = clean(participant.identity)[:NAME_CHARACTERS] + (" (screen)" if is_screen else "")
        voice = self._voices[participant.identity, publication.sid] = Voice(name, listen)
        self._arrived.put_nowait(voice)

    def unsubscribed(self, track: Any, publication: Any, participant: Any) -> None:
        """End the voice of a track; when it is published again, that is a new one."""
        if voice := self._voices.pop((participant.identity, publication.sid), None):
            voice.end()

    def left(self, participant: Any) -> None:
        """End the voices of who left, should the news of the tracks have been lost."""
        for identity, sid in list(self._voices):
            if identity == participant.identity:
                self._voices.pop((identity, sid)).end()

    def close(self, *_: object) -> None:
        """End all voices, and wait for no more."""
        for voice in self._voices.values():
            voice.end()
        self._voices.clear()
        self._arrived.put_nowait(None)

    async def voices(self) -> AsyncIterator[Voice]:
        """Voices as they arrive, until the room is closed."""
        while (voice := await self._arrived.get()) is not None:
            yield voice


@asynccontextmanager
async def joined(entry: Entry, until: asyncio.Event) -> AsyncIterator[AsyncIterator[Voice]]:
    """Be in a room; its voices as they come, until it ends or ``until``. Raises CommandError."""
    try:
        rtc: Any = importlib.import_module("livekit.rtc")
    except ModuleNotFoundError as error:
        raise CommandError(missing_module(error)) from error
    logging.getLogger("livekit").addHandler(logging.NullHandler())  # the screen is for captions
    room, lobby = rtc.Room(), Lobby(rtc)
    for event, heard in (
        ("track_published", lobby.published),
        ("track_subscribed", lobby.subscribed),
        ("track_unsubscribed", lobby.unsubscribed),
        ("participant_disconnected", lobby.left),
        ("disconnected", lobby.close),
    ):
        room.on(event, heard)
    try:
        await room.connect(entry.url, entry.token, rtc.RoomOptions(auto_subscribe=False))
    except rtc.ConnectError as error:
        raise CommandError(f"the LiveKit room cannot be joined: {error.message}") from error
    closing = asyncio.create_task(_close_at(until, lobby))
    try:
        for participant in room.remote_participants.values():
            for publication in participant.track_publications.values():
                lobby.published(publication, participant)
        yield lobby.voices()
    finally:
        closing.cancel()
        await room.disconnect()


async def _close_at(until: asyncio.Event, lobby: Lobby) -> None:
    await until.wait()
    lobby.close()
