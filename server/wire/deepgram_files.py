"""Deepgram's wire for whole files (POST ``/v1/listen``), server side.

Does: a decoded recording through one session -> their transcript object.
Does not know: sockets, clocks, sound files, other people's URLs (a body that is a URL is refused).
"""

from server.wire import messages as native
from server.wire.adapter import Hello
from server.wire.codec import JsonObject
from server.wire.deepgram import keyterms_of, metadata_of, readable_of, refusal, word_of
from server.wire.rest import FileServer, Recording, json_answer
from server.wire.values import seconds


class DeepgramFile(FileServer):
    """A client that posts a file to ``/v1/listen``."""

    def __init__(self, hello: Hello, recording: Recording) -> None:
        super().__init__(hello, recording)
        self.readable = readable_of(hello)
        self.has_channels = hello.is_set("multichannel")

    def wishes(self) -> tuple[str, list[native.Boost]]:
        """Return language and phrases."""
        return self.hello.get("language"), keyterms_of(self.hello)

    def whole(self) -> bytes:
        """Return one alternative for each channel."""
        channels = range(self.recording.audio.channels if self.has_channels else 1)
        results: JsonObject = {"channels": [self._channel(channel) for channel in channels]}
        if self.hello.is_set("utterances"):
            results["utterances"] = [self._utterance(final) for final in self.finals]
        about = metadata_of(self.hello, self.recording.duration_s, len(channels))
        return json_answer(200, {"metadata": about, "results": results})

    def failure(self, status: int, message: str) -> JsonObject:
        """Return an error as they write it."""
        return failure_of(self.hello, message)

    def _channel(self, channel: int) -> JsonObject:
        finals = [final for final in self.finals if final.channel == channel]
        words = [word_of(w, final.confidence or 0.0) for final in finals for w in final.words or ()]
        total = sum(len(final.text) for final in finals)
        weighed = sum((final.confidence or 0.0) * len(final.text) for final in finals)
        alternative = {
            "transcript": " ".join(final.text for final in finals),
            "confidence": weighed / total if total else 0.0,
            "words": words,
        }
        return {"alternatives": [alternative]}

    def _utterance(self, final: native.Final) -> JsonObject:
        confidence = final.confidence or 0.0
        return {
            "id": f"{self.hello.name}-{final.channel}-{final.id}",
            "start": seconds(final.start_ms),
            "end": seconds(final.end_ms),
            "confidence": confidence,
            "channel": final.channel,
            "transcript": final.text,
            "words": [word_of(word, confidence) for word in final.words or ()],
        }


def failure_of(hello: Hello, message: str) -> JsonObject:
    """Return an error as they write it."""
    return refusal(hello, message).body
