"""What a client has told a server and may have to tell again when the connection breaks.

Does: keep audio, gaps and requests in order until the server has them for good; hand out what is
due next; go back to where a server wants to go on.
Does not know: sockets, flow windows, what is heard in the audio. Offsets are samples per channel.
"""

from collections import deque
from dataclasses import dataclass

from server.wire.messages import ClientGap, ClientMessage, Configure, Finalize

RING_S = 120
"""Audio kept at most; a server makes it safe every 10 s or so."""


@dataclass(slots=True)
class _Entry:
    at: int
    samples: int
    told: bytes | ClientMessage
    is_answered: bool = False

    @property
    def until(self) -> int:
        return self.at + self.samples


class Journal:
    """Told and untold, oldest first; a cursor stands before the first entry not told yet."""

    def __init__(self, rate: int, frame_bytes: int) -> None:
        self._frame_bytes = frame_bytes
        self._most = RING_S * rate
        self._told: deque[_Entry] = deque()
        self._due: deque[_Entry] = deque()
        self.end = 0
        """Samples that the caller gave, gaps included."""

    @property
    def is_told(self) -> bool:
        """Whether nothing is due."""
        return not self._due

    def audio(self, data: bytes) -> None:
        """Append whole sample frames."""
        self._append(_Entry(self.end, len(data) // self._frame_bytes, data))

    def request(self, message: ClientMessage) -> None:
        """Append a request, or a gap."""
        samples = message.samples if isinstance(message, ClientGap) else 0
        self._append(_Entry(self.end, samples, message))

    def next(self) -> bytes | ClientMessage | None:
        """Return what is due; None: nothing."""
        return self._due[0].told if self._due else None

    def told(self, samples: int | None = None) -> None:
        """Note that what is due was told; of audio perhaps only its first ``samples``."""
        entry = self._due.popleft()
        if isinstance(entry.told, bytes) and samples is not None and samples < entry.samples:
            cut = samples * self._frame_bytes
            rest = _Entry(entry.at + samples, entry.samples - samples, entry.told[cut:])
            self._due.appendleft(rest)
            entry = _Entry(entry.at, samples, entry.told[:cut])
        if isinstance(entry.told, bytes | ClientGap) or _req(entry.told) is not None:
            self._told.append(entry)
        while self._told and self.end - self._told[0].at > self._most:
            self._told.popleft()

    def answered(self, req: str | None) -> None:
        """Forget a request that need not be told again."""
        for entry in self._told:
            if req is not None and _req(entry.told) == req:
                entry.is_answered = True

    def safe(self, at: int) -> None:
        """Forget the audio before this sample: the server has it for good."""
        while self._told and self._told[0].until <= at and self._is_over(self._told[0]):
            self._told.popleft()

    def rewind(self, at: int) -> None:
        """Have everything from this sample on told again, and what was asked in vain before it."""
        again = deque[_Entry]()
        for entry in self._told:
            if _req(entry.told) is not None and not entry.is_answered:
                again.append(entry)
            elif entry.samples and entry.until > at:
                again.append(self._part(entry, max(at, entry.at), entry.until))
        heard = [entry for entry in (*again, *self._due) if entry.samples]
        first = heard[0].at if heard else self.end
        if first > at:  # forgotten here: time passes all the same
            lost = first - at
            again.appendleft(_Entry(at, lost, ClientGap(samples=lost)))
        kept = (e for e in self._told if e.samples and e.at < at)
        self._told = deque(self._part(e, e.at, min(at, e.until)) for e in kept)
        # the other requests are about the connection: its owner knows what still holds
        self._due = again + deque(e for e in self._due if e.samples or _req(e.told) is not None)

    def _append(self, entry: _Entry) -> None:
        self._due.append(entry)
        self.end = entry.until

    def _part(self, entry: _Entry, begin: int, end: int) -> _Entry:
        """Return the samples from ``begin`` to ``end`` of an entry."""
        size = self._frame_bytes
        if isinstance(entry.told, bytes):
            told = entry.told[(begin - entry.at) * size : (end - entry.at) * size]
            return _Entry(begin, end - begin, told)
        return _Entry(begin, end - begin, ClientGap(samples=end - begin))

    def _is_over(self, entry: _Entry) -> bool:
        return entry.samples > 0 or entry.is_answered


def _req(told: bytes | ClientMessage) -> str | None:
    """Return the name of a request that is answered by name."""
    return told.req if isinstance(told, Configure | Finalize) else None
