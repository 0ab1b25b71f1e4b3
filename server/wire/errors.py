"""What can go wrong on a wire, by whose fault, and how the peer is told.

Does: name the errors with wire code, WebSocket close code, retry_after, param and req.
Does not know: sockets, sessions, what is logged. Messages never carry spoken text.
"""

from typing import ClassVar

from server.wire.messages import Error, ErrorCode

MAX_TEXT_CHARS = 200
"""Error texts may quote the peer: short enough to answer and to log."""

CLOSE_CODES: dict[ErrorCode, int] = {
    "bad_request": 4400,
    "unsupported_audio": 4400,
    "unsupported_language": 4400,
    "unauthorized": 4401,
    "forbidden_origin": 4403,
    "over_capacity": 4429,
    "rate_limited": 4429,
    "too_far_ahead": 4413,
    "idle_timeout": 4408,
    "session_limit": 4408,
    "resume_unknown": 4400,
    "quarantined": 4400,
    "internal": 1011,
}


class WireError(Exception):
    """Base of what a wire refuses; ``to_message`` is what the peer is told."""

    code: ClassVar[ErrorCode] = "internal"
    close_code: int

    def __init__(
        self,
        message: str,
        *,
        is_fatal: bool = True,
        retry_after: float | None = None,
        param: str | None = None,
        req: str | None = None,
    ) -> None:
        super().__init__(message[:MAX_TEXT_CHARS])
        self.message = message[:MAX_TEXT_CHARS]
        self.is_fatal = is_fatal
        self.retry_after = retry_after
        self.param = None if param is None else param[:MAX_TEXT_CHARS]
        self.req = req

    def __init_subclass__(cls) -> None:
        """Take the close code from the table unless the class has its own."""
        if "close_code" not in cls.__dict__:
            cls.close_code = CLOSE_CODES[cls.code]

    def to_message(self) -> Error:
        """Return the ``error`` message for the peer."""
        return Error(
            code=self.code,
            message=self.message,
            fatal=self.is_fatal,
            retry_after=self.retry_after,
            param=self.param,
            req=self.req,
        )


class LocalProtocolError(WireError):
    """We tried to send something the protocol forbids: a bug on this side."""


class RemoteProtocolError(WireError):
    """The peer sent something illegal: answer it, count it, close when fatal."""

    code: ClassVar[ErrorCode] = "bad_request"


class BadRequest(RemoteProtocolError):
    """Malformed, out of range or out of order."""


class BinaryBeforeStart(BadRequest):
    """Audio came before anybody said what audio it is."""

    close_code = 1003


class MessageTooBig(BadRequest):
    """A message beyond the limits."""

    close_code = 1009


class UnsupportedAudio(RemoteProtocolError):
    """An encoding, rate or channel count we do not take."""

    code: ClassVar[ErrorCode] = "unsupported_audio"


class UnsupportedLanguage(RemoteProtocolError):
    """Not a language tag, or a language the model does not know."""

    code: ClassVar[ErrorCode] = "unsupported_language"


class TooFarAhead(RemoteProtocolError):
    """Audio beyond the flow window."""

    code: ClassVar[ErrorCode] = "too_far_ahead"


class IdleTimeout(RemoteProtocolError):
    """Nothing came for too long."""

    code: ClassVar[ErrorCode] = "idle_timeout"


class ResumeUnknown(RemoteProtocolError):
    """The resume token names no session of ours."""

    code: ClassVar[ErrorCode] = "resume_unknown"


class Unauthorized(RemoteProtocolError):
    """No token, or a wrong one."""

    code: ClassVar[ErrorCode] = "unauthorized"


class ForbiddenOrigin(RemoteProtocolError):
    """A page of another site."""

    code: ClassVar[ErrorCode] = "forbidden_origin"


class Quarantined(RemoteProtocolError):
    """What this session sent ended engine processes: the same audio would again."""

    code: ClassVar[ErrorCode] = "quarantined"


class ServiceError(WireError):
    """Nobody broke the protocol: this server cannot go on."""


class OverCapacity(ServiceError):
    """Every slot is taken; ``retry_after`` says when to try again."""

    code: ClassVar[ErrorCode] = "over_capacity"


class RateLimited(ServiceError):
    """The peer asks too often."""

    code: ClassVar[ErrorCode] = "rate_limited"


class SessionLimit(ServiceError):
    """The session reached its longest age."""

    code: ClassVar[ErrorCode] = "session_limit"


class InternalError(ServiceError):
    """A failure of ours that the peer can only be told of."""
