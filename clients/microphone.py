"""The microphone as packets for the wire (the extra ``microphone`` brings sounddevice).

Does: open the default or a named input, hand over s16 packets in an async iterator.
Does not know: servers, captions. PortAudio calls on its own thread; a bounded queue crosses over.
"""

import asyncio
import importlib
from collections.abc import AsyncIterator
from typing import Any

from clients.errors import CommandError

PACKET_MS = 80
QUEUE_PACKETS = 250
"""20 s: when the loop stands still longer than this, the oldest audio is lost and counted."""


class Microphone:
    """An open input; ``async with`` it, then iterate ``packets()``."""

    def __init__(self, device: str | None, rate: int = 16_000) -> None:
        """Open ``device`` (a number, a part of a name, or None for the default) at ``rate``."""
        self.rate = rate
        self.lost_packets = 0
        self._queue = asyncio.Queue[bytes](QUEUE_PACKETS)
        self._loop = asyncio.get_running_loop()
        self._stream = _open(device, rate, self._heard)

    async def __aenter__(self) -> "Microphone":
        self._stream.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._stream.abort()
        self._stream.close()

    async def packets(self) -> AsyncIterator[bytes]:
        """Packets until the program ends."""
        while True:
            yield await self._queue.get()

    def _heard(self, data: Any, frames: int, time: Any, status: Any) -> None:
        self._loop.call_soon_threadsafe(self._take, bytes(data))

    def _take(self, packet: bytes) -> None:
        if self._queue.full():
            self._queue.get_nowait()
            self.lost_packets += 1
        self._queue.put_nowait(packet)


def _open(device: str | None, rate: int, heard: Any) -> Any:
    try:
        sounddevice: Any = importlib.import_module("sounddevice")
    except OSError as error:  # the Python package is there, the library it loads is not
        raise CommandError(
            "the microphone needs PortAudio: sudo apt-get install libportaudio2"
        ) from error
    try:
        return sounddevice.RawInputStream(
            samplerate=rate,
            blocksize=rate * PACKET_MS // 1000,
            device=int(device) if device is not None and device.isdigit() else device,
            channels=1,
            dtype="int16",
            callback=heard,
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        raise CommandError(f"the microphone cannot be opened: {error}") from error
