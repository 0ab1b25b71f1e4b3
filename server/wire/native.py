"""The native protocol ``rivulet.v1``, server side and client side, without I/O.

Does: received text and bytes -> typed values or a named error; typed values -> text;
counts samples, so that both sides know the flow window; refuses illegal moves.
Does not know: sockets, clocks (deadlines belong to the session), engines, what audio sounds like.
"""

from server.wire.codec import decode_client, decode_object, decode_server, encode, unknown_fields
from server.wire.conversation import Audio, Conversation, IllegalMove, Said, State
from server.wire.errors import (
    BadRequest,
    BinaryBeforeStart,
    LocalProtocolError,
    MessageTooBig,
    RemoteProtocolError,
    TooFarAhead,
)
from server.wire.messages import (
    Ack,
    AudioFormat,
    ClientGap,
    ClientMessage,
    Limits,
    Ready,
    ServerMessage,
    Start,
)

MAX_MISTAKES = 32
"""Non-fatal errors a client may make before one is fatal: answering costs us too."""

Request = ClientMessage | Audio


class NativeServer:
    """One connection seen from the server.

    A ``receive_*`` call that raises RemoteProtocolError took nothing: answer with
    ``render(error.to_message())`` and, when ``error.is_fatal``, close with ``error.close_code``.
    """

    def __init__(self, *, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.start: Start | None = None
        self.ignored: tuple[str, ...] = ()
        """Fields of ``start`` that nobody knows: they belong into ``ready.ignored``."""
        self.at = 0
        """Samples per channel received, lost ones included."""
        self.done = 0
        """Samples decoded, as the client was told."""
        self._conversation = Conversation()
        self._mistakes = 0

    @property
    def state(self) -> State:
        """Where the client is."""
        return self._conversation.state

    def receive_text(self, text: str) -> list[Request]:
        """Read one text message."""
        if self.state is State.CLOSED:
            return []
        try:
            return [self._read(text)]
        except RemoteProtocolError as error:
            raise self._counted(error) from error.__cause__

    def receive_binary(self, data: bytes) -> list[Request]:
        """Read one binary message; an empty one says nothing."""
        if self.state is State.CLOSED:
            return []
        try:
            self._take_audio(data)
        except RemoteProtocolError as error:
            raise self._counted(error) from error.__cause__
        return [Audio(data)] if data else []

    def render(self, message: ServerMessage) -> str:
        """Return the text of a message; LocalProtocolError if it is illegal now."""
        text = encode(message)
        try:
            self._conversation.server_says(message)
        except IllegalMove as move:
            raise LocalProtocolError(str(move)) from move
        if isinstance(message, Ready):
            self.limits = message.limits
            if message.at:
                self.at = self.done = message.at
        elif isinstance(message, Ack):
            self.done = message.done
        return text

    def _read(self, text: str) -> ClientMessage:
        value = decode_object(text)
        message = decode_client(value)
        try:
            self._conversation.client_says(type(message))
        except IllegalMove as move:
            req = getattr(message, "req", None)
            raise BadRequest(str(move), is_fatal=False, param="type", req=req) from move
        if isinstance(message, Start):
            self.start = message
            self.ignored = unknown_fields(value)
        elif isinstance(message, ClientGap):
            self.at += message.samples
        return message

    def _take_audio(self, data: bytes) -> None:
        if self.start is None:
            raise BinaryBeforeStart("audio before 'start'")
        try:
            self._conversation.client_says(Audio)
        except IllegalMove as move:
            # While draining the finals still come; while paused the positions would part.
            is_fatal = self.state is State.PAUSED
            raise BadRequest(str(move), is_fatal=is_fatal) from move
        if self.start.resume is not None and self._conversation.said is Said.NOTHING:
            raise BadRequest("a resumed session sends audio after 'ready'")
        audio = self.start.audio
        self.at += _samples_in(data, audio, self.limits)
        if self.at - self.done > window_samples(audio, self.limits):
            raise TooFarAhead(f"audio is more than {self.limits.window_ms} ms ahead of 'ack.done'")

    def _counted(self, error: RemoteProtocolError) -> RemoteProtocolError:
        if not error.is_fatal:
            self._mistakes += 1
            if self._mistakes > MAX_MISTAKES:
                error = BadRequest(f"more than {MAX_MISTAKES} bad messages")
        if error.is_fatal:
            self._conversation.give_up()
        return error


class NativeClient:
    """One connection seen from the client."""

    def __init__(self) -> None:
        self.limits = Limits()
        self.start: Start | None = None
        self.sent = 0
        """Samples per channel sent, lost ones included."""
        self.at = 0
        self.done = 0
        self.durable = 0
        self._conversation = Conversation()

    @property
    def state(self) -> State:
        """Where we are."""
        return self._conversation.state

    @property
    def room_bytes(self) -> int:
        """Bytes of the largest binary message that may be sent now."""
        if self.start is None:
            return 0
        audio = self.start.audio
        open_samples = window_samples(audio, self.limits) - (self.sent - self.done)
        largest = self.limits.frame_bytes // audio.frame_bytes
        return max(0, min(open_samples, largest)) * audio.frame_bytes

    def has_room(self, size: int) -> bool:
        """Whether so many bytes may be sent now, or as many as it pays to wait for.

        A full window opens by a chunk at a time: pieces of that size would cost a message each.
        """
        if self.start is None:
            return False
        audio = self.start.audio
        worth = window_samples(audio, self.limits) // 4 * audio.frame_bytes
        largest = self.limits.frame_bytes // audio.frame_bytes * audio.frame_bytes
        return self.room_bytes >= max(1, min(size, worth, largest))

    def send(self, message: ClientMessage) -> str:
        """Return the text of a message; LocalProtocolError if it is illegal now."""
        text = encode(message)
        self._say(type(message))
        if isinstance(message, Start):
            self.start = message
        elif isinstance(message, ClientGap):
            self.sent += message.samples
        return text

    def send_audio(self, data: bytes) -> bytes:
        """Count audio that is about to be sent: ``room_bytes`` at most, whole sample frames."""
        if self.start is None:
            raise LocalProtocolError("audio before 'start'")
        if len(data) % self.start.audio.frame_bytes:
            raise LocalProtocolError(_unaligned(data, self.start.audio))
        if len(data) > self.room_bytes:
            raise LocalProtocolError(f"{len(data)} bytes of audio, room for {self.room_bytes}")
        self._say(Audio)
        self.sent += len(data) // self.start.audio.frame_bytes
        return data

    def receive_text(self, text: str) -> ServerMessage | None:
        """Read one message; None for a type that this version does not know."""
        message = decode_server(decode_object(text))
        if message is None:
            return None
        try:
            self._conversation.server_says(message)
        except IllegalMove as move:
            raise RemoteProtocolError(str(move)) from move
        if isinstance(message, Ready):
            self.limits = message.limits
            self.sent = self.at = self.done = self.durable = message.at
        elif isinstance(message, Ack):
            self.at, self.done, self.durable = message.at, message.done, message.durable
        return message

    def _say(self, kind: type[ClientMessage] | type[Audio]) -> None:
        try:
            self._conversation.client_says(kind)
        except IllegalMove as move:
            raise LocalProtocolError(str(move)) from move


def window_samples(audio: AudioFormat, limits: Limits) -> int:
    """Return the samples per channel that may be sent beyond ``ack.done``."""
    return limits.window_ms * audio.rate // 1000


def _samples_in(data: bytes, audio: AudioFormat, limits: Limits) -> int:
    if len(data) > limits.frame_bytes:
        raise MessageTooBig(f"{len(data)} bytes of audio, limit {limits.frame_bytes}")
    if len(data) % audio.frame_bytes:
        raise BadRequest(_unaligned(data, audio))
    return len(data) // audio.frame_bytes


def _unaligned(data: bytes, audio: AudioFormat) -> str:
    return (
        f"{len(data)} bytes are no whole number of {audio.frame_bytes}-byte sample frames "
        f"({audio.encoding}, channels {audio.channels})"
    )
