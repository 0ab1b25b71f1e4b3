"""Transcript events as messages of the native wire.

Does: one event of one channel -> one message.
Does not know: sessions, order, sockets.
"""

from collections.abc import Iterable, Iterator, Sequence

from asr.events import (
    EagerEnd,
    Event,
    Final,
    Partial,
    TurnEnd,
    TurnResumed,
    TurnStart,
    Word,
)
from server.wire import messages as wire

Spoken = TurnStart | Partial | Final | EagerEnd | TurnResumed | TurnEnd


def to_wire(channel: int, event: Spoken) -> wire.ServerMessage:
    """Return the message that tells of an event."""
    match event:
        case Partial():
            return wire.Partial(
                id=event.id,
                channel=channel,
                rev=event.rev,
                stable=event.stable,
                text=event.text,
                start_ms=event.start_ms,
                end_ms=event.end_ms,
            )
        case Final():
            return wire.Final(
                id=event.id,
                channel=channel,
                text=event.text,
                start_ms=event.start_ms,
                end_ms=event.end_ms,
                cause=event.cause,
                confidence=event.confidence,
                language=event.language,
                words=tuple(map(_span, event.words)) or None,
            )
        case _:
            return _turn(channel, event)


def again(
    log: Iterable[Sequence[tuple[int, Event]]], have: Sequence[int]
) -> Iterator[wire.ServerMessage]:
    """Return the finals of a log that a client lacks, each with the turn events beside it.

    ``have`` counts the finals of each channel that the client has.
    """
    for entry in log:
        lacking = [
            (channel, event)
            for channel, event in entry
            if isinstance(event, TurnStart | TurnEnd)
            or (isinstance(event, Final) and event.id >= have[channel])
        ]
        if any(isinstance(event, Final) for _, event in lacking):
            yield from (to_wire(channel, event) for channel, event in lacking)


def _turn(channel: int, event: TurnStart | EagerEnd | TurnResumed | TurnEnd) -> wire.Turn:
    match event:
        case TurnStart(turn=turn, at_ms=at_ms):
            return wire.Turn(event="start", turn=turn, channel=channel, at_ms=at_ms)
        case TurnResumed(turn=turn, at_ms=at_ms):
            return wire.Turn(event="resumed", turn=turn, channel=channel, at_ms=at_ms)
        case EagerEnd():
            return wire.Turn(
                event="eager_end",
                turn=event.turn,
                channel=channel,
                at_ms=event.at_ms,
                text=event.text,
                confidence=event.confidence,
            )
        case TurnEnd():
            return wire.Turn(
                event="end",
                turn=event.turn,
                channel=channel,
                at_ms=event.at_ms,
                text=event.text,
                trigger=event.trigger,
            )


def _span(word: Word) -> wire.WordSpan:
    return wire.WordSpan(w=word.text, s=word.start_ms, e=word.end_ms, c=word.confidence)
