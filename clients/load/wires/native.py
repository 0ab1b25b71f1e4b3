"""Our own wire, ``rivulet.v1``, as the load laboratory speaks it.

Does: start, audio within the flow window, stop; messages of the server as events.
Does not know: sockets; resuming (a lost session is a failed one here).
"""

from collections.abc import Sequence

from clients.load.plan import RATE_HZ
from clients.load.wires.base import Event, Failed, Over, Payload, Progress, Spoken, Wire
from server.wire.errors import RemoteProtocolError
from server.wire.messages import (
    SUBPROTOCOL,
    Ack,
    AudioFormat,
    Chunk,
    Done,
    Error,
    Final,
    LatencyClass,
    Partial,
    Ready,
    ServerMessage,
    Start,
    Stop,
)
from server.wire.native import NativeClient

CLASSES: tuple[LatencyClass, ...] = ("low", "balanced", "accurate")


class NativeWire(Wire):
    """``rivulet serve``."""

    path = "/v1/stream"
    subprotocols = (SUBPROTOCOL,)

    def __init__(self, latency: str) -> None:
        super().__init__(latency)
        self._wire = NativeClient()
        self._start = self._wire.send(_start(latency))
        self._finals = 0

    @property
    def room_bytes(self) -> int:
        """What the flow window leaves."""
        return self._wire.room_bytes

    def hello(self) -> Sequence[Payload]:
        """Return the start message."""
        return (self._start,)

    def audio(self, pcm: bytes) -> Sequence[Payload]:
        """Return the samples as they are."""
        return (self._wire.send_audio(pcm),)

    def goodbye(self) -> Sequence[Payload]:
        """Return ``stop``."""
        return (self._wire.send(Stop()),)

    def receive(self, message: Payload) -> Sequence[Event]:
        """Read acks, partials, finals, the end."""
        if isinstance(message, bytes):
            return ()
        try:
            read = self._wire.receive_text(message)
        except RemoteProtocolError as error:
            raise ValueError("a message against the protocol") from error
        if isinstance(read, Ready):
            self.is_open, self.chunk_ms = True, read.chunk_ms
        return self._events(read) if read is not None else ()

    def _events(self, message: ServerMessage) -> Sequence[Event]:
        match message:
            case Ack(done=done):
                return (Progress(done),)
            case Partial(end_ms=end_ms):
                return self.words_until(end_ms)
            case Final():
                return self._final(message)
            case Error(fatal=True, code=code):
                return (Failed(code),)
            case Done(finals=finals):
                missing = finals != self._finals
                return (Failed("finals went missing") if missing else Over(),)
        return ()

    def _final(self, final: Final) -> Sequence[Event]:
        if final.id != self._finals:
            return (Failed("finals out of order"),)
        self._finals += 1
        return (*(self.words_until(final.end_ms) if final.text else ()), Spoken(final.text))


def _start(latency: str) -> Start:
    audio = AudioFormat(encoding="pcm_s16le", rate=RATE_HZ)
    for name in CLASSES:
        if latency == name:
            return Start(v=1, audio=audio, latency=name)
    if latency.isdecimal() and 80 <= int(latency) <= 2000:
        return Start(v=1, audio=audio, latency=Chunk(chunk_ms=int(latency)))
    raise ValueError(f"a latency is {', '.join(CLASSES)} or 80 to 2000 ms, not {latency!r}")
