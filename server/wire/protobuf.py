"""The little of protobuf that one wire needs: fields by number, no schema, no package.

Does: bytes -> fields, fields -> bytes (varints, 32-bit floats, lengths).
Does not know: what a field means. https://protobuf.dev/programming-guides/encoding
"""

import struct

from server.wire.errors import BadRequest

Value = int | bytes
MAX_FIELDS = 10_000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Fields:
    """The fields of a message; a repeated one keeps its order."""

    def __init__(self, raw: bytes) -> None:
        """Read them; raises BadRequest."""
        self._values: dict[int, list[Value]] = {}
        at, count = 0, 0
        while at < len(raw):
            key, at = _varint(raw, at)
            value, at = _value(raw, at, key & 7)
            self._values.setdefault(key >> 3, []).append(value)
            count += 1
            if count > MAX_FIELDS:
                raise BadRequest("a message has too many fields")

    def has(self, number: int) -> bool:
        """Whether a field is there."""
        return number in self._values

    def integer(self, number: int) -> int:
        """Return the last value of an integer, an enum or a bool."""
        found = self._values.get(number, [0])[-1]
        if not isinstance(found, int):
            raise BadRequest(f"field {number} must be a number")
        return found if found < 1 << 63 else found - (1 << 64)

    def data(self, number: int) -> bytes:
        """Return the last value of bytes."""
        found = self._values.get(number, [b""])[-1]
        if not isinstance(found, bytes):
            raise BadRequest(f"field {number} must be bytes")
        return found

    def text(self, number: int) -> str:
        """Return the last value of a string."""
        return _text(self.data(number))

    def message(self, number: int) -> "Fields":
        """Return a message inside; an absent one is empty."""
        return Fields(self.data(number))

    def messages(self, number: int) -> list["Fields"]:
        """Return all messages of a repeated field."""
        return [Fields(value) for value in self._values.get(number, ()) if isinstance(value, bytes)]

    def texts(self, number: int) -> list[str]:
        """Return all strings of a repeated field."""
        return [_text(value) for value in self._values.get(number, ()) if isinstance(value, bytes)]

    def floating(self, number: int) -> float:
        """Return the last value of a 32-bit float."""
        found = self._values.get(number, [0])[-1]
        if not isinstance(found, int) or found >= 1 << 32:
            raise BadRequest(f"field {number} must be a float")
        number_of: float = struct.unpack("<f", found.to_bytes(4, "little"))[0]
        return number_of


def integer(number: int, value: int) -> bytes:
    """Return an integer, an enum or a bool as a field; nothing for zero."""
    return _key(number, _VARINT) + _to_varint(value) if value else b""


def floating(number: int, value: float) -> bytes:
    """Return a 32-bit float as a field; nothing for zero."""
    return _key(number, _FIXED32) + struct.pack("<f", value) if value else b""


def data(number: int, value: bytes) -> bytes:
    """Return bytes, or a message, as a field."""
    return _key(number, _BYTES) + _to_varint(len(value)) + value


def text(number: int, value: str) -> bytes:
    """Return a string as a field; nothing for an empty one."""
    return data(number, value.encode()) if value else b""


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise BadRequest("a string is not valid Unicode") from error


def _value(raw: bytes, at: int, kind: int) -> tuple[Value, int]:
    if kind == _VARINT:
        return _varint(raw, at)
    if kind == _BYTES:
        size, at = _varint(raw, at)
    elif kind in (_FIXED32, _FIXED64):
        size = 4 if kind == _FIXED32 else 8
    else:
        raise BadRequest("this is no protobuf message")
    if at + size > len(raw):
        raise BadRequest("a message ends too early")
    piece = raw[at : at + size]
    return (piece if kind == _BYTES else int.from_bytes(piece, "little")), at + size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        if at + i >= len(raw):
            raise BadRequest("a message ends too early")
        value |= (raw[at + i] & 0x7F) << (7 * i)
        if raw[at + i] < 0x80:
            return value & ((1 << 64) - 1), at + i + 1
    raise BadRequest("this is no protobuf message")


def _key(number: int, kind: int) -> bytes:
    return _to_varint(number << 3 | kind)


def _to_varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
