"""The voice gate: where nobody speaks, time passes up the link instead of audio.

Does: judge frames of 20 ms (WebRTC's detector), keep what is just before speech (pre-roll) and
just after it (hangover), tell the rest as silence.
Does not know: feeds, legs, links. Off unless asked for: ``tests.bench.gate`` says what it costs.
"""

from collections import deque

import numpy as np

from asr.audio import decode
from edge.media import Piece
from edge.wire import SAMPLE_BYTES, Encoding

FRAME_MS = 20
PRE_ROLL_MS = 300
HANGOVER_MS = 600
AGGRESSIVENESS = 1
"""Of 0 to 3: how readily the detector calls a frame silent."""
INAUDIBLE = 32
"""A frame without a louder sample (of 32768) is silent: A-law has no zero, and the detector hears
its least level."""
RATES_HZ = (8_000, 16_000, 32_000, 48_000)
"""What the detector knows."""


def is_gateable(encoding: Encoding, rate: int) -> bool:
    """Whether a gate can hear such audio: packets of a codec pass as they are."""
    return SAMPLE_BYTES[encoding] > 0 and rate in RATES_HZ


class Gate:
    """One track. Audio comes out in its order, at most pre-roll and one frame later."""

    def __init__(self, encoding: Encoding, rate: int) -> None:
        import webrtcvad

        self._encoding, self._rate = encoding, rate
        self._detector = webrtcvad.Vad(AGGRESSIVENESS)
        self._frame = rate * FRAME_MS // 1_000
        self._bytes = self._frame * SAMPLE_BYTES[encoding]
        self._open_frames = 0
        self._rest = b""
        """Less than a frame, not judged yet."""
        self._quiet = deque[bytes]()
        """The newest frames without speech: pre-roll, if speech comes."""

    @property
    def held(self) -> int:
        """Samples that came in and did not go out yet."""
        return self._frame * len(self._quiet) + len(self._rest) // SAMPLE_BYTES[self._encoding]

    def receive(self, samples: int, data: bytes | None) -> list[Piece]:
        """Take what follows; None: time passed unheard."""
        if data is None:
            return [*self.flush(), Piece(samples, None)]
        data = self._rest + data
        whole = len(data) - len(data) % self._bytes
        self._rest = data[whole:]
        pieces = list[Piece]()
        for at in range(0, whole, self._bytes):
            pieces += self._judge(data[at : at + self._bytes])
        return _joined(pieces)

    def flush(self) -> list[Piece]:
        """Give what is held: no speech follows it."""
        silent, self._quiet = self._frame * len(self._quiet), deque()
        rest, self._rest = self._rest, b""
        pieces = [Piece(silent, None)] if silent else []
        if rest:
            pieces.append(Piece(len(rest) // SAMPLE_BYTES[self._encoding], rest))
        return pieces

    def _judge(self, frame: bytes) -> list[Piece]:
        if self._is_speech(frame):
            self._open_frames = HANGOVER_MS // FRAME_MS
            heard = [Piece(self._frame, quiet) for quiet in self._quiet]
            self._quiet.clear()
            return [*heard, Piece(self._frame, frame)]
        if self._open_frames:
            self._open_frames -= 1
            return [Piece(self._frame, frame)]
        self._quiet.append(frame)
        if len(self._quiet) <= PRE_ROLL_MS // FRAME_MS:
            return []
        self._quiet.popleft()
        return [Piece(self._frame, None)]

    def _is_speech(self, frame: bytes) -> bool:
        pcm = (decode(frame, self._encoding)[0] * 32_767).astype(np.int16)
        loud = np.abs(pcm.astype(np.int32)).max() > INAUDIBLE
        return bool(loud) and bool(self._detector.is_speech(pcm.tobytes(), self._rate))


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Join neighbours of one kind: a call of the link for each costs more than its bytes."""
    joined = list[Piece]()
    for piece in pieces:
        last = joined[-1] if joined else None
        if last is None or (last.data is None) is not (piece.data is None):
            joined.append(piece)
        else:
            data = None if piece.data is None or last.data is None else last.data + piece.data
            joined[-1] = Piece(last.samples + piece.samples, data)
    return joined
