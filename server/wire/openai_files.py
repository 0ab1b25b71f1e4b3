"""OpenAI's wire for whole files (POST ``/v1/audio/transcriptions``), server side.

Does: form and decoded recording through one session -> json, verbose_json, text, srt, vtt, or
events as it is heard.
Does not know: sockets, clocks, sound files. Deltas are appended by clients: stable words only.
"""

import math
from typing import ClassVar

from server.wire import messages as native
from server.wire.adapter import Growth, Hello
from server.wire.codec import JsonObject
from server.wire.errors import BadRequest
from server.wire.rest import FileServer, Recording, answer, json_answer, stream_head
from server.wire.subtitles import Segment, segment_of, to_srt, to_vtt
from server.wire.values import seconds, to_json

FORMATS = ("json", "verbose_json", "text", "srt", "vtt")
LANGUAGES: dict[str, str] = {"en": "english", "de": "german", "fr": "french", "es": "spanish"}


def failure_of(status: int, message: str, param: str | None = None) -> JsonObject:
    """Return an error as they write it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "code": None, "param": param}}


def model_of(name: str) -> JsonObject:
    """Return a model as they list it."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "rivulet"}


class TranscriptionFile(FileServer):
    """A client that posts a file."""

    partials: ClassVar[native.PartialsMode] = "stable"

    def __init__(self, hello: Hello, recording: Recording) -> None:
        super().__init__(hello, recording)
        self._form = self._field("response_format") or "json"
        if self._form not in FORMATS:
            known = ", ".join(FORMATS)
            raise BadRequest(f"response_format must be one of {known}", param="response_format")
        self._is_stream = self._field("stream").lower() in ("true", "1")
        self._growth = Growth()
        self._has_begun = False

    def wishes(self) -> tuple[str, list[native.Boost]]:
        """Return language and phrases."""
        return self._field("language"), []

    def on_answer(self, message: native.Ready | native.Finalized | native.Configured) -> None:
        """Begin the answer of a stream: from here on nothing can be refused by status."""
        if self._is_stream and isinstance(message, native.Ready):
            self._has_begun = True
            self.send(stream_head("text/event-stream; charset=utf-8"))

    def on_partial(self, message: native.Partial) -> None:
        """Give words that will not change."""
        if self._is_stream:
            self._delta(self._growth.partial(message))

    def on_final(self, message: native.Final) -> None:
        """Keep a segment, give its rest."""
        if self._is_stream and message.text:
            self._delta(self._growth.final(message))
        super().on_final(message)

    def on_done(self, message: native.Done) -> None:
        """Answer with the whole, or end the stream."""
        if not self._is_stream:
            super().on_done(message)
            return
        # No usage: there it counts tokens, and we have none.
        self._event({"type": "transcript.text.done", "text": self._text})
        self.send(b"data: [DONE]\n\n")
        self.end()

    def on_error(self, error: native.Error) -> None:
        """Answer with the error, inside the stream when it has begun."""
        if self._has_begun:
            self._event({"type": "error", **failure_of(500, error.message)})
            self.end()
        else:
            super().on_error(error)

    def whole(self) -> bytes:
        """Return the transcript in the form that was asked for."""
        match self._form:
            case "text":
                return answer(200, f"{self._text}\n".encode(), "text/plain; charset=utf-8")
            case "srt":
                body = to_srt(self._segments()).encode()
                return answer(200, body, "text/plain; charset=utf-8")
            case "vtt":
                body = to_vtt(self._segments()).encode()
                return answer(200, body, "text/vtt; charset=utf-8")
            case "verbose_json":
                return json_answer(200, self._verbose())
            case _:
                return json_answer(200, {"text": self._text, "usage": self._usage})

    def failure(self, status: int, message: str) -> JsonObject:
        """Return an error as they write it."""
        return failure_of(status, message)

    # ---- inside

    def _field(self, name: str) -> str:
        return self.recording.fields.get(name, ("",))[0].strip()

    @property
    def _text(self) -> str:
        return " ".join(final.text for final in self.finals)

    @property
    def _usage(self) -> JsonObject:
        return {"type": "duration", "seconds": round(self.recording.duration_s, 3)}

    def _verbose(self) -> JsonObject:
        language = (self.language_of(self._field("language")) or "en").split("-")[0]
        value: JsonObject = {
            "task": "transcribe",
            "language": LANGUAGES.get(language, language),
            "duration": round(self.recording.duration_s, 3),
            "text": self._text,
            "segments": [_segment(i, final) for i, final in enumerate(self.finals)],
            "usage": self._usage,
        }
        wanted = self.recording.fields.get("timestamp_granularities[]", ())
        if "word" in wanted or "word" in self.recording.fields.get("timestamp_granularities", ()):
            value["words"] = [
                {"word": word.w, "start": seconds(word.s), "end": seconds(word.e)}
                for final in self.finals
                for word in final.words or ()
            ]
        return value

    def _segments(self) -> list[Segment]:
        return [segment_of(final) for final in self.finals]

    def _delta(self, text: str) -> None:
        if text:
            if self.finals and not text.startswith(" "):
                text = f" {text}"  # a new segment: clients append
            self._event({"type": "transcript.text.delta", "delta": text})

    def _event(self, value: JsonObject) -> None:
        self.send(f"event: {value['type']}\ndata: {to_json(value)}\n\n".encode())


def _segment(number: int, final: native.Final) -> JsonObject:
    return {
        "id": number,
        "seek": 0,
        "start": seconds(final.start_ms),
        "end": seconds(final.end_ms),
        "text": f" {final.text}",
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(math.log(max(final.confidence or 0.0, 1e-6)), 4),
        "compression_ratio": 1.0,
        "no_speech_prob": 0.0,
    }
