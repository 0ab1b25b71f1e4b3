"""A command of the user's: one run for one turn, its output held back until it is wanted.

Does: start it with the turn's words on its standard input, hand its lines on once released, end it
with everything it started.
Does not know: turns, servers, terminals.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from typing import Protocol

GRACE_S, KILLED_S = 2.0, 0.5
"""From a polite end to a hard one; from there to leaving alone what escaped it."""
LONGEST_LINE = 4_096
"""Bytes: a longer line is handed on in pieces."""


class Run(Protocol):
    """A run under way; it was started with all it needs."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended and all its output was handed on."""
        ...

    def release(self) -> None:
        """Hand its output on, from the first line."""
        ...

    async def cancel(self) -> None:
        """End it; lines that were not handed on are lost."""
        ...

    async def wait(self) -> None:
        """Wait until a released run is over."""
        ...


class Process:
    """A run in a process group of its own (Run).

    Held output stays in the pipe, so a command that writes much waits instead of filling memory.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        line: Callable[[str], None],
        failed: Callable[[int], None],
    ) -> None:
        self._process = process
        self._line = line
        self._failed = failed
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        text: str,
        line: Callable[[str], None],
        failed: Callable[[int], None] = lambda _: None,
    ) -> "Process":
        """Start the command; ``line`` gets its output, ``failed`` a status that is not 0.

        Raises OSError.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):  # it need not read what was said
            process.stdin.write(f"{text}\n".encode())
            process.stdin.close()
        return cls(process, line, failed)

    @property
    def is_over(self) -> bool:
        """Whether it has ended and all its output was handed on."""
        reading = self._reading
        if reading is None or not reading.done() or reading.cancelled():
            return False
        return reading.exception() is None  # else nobody took its output, and it runs on

    def release(self) -> None:
        """Hand its output on, from the first line."""
        self._reading = self._reading or asyncio.create_task(self._read())

    async def cancel(self) -> None:
        """End it with its children; lines that were not handed on are lost."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        for number, patience_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, KILLED_S)):
            self._signal(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._drain()
                return
        # what it started in a session of its own lives on, and has the pipe that is let go here
        self._process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001

    async def wait(self) -> None:
        """Wait until a released run is over; raises what handing its output on raised."""
        if self._reading is not None:
            await asyncio.wait([self._reading])
            if not self._reading.cancelled():
                self._reading.result()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        while data := await self._process.stdout.read(LONGEST_LINE - len(rest)):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) == LONGEST_LINE:
                lines, rest = [rest], b""
            for line in lines:
                self._line(line.decode(errors="replace"))
                await asyncio.sleep(0)  # of many lines none holds up the session
        if rest:
            self._line(rest.decode(errors="replace"))
        if status := await self._process.wait():
            self._failed(status)

    async def _drain(self) -> None:
        """Wait for the end; a full pipe would hide it."""
        assert self._process.stdout is not None
        while await self._process.stdout.read(65_536):
            pass
        await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
