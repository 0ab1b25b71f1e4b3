"""Who has the floor: turns of the speaker against runs of a command that answers.

Does: one run for each turn with words; an eager end starts it ahead with its output held back, a
resumed turn cancels it, the end of the turn releases it; speech over an answer ends the answer.
A run may take its time to end: captions go on meanwhile, and so does the next run.
Does not know: sockets, processes (a launcher makes runs), terminals.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from clients.runner import Run
from server.wire.messages import Final, Partial, ServerMessage, Turn

YOU = "you"


class Screen(Protocol):
    """Where the dialogue is shown."""

    def partial(self, name: str, text: str) -> None:
        """Show the open text of somebody."""

    def final(self, name: str, text: str) -> None:
        """Show a finished line of somebody."""

    def note(self, text: str) -> None:
        """Show a line that nobody said."""


@dataclass(slots=True)
class Ears:
    """Says when a moment of the audio was heard: its packets come when their last sample did."""

    now: Callable[[], float]
    rate: int
    zero_s: float = float("inf")
    _samples: int = 0

    async def listen(self, packets: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Pass 16-bit packets of one channel on, and note when they came."""
        async for packet in packets:
            self._samples += len(packet) // 2
            # the least late packet tells when the audio began
            self.zero_s = min(self.zero_s, self.now() - self._samples / self.rate)
            yield packet

    def since_ms(self, at_ms: int) -> int:
        """Return how long ago a moment of the audio was heard."""
        return round((self.now() - self.zero_s) * 1000) - at_ms


@dataclass(frozen=True, slots=True)
class Acted:
    """One turn that was acted on; times count from the end of the last word."""

    turn: int
    text: str
    started_ms: int
    """When the command was started."""
    acted_ms: int
    """When it was sure that the turn was over."""
    is_eager: bool


@dataclass(slots=True)
class _Answer:
    run: Run
    text: str
    started_s: float
    is_released: bool = False


class TurnTaking:
    """Feed it the messages of a session; one at a time."""

    def __init__(self, launch: Callable[[str], Awaitable[Run]], screen: Screen, ears: Ears) -> None:
        self._launch = launch
        self._screen = screen
        self._ears = ears
        self._answer: _Answer | None = None
        self._ending = set[asyncio.Task[None]]()
        """Runs that were told to end and have not."""
        self._speech_end_ms = 0
        self.acted: list[Acted] = []
        """Every turn that was acted on."""
        self.cancelled = 0
        """Runs that were started ahead in vain."""
        self.barge_ins = 0
        """Answers that the speaker cut short."""

    async def hear(self, message: ServerMessage) -> None:
        """Act on a message."""
        if isinstance(message, Partial):
            self._screen.partial(YOU, message.text)
        elif isinstance(message, Final):
            if message.text.strip():
                self._speech_end_ms = message.end_ms
            self._screen.final(YOU, message.text)
        elif isinstance(message, Turn):
            await self._turn(message)

    async def finish(self) -> None:
        """Wait for the last answer; one that was not released is cancelled."""
        if self._answer is not None and self._answer.is_released:
            await self._answer.run.wait()
        await self.cancel()

    async def cancel(self) -> None:
        """End whatever runs and wait for it."""
        self._drop()
        await asyncio.gather(*self._ending)

    def _drop(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.run.is_over:
            ending = asyncio.create_task(answer.run.cancel())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _turn(self, message: Turn) -> None:
        text = (message.text or "").strip()
        match message.event:
            case "start":
                self._barge_in()
            case "eager_end":
                await self._begin(text)
            case "resumed":
                self._take_back()
            case "end":
                await self._act(message.turn, text)

    def _barge_in(self) -> None:
        if self._answer is not None and not self._answer.run.is_over:
            self.barge_ins += 1
            self._screen.note("barge-in: the answer was stopped")
        self._drop()

    async def _begin(self, text: str) -> None:
        self._drop()
        if text:
            self._answer = _Answer(await self._launch(text), text, self._ears.now())

    def _take_back(self) -> None:
        if self._answer is not None:
            self.cancelled += 1
            self._screen.note("resumed: the answer begun ahead was dropped")
        self._drop()

    async def _act(self, turn: int, text: str) -> None:
        is_eager = self._answer is not None and self._answer.text == text
        if not is_eager:
            await self._begin(text)
        if self._answer is None:
            return
        acted_ms = self._ears.since_ms(self._speech_end_ms)
        ahead_ms = round((self._ears.now() - self._answer.started_s) * 1000)
        acted = Acted(turn, text, acted_ms - ahead_ms, acted_ms, is_eager)
        self.acted.append(acted)
        self._screen.note(_told(acted))
        self._answer.is_released = True
        self._answer.run.release()


def _told(acted: Acted) -> str:
    ahead = f", started {acted.started_ms} ms after it" if acted.is_eager else ""
    return f"turn {acted.turn}: could act {acted.acted_ms} ms after the end of speech{ahead}"
