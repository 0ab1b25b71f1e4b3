"""Values in foreign messages, read with care: every reader returns a value or names what is wrong.

Does: JSON <-> objects, numbers, audio formats, phrases, silences, spans.
Does not know: any particular wire, connections, order.
"""

import base64
import binascii

import msgspec

from server.wire import messages as native
from server.wire.codec import MAX_TEXT_BYTES, JsonObject, decode_object
from server.wire.errors import BadRequest, LocalProtocolError, UnsupportedAudio

SHORTEST_SILENCE_MS, LONGEST_SILENCE_MS = 200, 5_000
"""Foreign clients ask for 10 or 25 ms: a turn would end between two words."""


def read_json(text: str | bytes, *, limit: int = MAX_TEXT_BYTES) -> JsonObject:
    """Return the JSON object in a message; raises RemoteProtocolError."""
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            raise BadRequest("the text is not valid Unicode") from error
    return decode_object(text, limit=limit)


def to_json(value: JsonObject) -> str:
    """Return the JSON text of an object of ours."""
    try:
        return msgspec.json.encode(value).decode()
    except (msgspec.MsgspecError, UnicodeEncodeError, TypeError) as error:
        raise LocalProtocolError(f"cannot be sent: {type(error).__name__}") from None


def audio_format(encoding: str, rate: object, channels: object = 1) -> native.AudioFormat:
    """Return a format that the session takes; raises UnsupportedAudio."""
    try:
        return msgspec.convert(
            {"encoding": encoding, "rate": rate, "channels": channels}, native.AudioFormat
        )
    except msgspec.ValidationError as error:
        raise UnsupportedAudio(f"audio: {error}") from error


def number_in(value: object, name: str) -> float:
    """Return a finite number; raises BadRequest."""
    try:
        number = float(value) if isinstance(value, str | int | float) else float("nan")
    except (ValueError, OverflowError):
        number = float("nan")
    if not abs(number) < 2**53:
        raise BadRequest(f"{name} must be a number", param=name)
    return number


def integer_in(value: object, name: str) -> int:
    """Return a whole number; raises BadRequest."""
    number = number_in(value, name)
    if number != int(number):
        raise BadRequest(f"{name} must be a whole number", param=name)
    return int(number)


def base64_in(value: object, name: str) -> bytes:
    """Return bytes from base64; raises BadRequest."""
    if not isinstance(value, str):
        raise BadRequest(f"{name} must be base64", param=name)
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"{name} must be base64", param=name) from error


def text_in(value: object, default: str = "") -> str:
    """Return a string, or the default for anything else."""
    return value if isinstance(value, str) else default


def object_in(value: object) -> JsonObject:
    """Return an object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def silence(milliseconds: float) -> int:
    """Return a silence that may end a turn, near what was asked for."""
    return round(min(max(milliseconds, SHORTEST_SILENCE_MS), LONGEST_SILENCE_MS))


def turns_after(milliseconds: float) -> native.Endpointing:
    """Return rules for a silence that the client named itself: not longer behind any word."""
    return native.Endpointing(silence_ms=silence(milliseconds), hesitation_ms=0)


def strings_in(value: object) -> list[str]:
    """Return the strings of a list (or of JSON in a string); others are left out."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.MsgspecError, RecursionError):
            return []
    items = value if isinstance(value, list | tuple) else ()
    return [item for item in items if isinstance(item, str)]


def phrases_in(value: object) -> list[native.Boost]:
    """Return the phrases of a list (or of JSON in a string); others are left out."""
    return [boost for text in strings_in(value) if (boost := phrase(text)) is not None]


def phrase(text: object, weight: float = 2.0) -> native.Boost | None:
    """Return a phrase to favour, if it can be one."""
    if not isinstance(text, str) or not 1 <= len(text.strip()) <= 64:
        return None
    return native.Boost(phrase=text.strip(), weight=min(max(weight, 0.0), 10.0))


def latency_of(name: str) -> native.LatencyClass | None:
    """Return the latency class of this name; None for any other."""
    match name:
        case "low" | "balanced" | "accurate":
            return name
        case _:
            return None


def seconds(milliseconds: int) -> float:
    """Return milliseconds as the seconds that most wires speak."""
    return milliseconds / 1_000


def spread(text: str, start_ms: int, end_ms: int) -> list[native.WordSpan]:
    """Return words of an open segment, their times spread evenly: it has none of its own."""
    words = text.split()
    step = (end_ms - start_ms) / max(1, len(words))
    return [
        native.WordSpan(
            w=word, s=round(start_ms + i * step), e=round(start_ms + (i + 1) * step), c=None
        )
        for i, word in enumerate(words)
    ]
