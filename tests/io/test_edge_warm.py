"""A node rehearses before its first caller, and nothing of that is left."""

import asyncio

import pytest

from edge.warm import warm_up
from tests.io.serving import serving

pytestmark = pytest.mark.io


async def test_a_rehearsal_moves_a_session_and_leaves_no_slot_taken() -> None:
    async with serving(slots=2) as server:
        for _ in range(2):  # the second one finds the slots free
            await warm_up(server.addresses.websocket, "low", server.keeper)
        async with asyncio.timeout(10):
            while server.keeper._tenants:  # noqa: ASYNC110 - it hears of the closed socket
                await asyncio.sleep(0.01)
