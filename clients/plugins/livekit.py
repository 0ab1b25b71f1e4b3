"""Speech to text for LiveKit agents over our own wire.

Does: frames of a stream -> one session; turns, partials and finals -> speech events; ``flush``
finalizes. An eager end becomes a preflight transcript.
Does not know: rooms, agents, models. Needs ``livekit-agents`` (run with 1.8.9); one channel.

    stt = RivuletSTT("ws://127.0.0.1:8765/v1/stream", eager_ms=200)
"""

import asyncio
import weakref
from typing import Any

from livekit import rtc
from livekit.agents import APIConnectionError, APIConnectOptions, APIStatusError, stt
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN
from livekit.agents.utils import aio, is_given
from livekit.agents.voice.io import TimedString

from clients.connection import Connection, ConnectionLost, RivuletError, connect
from clients.live import both
from server.wire.messages import AudioFormat, Chunk, Endpointing, Final, LatencyClass, Partial, Turn

RATE_HZ = 16_000
COME_BACK_S = 10.0
"""A broken connection is dialled again for so long before LiveKit's own retries."""


QUIET_S = 10.0
"""Without audio for so long (a muted microphone) the session pauses; else it would time out."""
RETRIED = ("over_capacity", "rate_limited", "internal", "idle_timeout", "session_limit")
"""Refusals after which a new session may go well."""


class RivuletSTT(stt.STT):  # type: ignore[misc]  # the framework is not installed here
    """A server that speaks ``rivulet.v1``."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        latency: LatencyClass | Chunk = "low",
        language: str | None = None,
        silence_ms: int = 700,
        eager_ms: int | None = None,
    ) -> None:
        """Choose a server; ``silence_ms`` ends a turn, ``eager_ms`` announces its likely end."""
        super().__init__(
            capabilities=stt.STTCapabilities(
                streaming=True, interim_results=True, aligned_transcript="word", manual_flush=True
            )
        )
        self._url = url
        self._streams = weakref.WeakSet[RivuletStream]()
        self._options: dict[str, Any] = {
            "audio": AudioFormat(encoding="pcm_s16le", rate=RATE_HZ),
            "token": token,
            "latency": latency,
            "language": language,
            "words": True,
            "endpointing": Endpointing(silence_ms=silence_ms, eager_ms=eager_ms),
        }

    @property
    def provider(self) -> str:
        """Name the service in metrics."""
        return "rivulet"

    def open(self, language: Any, timeout_s: float, come_back_s: float) -> Any:
        """Return the context manager of a session."""
        options = self._options | ({"language": str(language)} if is_given(language) else {})
        return connect(self._url, timeout_s=timeout_s, come_back_s=come_back_s, **options)

    def stream(
        self,
        *,
        language: Any = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> "RivuletStream":
        """Begin a live stream."""
        stream = RivuletStream(self, language, conn_options)
        self._streams.add(stream)
        return stream

    def update_options(
        self,
        *,
        language: Any = NOT_GIVEN,
        silence_ms: Any = NOT_GIVEN,
        eager_ms: Any = NOT_GIVEN,
    ) -> None:
        """Change what is given; the language is that of sessions to come, the rest holds at once.

        Raises ValueError where an eager end would not be one.
        """
        rules: Endpointing = self._options["endpointing"]
        rules = Endpointing(
            silence_ms=silence_ms if is_given(silence_ms) else rules.silence_ms,
            eager_ms=eager_ms if is_given(eager_ms) else rules.eager_ms,
        )
        if rules.eager_ms is not None and rules.eager_ms >= rules.silence_ms:
            raise ValueError("eager_ms must be less than silence_ms")
        if is_given(language):
            self._options["language"] = str(language)
        self._options["endpointing"] = rules
        for stream in self._streams:
            stream.change(rules)

    async def _recognize_impl(
        self, buffer: Any, *, language: Any = NOT_GIVEN, conn_options: APIConnectOptions
    ) -> stt.SpeechEvent:
        """Recognise a whole recording."""
        frame = rtc.combine_audio_frames(buffer)
        frames = [frame]
        if frame.sample_rate != RATE_HZ:
            resampler = rtc.AudioResampler(frame.sample_rate, RATE_HZ)
            frames = [*resampler.push(frame), *resampler.flush()]
        finals = list[Final]()
        try:
            async with self.open(language, conn_options.timeout, 0.0) as connection:
                for one in frames:
                    await connection.send(bytes(one.data))
                await connection.stop()
                async for message in connection:
                    if isinstance(message, Final) and message.text.strip():
                        finals.append(message)
        except RivuletError as error:
            raise framework_error(error) from error
        data = stt.SpeechData(language="", text=" ".join(final.text.strip() for final in finals))
        return stt.SpeechEvent(stt.SpeechEventType.FINAL_TRANSCRIPT, alternatives=[data])


class RivuletStream(stt.RecognizeStream):  # type: ignore[misc]  # the framework is not installed here
    """One session; LiveKit calls ``_run`` and tries again when it raises."""

    def __init__(self, service: RivuletSTT, language: Any, conn_options: APIConnectOptions) -> None:
        """Begin at once: the base class starts the task."""
        self._service = service
        self._language = language
        self._is_speaking = False
        super().__init__(stt=service, conn_options=conn_options, sample_rate=RATE_HZ)

    def change(self, rules: Endpointing) -> None:
        """Have the audio behind this heard by other rules."""
        if not self._input_ch.closed:
            self._input_ch.send_nowait(rules)

    async def _run(self) -> None:
        try:
            opening = self._service.open(self._language, self._conn_options.timeout, COME_BACK_S)
            async with opening as connection:
                await both(self._send(connection), self._hear(connection))
        except RivuletError as error:
            if self._is_speaking:  # the next session knows nothing of it
                self._end_speech()
            raise framework_error(error) from error

    async def _hear(self, connection: Connection) -> None:
        async for message in connection:
            self._tell(message)

    async def _send(self, connection: Connection) -> None:
        reported = 0
        while (item := await self._next(connection)) is not None:
            if isinstance(item, self._FlushSentinel):
                await connection.finalize()
                self._report(connection.sent - reported)
                reported = connection.sent
            elif isinstance(item, Endpointing):
                await connection.configure(endpointing=item)
            else:
                await connection.send(bytes(item.data))
        await connection.stop()

    async def _next(self, connection: Connection) -> Any:
        """Return the next input; None: there is none. The session pauses while nobody sends."""
        try:
            try:
                async with asyncio.timeout(QUIET_S):
                    return await self._input_ch.recv()
            except TimeoutError:
                await connection.pause()
            item = await self._input_ch.recv()
        except aio.ChanClosed:
            return None
        await connection.resume()
        return item

    def _tell(self, message: object) -> None:
        kinds = stt.SpeechEventType
        match message:
            case Turn(event="start"):
                self._is_speaking = True
                self._emit(kinds.START_OF_SPEECH)
            case Partial(text=text) if text.strip():
                self._emit(kinds.INTERIM_TRANSCRIPT, self._data(message))
            case Turn(event="eager_end", text=str(text)) if text.strip():
                data = stt.SpeechData(language="", text=text, confidence=message.confidence or 0.0)
                self._emit(kinds.PREFLIGHT_TRANSCRIPT, data)
            case Final(text=text) if text.strip():
                self._emit(kinds.FINAL_TRANSCRIPT, self._data(message))
            case Turn(event="end"):
                self._end_speech()

    def _end_speech(self) -> None:
        self._is_speaking = False
        self._emit(stt.SpeechEventType.END_OF_SPEECH)

    def _data(self, message: Partial | Final) -> stt.SpeechData:
        offset_s = self.start_time_offset
        spans = (message.words or ()) if isinstance(message, Final) else ()
        return stt.SpeechData(
            language=(message.language or "") if isinstance(message, Final) else "",
            text=message.text.strip(),
            start_time=offset_s + message.start_ms / 1000,
            end_time=offset_s + message.end_ms / 1000,
            confidence=(message.confidence or 0.0) if isinstance(message, Final) else 0.0,
            words=[
                TimedString(span.w, offset_s + span.s / 1000, offset_s + span.e / 1000)
                for span in spans
            ],
        )

    def _emit(self, kind: Any, *alternatives: stt.SpeechData) -> None:
        self._event_ch.send_nowait(stt.SpeechEvent(kind, alternatives=list(alternatives)))

    def _report(self, samples: int) -> None:
        usage = stt.RecognitionUsage(audio_duration=samples / RATE_HZ)
        event = stt.SpeechEvent(stt.SpeechEventType.RECOGNITION_USAGE, recognition_usage=usage)
        self._event_ch.send_nowait(event)


def framework_error(error: RivuletError) -> Exception:
    """Return what LiveKit's retries understand; a refusal for good is not tried again."""
    if not isinstance(error, ConnectionLost):
        may_retry = error.code in RETRIED
        return APIStatusError(
            str(error), status_code=503 if may_retry else 400, retryable=may_retry
        )
    return APIConnectionError(str(error))
