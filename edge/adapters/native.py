"""Our own wire at a node, without I/O: a ``rivulet.v1`` client talks to it as to a server.

Does: start (new, or moved here with a token), audio, gap, pause, resume, stop; results of the leg
as messages. ``ack.done`` is what the node has taken over, so that a cut never stops the client;
``ack.durable`` is what became final text: a client keeps audio from there on and may take it to
another node.
Does not know: sockets, legs. Not offered at a node: two channels, finalize, configure.
"""

from dataclasses import dataclass
from typing import get_args

import numpy as np

from asr.audio import decode
from edge.g711 import encode
from edge.wire import Encoding, Result
from server.wire.errors import BadRequest, ResumeUnknown, UnsupportedAudio, WireError
from server.wire.messages import (
    Ack,
    AudioFormat,
    ClientGap,
    Configure,
    Done,
    Final,
    FinalCause,
    Finalize,
    Gap,
    Limits,
    Partial,
    Pause,
    Ready,
    Resume,
    ServerMessage,
    Start,
    StateChanged,
    Stop,
    WordSpan,
)
from server.wire.native import NativeServer

LIMITS = Limits()
IDLE_S = 60.0
CHUNK_MS = 80
"""Nominal: the chunk is decided where the leg is recognised."""


_CAUSES: dict[str, FinalCause] = {cause: cause for cause in get_args(FinalCause)}


@dataclass(frozen=True, slots=True)
class Token:
    """What lets a client go on with its session, here or at another node."""

    session: str
    secret: str
    epoch: int

    def __str__(self) -> str:
        return f"{self.session}.{self.epoch}.{self.secret}"

    @classmethod
    def parse(cls, text: str) -> "Token":
        """Read a token. Raises ResumeUnknown."""
        session, _, rest = text.partition(".")
        epoch, _, secret = rest.partition(".")
        if not (session.isalnum() and epoch.isascii() and epoch.isdecimal() and secret):
            raise ResumeUnknown("the token is not one of an edge node")
        if len(text) > 200:
            raise ResumeUnknown("the token is too long")
        return cls(session, secret, int(epoch))


@dataclass(frozen=True, slots=True)
class Begin:
    """A session begins, or goes on when there is a token."""

    encoding: Encoding
    rate: int
    token: Token | None
    finals: int


@dataclass(frozen=True, slots=True)
class Heard:
    """Audio of the session; ``data`` None: that many samples are missing."""

    samples: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Over:
    """No more audio."""


Event = Begin | Heard | Over


class NativeFeed:
    """One client. ``receive_*`` give events; what is to be said is in ``texts_to_send``."""

    def __init__(self) -> None:
        self.close_code: int | None = None
        """Set once all is said."""
        self.patience_s: float | None = IDLE_S
        """The client may say nothing for so long; None: it said all, and waits for its words."""
        self._wire = NativeServer(limits=LIMITS)
        self._out: list[str] = []
        self._audio: AudioFormat | None = None
        self._next_final = 0
        self._revision = 0

    def texts_to_send(self) -> list[str]:
        """Return what is to be said, once."""
        texts, self._out = self._out, []
        return texts

    # ---- the client

    def receive_text(self, text: str) -> list[Event]:
        """Take a text message."""
        try:
            events = list[Event]()
            for request in self._wire.receive_text(text):
                events += self._request(request)
            return events
        except WireError as error:
            self.fail(error)
            return []

    def receive_binary(self, data: bytes) -> list[Event]:
        """Take audio."""
        try:
            if not self._wire.receive_binary(data) or self._audio is None:
                return []
        except WireError as error:
            self.fail(error)
            return []
        samples = len(data) // self._audio.frame_bytes
        if self._audio.encoding == "pcm_f32le":
            try:
                wide = decode(data, "pcm_f32le")[0]
            except ValueError:
                self.fail(BadRequest("samples are not finite"))
                return []
            data = encode((wide * 32_767).astype(np.int16), "pcm_s16le")
        return [Heard(samples, data)]

    def _request(self, request: object) -> list[Event]:
        match request:
            case Start():
                return [self._begin(request)]
            case ClientGap(samples=samples):
                self._say(Gap(at=self._wire.at - samples, samples=samples, reason="client"))
                return [Heard(samples, None)]
            case Pause():
                self.patience_s = LIMITS.pause_ms / 1000
                self._say(StateChanged(state="paused", at=self._wire.at))
            case Resume():
                self.patience_s = IDLE_S
                self._say(StateChanged(state="streaming", at=self._wire.at))
            case Stop():
                self.patience_s = None
                return [Over()]
            case Finalize(req=req) | Configure(req=req):
                text = "an edge node does not take this; the core does"
                raise BadRequest(text, is_fatal=False, param="type", req=req)
        return []

    def _begin(self, start: Start) -> Begin:
        audio = start.audio
        if audio.channels != 1:
            raise UnsupportedAudio("an edge node takes one channel", param="audio.channels")
        self._audio = audio
        token, finals = None, 0
        if start.resume is not None:
            token = Token.parse(start.resume.token)
            (finals,) = start.resume.have(1)
        self._next_final = finals
        encoding: Encoding = "pcm_s16le" if audio.encoding == "pcm_f32le" else audio.encoding
        return Begin(encoding, audio.rate, token, finals)

    # ---- the leg

    def ready(self, token: Token, at: int, *, is_resumed: bool) -> None:
        """Tell the client that its session stands."""
        self._say(
            Ready(
                v=1,
                session=token.session,
                token=str(token),
                model="edge",
                resumed=is_resumed,
                at=at,
                chunk_ms=CHUNK_MS,
                limits=LIMITS,
            )
        )

    def taken(self, durable: int) -> None:
        """Acknowledge all audio that came; ``durable`` of it is final text."""
        at = self._wire.at
        self._say(Ack(at=at, done=at, durable=min(durable, at)))

    def final(self, result: Result) -> None:
        """Tell a final."""
        words = tuple(
            WordSpan(w=w.text, s=w.start_ms, e=w.end_ms, c=w.confidence) for w in result.words
        )
        self._say(
            Final(
                id=self._next_final,
                channel=0,
                text=result.text,
                start_ms=result.start_ms,
                end_ms=result.end_ms,
                cause=_CAUSES.get(result.cause, "endpoint"),
                words=words or None,
            )
        )
        self._next_final += 1
        self._revision = 0

    def partial(self, result: Result) -> None:
        """Tell open text."""
        self._revision += 1
        self._say(
            Partial(
                id=self._next_final,
                channel=0,
                rev=self._revision,
                stable="",
                text=result.text,
                start_ms=result.start_ms,
                end_ms=result.end_ms,
            )
        )

    def done(self) -> None:
        """Tell that all is said."""
        self._say(Done(samples=self._wire.at, finals=self._next_final))
        self._end(1000)

    def fail(self, error: WireError) -> None:
        """Tell an error; after a fatal one nothing follows."""
        self._say(error.to_message())
        if error.is_fatal:
            self._end(error.close_code)

    def fenced(self) -> None:
        """End: the session goes on elsewhere."""
        self._end(4409)

    def _end(self, code: int) -> None:
        if self.close_code is None:
            self.close_code = code

    def _say(self, message: ServerMessage) -> None:
        if self.close_code is None:
            self._out.append(self._wire.render(message))
