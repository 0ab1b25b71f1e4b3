"""Which message is legal when, for both sides of ``rivulet.v1``.

Does: two small state machines as tables: what the client may say, what the server may say.
Does not know: JSON, audio bytes, windows, sockets, clocks.
"""

from enum import Enum
from typing import NamedTuple

from server.wire.messages import (
    SERVER_TYPES,
    ClientGap,
    Configure,
    Done,
    Error,
    Finalize,
    Message,
    Pause,
    Ready,
    Resume,
    ServerMessage,
    Start,
    Stop,
    type_of,
)


class Audio(NamedTuple):
    """A binary message: whole interleaved sample frames."""

    data: bytes


class State(Enum):
    """What the client has said so far."""

    NEW = "new"
    STREAMING = "streaming"
    PAUSED = "paused"
    DRAINING = "draining"
    CLOSED = "closed"


class Said(Enum):
    """What the server has said so far."""

    NOTHING = "nothing"
    READY = "ready"
    ALL = "all"


Move = type[Message] | type[Audio]

LEGAL: dict[State, dict[Move, State]] = {
    State.NEW: {Start: State.STREAMING},
    State.STREAMING: {
        Audio: State.STREAMING,
        ClientGap: State.STREAMING,
        Configure: State.STREAMING,
        Finalize: State.STREAMING,
        Pause: State.PAUSED,
        Stop: State.DRAINING,
    },
    State.PAUSED: {
        Configure: State.PAUSED,
        Finalize: State.PAUSED,
        Resume: State.STREAMING,
        Stop: State.DRAINING,
    },
    State.DRAINING: {},
    State.CLOSED: {},
}

LEGAL_ANSWERS: dict[Said, dict[Move, Said]] = {
    Said.NOTHING: {Ready: Said.READY, Error: Said.NOTHING},
    Said.READY: {
        **{kind: Said.READY for kind in SERVER_TYPES.values() if kind is not Ready},
        Done: Said.ALL,
    },
    Said.ALL: {},
}


class IllegalMove(Exception):
    """The message is known but not legal now."""


class Conversation:
    """Where one connection stands; refuses illegal moves of either side."""

    def __init__(self) -> None:
        self.state = State.NEW
        self.said = Said.NOTHING

    def client_says(self, kind: Move) -> None:
        """Move on, or raise IllegalMove and stay."""
        after = LEGAL[self.state].get(kind)
        if after is None:
            raise IllegalMove(f"{_name(kind)} is not allowed: the session is {self.state.value}")
        self.state = after

    def server_says(self, message: ServerMessage) -> None:
        """Move on, or raise IllegalMove and stay."""
        kind = type(message)
        after = LEGAL_ANSWERS[self.said].get(kind)
        if after is None:
            raise IllegalMove(f"{_name(kind)} after the server said {self.said.value}")
        if isinstance(message, Ready) and self.state is State.NEW:
            raise IllegalMove("'ready' before 'start'")
        if isinstance(message, Done) and self.state is not State.DRAINING:
            raise IllegalMove("'done' before 'stop'")
        if isinstance(message, Error) and message.fatal:
            after = Said.ALL
        self.said = after
        if after is Said.ALL:
            self.state = State.CLOSED

    def give_up(self) -> None:
        """Take nothing more from the client; one fatal error may still be said."""
        if self.state is not State.CLOSED:
            self.state = State.DRAINING


def _name(kind: Move) -> str:
    return f"'{type_of(kind)}'" if issubclass(kind, Message) else "audio"
