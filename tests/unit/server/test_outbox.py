"""Nothing but superseded partials and acks is ever dropped."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.outbox import Outbox, OutboxFull
from server.wire.messages import Ack, Final, Finalized, Partial, ServerMessage


def partial(id: int, rev: int, channel: int = 0) -> Partial:
    return Partial(id=id, channel=channel, rev=rev, stable="", text="", start_ms=0, end_ms=0)


def final(id: int, channel: int = 0) -> Final:
    return Final(id=id, channel=channel, text="", start_ms=0, end_ms=0, cause="stop")


def drained(outbox: Outbox) -> list[ServerMessage]:
    messages = []
    while (message := outbox.pop()) is not None:
        messages.append(message)
    return messages


def test_a_newer_partial_replaces_the_waiting_one_of_its_segment_only() -> None:
    outbox = Outbox()
    for message in (
        partial(0, 1),
        partial(0, 1, channel=1),
        partial(0, 2),
        final(0),
        partial(1, 1),
    ):
        outbox.put(message)
    assert drained(outbox) == [partial(0, 1, channel=1), final(0), partial(1, 1)]


def test_acks_coalesce_and_the_last_one_stays() -> None:
    outbox = Outbox()
    for at in range(5):
        outbox.put(Ack(at=at, done=0, durable=0))
    assert drained(outbox) == [Ack(at=4, done=0, durable=0)]


messages = st.one_of(
    st.builds(partial, st.integers(0, 2), st.integers(1, 9), st.integers(0, 1)),
    st.builds(final, st.integers(0, 2), st.integers(0, 1)),
    st.builds(lambda at: Ack(at=at, done=0, durable=0), st.integers(0, 9)),
    st.builds(lambda at: Finalized(at=at), st.integers(0, 9)),
)


@given(st.lists(st.one_of(messages, st.none()), max_size=60))
def test_finals_and_answers_come_out_once_and_in_order(script: list[ServerMessage | None]) -> None:
    outbox, out = Outbox(), list[ServerMessage]()
    for message in script:  # None: the writer takes one
        if message is not None:
            outbox.put(message)
        elif (taken := outbox.pop()) is not None:
            out.append(taken)
    out += drained(outbox)
    kept = [m for m in script if isinstance(m, Final | Finalized)]
    assert [m for m in out if isinstance(m, Final | Finalized)] == kept
    lasting = {m.channel: m for m in script if isinstance(m, Partial | Final)}
    for channel, last in lasting.items():
        mine = [m for m in out if isinstance(m, Partial | Final) and m.channel == channel]
        assert mine[-1] == last


def test_more_answers_than_the_bound_are_refused() -> None:
    outbox = Outbox(max_messages=3)
    for at in range(3):
        outbox.put(Finalized(at=at))
    with pytest.raises(OutboxFull):
        outbox.put(Finalized(at=3))
    assert len(drained(outbox)) == 3


async def test_the_writer_wakes_for_a_message_and_for_the_end() -> None:
    outbox = Outbox()
    waiting = asyncio.create_task(outbox.wait())
    await asyncio.sleep(0)
    outbox.put(final(0))
    assert await waiting
    outbox.close()
    assert await outbox.wait()  # one is still there
    outbox.pop()
    assert not await outbox.wait()
