"""The gateway's end of a link: commands out, reports in, over any stream.

Does: write frames, read reports until the stream ends.
Does not know: who is at the other end, how it was launched, what the reports mean.
"""

import asyncio
import contextlib

from server.worker import link
from server.worker.handle import OnReport

_READ_BYTES = 256 * 1024


class Line:
    """A stream to an engine process."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, command: link.Command) -> None:
        """Write a command; the socket's buffer is bounded by the flow windows of the sessions."""
        if not self._writer.is_closing():
            self._writer.write(link.frame(command))

    @property
    def queued_bytes(self) -> int:
        """Bytes that the other end has not taken yet."""
        return self._writer.transport.get_write_buffer_size()

    async def read(self, on_report: OnReport) -> None:
        """Hand over the reports until the link breaks or says what no link says."""
        reports = link.ReportReader()
        with contextlib.suppress(OSError, link.LinkError):
            while data := await self._reader.read(_READ_BYTES):
                for report in reports.feed(data):
                    on_report(report)

    def close(self) -> None:
        """Write what waits, then end."""
        self._writer.close()

    def cut(self) -> None:
        """End at once."""
        self._writer.transport.abort()
