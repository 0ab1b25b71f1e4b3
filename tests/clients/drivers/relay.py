"""What lies between a client and a server that goes."""

import asyncio


class Relay:
    """Passes bytes on until it is cut."""

    def __init__(self, host: str) -> None:
        self._to, self._tasks, self._server, self.port = host.split(":"), set(), None, 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        self._server.close()
        for writer in self._tasks:
            writer.transport.abort()
        self._tasks.clear()

    async def _take(self, reader, writer) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._to)
        self._tasks |= {writer, far_writer}
        await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))

    async def _pump(self, reader, writer) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
        except OSError:
            pass
        writer.close()
