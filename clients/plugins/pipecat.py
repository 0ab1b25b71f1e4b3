"""Speech to text for Pipecat over our own wire.

Does: audio of a pipeline -> one session; partials and finals -> transcription frames; where the
pipeline detects voice, its end of speech finalizes. Turn events go to ``on_turn`` handlers.
Does not know: transports, models. Needs ``pipecat-ai`` (run with 1.14.0).

    stt = RivuletSTTService("ws://127.0.0.1:8765/v1/stream")
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
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

from clients.connection import Connection, ConnectionLost, RivuletError, connect
from clients.live import both
from server.wire.messages import AudioFormat, Chunk, Endpointing, Final, LatencyClass, Partial, Turn

COME_BACK_S = 30.0
"""A broken connection is dialled again for so long; the session goes on."""
AGAIN_S = 2.0
"""After a session that failed, a new one is tried so much later."""
RETRIED = ("over_capacity", "rate_limited", "internal", "idle_timeout", "session_limit")
"""Refusals after which a new session may go well."""
TTFS_P99_S = 0.31
"""From the end of speech to the final, with voice detection of 0.2 s: the aim, not a promise."""

Ask = Callable[[Connection], Awaitable[object]]
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
        self._asked: asyncio.Queue[Ask | None] = asyncio.Queue()
        """Audio and requests in order, None behind the last: the pipeline never waits for them."""
        self._is_ending = False
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
        self._is_ending = True
        if self._connection is not None and self._session is not None:
            self._asked.put_nowait(None)
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
            self._asked.put_nowait(lambda connection: connection.send(audio))
        yield None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Finalize when the pipeline's voice detection hears the end of speech."""
        await super().process_frame(frame, direction)
        if isinstance(frame, VADUserStoppedSpeakingFrame) and self._connection is not None:
            self.request_finalize()
            self._asked.put_nowait(lambda connection: connection.finalize())

    async def _update_settings(self, delta: STTSettings) -> dict[str, Any]:
        """Change the language of the session; nothing else can change while it runs."""
        changed: dict[str, Any] = await super()._update_settings(delta)
        if "language" in changed:
            self._wish["language"] = language = str(self._settings.language)
            if self._connection is not None:
                self._asked.put_nowait(lambda connection: connection.configure(language=language))
        self._warn_unhandled_updated_settings(changed.keys() - {"language"})
        return changed

    def _is_keepalive_ready(self) -> bool:
        return self._connection is not None

    async def _send_keepalive(self, silence: bytes) -> None:
        async for _ in self.run_stt(silence):
            pass

    async def _run(self) -> None:
        while await self._failed():
            if self._is_ending:
                return
            await asyncio.sleep(AGAIN_S)

    async def _failed(self) -> bool:
        """Hold a session to its end; return whether it failed and another one may go well."""
        audio = AudioFormat(encoding="pcm_s16le", rate=self.sample_rate)
        try:
            async with connect(
                self._url, audio=audio, come_back_s=COME_BACK_S, **self._wish
            ) as connection:
                self._asked = asyncio.Queue()
                self._connection = connection
                self._is_settled.set()
                await both(self._send(connection), self._hear(connection))
        except RivuletError as error:
            await self.push_error(error_msg=f"rivulet: {error}", exception=error)
            return isinstance(error, ConnectionLost) or error.code in RETRIED
        finally:
            self._connection = None
            self._is_settled.set()
        return False

    async def _hear(self, connection: Connection) -> None:
        async for message in connection:
            await self._tell(message)

    async def _send(self, connection: Connection) -> None:
        while (ask := await self._asked.get()) is not None:
            await ask(connection)
        await connection.stop()

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
