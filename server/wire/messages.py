"""Every text message of the native protocol ``rivulet.v1`` as a typed value.

Does: name the messages with the constraints of native-v1.schema.json, JSON <-> value.
Does not know: which message is legal when, audio bytes, sockets, clocks, the engine.
Positions are samples per channel since session start; times are ms on that timeline.
An optional field that is None is left out on the wire; null is read as left out.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

PROTOCOL_VERSION = 1
SUBPROTOCOL = "rivulet.v1"
LARGEST_INTEGER = 2**53 - 1
"""JavaScript reads larger integers wrong."""
MAX_META_BYTES = 1_024

Samples = Annotated[int, Meta(ge=0, le=LARGEST_INTEGER)]
Milliseconds = Annotated[int, Meta(ge=0, le=LARGEST_INTEGER)]
Count = Annotated[int, Meta(ge=0, le=LARGEST_INTEGER)]
LostSamples = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Channel = Annotated[int, Meta(ge=0, le=1)]
Confidence = Annotated[float, Meta(ge=0, le=1)]
RequestId = Annotated[str, Meta(max_length=64)]
Language = Annotated[
    str, Meta(pattern=r"^(auto|[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,8})$(?!\n)", max_length=64)
]
ShortText = Annotated[str, Meta(max_length=4096)]

Encoding = Literal["pcm_s16le", "pcm_f32le", "mulaw", "alaw"]
LatencyClass = Literal["low", "balanced", "accurate"]
PartialsMode = Literal["all", "stable", "none"]
EndpointingMode = Literal["auto", "manual"]
FinalCause = Literal["endpoint", "finalize", "stop", "max", "gap"]
TurnEvent = Literal["start", "eager_end", "resumed", "end"]
TurnTrigger = Literal["silence", "model", "finalize", "timeout"]
LagLevel = Literal["ok", "warn", "shed"]
GapReason = Literal["overrun", "shed", "resume", "client"]
GoAwayReason = Literal["drain", "rebalance", "session_limit"]
ErrorCode = Literal[
    "bad_request",
    "unsupported_audio",
    "unsupported_language",
    "unauthorized",
    "forbidden_origin",
    "over_capacity",
    "rate_limited",
    "too_far_ahead",
    "idle_timeout",
    "session_limit",
    "resume_unknown",
    "quarantined",
    "internal",
]

SAMPLE_BYTES: dict[Encoding, int] = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}


class Part(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A closed object inside a client message: a field we do not know is an error."""


class AudioFormat(Part, frozen=True, kw_only=True):
    """How the binary messages are to be read: raw, interleaved."""

    encoding: Encoding
    rate: Annotated[int, Meta(ge=8_000, le=48_000)]
    channels: Annotated[int, Meta(ge=1, le=2)] = 1

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return SAMPLE_BYTES[self.encoding] * self.channels


class Boost(Part, frozen=True, kw_only=True):
    """A phrase to favour."""

    phrase: Annotated[str, Meta(min_length=1, max_length=64)]
    weight: Annotated[float, Meta(ge=0, le=10)] = 2.0


Boosts = Annotated[tuple[Boost, ...], Meta(max_length=1_000)]


class Endpointing(Part, frozen=True, kw_only=True):
    """When a turn is over."""

    mode: EndpointingMode = "auto"
    silence_ms: Annotated[int, Meta(ge=100, le=5_000)] = 700
    hesitation_ms: Annotated[int, Meta(ge=0, le=2_000)] = 400
    """Waited longer behind a word that ends no sentence."""
    eager_ms: Annotated[int, Meta(ge=80, le=2_000)] | None = None
    max_turn_ms: Annotated[int, Meta(ge=1_000, le=120_000)] = 30_000


class Chunk(Part, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """A latency in ms of audio per chunk instead of a class."""

    chunk_ms: Annotated[int, Meta(ge=80, le=2_000)]


class ResumeFrom(Part, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Which session to go on with and the last final the client has."""

    token: ShortText
    last_final: Annotated[int, Meta(ge=-1, le=LARGEST_INTEGER)] | None = None
    """Of every channel, where ``finals`` does not say it."""
    finals: Annotated[tuple[Count, ...], Meta(max_length=2)] | None = None
    """How many finals of each channel the client has."""

    def have(self, channels: int) -> tuple[int, ...]:
        """Return how many finals of each channel the client has."""
        if self.finals is not None and len(self.finals) == channels:
            return self.finals
        return ((-1 if self.last_final is None else self.last_final) + 1,) * channels


class Meeting(Part, frozen=True, kw_only=True):
    """The room that reads the session along, and who speaks on each channel."""

    id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)", max_length=64)]
    speakers: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(max_length=2)
    ] = ()


class Readable(Part, frozen=True, kw_only=True):
    """What is added to the text where the model does not write it."""

    capitals: bool = True
    punctuation: bool = True
    numbers: bool = True


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """A JSON object with ``type``; fields we do not know are skipped."""


# ---- client


class Start(Message, frozen=True, kw_only=True, tag="start"):
    """First message: what audio comes and what is wanted."""

    v: Literal[1]
    audio: AudioFormat
    latency: LatencyClass | Chunk | None = None
    flexible: bool = False
    """Whether a longer chunk will do where there is no room for the wished one."""
    language: Language | None = None
    partials: PartialsMode | None = None
    words: bool = False
    boost: Boosts | None = None
    endpointing: Endpointing | None = None
    resume: ResumeFrom | None = None
    meeting: Meeting | None = None
    readable: Readable | None = None
    meta: dict[str, Any] | None = None


class Configure(Message, frozen=True, kw_only=True, tag="configure"):
    """Change what is given, from the audio after it on."""

    req: RequestId
    boost: Boosts | None = None
    endpointing: Endpointing | None = None
    partials: PartialsMode | None = None
    language: Language | None = None


class Finalize(Message, frozen=True, kw_only=True, tag="finalize"):
    """Publish all words up to here as finals, without closing."""

    req: RequestId | None = None


class ClientGap(Message, frozen=True, kw_only=True, tag="gap"):
    """Samples lost before they could be sent: time passes, no audio comes."""

    samples: LostSamples


class Pause(Message, frozen=True, kw_only=True, tag="pause"):
    """No audio until ``resume``; the media clock stands still."""


class Resume(Message, frozen=True, kw_only=True, tag="resume"):
    """Audio goes on after ``pause``."""


class Stop(Message, frozen=True, kw_only=True, tag="stop"):
    """No more audio: flush, send ``done``, close."""


# ---- server


class Limits(Struct, frozen=True, kw_only=True):
    """What the server bears; always sent whole."""

    frame_bytes: Count = 65_536
    window_ms: Milliseconds = 30_000
    idle_ms: Milliseconds = 30_000
    pause_ms: Milliseconds = 600_000
    session_ms: Milliseconds = 14_400_000
    resume_ms: Milliseconds = 600_000


class Chunks(Struct, frozen=True, kw_only=True):
    """Which audio the server can decode at once, for who sends no more often than that."""

    first: Count
    """Samples that the first chunk of a session takes."""
    beyond: Count
    """A later one takes so many more than ``chunk_ms`` behind ``ack.done``."""


class Ready(Message, frozen=True, kw_only=True, tag="ready"):
    """Answer to ``start``; audio is (re)sent from sample ``at``."""

    v: Literal[1]
    session: str
    token: str
    model: str
    resumed: bool
    at: Samples
    chunk_ms: Annotated[int, Meta(ge=1, le=LARGEST_INTEGER)]
    limits: Limits
    chunks: Chunks | None = None
    applied: dict[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


class Ack(Message, frozen=True, kw_only=True, tag="ack"):
    """Samples received, decoded, and safe in the store."""

    at: Samples
    done: Samples
    durable: Samples


class Partial(Message, frozen=True, kw_only=True, tag="partial"):
    """The open segment so far; replaces the partial before it."""

    id: Count
    channel: Channel
    rev: Annotated[int, Meta(ge=1, le=LARGEST_INTEGER)]
    stable: str
    text: str
    start_ms: Milliseconds
    end_ms: Milliseconds


class WordSpan(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A word, its start and end in ms, its confidence."""

    w: str
    s: Milliseconds
    e: Milliseconds
    c: Confidence | None = None


class Final(Message, frozen=True, kw_only=True, tag="final"):
    """A segment that never changes; exactly one per id."""

    id: Count
    channel: Channel
    text: str
    start_ms: Milliseconds
    end_ms: Milliseconds
    cause: FinalCause
    confidence: Confidence | None = None
    language: Language | None = None
    words: tuple[WordSpan, ...] | None = None


class Turn(Message, frozen=True, kw_only=True, tag="turn"):
    """Speech began, seems over, went on, is over."""

    event: TurnEvent
    turn: Count
    channel: Channel
    at_ms: Milliseconds
    text: str | None = None
    confidence: Confidence | None = None
    trigger: TurnTrigger | None = None


class Configured(Message, frozen=True, kw_only=True, tag="configured"):
    """Answer to ``configure``: what holds from sample ``at`` on."""

    req: RequestId
    at: Samples
    applied: dict[str, Any]


class Finalized(Message, frozen=True, kw_only=True, tag="finalized"):
    """Answer to ``finalize``: every word before ``at`` is in a final."""

    at: Samples
    req: RequestId | None = None


class StateChanged(Message, frozen=True, kw_only=True, tag="state"):
    """Answer to ``pause`` and ``resume``."""

    state: Literal["paused", "streaming"]
    at: Samples


class Lag(Message, frozen=True, kw_only=True, tag="lag"):
    """How far decoding is behind the audio."""

    ms: Milliseconds
    level: LagLevel


class Gap(Message, frozen=True, kw_only=True, tag="gap"):
    """Samples that were not recognised, and why."""

    at: Samples
    samples: Annotated[int, Meta(ge=1, le=LARGEST_INTEGER)]
    reason: GapReason


class GoAway(Message, frozen=True, kw_only=True, tag="goaway"):
    """Reconnect with ``token`` before the deadline."""

    reason: GoAwayReason
    deadline_ms: Milliseconds
    token: str
    url: str | None = None


class Done(Message, frozen=True, kw_only=True, tag="done"):
    """Answer to ``stop``: all is said; the socket closes with 1000."""

    samples: Samples
    finals: Count


class Error(Message, frozen=True, kw_only=True, tag="error"):
    """A named error; after a fatal one the socket closes."""

    code: ErrorCode
    message: str
    fatal: bool
    retry_after: Annotated[float, Meta(ge=0, le=86_400)] | None = None
    req: RequestId | None = None
    param: str | None = None


ClientMessage = Start | Configure | Finalize | ClientGap | Pause | Resume | Stop
ServerMessage = (
    Ready
    | Ack
    | Partial
    | Final
    | Turn
    | Configured
    | Finalized
    | StateChanged
    | Lag
    | Gap
    | GoAway
    | Done
    | Error
)


def type_of(message: type[Message]) -> str:
    """Return the ``type`` a message class has on the wire."""
    return str(message.__struct_config__.tag)


CLIENT_TYPES: dict[str, type[ClientMessage]] = {
    type_of(kind): kind for kind in (Start, Configure, Finalize, ClientGap, Pause, Resume, Stop)
}
SERVER_TYPES: dict[str, type[ServerMessage]] = {
    type_of(kind): kind
    for kind in (
        Ready,
        Ack,
        Partial,
        Final,
        Turn,
        Configured,
        Finalized,
        StateChanged,
        Lag,
        Gap,
        GoAway,
        Done,
        Error,
    )
}
