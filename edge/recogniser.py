"""One leg's audio through sessions of a rivulet server, wherever that server runs.

Does: pull audio from the leg's ring a chunk at a time (less is decoded no sooner, and every message
costs), hand finals, partials and progress on; begin a new session behind the last final when one
fails, so that no audio goes unheard; pause a session whose audio stays away (a cut link), so that
its clock stands still.
Does not know: links, policies, who keeps the results. On a core the server is the core's own; on
a node that recognises on the spot it is the node's.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol

from clients.connection import (
    ATTACHED_ELSEWHERE,
    Connection,
    ConnectionLost,
    RivuletError,
    connect,
)
from edge.packets import CodecMissing, PacketDecoder, decoder_of
from edge.ring import AudioRing, Span
from edge.wire import Encoding, Open, Result, Word
from server.wire.messages import (
    Ack,
    AudioFormat,
    Done,
    Final,
    LatencyClass,
    Partial,
    Ready,
    ResumeFrom,
)

logger = logging.getLogger(__name__)

PAUSE_AFTER_S = 5.0
"""A session without audio is paused after so long; servers end idle ones after 30 s."""
SAFE_MARGIN_S = 2
"""While nothing is being said, audio this old is not asked for again."""
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.2, 5.0
_FOR_GOOD = {
    "bad_request",
    "unsupported_audio",
    "unsupported_language",
    "unauthorized",
    "forbidden_origin",
}


class Fenced(Exception):
    """The server's session was given up: somebody else goes on with it."""


class LegRefused(Exception):
    """The server will never take this leg; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LegAudio:
    """What a leg sounds like and how it is to be recognised."""

    encoding: Encoding
    rate: int
    latency: LatencyClass | None = None
    language: str | None = None

    @classmethod
    def of(cls, opening: Open) -> "LegAudio":
        """Return what an OPEN asks for."""
        return cls(
            encoding=opening.encoding,
            rate=opening.rate,
            latency=opening.latency,
            language=opening.language,
        )

    @property
    def format(self) -> AudioFormat:
        """The format a server is told: telephony codes go as they came, packets decoded."""
        if self.encoding == "opus" or self.encoding == "g722":
            return AudioFormat(encoding="pcm_s16le", rate=self.rate)
        return AudioFormat(encoding=self.encoding, rate=self.rate)


@dataclass(frozen=True, slots=True)
class Past:
    """A session that began elsewhere: its token, where it began on the leg, finals before it."""

    token: str
    origin: int
    finals: int


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin: with which sample, and with which number the first final."""

    at: int = 0
    finals: int = 0
    past: Past | None = None
    """The session to go on with; None: a new one."""


class Listener(Protocol):
    """Who hears the words."""

    def final(self, number: int, result: Result) -> None:
        """Take a final; numbers count up by one."""

    def partial(self, result: Result) -> None:
        """Take the open text; the next one replaces it."""

    def progressed(self) -> None:
        """Note that ``done`` or ``safe`` moved."""


class Recogniser:
    """Paired with a ring: call ``changed`` whenever the ring grew or ended."""

    def __init__(
        self,
        url: str,
        audio: LegAudio,
        ring: AudioRing,
        listener: Listener,
        start: Start,
        *,
        key: str = "",
    ) -> None:
        self.finals = start.finals
        """The number of the next final."""
        self.done = self.safe = start.at
        """Samples decoded; samples whose words are final, or that held none."""
        self.past: Past | None = None
        """The session that runs, for whoever goes on with it."""
        self.durable = start.at
        """Samples that the server will not ask for again, whatever happens to it."""
        self.is_resumed = False
        """The session that runs began elsewhere."""
        self.sessions = 0
        """Sessions begun: more than one means that some failed."""
        self._url, self._audio, self._ring, self._listener = url, audio, ring, listener
        self._key = key
        self._more = asyncio.Event()
        self._resume = start.past
        self._chunk = 0
        """Samples that the server decodes at once."""
        self._beyond: int | None = None
        """How much more than a chunk behind what it has decoded it needs; None: it does not say."""
        self._edge: int | None = None
        """Audio up to which completes one of its chunks; None: not known yet."""
        self._is_open = False
        """Words were said that are not final yet."""
        self._failures = 0

    def changed(self) -> None:
        """Look at the ring again."""
        self._more.set()

    async def run(self) -> None:
        """Recognise until the ring is ended and all is said. Raises LegRefused, Fenced."""
        try:
            decoder_of(self._audio.encoding, self._audio.rate)
        except CodecMissing as error:
            raise LegRefused(f"{error} (where it is recognised)") from error
        while True:
            try:
                await self._session()
                return
            except RivuletError as error:
                if isinstance(error, ConnectionLost) and error.close_code == ATTACHED_ELSEWHERE:
                    raise Fenced from error
                if self._resume is not None and error.code == "resume_unknown":
                    logger.warning("a moved session is not known here: it begins anew")
                    self._resume = None
                elif error.code in _FOR_GOOD:
                    raise LegRefused(str(error)) from error
                logger.info("leg begins another session", extra={"code": error.code})
                wait_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2**self._failures)
                self._failures += 1
                self.past = None
                await asyncio.sleep(error.retry_after_s or wait_s)

    async def _session(self) -> None:
        past, self._is_open = self._resume, False
        origin = past.origin if past is not None else self.safe
        before = past.finals if past is not None else self.finals
        resume = None
        if past is not None:
            resume = ResumeFrom(token=past.token, finals=(self.finals - before,))
        async with connect(
            self._url,
            token=self._key or None,
            audio=self._audio.format,
            latency=self._audio.latency,
            language=self._audio.language,
            words=True,
            resume=resume,
        ) as connection:
            self.sessions += 1
            self._resume, self.is_resumed = None, connection.ready.resumed
            self.past = Past(connection.ready.token, origin, before)
            begin = origin + connection.ready.at
            self._align(connection.ready, None if past else origin)
            sending = asyncio.create_task(self._send(connection, begin))
            try:
                async for message in connection:
                    if isinstance(message, Done):
                        self._move(self._ring.head, self._ring.head)
                    else:
                        self._hear(message, origin)
                if sending.done():
                    sending.result()
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    # ---- up

    async def _send(self, connection: Connection, cursor: int) -> None:
        decoder, is_all = decoder_of(self._audio.encoding, self._audio.rate), False
        while True:
            is_due = is_all or self._ring.is_ended or self._ring.head >= self._enough(cursor)
            span = self._ring.read(cursor, self._audio.rate) if is_due else None
            if span is not None:
                await _send_span(connection, span, decoder)
                cursor = span.end
            elif self._ring.is_ended:
                await connection.stop()
                return
            elif is_all:
                await self._pause(connection)
                is_all = False
            else:
                is_all = not await self._comes()

    def _align(self, ready: Ready, origin: int | None) -> None:
        """Know the chunks of a session that begins; None: it began elsewhere, who knows where."""
        self._chunk, chunks = ready.chunk_ms * self._audio.rate // 1000, ready.chunks
        self._beyond = None if chunks is None else chunks.beyond
        self._edge = None if chunks is None or origin is None else origin + chunks.first

    def _enough(self, cursor: int) -> int:
        """Return how far audio must go for the server to decode a chunk more."""
        if self._edge is None:
            return cursor
        return self._edge + ((cursor - self._edge) // self._chunk + 1) * self._chunk

    async def _comes(self) -> bool:
        """Wait for more audio; False: none came for long."""
        self._more.clear()
        try:
            async with asyncio.timeout(PAUSE_AFTER_S):
                return await self._more.wait()
        except TimeoutError:
            return False

    async def _pause(self, connection: Connection) -> None:
        """Pause the session until there is more audio."""
        self._more.clear()
        await connection.pause()
        await self._more.wait()
        await connection.resume()

    # ---- down

    def _hear(self, message: object, origin: int) -> None:
        begin_ms = origin * 1000 // self._audio.rate
        match message:
            case Final():
                end = origin + message.end_ms * self._audio.rate // 1000
                number, self.finals = self.finals, self.finals + 1
                self._is_open, self._failures = False, 0
                self._listener.final(number, _result(message, begin_ms))
                self._move(self.done, end)
            case Partial():
                self._is_open = bool(message.text)
                self._listener.partial(_result(message, begin_ms))
            case Ack():
                done = origin + message.done
                self._edge = None if self._beyond is None else done + self._beyond
                self.durable = max(self.durable, origin + message.durable)
                quiet = self.safe if self._is_open else done - SAFE_MARGIN_S * self._audio.rate
                self._move(done, quiet)

    def _move(self, done: int, safe: int) -> None:
        self.done = max(self.done, done)
        self.safe = max(self.safe, min(safe, self._ring.head))
        self._listener.progressed()


async def _send_span(connection: Connection, span: Span, decoder: PacketDecoder | None) -> None:
    if span.data is None:
        if decoder is not None and span.samples <= decoder.rate // 8:
            await connection.send(decoder.conceal(span.samples))
        else:
            await connection.gap(span.samples)
    elif decoder is None:
        await connection.send(span.data)
    else:
        await connection.send(decoder.decode(span.data, span.samples))


def _result(message: Final | Partial, begin_ms: int) -> Result:
    words = (message.words or ()) if isinstance(message, Final) else ()
    return Result(
        text=message.text,
        start_ms=begin_ms + message.start_ms,
        end_ms=begin_ms + message.end_ms,
        words=tuple(
            Word(w.w, begin_ms + w.s, begin_ms + w.e, 1.0 if w.c is None else w.c) for w in words
        ),
        cause=message.cause if isinstance(message, Final) else "",
    )
