"""A flood of messages leaves the others their turns."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

from server.inbox import AT_ONCE, messages_of


async def flood(count: int) -> AsyncIterator[bytes]:
    """Messages that are all there: nobody waits for one."""
    for number in range(count):
        yield b"%d" % number


async def test_after_a_few_messages_everybody_else_has_a_turn() -> None:
    turns = 0

    async def another() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(another())
    found = [message async for message in messages_of(cast("Any", flood(10 * AT_ONCE)))]
    assert found == [b"%d" % number for number in range(10 * AT_ONCE)]
    assert turns >= 10
    task.cancel()
