"""``python -m server.member``: one gateway of several, told by its parent what to be.

Does: read the settings from standard input, serve, say on standard output that it is ready or why
it cannot start; end when standard input does: then its parent is gone.
Does not know: the other gateways.
"""

import asyncio
import os
import sys
from typing import TextIO

import msgspec

from server import logs
from server.app import StartError, serve
from server.config import ServerConfig

_STDIN = 0
_CHUNK = 4_096


def main() -> int:
    """Serve until a signal comes or the parent is gone."""
    config = msgspec.json.decode(_first_line(), type=ServerConfig)
    told, sys.stdout = sys.stdout, sys.stderr  # what a library prints is for nobody to parse
    logs.configure(gateway=config.gateway)
    try:
        return asyncio.run(_serve(config, told))
    except StartError as error:
        _tell(told, error=str(error))
        return 2


async def _serve(config: ServerConfig, told: TextIO) -> int:
    over, loop = asyncio.Event(), asyncio.get_running_loop()

    def parent_said() -> None:
        if not os.read(_STDIN, _CHUNK):
            loop.remove_reader(_STDIN)
            over.set()

    loop.add_reader(_STDIN, parent_said)
    return await serve(config, on_ready=lambda _: _tell(told, ready="yes"), stop=over)


def _first_line() -> bytes:
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(_STDIN, 1)):
        line += byte
    return line


def _tell(told: TextIO, **said: str) -> None:
    told.write(msgspec.json.encode(said).decode() + "\n")
    told.flush()


if __name__ == "__main__":
    sys.exit(main())
