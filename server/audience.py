"""Those who read a meeting along: a WebSocket each, words to them and nothing back.

Does: path -> room, send what the room has for a viewer, drop one who does not read or who speaks.
Does not know: what a meeting says, engines.
"""

import asyncio
import re

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from server.rooms import Rooms, Viewer
from server.wire.errors import BadRequest, OverCapacity, WireError

_PATH = re.compile(r"/v1/meeting/([A-Za-z0-9_-]{1,64})")
TRY_LATER, READ_ONLY, GOING_AWAY = 1013, 1003, 1001


def room_at(target: str) -> str | None:
    """Return the room that a request's target names."""
    found = _PATH.fullmatch(target.partition("?")[0])
    return found[1] if found else None


class Audience:
    """Serves the sockets of all viewers."""

    def __init__(self, rooms: Rooms, *, stalled_s: float) -> None:
        self._rooms = rooms
        self._stalled_s = stalled_s

    async def serve_socket(self, socket: ServerConnection) -> bool:
        """Serve a viewer to the end; whether it was one."""
        name = room_at(socket.request.path) if socket.request else None
        if name is None:
            return False
        if isinstance(error := getattr(socket, "refused", None), WireError):
            await socket.close(error.close_code, error.message)
            return True
        try:
            viewer = self._rooms.watch(name)
        except OverCapacity as error:
            await socket.close(TRY_LATER, error.message)
            return True
        except BadRequest as error:
            await socket.close(error.close_code, error.message)
            return True
        listener = asyncio.create_task(_listen(socket, viewer))
        try:
            await self._tell(socket, viewer)
        finally:
            self._rooms.unwatch(viewer, name)
            listener.cancel()
            await asyncio.wait([listener])
        return True

    async def _tell(self, socket: ServerConnection, viewer: Viewer) -> None:
        try:
            while (change := await viewer.next()) is not None:
                async with asyncio.timeout(self._stalled_s):
                    await socket.send(change, text=True)
            await socket.close(GOING_AWAY)
        except TimeoutError:
            socket.transport.abort()
        except ConnectionClosed:
            return


async def _listen(socket: ServerConnection, viewer: Viewer) -> None:
    """Notice that a viewer left; one that says anything is no viewer of ours."""
    try:
        async for _ in socket:
            await socket.close(READ_ONLY, "viewers only read")
    except ConnectionClosed:
        pass
    finally:
        viewer.end()
