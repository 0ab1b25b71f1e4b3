"""A rival that nobody ships: NeMo 3.0.0's buffered pipeline behind a socket, as well as it can be.

Does: a chunk of every stream that has one in each step, never idle while there is one; each chunk
answered in the language of NeMo-Speech.cpp, which says how far it has heard.
Does not know: models (``subjects`` builds the pipeline), load, admission: who comes is served.
"""

import asyncio
import contextlib
import itertools
import json
import signal
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.bench.subjects import FRAME_SAMPLES, Spec, build_pipeline, frame_of, started

RATE_HZ = 16_000
SAMPLE_BYTES = 2
WARM_STEPS = 3
TRANSCRIPTION = "conversation.item.input_audio_transcription."


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk of one stream."""

    stream: int
    samples: "np.ndarray"
    is_first: bool
    lacking: int | None
    """Samples short of a chunk, of the last piece; None: another one will come."""


class Pipeline(Protocol):
    """Streams that are advanced together."""

    def step(self, pieces: Sequence[Piece]) -> Sequence[str]:
        """Hear a piece of each of some streams; return the whole text of each so far."""

    def forget(self, stream: int) -> None:
        """Let go of a stream; one that is not known is no error."""


class Buffered:
    """NeMo's pipeline."""

    def __init__(self, spec: Spec) -> None:
        self._pipeline: Any = build_pipeline(spec)
        self._finals: defaultdict[int, str] = defaultdict(str)
        silence = np.zeros(FRAME_SAMPLES * (spec.look_ahead + 1), np.float32)
        for number in range(WARM_STEPS):
            self.step([Piece(-1, silence, number == 0, None)])
        self.forget(-1)

    def step(self, pieces: Sequence[Piece]) -> Sequence[str]:
        """Make one ``transcribe_step`` of all."""
        frames = [
            frame_of(
                torch.from_numpy(piece.samples),
                piece.stream,
                is_first=piece.is_first,
                lacking=piece.lacking,
            )
            for piece in pieces
        ]
        texts = []
        for piece, heard in zip(pieces, self._pipeline.transcribe_step(frames), strict=True):
            self._finals[piece.stream] += heard.final_transcript
            texts.append(f"{self._finals[piece.stream]} {heard.partial_transcript}".strip())
        return texts

    def forget(self, stream: int) -> None:
        """Drop its state and its audio."""
        self._pipeline.delete_state(stream)
        self._pipeline.bufferer.rm_bufferer(stream)
        self._finals.pop(stream, None)


class Answer(NamedTuple):
    """What a stream is told."""

    text: str
    done: int
    """Samples heard."""
    is_over: bool = False


@dataclass(slots=True, eq=False)
class Stream:
    """Audio that waits, and answers that wait to be sent."""

    number: int
    waiting: bytearray = field(default_factory=bytearray)
    answers: "asyncio.Queue[Answer]" = field(default_factory=asyncio.Queue)
    text: str = ""
    done: int = 0
    """Samples heard."""
    has_ended: bool = False
    has_left: bool = False


class Batcher:
    """The loop that is never idle while a stream has a chunk."""

    def __init__(self, pipeline: Pipeline, chunk: int, most: int) -> None:
        """``chunk`` in samples; ``most`` streams a step."""
        self._pipeline = pipeline
        self._chunk = chunk
        self._most = most
        self._numbers = itertools.count()
        self._streams: list[Stream] = []
        """The one that waits longest for its turn first."""
        self._news = asyncio.Event()

    def open(self) -> Stream:
        """Return a new stream."""
        stream = Stream(next(self._numbers))
        self._streams.append(stream)
        return stream

    def hear(self, stream: Stream, message: str | bytes) -> None:
        """Take what a client says. Raises ValueError for what is no part of the language."""
        if isinstance(message, bytes):
            if stream.has_ended or len(message) % SAMPLE_BYTES:
                raise ValueError("audio is whole samples, before the commit")
            stream.waiting += message
        else:
            said = json.loads(message)
            kind = said.get("type") if isinstance(said, dict) else None
            if kind not in ("session.update", "input_audio_buffer.commit"):
                raise ValueError("no such event")
            stream.has_ended |= kind == "input_audio_buffer.commit"
        self._news.set()

    def leave(self, stream: Stream) -> None:
        """Take note that nobody waits for its answers."""
        stream.has_left = True
        self._news.set()

    async def run(self) -> None:
        """Step until cancelled. What the pipeline raises ends the server: a measurement is void."""
        while True:
            await self._news.wait()
            self._news.clear()
            while batch := self._batch():
                pieces = [self._piece(stream) for stream in batch]
                texts = await asyncio.to_thread(self._pipeline.step, pieces)
                for stream, piece, text in zip(batch, pieces, texts, strict=True):
                    stream.text, stream.done = text, stream.done + len(piece.samples)
                    if piece.lacking is None:
                        stream.answers.put_nowait(Answer(text, stream.done))

    def _batch(self) -> Sequence[Stream]:
        """Return whose turn it is, and let go of those that are over."""
        for stream in [s for s in self._streams if s.has_left or (s.has_ended and not s.waiting)]:
            self._streams.remove(stream)
            self._pipeline.forget(stream.number)
            stream.answers.put_nowait(Answer(stream.text, stream.done, is_over=True))
        whole = SAMPLE_BYTES * self._chunk
        due = [s for s in self._streams if s.has_ended or len(s.waiting) >= whole][: self._most]
        self._streams = [s for s in self._streams if s not in due] + due
        return due

    def _piece(self, stream: Stream) -> Piece:
        size = SAMPLE_BYTES * self._chunk
        samples = np.frombuffer(bytes(stream.waiting[:size]), "<i2").astype(np.float32) / 32_768
        del stream.waiting[:size]
        is_last = stream.has_ended and not stream.waiting
        lacking = self._chunk - len(samples) if is_last else None
        return Piece(stream.number, samples, stream.done == 0, lacking)


async def converse(batcher: Batcher, socket: ServerConnection) -> None:
    """Serve a connection; what is wrong with it is its own affair."""
    stream = batcher.open()
    telling = asyncio.create_task(_tell(socket, stream))
    try:
        with contextlib.suppress(ConnectionClosed):
            async for message in socket:
                batcher.hear(stream, message)
    except ValueError as wrong:
        await socket.close(1007, str(wrong)[:100])
    finally:
        batcher.leave(stream)
        telling.cancel()
        await asyncio.wait([telling])


async def _tell(socket: ServerConnection, stream: Stream) -> None:
    async def say(kind: str, **fields: object) -> None:
        await socket.send(json.dumps({"type": kind} | fields))

    with contextlib.suppress(ConnectionClosed):
        await say("session.created")
        said = ""
        while not (answer := await stream.answers.get()).is_over:
            delta, said = answer.text.removeprefix(said), answer.text
            await say(TRANSCRIPTION + "delta", delta=delta, audio_processed=answer.done / RATE_HZ)
        await say(TRANSCRIPTION + "completed", transcript=answer.text)
        await say("input_audio_buffer.committed")


@contextlib.contextmanager
def server(spec: Spec) -> Iterator[str]:
    """Run it in a process of its own; yields its URL."""
    with started(work, spec) as (_, port):
        yield f"ws://127.0.0.1:{port}"


def work(peer: Connection, spec: Spec) -> None:
    """Serve until ended: the target of a process, which tells its port when it is ready."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    torch.set_num_threads(1)
    asyncio.run(_serve(peer, spec))


async def _serve(peer: Connection, spec: Spec) -> None:
    chunk = FRAME_SAMPLES * (spec.look_ahead + 1)
    batcher = Batcher(Buffered(spec), chunk, max(spec.batches))

    async def answer(socket: ServerConnection) -> None:
        await converse(batcher, socket)

    async with serve(answer, "127.0.0.1", 0, compression=None) as listening:
        peer.send(listening.sockets[0].getsockname()[1])
        await batcher.run()
