"""A server that is full by cost: refused with a time, or served with a longer chunk."""

import pytest

from server.app import Running
from server.cost import MIN_STEPS
from server.worker import link
from tests.io.serving import (
    all_slots_free,
    dial,
    read_until,
    rest,
    serving,
    speech,
    start,
    talk,
    transcript,
)

pytestmark = pytest.mark.io


def full_for_low_latency(server: Running) -> None:
    """Have the worker's steps cost what leaves room for one stream of low latency."""
    costs = server.manager._places[0].costs
    for look_ahead, seconds in ((1, 0.068), (6, 0.005)):
        for batch in (1, 9) * MIN_STEPS:
            step = link.Step((), look_ahead, batch, seconds * batch, 1, 1, frames=look_ahead + 1)
            costs.heard(step)


async def test_who_bears_a_longer_chunk_gets_it_and_others_are_told_when_to_retry() -> None:
    async with serving() as server:
        async with dial(server) as socket:
            await socket.send(start())
            await read_until(socket, "ready")
            full_for_low_latency(server)
            async with dial(server) as other:
                await other.send(start())
                error = (await rest(other))[-1]
                assert (error["code"], other.close_code) == ("over_capacity", 4429)
                assert error["retry_after"] > 0
            messages = await talk(server, speech("thank you"), flexible=True)
            assert transcript(messages) == "thank you"
            async with dial(server) as flexible:
                await flexible.send(start(flexible=True))
                ready = await read_until(flexible, "ready")
                assert ready["chunk_ms"] == 560
                assert ready["applied"]["latency"] == "balanced"
        await all_slots_free(server)


async def test_a_flexible_client_gets_what_it_wishes_where_there_is_room() -> None:
    async with serving() as server, dial(server) as socket:
        await socket.send(start(flexible=True))
        assert (await read_until(socket, "ready"))["chunk_ms"] == 160


async def test_a_flexible_client_is_refused_where_nothing_has_room() -> None:
    async with serving(slots=2) as server, dial(server) as first, dial(server) as second:
        await first.send(start())
        await read_until(first, "ready")
        await second.send(start(flexible=True))
        assert (await rest(second))[-1]["code"] == "over_capacity"
