"""A node's own recogniser before the first caller: what it makes once is made here.

Does: recognise a moment of silence, and let that session move out and in as a live one would.
Does not know: legs, links. Without it the first session and the first move at a node with the
embedded model took several times as long as the later ones.
"""

import asyncio
import contextlib

from clients.connection import RivuletError, connect
from server.keeper import Keeper
from server.store.base import StoreUnavailable
from server.wire.messages import Ack, AudioFormat, LatencyClass, ResumeFrom

AUDIO = AudioFormat(encoding="mulaw", rate=8_000)
SECOND = b"\xff" * AUDIO.rate
WITHIN_S = 20.0


async def warm_up(url: str, latency: LatencyClass | None, keeper: Keeper) -> None:
    """Rehearse; what fails here a caller will be told."""
    with contextlib.suppress(RivuletError, StoreUnavailable, TimeoutError):
        async with asyncio.timeout(WITHIN_S):
            token = await _left(url, latency, keeper)
            resume = ResumeFrom(token=token, finals=(0,))
            async with connect(url, audio=AUDIO, latency=latency, resume=resume) as connection:
                await connection.send(SECOND)
                await connection.stop()
                async for _ in connection:
                    pass


async def _left(url: str, latency: LatencyClass | None, keeper: Keeper) -> str:
    """Begin a session and have it moved; the token that brings it back."""
    async with connect(url, audio=AUDIO, latency=latency) as connection:
        await connection.send(SECOND)
        async for message in connection:
            if isinstance(message, Ack) and message.done:
                break
        token = connection.ready.token
        if (written := keeper.write_down(token)) is not None:
            await written
        if (moved := await keeper.move_out(token)) is not None:
            await keeper.move_in(moved)
        return token
