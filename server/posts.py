"""Requests with a body: whole files, in the forms of the wires that take them.

Does: path -> wire; read and decode a file within bounds; run its session; refuse as its wire does.
Does not know: how bytes arrive (door), what a transcript looks like (the wires).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

from websockets.datastructures import Headers

from server import media
from server.door import Door, PostLine
from server.dropin import DropIns
from server.http import Site
from server.session import RETRY_AFTER_S
from server.wire import deepgram_files, openai_files
from server.wire.adapter import Adapter, Hello, Refused
from server.wire.codec import JsonObject
from server.wire.deepgram import format_of
from server.wire.errors import BadRequest, MessageTooBig, RemoteProtocolError
from server.wire.rest import Head, Recording, json_answer, read_form

MAX_WAITING_BYTES = 512 * 1024 * 1024
"""Bodies being received or heard at once."""
MAX_HEARD = 4
"""Files that are decoded and heard at once: their audio waits in memory."""

Failure = Callable[[Hello, int, str], JsonObject]


@dataclass(frozen=True, slots=True)
class _Route:
    """A wire that takes a file."""

    read: Callable[[Hello, Head, bytes], Awaitable[Adapter]]
    failure: Failure


class Posts:
    """Answers requests with a body."""

    def __init__(
        self, dropins: DropIns, site: Site, may_serve: Callable[[Headers], HTTPStatus]
    ) -> None:
        self._dropins = dropins
        self._site = site
        self._may_serve = may_serve
        self._waiting_bytes = 0
        self._hearing = asyncio.Semaphore(MAX_HEARD)
        self._routes = {
            "/v1/listen": _Route(
                _deepgram, lambda hello, _, text: deepgram_files.failure_of(hello, text)
            ),
            "/v1/audio/transcriptions": _Route(
                _openai, lambda _, status, text: openai_files.failure_of(status, text)
            ),
        }

    async def answer(self, door: Door, head: Head) -> None:
        """Answer one request and close."""
        route = self._routes.get(head.path)
        if head.method != "POST" or route is None:
            response = self._site.respond(head.method, head.path)
            await self._say(door, bytes(response.serialize()))
            return
        hello = self._dropins.hello(head.query, head.headers)
        status = self._may_serve(Headers(head.headers))
        if status is HTTPStatus.OK and not self._dropins.has_room:
            status = HTTPStatus.SERVICE_UNAVAILABLE
        if status is not HTTPStatus.OK:
            await self._refuse(door, route, hello, status, status.phrase)
            return
        await self._guarded(door, route, hello, head)

    async def _guarded(self, door: Door, route: _Route, hello: Hello, head: Head) -> None:
        size = door.size_of(head)
        if self._waiting_bytes + size > MAX_WAITING_BYTES:
            status = HTTPStatus.SERVICE_UNAVAILABLE
            await self._refuse(door, route, hello, status, "too many files at once")
            return
        self._waiting_bytes += size
        try:
            body = await door.body(head)
            async with self._hearing:
                adapter = await route.read(hello, head, body)
                await self._dropins.serve(adapter, PostLine(door))
        except Refused as refused:
            await self._say(door, json_answer(refused.status, refused.body))
        except RemoteProtocolError as error:
            status = HTTPStatus(413 if isinstance(error, MessageTooBig) else 400)
            await self._refuse(door, route, hello, status, error.message)
        finally:
            self._waiting_bytes -= size

    async def _refuse(
        self, door: Door, route: _Route, hello: Hello, status: HTTPStatus, text: str
    ) -> None:
        extra = {}
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            extra["Retry-After"] = str(round(RETRY_AFTER_S))
        body = route.failure(hello, status.value, text)
        await self._say(door, json_answer(status.value, body, extra))

    async def _say(self, door: Door, answer: bytes) -> None:
        await door.write(answer)
        await door.finish()


async def _deepgram(hello: Hello, head: Head, body: bytes) -> Adapter:
    if head.headers.get("content-type", "").startswith("application/json"):
        raise BadRequest("only audio in the body is taken: URLs are not fetched")
    audio = format_of(hello)
    if audio is not None:
        recording = media.raw(body, audio.encoding, audio.rate, audio.channels)
    else:
        keep = hello.is_set("multichannel")
        recording = await asyncio.to_thread(media.decode, body, "keep" if keep else "mix")
    return deepgram_files.DeepgramFile(hello, recording)


async def _openai(hello: Hello, head: Head, body: bytes) -> Adapter:
    parts = read_form(body, head.headers.get("content-type", ""))
    file = next((part for part in parts if part.name == "file"), None)
    if file is None:
        raise BadRequest("the form has no file")
    fields = dict[str, tuple[str, ...]]()
    for part in parts:
        if part is not file:
            fields[part.name] = (*fields.get(part.name, ()), part.text)
    heard = await asyncio.to_thread(media.decode, file.data, "mix")
    return openai_files.TranscriptionFile(hello, Recording(heard.audio, heard.samples, fields))
