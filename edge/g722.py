"""G.722 packets (64 kbit/s) become 16-bit samples at 16 kHz, through the package G722 (libg722).

Does: decode one packet after the other, fade over a missing one, say in one sentence when the
package is missing. The package is bit-exact to the ITU's tests and comes with the extra ``edge``.
Does not know: RTP (whose clock says 8000 for this codec), legs.
"""

from typing import Any

from edge.g711 import faded

RATE_HZ = 16_000
SAMPLES_A_BYTE = 2
BITS_A_SECOND = 64_000
MAX_PACKET_BYTES = 16_383
"""More samples would not fit into the flags of a frame of the uplink, below AHEAD."""


class G722Error(Exception):
    """The package is missing, or the packet is no G.722."""


def _package() -> Any:
    try:
        import G722
    except ImportError as error:
        raise G722Error("G.722 needs the package G722: pip install -e '.[edge]'") from error
    return G722


def is_available() -> bool:
    """Whether this machine can decode G.722."""
    try:
        return bool(_package())
    except G722Error:
        return False


def packet_samples(packet: bytes) -> int:
    """Count the samples of a packet. Raises G722Error."""
    if not 0 < len(packet) <= MAX_PACKET_BYTES:
        raise G722Error(f"{len(packet)} bytes are no packet of G.722")
    return SAMPLES_A_BYTE * len(packet)


class G722Decoder:
    """One mono stream. Raises G722Error without the package."""

    rate = RATE_HZ

    def __init__(self) -> None:
        self._codec = _package().G722(RATE_HZ, BITS_A_SECOND)
        self._last = b""

    def decode(self, packet: bytes, samples: int) -> bytes:
        """Return exactly ``samples`` of 16-bit audio, whatever the packet holds."""
        heard: bytes = self._codec.decode(packet).tobytes() if packet else b""
        self._last = heard[: 2 * samples]
        return self._last.ljust(2 * samples, b"\0")

    def conceal(self, samples: int) -> bytes:
        """Return the last packet once more, fading, then silence."""
        again, self._last = self._last[: 2 * samples], b""
        return faded(again, "pcm_s16le", begin=1.0, end=0.0).ljust(2 * samples, b"\0")
