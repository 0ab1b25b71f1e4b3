"""Interleaved samples come apart.

Does: return one channel's bytes.
Does not know: encodings, protocols.
"""


def channel(data: bytes, place: int, count: int, size: int) -> bytes:
    """Return one of ``count`` channels; samples have ``size`` 1 or 2 bytes and are whole."""
    if count == 1:
        return data
    if size == 1:
        return data[place::count]
    return memoryview(data).cast("H")[place::count].tobytes()
