"""Codecs whose packets are passed on as they came and are decoded where a leg is recognised.

Does: a decoder for an encoding; one error when what decodes it is missing here.
Does not know: how a codec works (edge.opus, edge.g722), legs.
"""

from typing import Protocol, get_args

from edge import g722, opus
from edge.g722 import G722Decoder, G722Error
from edge.opus import OpusDecoder, OpusError
from edge.wire import Encoding


class CodecMissing(Exception):
    """What decodes the encoding is missing here; the text says what."""


class PacketDecoder(Protocol):
    """One mono stream of packets."""

    @property
    def rate(self) -> int:
        """Of the samples it makes."""

    def decode(self, packet: bytes, samples: int) -> bytes:
        """Return exactly ``samples`` of 16-bit audio."""

    def conceal(self, samples: int) -> bytes:
        """Return what stands for a packet that is missing."""


def decodable() -> tuple[Encoding, ...]:
    """Return the encodings that can be recognised on this machine."""
    missing = {"opus": not opus.is_available(), "g722": not g722.is_available()}
    return tuple(known for known in get_args(Encoding) if not missing.get(known))


def decoder_of(encoding: Encoding, rate: int) -> PacketDecoder | None:
    """Return a decoder; None: the encoding needs none. Raises CodecMissing."""
    try:
        if encoding == "opus":
            return OpusDecoder(rate)
        return G722Decoder() if encoding == "g722" else None
    except (OpusError, G722Error, OSError) as error:
        raise CodecMissing(str(error)) from error
