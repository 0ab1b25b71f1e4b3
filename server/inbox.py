"""What a client sends over a WebSocket, a little at a time: a flood is its sender's affair.

Does: yield messages; let everybody else have a turn after a few that were there at once.
Does not know: what messages mean.
"""

import asyncio
from collections.abc import AsyncIterator

from websockets.asyncio.server import ServerConnection

AT_ONCE = 16
"""Messages of one client that are served without a turn of the others."""
MAX_FRAMES = 1_024
"""Frames that wait for their turn; with more the socket is not read for so long."""


async def messages_of(socket: ServerConnection) -> AsyncIterator[str | bytes]:
    """Yield what comes until the socket closes; raises ConnectionClosed."""
    served = 0
    async for message in socket:
        yield message
        served += 1
        if not served % AT_ONCE:
            await asyncio.sleep(0)
