"""What all foreign wires share: their messages in, requests of the native wire out, and back.

Does: keep one outgoing order, cut audio into whole sample frames, refuse bad input by name, end.
Does not know: any particular wire, sockets, clocks, engines. One adapter is one connection; over it
may go several sessions, one after another, each from a ``Start`` to ``Done`` or a fatal ``Error``.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from server.wire import messages as native
from server.wire.codec import JsonObject
from server.wire.conversation import Audio
from server.wire.errors import BadRequest, RemoteProtocolError
from server.wire.values import latency_of, number_in, to_json

Frame = str | bytes
Request = native.ClientMessage | Audio

PATIENCE_MS = 600_000
"""How long a session hears nothing where the wire's own server knows no such limit: a microphone
that is muted sends nothing, and a session that rests holds no slot."""
PIECE_MS = 1_000
"""Audio handed on at once, at most: a whole file comes in pieces."""


class Ending(NamedTuple):
    """How the connection is to be closed, once everything is sent."""

    code: int
    reason: str


class Refused(Exception):
    """The handshake fails: an HTTP status and a JSON body in the wire's own form."""

    def __init__(self, status: int, body: JsonObject) -> None:
        super().__init__(f"refused with {status}")
        self.status = status
        self.body = body


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What is known of a client before it says anything; names and time come from the server."""

    name: str
    born_s: int
    """Seconds since 1970."""
    model: str = "rivulet"
    languages: tuple[str, ...] = ("en",)
    query: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""

    def get(self, name: str, default: str = "") -> str:
        """Return the first value of a query parameter."""
        return self.query.get(name, (default,))[0]

    def is_set(self, name: str) -> bool:
        """Whether a query parameter says yes."""
        return self.get(name).lower() in ("true", "1", "yes")

    def number(self, name: str, default: float) -> float:
        """Return a number of the query; raises BadRequest."""
        return number_in(self.get(name) or default, name)


class Adapter:
    """Base of a foreign wire, server side.

    The connection calls ``begin``, ``receive``, ``tell``, ``hang_up`` and collects
    ``requests_to_serve``, ``more`` and ``frames_to_send``; no call raises, whatever the peer sent.
    After ``ending`` is set nothing more is taken. A wire overrides the methods that begin with
    ``on_``.
    """

    subprotocols: ClassVar[tuple[str, ...]] = ()
    """Subprotocols we echo."""
    max_message_bytes: ClassVar[int] = 1024 * 1024
    start_s: ClassVar[float | None] = None
    """How long a client may go without a session; None: as the server is set up."""
    idle_ms: int | None = None
    """How long a session may hear nothing; None: as the server is set up."""

    has_channels: bool = True
    """Whether a client is told which channel spoke; where not, two are mixed: they would say
    everything twice."""

    def __init__(self, hello: Hello) -> None:
        self.hello = hello
        self.ending: Ending | None = None
        self.format: native.AudioFormat | None = None
        """Of the audio that comes now; None while no session is asked for."""
        self._requests: list[Request] = []
        self._frames: list[Frame] = []
        self._rest = b""
        self.readable = native.Readable() if hello.is_set("readable") else None
        """What is added to the text; a wire that has words for it sets it before it starts."""
        self.sessions = 0
        """Asked for and not over; what is told is of the oldest."""

    # ---- for the connection

    def begin(self) -> None:
        """Note that the connection is open."""
        self._guarded(self.on_open)

    def receive(self, data: Frame) -> None:
        """Take one message of the client."""
        if isinstance(data, str):
            self._guarded(lambda: self.on_text(data))
        else:
            self._guarded(lambda: self.on_binary(data))

    def hang_up(self) -> None:
        """Note that the client will send nothing more."""
        self._guarded(self.on_end_of_input)

    def tell(self, message: native.ServerMessage) -> None:
        """Take what the session says."""
        if isinstance(message, native.Done) or (
            isinstance(message, native.Error) and message.fatal
        ):
            self.sessions -= 1
            if self.sessions <= 0:  # else the next one is asked for already
                self.format = None
        self._guarded(lambda: self._dispatch(message))

    def requests_to_serve(self) -> list[Request]:
        """Return what the session is to hear, once."""
        requests, self._requests = self._requests, []
        return requests

    def more(self) -> list[Request]:
        """Return the next of what is long known, once the session has had all before it."""
        return []

    def frames_to_send(self) -> list[Frame]:
        """Return what the client is to hear, once."""
        frames, self._frames = self._frames, []
        return frames

    # ---- what a wire overrides

    def on_open(self) -> None:
        """Greet."""

    def on_text(self, text: str) -> None:
        """Take a text message."""
        raise BadRequest("text is not expected here")

    def on_binary(self, data: bytes) -> None:
        """Take a binary message."""
        self.audio(data)

    def on_end_of_input(self) -> None:
        """Flush."""
        self.stop()

    def on_partial(self, message: native.Partial) -> None:
        """Take the open segment so far."""

    def on_final(self, message: native.Final) -> None:
        """Take a finished segment."""

    def on_turn(self, message: native.Turn) -> None:
        """Take a change of turn."""

    def on_progress(self, message: native.Ack) -> None:
        """Take the media clock."""

    def on_answer(self, message: native.Ready | native.Finalized | native.Configured) -> None:
        """Take the answer to a request."""

    def on_done(self, message: native.Done) -> None:
        """All of the session is said."""

    def on_mistake(self, error: native.Error) -> None:
        """Take the refusal of one request; the session goes on."""

    def on_error(self, error: native.Error) -> None:
        """Say a fatal error in the wire's own form, and end or go on without a session."""
        raise NotImplementedError

    # ---- for the wires

    def start(
        self,
        audio: native.AudioFormat,
        *,
        endpointing: native.Endpointing | None = None,
        partials: native.PartialsMode = "all",
        language: str = "",
        phrases: Iterable[native.Boost] = (),
        latency: str = "",
    ) -> None:
        """Ask for a session."""
        self.format, self._rest = audio, b""
        self.sessions += 1
        boost = tuple(dict.fromkeys(phrases))[:1_000]
        self._ask(
            native.Start(
                v=1,
                audio=audio,
                latency=latency_of(latency),
                language=self.language_of(language),
                partials=partials,
                words=True,
                endpointing=endpointing,
                boost=boost or None,
                readable=self.readable,
            )
        )

    def audio(self, data: bytes) -> None:
        """Hand audio on, in whole sample frames; what is left waits for the next message."""
        if self.format is None:
            raise BadRequest("audio that nobody announced")
        size = self.format.frame_bytes
        if self._rest:
            data = self._rest + data
        whole = len(data) // size * size
        self._rest = data[whole:]
        self._requests += pieces_of(data[:whole], self.format)

    def finalize(self, req: str = "") -> None:
        """Ask for all words so far."""
        if self.format is not None:
            self._ask(native.Finalize(req=req or None))

    def configure(
        self,
        *,
        endpointing: native.Endpointing | None = None,
        partials: native.PartialsMode | None = None,
        phrases: Iterable[native.Boost] | None = None,
        req: str = "",
    ) -> None:
        """Change rules; without any, the session only hears that the client is there."""
        if self.format is not None:
            boost = None if phrases is None else tuple(dict.fromkeys(phrases))[:1_000]
            self._ask(
                native.Configure(req=req, endpointing=endpointing, partials=partials, boost=boost)
            )

    def stop(self) -> None:
        """Ask for the rest; with it the session ends."""
        if self.format is not None:
            self.format = None
            self._ask(native.Stop())

    def send(self, frame: Frame) -> None:
        """Say something to the client."""
        self._frames.append(frame)

    def send_json(self, value: JsonObject) -> None:
        """Say a JSON object to the client."""
        self._frames.append(to_json(value))

    def end(self, code: int = 1000, reason: str = "") -> None:
        """Close behind what is said."""
        if self.ending is None:
            self.ending = Ending(code, reason.encode()[:120].decode(errors="ignore"))

    def language_of(self, tag: str) -> str | None:
        """Return a language as the session takes it; what it cannot take is left to the model."""
        tag = tag.replace("_", "-")  # as POSIX writes locales
        spoken = {known.split("-")[0].lower() for known in self.hello.languages}
        return tag if tag.split("-")[0].lower() in spoken else None

    # ---- inside

    def _ask(self, request: native.ClientMessage) -> None:
        self._requests.append(request)

    def _guarded(self, action: Any) -> None:
        """Run one step; what the peer did wrong becomes its wire's error."""
        if self.ending is not None:
            return
        try:
            action()
        except RemoteProtocolError as error:
            self.on_error(error.to_message())

    def _dispatch(self, message: native.ServerMessage) -> None:
        match message:
            case native.Partial():
                self.on_partial(message)
            case native.Final():
                self.on_final(message)
            case native.Turn():
                self.on_turn(message)
            case native.Ack():
                self.on_progress(message)
            case native.Ready() | native.Finalized() | native.Configured():
                self.on_answer(message)
            case native.Done():
                self.on_done(message)
            case native.Error(fatal=True):
                self.on_error(message)
            case native.Error():
                self.on_mistake(message)
            case _:
                pass  # a gap, a lag, a goaway: no foreign wire can say it


def pieces_of(data: bytes, audio: native.AudioFormat) -> Iterator[Audio]:
    """Yield whole sample frames a little at a time."""
    piece = max(1, audio.rate * PIECE_MS // 1_000) * audio.frame_bytes
    for begin in range(0, len(data), piece):
        yield Audio(data[begin : begin + piece])


class Growth:
    """Text that may only be appended: the stable words of a segment, then the rest of its final.

    A final may write a word in another way than it was said: what was said stays said.
    """

    def __init__(self) -> None:
        self._said: dict[tuple[int, int], str] = {}

    def partial(self, message: native.Partial) -> str:
        """Return what is new in the stable text."""
        return self._more(message.channel, message.id, message.stable)

    def final(self, message: native.Final) -> str:
        """Return what the final adds; the segment is forgotten."""
        rest = self._more(message.channel, message.id, message.text)
        self._said.pop((message.channel, message.id), None)
        return rest

    def _more(self, channel: int, segment: int, text: str) -> str:
        said = self._said.get((channel, segment), "")
        if text.startswith(said):
            rest = text[len(said) :]
        else:
            rest = "".join(f" {word}" for word in text.split()[len(said.split()) :])
        self._said[channel, segment] = said + rest
        return rest
