"""Speech to text for Pipecat over our own wire.

Does: audio of a pipeline -> one session; partials and finals -> transcription frames; where the
pipeline detects voice, its end of speech finalizes. Turn events go to ``on_turn`` handlers.
Does not know: transports, models. Needs ``pipecat-ai`` (run with 1.14.0).

    stt = RivuletSTTService("ws://127.0.0.1:8765/v1/stream")
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessorSetup
from pipecat.services.settings import STTSettings
from pipecat.services.stt_service import STTService
from pipecat.utils.time import time_now_iso8601

from clients.connection import Connection, RivuletError, connect
from server.wire.messages import AudioFormat, Chunk, Endpointing, Final, LatencyClass, Partial, Turn

COME_BACK_S = 30.0
"""A broken connection is dialled again for so long; the session goes on."""
TTFS_P99_S = 0.31
"""From the end of speech to the final, with voice detection of 0.2 s: the aim, not a promise."""


QUIET_S = 10.0
"""Without audio for so long (a muted microphone) a little silence keeps the session."""


class RivuletSTTService(STTService):  # type: ignore[misc]  # the framework is not installed here
    """A server that speaks ``rivulet.v1``."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        latency: LatencyClass | Chunk = "low",
        language: str | None = None,
        endpointing: Endpointing | None = None,
        **options: Any,
    ) -> None:
        """Choose a server; ``options`` are those of Pipecat's STTService."""
        settings = STTSettings(model=None, language=language)
        usual = {"ttfs_p99_latency": TTFS_P99_S, "keepalive_timeout": QUIET_S}
        super().__init__(settings=settings, **(usual | options))
        self._url = url
        self._wish: dict[str, Any] = {
            "token": token,
            "latency": latency,
            "language": language,
            "endpointing": endpointing,
        }
        self._connection: Connection | None = None
        self._session: asyncio.Task[None] | None = None
        self._is_settled = asyncio.Event()
        """The session was opened, or refused."""
        self._register_event_handler("on_turn")

    def can_generate_metrics(self) -> bool:
        """Say that there are metrics."""
        return True

    async def setup(self, setup: FrameProcessorSetup) -> None:
        """Open the session; a refusal is an error frame."""
        await super().setup(setup)
        self._session = self.create_task(self._run())
        await self._is_settled.wait()
        self._create_keepalive_task()

    async def stop(self, frame: EndFrame) -> None:
        """Let the last words come before the end does."""
        await super().stop(frame)
        if self._connection is not None and self._session is not None:
            await self._connection.stop()
            await asyncio.wait([self._session])

    async def cancel(self, frame: CancelFrame) -> None:
        """Leave at once."""
        await super().cancel(frame)
        await self._leave()

    async def cleanup(self) -> None:
        """Leave, however the pipeline ended."""
        await self._leave()
        await super().cleanup()

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        """Send audio; what is heard comes from the session's task."""
        if self._connection is not None:
            try:
                await self._connection.send(audio)
            except RivuletError:
                pass  # the session's task tells it
        yield None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Finalize when the pipeline's voice detection hears the end of speech."""
        await super().process_frame(frame, direction)
        if isinstance(frame, VADUserStoppedSpeakingFrame) and self._connection is not None:
            self.request_finalize()
            try:
                await self._connection.finalize()
            except RivuletError:
                pass  # the session's task tells it

    def _is_keepalive_ready(self) -> bool:
        return self._connection is not None

    async def _send_keepalive(self, silence: bytes) -> None:
        async for _ in self.run_stt(silence):
            pass

    async def _run(self) -> None:
        audio = AudioFormat(encoding="pcm_s16le", rate=self.sample_rate)
        try:
            async with connect(
                self._url, audio=audio, come_back_s=COME_BACK_S, **self._wish
            ) as connection:
                self._connection = connection
                self._is_settled.set()
                async for message in connection:
                    await self._tell(message)
        except RivuletError as error:
            await self.push_error(error_msg=f"rivulet: {error}", exception=error)
        finally:
            self._connection = None
            self._is_settled.set()

    async def _tell(self, message: object) -> None:
        match message:
            case Partial(text=text) if text.strip():
                now = time_now_iso8601()
                await self.push_frame(InterimTranscriptionFrame(text.strip(), self._user_id, now))
            case Final(text=text, cause=cause):
                if cause == "finalize":
                    self.confirm_finalize()
                if text.strip():
                    now = time_now_iso8601()
                    await self.emit_stt_usage_metrics()
                    await self.push_frame(TranscriptionFrame(text.strip(), self._user_id, now))
            case Turn():
                await self._call_event_handler("on_turn", message)

    async def _leave(self) -> None:
        session, self._session = self._session, None
        if session is not None and not session.done():
            await self.cancel_task(session)
