"""An engine without a model, for tests: audio made by ``utter`` says its words again.

Does: keep every promise of ``StreamingEngine`` (slots, chunks by look-ahead, fork, snapshot,
flush), with tokens that are a function of the audio only.
Does not know: neural networks. An 80 ms cell of audio holds one token as two levels, half a cell
each; they survive 16-bit, G.711 and resampling. Real speech and noise mostly decode to silence.
"""

import json
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from asr.interface import (
    FRAME_SAMPLES,
    NO_BIASING,
    BadBiasing,
    BadSnapshot,
    Biasing,
    Emission,
    EngineError,
    EngineInfo,
    NoFreeSlot,
    Samples,
    StepStats,
    Token,
    UnknownStream,
    UnsupportedLookAhead,
)
from asr.tokenizer import TURN_PIECES, WORD_START, Tokenizer

WORDS = (
    "turn on off the a kit light lamp door open close please thank you now then yes no one two "
    "three four five six seven eight nine ten we are here and there it is good day water green "
    "blue red walk talk listen speak hear sun moon star tree bird"
).split()
ENDINGS = ("chen", "s", "ing", "ed", "er", "ly", "ness", ".", "?")
PIECES = (*(WORD_START + word for word in WORDS), *ENDINGS, *TURN_PIECES)

_LEVELS = [*range(-7, 0), *range(1, 8)]
_HALF = FRAME_SAMPLES // 2
_MAGIC = b"scripted1"
_SECOND_FRAME_NEEDS = 200
"""Frame j of a real engine needs the samples up to 1280 j + 199."""


def tokens_of(text: str) -> list[int]:
    """Spell a text made of WORDS, ENDINGS and turn pieces in token ids."""
    ids: list[int] = []
    for word in text.split():
        spelled = _spell(word if word in TURN_PIECES else WORD_START + word)
        if spelled is None:
            raise ValueError("a word outside the script's vocabulary")
        ids += spelled
    return ids


def _spell(rest: str) -> list[int] | None:
    """Spell with the longest pieces that lead to an end ("on" + "er" is not "one" + "r")."""
    if not rest:
        return []
    for piece in sorted(filter(rest.startswith, PIECES), key=len, reverse=True):
        if (tail := _spell(rest[len(piece) :])) is not None:
            return [PIECES.index(piece), *tail]
    return None


def utter_tokens(tokens: Iterable[int | None], *, rate: int = 16_000) -> Samples:
    """Audio that says one token per 80 ms; None is 80 ms of silence."""
    half = rate * FRAME_SAMPLES // 16_000 // 2
    levels: list[float] = []
    for token in tokens:
        high, low = (0, 0) if token is None else divmod(token, len(_LEVELS))
        levels += [0.0, 0.0] if token is None else [_LEVELS[high] / 8, _LEVELS[low] / 8]
    return np.repeat(np.asarray(levels, np.float32), half)


def utter(text: str, *, pause_frames: int = 1, rate: int = 16_000) -> Samples:
    """Audio that says ``text``, with ``pause_frames`` of silence after each word."""
    cells: list[int | None] = []
    for word in text.split():
        cells += [*tokens_of(word), *[None] * pause_frames]
    return utter_tokens(cells, rate=rate)


def silence(ms: int, *, rate: int = 16_000) -> Samples:
    """Silent audio of this length."""
    return np.zeros(rate * ms // 1000, np.float32)


def frames_of(samples: int) -> int:
    """Count the encoder frames of a whole utterance as NeMo does."""
    if samples == 0:
        return 0
    length = samples // 160
    for _ in range(3):
        length = length // 2 + 1
    return length


@dataclass
class _Stream:
    look_ahead: int
    fed: int = 0
    frames: int = 0
    finished: bool = False
    late: list[tuple[int, int]] = field(default_factory=list)
    """Tokens heard and not yet emitted: (due frame, id)."""
    decode_from: int = 0
    """Cells heard before this frame say nothing."""
    pieces: deque[Samples] = field(default_factory=deque)
    """Samples from the first undecoded cell on, as they came: cell ``frames - 1``."""

    def take(self, samples: int) -> Samples:
        """Take so many of the oldest samples, or all there are."""
        taken = list[Samples]()
        while self.pieces and samples:
            piece = self.pieces.popleft()
            taken.append(piece[:samples])
            if len(piece) > samples:
                self.pieces.appendleft(piece[samples:])
            samples -= len(taken[-1])
        return np.concatenate(taken) if taken else np.zeros(0, np.float32)

    def due(self) -> int:
        """Frames the next step decodes, 0 when not ready."""
        chunk = self.look_ahead + 1
        if self.fed >= FRAME_SAMPLES * (self.frames + chunk - 1) + _SECOND_FRAME_NEEDS:
            return chunk
        return max(0, frames_of(self.fed) - self.frames) if self.finished else 0

    def lacks(self) -> int:
        """Return how many samples it takes until there is another whole chunk."""
        chunk, heard = FRAME_SAMPLES * (self.look_ahead + 1), FRAME_SAMPLES * self.frames
        first = heard + chunk - FRAME_SAMPLES + _SECOND_FRAME_NEEDS
        later = max(0, (self.fed - first) // chunk + 1)
        return first + later * chunk - self.fed

    def is_silent(self) -> bool:
        """Whether the next frame is only heard."""
        return self.frames < self.decode_from

    def is_ready(self) -> bool:
        return self.finished or self.due() > 0


class ScriptedEngine:
    """A ``StreamingEngine`` whose streams say what ``utter`` wrote into the audio.

    ``delay_frames``: tokens come out that much later than they were said, as from a model that
    waits for context; a finished stream says the late ones at its last frame. ``searches``: they
    keep their frame and are open meanwhile, as in a beam.
    """

    def __init__(
        self,
        *,
        slots: int = 8,
        look_aheads: tuple[int, ...] = (6, 0, 1, 13),
        delay_frames: int = 0,
        searches: bool = False,
    ) -> None:
        self._info = EngineInfo(
            model="scripted",
            fingerprint="scripted",
            look_aheads=look_aheads,
            slots=slots,
            precision="fp32",
            decoder="script",
            bytes_per_stream=0,
            turn_tokens=frozenset(PIECES.index(piece) for piece in TURN_PIECES),
        )
        self._tokenizer = Tokenizer(pieces=PIECES)
        self._delay, self._searches = delay_frames, searches
        self._streams: dict[int, _Stream] = {}
        self._last_step: StepStats | None = None

    @property
    def info(self) -> EngineInfo:
        """What runs."""
        return self._info

    @property
    def tokenizer(self) -> Tokenizer:
        """The script's vocabulary."""
        return self._tokenizer

    @property
    def slots_in_use(self) -> int:
        """Streams that hold a slot."""
        return len(self._streams)

    @property
    def last_step(self) -> StepStats | None:
        """Cost of the last step (always 0 s)."""
        return self._last_step

    def prepare(self, biasing: Biasing) -> Iterator[None]:
        """Nothing can be favoured here: ``open`` says so."""
        return iter(())

    def open(
        self, look_ahead: int, *, language: str | None = None, biasing: Biasing = NO_BIASING
    ) -> int:
        """Take a slot."""
        _refuse(biasing)
        if look_ahead not in self._info.look_aheads:
            raise UnsupportedLookAhead(f"look-ahead {look_ahead} is not supported")
        return self._place(_Stream(look_ahead))

    def bias(self, stream: int, biasing: Biasing) -> None:
        """Nothing can be favoured here."""
        _refuse(biasing)

    def feed(self, stream: int, samples: Samples, *, now: float = 0.0) -> None:
        """Append samples."""
        state = self._get(stream)
        if state.finished:
            raise EngineError("audio after finish")
        state.pieces.append(samples.astype(np.float32))
        state.fed += len(samples)

    def lacks(self, stream: int) -> int:
        """How many samples until there is another chunk."""
        return self._get(stream).lacks()

    def finish(self, stream: int) -> None:
        """No more audio."""
        self._get(stream).finished = True

    def drop(self, stream: int) -> None:
        """Free the slot."""
        self._streams.pop(stream, None)

    def fork(self, stream: int) -> int:
        """Copy a stream."""
        state = self._get(stream)
        return self._place(replace(state, late=list(state.late), pieces=deque(state.pieces)))

    def snapshot(self, stream: int) -> bytes:
        """Return the stream as bytes."""
        state = self._get(stream)
        parts = state.look_ahead, state.fed, state.frames, state.finished, state.late
        head = [*parts, state.decode_from]
        body = (
            json.dumps(head).encode() + b"\n" + b"".join(piece.tobytes() for piece in state.pieces)
        )
        return _MAGIC + zlib.crc32(body).to_bytes(4, "little") + body

    def restore(self, blob: bytes) -> int:
        """Open a stream from a snapshot."""
        start = len(_MAGIC) + 4
        body = blob[start:]
        crc = int.from_bytes(blob[len(_MAGIC) : start], "little")
        if blob[: len(_MAGIC)] != _MAGIC or zlib.crc32(body) != crc:
            raise BadSnapshot("not a snapshot of this engine")
        head, audio = body.split(b"\n", 1)
        look_ahead, fed, frames, finished, late, decode_from = json.loads(head)
        pairs = [(due, token) for due, token in late]
        pieces = deque([np.frombuffer(audio, np.float32)])
        parts = look_ahead, fed, frames, finished, pairs, decode_from
        return self._place(_Stream(*parts, pieces))

    def record(self, stream: int) -> bytes:
        """Return the tokens to come and the frame they belong to."""
        state = self._get(stream)
        return json.dumps([state.frames, state.late]).encode()

    def install(self, stream: int, record: bytes) -> None:
        """Say nothing up to the frame of the record, then what it had still to say."""
        state = self._get(stream)
        try:
            state.decode_from, late = json.loads(record)
        except ValueError as error:
            raise BadSnapshot("not a record of this engine") from error
        state.late = [(due, token) for due, token in late]

    def is_ready(self) -> bool:
        """Whether a stream has a whole chunk, or must be flushed."""
        return any(state.is_ready() for state in self._streams.values())

    def step(self) -> list[Emission]:
        """Decode a chunk of every ready stream with the look-ahead of the oldest ready one."""
        ready = [(i, state) for i, state in self._streams.items() if state.is_ready()]
        if not ready:
            return []
        look_ahead = ready[0][1].look_ahead
        batch = [(i, state) for i, state in ready if state.look_ahead == look_ahead]
        emissions = [self._advance(i, state) for i, state in batch]
        self._last_step = StepStats(
            look_ahead=look_ahead, batch=len(batch), frames=look_ahead + 1, seconds=0.0
        )
        for emission in emissions:
            if emission.finished:
                self.drop(emission.stream)
        return emissions

    def warm(self, look_ahead: int) -> None:
        """Nothing to build."""

    def _get(self, stream: int) -> _Stream:
        try:
            return self._streams[stream]
        except KeyError:
            raise UnknownStream(f"no stream {stream}") from None

    def _place(self, state: _Stream) -> int:
        if len(self._streams) >= self._info.slots:
            raise NoFreeSlot(f"all {self._info.slots} slots are taken")
        # numbers are used again at once, as in an engine that counts slots
        stream = min(set(range(self._info.slots)) - self._streams.keys())
        self._streams[stream] = state
        return stream

    def _advance(self, stream: int, state: _Stream) -> Emission:
        due = state.due()
        last = state.frames + due
        finished = state.finished and last >= frames_of(state.fed)
        tokens: list[Token] = []
        while state.frames < last:
            tokens += self._decode_frame(state)
        if finished and state.late:  # the flush says what was still to come
            tokens += [self._token(token, due, last - 1) for due, token in state.late]
            state.late.clear()
        open_ = [self._token(token, due) for due, token in state.late] if self._searches else []
        return Emission(stream, state.frames, tuple(tokens), finished, tuple(open_))

    def _decode_frame(self, state: _Stream) -> list[Token]:
        """Frame j hears cell j - 1: a real frame ends 200 samples after its own start."""
        frame = state.frames
        if frame > 0:
            token = _read_cell(state.take(FRAME_SAMPLES))
            if token is not None and not state.is_silent():
                state.late.append((frame + self._delay, token))
        state.frames += 1
        if frame < state.decode_from:
            return []
        said = [self._token(token, due) for due, token in state.late if due <= frame]
        state.late = [(due, token) for due, token in state.late if due > frame]
        return said

    def _token(self, token: int, due: int, last: int | None = None) -> Token:
        """``last``: the frame in which a stream ended that had not said it yet."""
        sure, at = 0.5 + token % 50 / 100, due if last is None else max(0, last)
        return (
            Token(token, due - self._delay, sure, at) if self._searches else Token(token, at, sure)
        )


def _read_cell(cell: Samples) -> int | None:
    if len(cell) < FRAME_SAMPLES:
        return None
    quarter = _HALF // 4
    digits = []
    for half in (cell[:_HALF], cell[_HALF:]):
        level = round(float(np.median(half[quarter:-quarter])) * 8)
        if level not in _LEVELS:
            return None
        digits.append(_LEVELS.index(level))
    token = digits[0] * len(_LEVELS) + digits[1]
    return token if token < len(PIECES) else None


def _refuse(biasing: Biasing) -> None:
    if biasing.phrases:
        raise BadBiasing("this engine cannot boost phrases")
