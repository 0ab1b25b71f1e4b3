"""Requests with a body: whole files, in the forms of the wires that take them.

Does: path -> wire; read and decode a file within bounds; run its session; refuse as its wire does;
tokens for browsers.
Does not know: how bytes arrive (door), what a transcript looks like (the wires).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

import msgspec
from websockets.datastructures import Headers

from server import media
from server.door import Door, PostLine
from server.dropin import DropIns
from server.guard import Caller, Guard, query_of, status_of
from server.http import Site
from server.keys import MAX_TOKEN_S, Account
from server.patience import RETRY_AFTER_S
from server.wire import deepgram_files, nvidia_realtime, openai_files
from server.wire.adapter import Adapter, Hello, Refused
from server.wire.codec import JsonObject
from server.wire.deepgram import format_of
from server.wire.errors import (
    BadRequest,
    MessageTooBig,
    OverCapacity,
    WireError,
)
from server.wire.rest import Head, Recording, answer, json_answer, read_form

MAX_WAITING_BYTES = 512 * 1024 * 1024
"""Bodies being received or heard at once."""
MAX_WISH_BYTES = 64 * 1024
"""A body that is no file; anybody may send one, so little is read before the key is looked at."""

TOKENS_PATH = "/v1/tokens"
PREFLIGHT_S = "600"
"""How long a browser need not ask again whether a page may."""
MAX_SESSION_WAIT_S = 60
"""From a session of NVIDIA's wire to its socket."""

Failure = Callable[[Hello, int, str], JsonObject]


class TokenWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request for a token."""

    expires_in: Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKEN_S)] = 60
    """Seconds in which it opens streams; those it opened go on."""


@dataclass(frozen=True, slots=True)
class _Route:
    """A wire that takes a file."""

    read: Callable[[Hello, Head, bytes], Awaitable[Adapter]]
    failure: Failure


class Posts:
    """Answers requests with a body."""

    def __init__(self, dropins: DropIns, site: Site, guard: Guard, *, file_mb: int) -> None:
        self._dropins = dropins
        self._site = site
        self._guard = guard
        self._most = file_mb << 20
        self._waiting_bytes = 0
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
        path = head.path.rstrip("/")
        route = self._routes.get(path)
        caller = _caller_of(door, head)
        door.extra = self._guard.shared_with(caller.headers)
        if head.method == "OPTIONS" and door.extra:
            await self._say(door, answer(200, b"", "text/plain", _allowed(head)))
            return
        if head.method == "POST" and path == TOKENS_PATH:
            await self._token(door, head, caller)
            return
        if head.method == "POST" and path == nvidia_realtime.SESSIONS_PATH:
            await self._session(door, head, caller)
            return
        if head.method != "POST" or route is None:
            response = self._site.respond(head.method, head.path)
            await self._say(door, bytes(response.serialize()))
            return
        hello = self._dropins.hello(head.query, head.headers)
        try:
            account = self._dropins.enter(caller, "files")
            if not self._dropins.has_room:
                raise OverCapacity("every slot of this server is taken")
        except WireError as error:
            await self._refuse(door, route, hello, status_of(error), error.message)
            return
        await self._guarded(door, route, hello, head, account)

    async def _token(self, door: Door, head: Head, caller: Caller) -> None:
        """Give whoever has a key a token for its pages."""
        extra = {"Cache-Control": "no-store"}
        try:
            wish = _read_wish(await door.body(head, most=MAX_WISH_BYTES))
            token = self._guard.token(caller, wish.expires_in)
            if token is None:
                raise BadRequest("this server has no keys: nobody needs a token")
            status, body = HTTPStatus.OK, msgspec.to_builtins(wish) | {"token": token}
        except WireError as error:
            status, body = status_of(error), {"error": error.message}
        await self._say(door, json_answer(status.value, body, extra))

    async def _session(self, door: Door, head: Head, caller: Caller) -> None:
        """Give a client of NVIDIA's realtime wire its settings and what opens its socket."""
        hello = self._dropins.hello(head.query, head.headers)
        try:
            await door.body(head, most=MAX_WISH_BYTES)
            token = self._guard.token(caller, MAX_SESSION_WAIT_S) or hello.name
            status = HTTPStatus.OK
            body = nvidia_realtime.new_session(hello, token, hello.born_s + MAX_SESSION_WAIT_S)
        except WireError as error:
            status, body = status_of(error), {"detail": error.message}
        await self._say(door, json_answer(status.value, body, {"Cache-Control": "no-store"}))

    async def _guarded(
        self, door: Door, route: _Route, hello: Hello, head: Head, account: Account | None
    ) -> None:
        size = 0
        try:
            wanted = door.size_of(head, most=self._most)
            if self._waiting_bytes and self._waiting_bytes + wanted > MAX_WAITING_BYTES:
                raise OverCapacity("too many files at once")
            size = wanted
            self._waiting_bytes += size
            body = await self._body(door, head)
            async with self._dropins.hearing:
                adapter = await route.read(hello, head, body)
                del body  # or it lay there until all of it is heard
                await self._dropins.serve(adapter, PostLine(door), account)
        except Refused as refused:
            await self._say(door, json_answer(refused.status, refused.body))
        except WireError as error:
            await self._refuse(door, route, hello, status_of(error), error.message)
        finally:
            self._waiting_bytes -= size

    async def _body(self, door: Door, head: Head) -> bytes:
        try:
            return await door.body(head, most=self._most)
        except MessageTooBig as error:
            text = f"a file has {self._most >> 20} MiB at most here (rivulet serve --file-mb)"
            raise MessageTooBig(text) from error

    async def _refuse(
        self, door: Door, route: _Route, hello: Hello, status: HTTPStatus, text: str
    ) -> None:
        extra = {}
        if status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
            extra["Retry-After"] = str(round(RETRY_AFTER_S))
        body = route.failure(hello, status.value, text)
        await self._say(door, json_answer(status.value, body, extra))

    async def _say(self, door: Door, answer: bytes) -> None:
        await door.write(answer)
        await door.finish()


def _read_wish(body: bytes) -> TokenWish:
    try:
        return msgspec.json.decode(body, type=TokenWish) if body else TokenWish()
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f'the body is {{"expires_in": 1 to {MAX_TOKEN_S}}}') from error


def _allowed(head: Head) -> dict[str, str]:
    """Return what a page of an origin that may connect may ask for: whatever it asks with."""
    return {
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": head.headers.get("access-control-request-headers", ""),
        "Access-Control-Max-Age": PREFLIGHT_S,
    }


def _caller_of(door: Door, head: Head) -> Caller:
    address = (door.transport.get_extra_info("peername") or ("",))[0]
    return Caller(Headers(head.headers), query_of(head.query), address)


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
