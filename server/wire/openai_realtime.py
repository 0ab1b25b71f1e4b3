"""OpenAI's realtime transcription wire (``/v1/realtime``), server side, GA and beta dialects.

Does: session.update, input_audio_buffer.* -> requests; turns, stable growth and finals -> items.
Does not know: sockets, clocks. Deltas are appended by clients: stable words only. An ``error``
event ends many clients for good: only what cannot go on is one.

A session of the engine begins with the first audio and ends when nothing is heard for long; the
socket outlives it, so that a pooled one costs nothing.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from server.wire import messages as native
from server.wire.adapter import Adapter, Growth, Hello
from server.wire.codec import JsonObject
from server.wire.errors import BadRequest
from server.wire.openai_session import Settings, expiry_of
from server.wire.values import base64_in, read_json, seconds, text_in

MAX_EVENT_BYTES = 21 * 1024 * 1024
"""15 MiB of audio in base64, and its frame."""
FATAL: dict[str, str] = {"over_capacity": "server_error", "internal": "server_error"}


class Commit(NamedTuple):
    """A commit that waits for its words."""

    item: str = ""
    """Empty: audio that was cleared, or of a turn that has its item."""
    length_ms: float = 0.0
    is_cleared: bool = False
    """Whether the client threw the audio away: its words are not said."""


@dataclass(slots=True)
class Stretch:
    """A session of the engine, from its start to its end, and what it was asked under."""

    has_turns: bool
    """Whether the server owns turns in it; other rules are for the next one."""
    offset_ms: float
    """Audio before it."""
    length_ms: float = 0.0
    commits: deque[Commit] = field(default_factory=deque)
    """Not answered yet."""

    @property
    def is_clearing(self) -> bool:
        """Whether what is told now is of audio that the client threw away."""
        return bool(self.commits) and self.commits[0].is_cleared


class RealtimeServer(Adapter):
    """A client of ``/v1/realtime?intent=transcription``."""

    subprotocols: ClassVar[tuple[str, ...]] = ("realtime",)
    max_message_bytes: ClassVar[int] = MAX_EVENT_BYTES
    start_s: ClassVar[float | None] = 3_600.0

    def __init__(self, hello: Hello) -> None:
        super().__init__(hello)
        offered = hello.headers.get("sec-websocket-protocol", "")
        self._is_beta = (
            "realtime=v1" in hello.headers.get("openai-beta", "")
            or "openai-beta.realtime-v1" in offered
        )
        self._settings = Settings(model=hello.get("model") or hello.model)
        self._events = self._items = 0
        self._previous: str | None = None
        self._growth = Growth()
        self._open_item = ""
        """The item of the open turn, while the server owns turns."""
        self._stretches: deque[Stretch] = deque()
        """Not over: what is told is of the first, what the client asks for is of the last."""
        self._event_id: str | None = None
        """Of the client event that is read now: an error names it."""
        self._begun_ms = self._ended_ms = 0
        """Of the turn under way and of the last one, with what is around its speech."""
        self._pending: list[native.Final] = []
        """Finals of a client's turn before it commits."""
        self._sent_ms = self._uncommitted_ms = 0.0
        """Audio of all stretches, and that which no commit of the client's took yet."""

    def on_open(self) -> None:
        """Greet: clients configure only after it."""
        self._say(f"{self._session_word}.created", session=self._session())

    def on_text(self, text: str) -> None:
        """Take a client event."""
        event = read_json(text, limit=MAX_EVENT_BYTES)
        self._event_id = text_in(event.get("event_id")) or None
        self._take(event)
        self._event_id = None

    def _take(self, event: JsonObject) -> None:
        match event.get("type"):
            case "session.update" | "transcription_session.update":
                self._update(event)
            case "input_audio_buffer.append":
                self._append(event)
            case "input_audio_buffer.commit":
                self._commit()
            case "input_audio_buffer.clear":
                self._clear()
            case _:
                raise BadRequest("this server only transcribes: unknown event type", param="type")

    def on_binary(self, data: bytes) -> None:
        """Refuse: audio comes as base64 in events."""
        raise BadRequest("audio comes in input_audio_buffer.append")

    def on_partial(self, message: native.Partial) -> None:
        """Give words that will not change."""
        if self._stretches[0].has_turns and self._open_item and not self._stretches[0].is_clearing:
            self._delta(self._open_item, self._growth.partial(message))

    def on_final(self, message: native.Final) -> None:
        """Finish an item."""
        stretch = self._stretches[0]
        if stretch.has_turns:
            self._finish_turn(message, stretch)
        else:
            self._finish_commit(message, stretch)

    def on_turn(self, message: native.Turn) -> None:
        """Begin an item."""
        stretch = self._stretches[0]
        if message.event == "start" and stretch.has_turns and not stretch.is_clearing:
            self._open_item, at = self._new_item(), self._at(message.at_ms)
            self._begun_ms = min(at, max(self._ended_ms, at - self._settings.padding_ms))
            self._say(
                "input_audio_buffer.speech_started",
                audio_start_ms=self._begun_ms,
                item_id=self._open_item,
            )

    def on_done(self, message: native.Done) -> None:
        """Forget the session; the next audio begins another."""
        self._settle()

    def on_error(self, error: native.Error) -> None:
        """Say what cannot go on; silence ends the engine's session only."""
        if error.code == "idle_timeout":
            self._settle()
            return
        kind = FATAL.get(error.code, "invalid_request_error")
        self._say(
            "error",
            error={
                "type": kind,
                "code": error.code,
                "message": error.message,
                "param": error.param,
                "event_id": self._event_id,
            },
        )
        self._event_id = None
        if kind == "server_error":
            self.end(1013 if error.code == "over_capacity" else 1011, error.message)
        else:
            self._settle()

    def on_mistake(self, error: native.Error) -> None:
        """Fail the item whose commit was refused."""
        commits = self._stretches[0].commits
        if error.code == "rate_limited" and commits and (item := commits.pop().item):
            about = {"type": "invalid_request_error", "code": error.code}
            self._say_of(item, "failed", error=about | {"message": error.message})

    # ---- client events

    def _update(self, event: JsonObject) -> None:
        wish = event.get("session")
        if not isinstance(wish, dict):
            raise BadRequest("session must be an object", param="session")
        before = self._settings
        settings = before.updated(wish)
        if settings.must_restart(before):
            if settings.has_turns and not before.has_turns and self._uncommitted_ms:
                self._commit()  # nobody else will: from here on we say what is an item
            self.stop()
            if before.has_turns:
                self._uncommitted_ms = 0.0  # what was said is of the turn that ends here
        elif settings.endpointing() != before.endpointing():
            self.configure(endpointing=settings.endpointing())
        self._settings = settings
        self._say(f"{self._session_word}.updated", session=self._session())

    def _append(self, event: JsonObject) -> None:
        data = base64_in(event.get("audio"), "audio")
        if self.format is None:
            self._stretches.append(Stretch(self._settings.has_turns, self._sent_ms))
            self.start(
                self._settings.audio,
                endpointing=self._settings.endpointing(),
                partials="stable",
                language=self._settings.language,
                latency=self.hello.get("latency"),
            )
        audio = self._settings.audio
        added_ms = len(data) / audio.frame_bytes * 1_000 / audio.rate
        self._stretches[-1].length_ms += added_ms
        self._sent_ms += added_ms
        self._uncommitted_ms += added_ms
        self.audio(data)

    def _commit(self) -> None:
        if self._settings.has_turns:
            commit = Commit()
        else:
            commit = Commit(self._new_item(), self._uncommitted_ms)
            self._say_committed(commit.item)
        self._uncommitted_ms = 0.0
        self._await_words(commit)

    def _clear(self) -> None:
        self._uncommitted_ms = 0.0
        self._await_words(Commit(is_cleared=True))
        self._say("input_audio_buffer.cleared")

    def _await_words(self, commit: Commit) -> None:
        if not self._stretches:
            self._answer(commit)
            return
        self._stretches[-1].commits.append(commit)
        self.finalize()

    # ---- items

    def _finish_turn(self, final: native.Final, stretch: Stretch) -> None:
        is_cleared = stretch.is_clearing
        is_asked = final.cause == "finalize" and bool(stretch.commits)
        if is_asked:
            stretch.commits.popleft()
        if is_cleared:  # a turn that was begun is told of no more
            self._growth.final(final)
            self._open_item = ""
            return
        if not final.text and not is_asked:
            return
        item = self._open_item or self._new_item()
        self._delta(item, self._growth.final(final))
        length_ms = float(final.end_ms - final.start_ms)
        if self._open_item:
            self._ended_ms = at = self._end_of(final)
            length_ms = at - self._begun_ms
            self._say("input_audio_buffer.speech_stopped", audio_end_ms=at, item_id=item)
        self._open_item = ""
        self._say_committed(item)
        self._completed(item, final.text, length_ms)

    def _finish_commit(self, final: native.Final, stretch: Stretch) -> None:
        if final.text:
            self._pending.append(final)
        if final.cause == "finalize" and stretch.commits:
            self._answer(stretch.commits.popleft())

    def _answer(self, commit: Commit) -> None:
        finals, self._pending = self._pending, []
        if not commit.item:
            return  # the client threw this audio away, or its turn has an item
        text = " ".join(final.text for final in finals)
        self._delta(commit.item, text)
        self._completed(commit.item, text, commit.length_ms)

    def _settle(self) -> None:
        """Answer what still waits for a session that is over."""
        while len(self._stretches) > self.sessions:
            for commit in self._stretches.popleft().commits:
                self._answer(commit)
            self._open_item, self._growth = "", Growth()

    def _say_committed(self, item: str) -> None:
        before, self._previous = self._previous, item
        self._say("input_audio_buffer.committed", previous_item_id=before, item_id=item)
        body = {
            "id": item,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": None}],
        }
        for word in ("created",) if self._is_beta else ("added", "done"):
            self._say(f"conversation.item.{word}", previous_item_id=before, item=body)

    def _delta(self, item: str, text: str) -> None:
        if text:
            self._say_of(item, "delta", delta=text)

    def _completed(self, item: str, text: str, length_ms: float) -> None:
        usage = {"type": "duration", "seconds": seconds(round(length_ms))}
        self._say_of(item, "completed", transcript=text, usage=usage)

    def _say_of(self, item: str, word: str, **fields: object) -> None:
        kind = f"conversation.item.input_audio_transcription.{word}"
        self._say(kind, item_id=item, content_index=0, **fields)

    # ---- inside

    @property
    def _session_word(self) -> str:
        return "transcription_session" if self._is_beta else "session"

    def _session(self) -> JsonObject:
        about: JsonObject = {
            "id": f"sess_{self.hello.name.replace('-', '')[:24]}",
            "object": "realtime.transcription_session",
            "expires_at": expiry_of(self.hello.born_s),
        }
        return about | (self._settings.beta() if self._is_beta else self._settings.ga())

    def _at(self, milliseconds: int) -> int:
        return milliseconds + round(self._stretches[0].offset_ms)

    def _end_of(self, final: native.Final) -> int:
        """Return where the audio of a turn ends: behind the silence that ended it."""
        end_ms = self._at(final.end_ms)
        if final.cause != "endpoint":
            return end_ms
        stretch = self._stretches[0]
        heard_ms = round(stretch.offset_ms + stretch.length_ms)
        return max(end_ms, min(end_ms + self._settings.endpointing().silence_ms, heard_ms))

    def _new_item(self) -> str:
        self._items += 1
        return f"item_{self.hello.name[:8]}_{self._items}"

    def _say(self, kind: str, **fields: object) -> None:
        self._events += 1
        event_id = f"event_{self.hello.name[:8]}_{self._events}"
        self.send_json({"type": kind, "event_id": event_id} | fields)
