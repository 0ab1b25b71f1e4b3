"""JSON text <-> typed messages of ``rivulet.v1``, both directions.

Does: turn any text into a typed value or a named error; check a value before it is sent.
Does not know: which message is legal when, audio, sockets, clocks.
"""

import re
from typing import Any, get_args

import msgspec

from server.wire.errors import (
    BadRequest,
    LocalProtocolError,
    MessageTooBig,
    RemoteProtocolError,
    UnsupportedAudio,
    UnsupportedLanguage,
)
from server.wire.messages import (
    CLIENT_TYPES,
    MAX_META_BYTES,
    SERVER_TYPES,
    ClientMessage,
    Error,
    ErrorCode,
    Message,
    ServerMessage,
    Start,
)

MAX_TEXT_BYTES = 524_288
"""1000 boosted phrases of 64 escaped characters take about 420 kB."""
MAX_IGNORED = 32
MAX_NAME_CHARS = 64
_PLACE = re.compile(r" - at `\$\.?(.*)`$", re.DOTALL)
_CODES = get_args(ErrorCode)

JsonObject = dict[str, Any]


def decode_object(text: str, *, limit: int = MAX_TEXT_BYTES) -> JsonObject:
    """Return the JSON object in ``text``; anything else is a non-fatal BadRequest."""
    if len(text) > limit:
        raise MessageTooBig(f"a text message is at most {limit} bytes")
    try:
        raw = text.encode()
        value = msgspec.json.decode(raw) if len(raw) <= limit else None
    except UnicodeEncodeError as error:
        raise BadRequest("the text is not valid Unicode", is_fatal=False) from error
    except RecursionError as error:
        raise BadRequest("the JSON is nested too deep", is_fatal=False) from error
    except msgspec.MsgspecError as error:
        raise BadRequest(f"not JSON: {error}", is_fatal=False) from error
    if len(raw) > limit:
        raise MessageTooBig(f"a text message is at most {limit} bytes")
    if not isinstance(value, dict):
        raise BadRequest("a text message is one JSON object", is_fatal=False)
    return value


def decode_client(value: JsonObject) -> ClientMessage:
    """Return the client message in a JSON object."""
    kind = CLIENT_TYPES.get(_type_in(value))
    if kind is None:
        raise BadRequest(
            f"unknown type '{_type_in(value)[:MAX_NAME_CHARS]}'", is_fatal=False, param="type"
        )
    try:
        message = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _named(error, value, is_fatal=kind is Start) from error
    if isinstance(message, Start) and message.meta is not None:
        _check_meta(message.meta)
    return message


def decode_server(value: JsonObject) -> ServerMessage | None:
    """Return the server message in a JSON object; None for a type we do not know."""
    kind = SERVER_TYPES.get(_type_in(value))
    if kind is None:
        return None
    if kind is Error and value.get("code") not in _CODES:  # v1 may grow: a newer server's code
        value = {**value, "code": "internal"}
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"bad '{value['type']}': {error}") from error


def encode(message: Message) -> str:
    """Return the JSON text of a message that keeps its own constraints."""
    kind = type(message)
    try:
        plain = msgspec.to_builtins(message)
        msgspec.convert(plain, kind)  # also refuses NaN, which would be sent as null
        return msgspec.json.encode(plain).decode()
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError, TypeError) as error:
        # The reason alone: an encoding error would quote the text it failed on.
        reason = str(error) if isinstance(error, msgspec.MsgspecError) else type(error).__name__
        raise LocalProtocolError(f"cannot send {kind.__name__}: {reason}") from None


def unknown_fields(value: JsonObject) -> tuple[str, ...]:
    """Return the names in a ``start`` that we do not know, shortened, 32 at most."""
    known = {"type", *(field.encode_name for field in msgspec.structs.fields(Start))}
    unknown = [name[:MAX_NAME_CHARS] for name in value if name not in known]
    return tuple(unknown[:MAX_IGNORED])


def _type_in(value: JsonObject) -> str:
    kind = value.get("type")
    if not isinstance(kind, str):
        raise BadRequest("a message has a 'type' that is a string", is_fatal=False, param="type")
    return kind


def _check_meta(meta: JsonObject) -> None:
    try:
        size = len(msgspec.json.encode(meta))
    except RecursionError:
        size = MAX_META_BYTES + 1
    if size > MAX_META_BYTES:
        raise BadRequest(f"meta is at most {MAX_META_BYTES} bytes", param="meta")


def _named(
    error: msgspec.ValidationError, value: JsonObject, *, is_fatal: bool
) -> RemoteProtocolError:
    """Say what is wrong, where, and by which code."""
    text = str(error)
    place = _PLACE.search(text)
    param = place.group(1) if place else None
    what = text[: place.start()] if place else text
    where = f"{param}: {what}" if param else what
    req = value.get("req")
    answer: type[RemoteProtocolError] = BadRequest
    if param and param.startswith("audio."):
        answer = UnsupportedAudio
    elif param == "language":
        answer = UnsupportedLanguage
    is_req = isinstance(req, str) and len(req) <= MAX_NAME_CHARS
    return answer(where, is_fatal=is_fatal, param=param, req=req if is_req else None)
