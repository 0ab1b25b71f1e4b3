"""Many live channels over one engine: audio in, transcript events out.

Does: open, feed, gap, configure, finalize, stop and drop channels; own every slot they use.
Does not know: sessions, sockets, threads, wall-clock time. Single-threaded like its engine;
``step`` is the only call that takes time (with phrases that were prepared).
"""

from collections.abc import Iterator
from dataclasses import replace

from asr import state
from asr.channel import Channel
from asr.events import Event
from asr.interface import (
    FRAME_SAMPLES,
    PATIENT,
    SAMPLE_RATE_HZ,
    BadSnapshot,
    Biasing,
    EngineError,
    NoFreeSlot,
    Samples,
    StreamingEngine,
    heard_samples,
)
from asr.options import ChannelOptions, Partials
from asr.turns import Endpointing

__all__ = [
    "ChannelOptions",
    "ChannelStopping",
    "Endpointing",
    "LiveError",
    "Partials",
    "Recognizer",
    "TooManyRequests",
    "UnknownChannel",
]

MAX_WAITING_FINALIZES = 32


class LiveError(Exception):
    """Base of what a recogniser refuses."""


class UnknownChannel(LiveError, LookupError):
    """The channel was dropped, has stopped, or was never opened here."""


class ChannelStopping(LiveError):
    """The channel was told to stop: nothing may follow."""


class TooManyRequests(LiveError):
    """Too many finalize requests of one channel wait for an answer."""


class Recognizer:
    """Live channels over one engine.

    A finalize needs a slot for a moment. ``fork_slots`` keeps some from being opened as channels,
    so that a full engine still answers; several channels that finalize at once take turns.
    """

    def __init__(self, engine: StreamingEngine, *, fork_slots: int = 1) -> None:
        self._engine = engine
        self.capacity = max(1, engine.info.slots - fork_slots)
        self._channels: dict[int, Channel] = {}
        self._by_stream: dict[int, int] = {}
        """Live streams and forks that hold a slot, to their channel (an engine reuses numbers)."""
        self._wanting: dict[int, None] = {}
        """Channels that wait for a fork, in the order of asking."""
        self._next = 0

    @property
    def engine(self) -> StreamingEngine:
        """The engine underneath."""
        return self._engine

    @property
    def channels(self) -> int:
        """Channels that are open."""
        return len(self._channels)

    def prepare(self, biasing: Biasing) -> Iterator[None]:
        """Make ready to favour this, a little with each step; raises BadBiasing."""
        return self._engine.prepare(biasing)

    def open(self, options: ChannelOptions) -> int:
        """Open a channel. Raises NoFreeSlot, UnsupportedLookAhead, AudioError (bad rate)."""
        if len(self._channels) >= self.capacity:
            raise NoFreeSlot(f"all {self.capacity} channels are taken")
        stream = self._engine.open(
            options.look_ahead, language=options.language, biasing=options.biasing
        )
        try:
            entry = Channel(
                stream, options, self._engine.tokenizer, late_ms=self._engine.info.late_ms
            )
        except ValueError:
            self._engine.drop(stream)
            raise
        channel, self._next = self._next, self._next + 1
        self._channels[channel] = entry
        self._by_stream[stream] = channel
        return channel

    def feed(self, channel: int, samples: Samples, *, now: float = 0.0) -> None:
        """Append mono samples (-1..1) of the channel's rate; ``now`` is their arrival time."""
        entry = self._streaming(channel)
        self._hear(entry, entry.audio(samples), now)

    def lacks(self, channel: int) -> int:
        """Return how many samples of its rate it takes until one chunk more could run."""
        entry = self._streaming(channel)
        return entry.lacks(self._engine.lacks(entry.stream))

    def gap(self, channel: int, samples: int) -> None:
        """So many samples were lost: the clock goes on, words stay where they were said."""
        entry = self._streaming(channel)
        if samples > 0:  # due with what comes behind them
            self._hear(entry, entry.gap(samples), PATIENT)

    def configure(
        self,
        channel: int,
        *,
        partials: Partials | None = None,
        words: bool | None = None,
        endpointing: Endpointing | None = None,
        biasing: Biasing | None = None,
    ) -> None:
        """Change options from here on; None leaves one as it is. Raises BadBiasing."""
        entry = self._streaming(channel)
        old = entry.options
        if biasing is not None:
            self._engine.bias(entry.stream, biasing)
        entry.configure(
            replace(
                old,
                partials=old.partials if partials is None else partials,
                words=old.words if words is None else words,
                endpointing=old.endpointing if endpointing is None else endpointing,
                biasing=old.biasing if biasing is None else biasing,
            )
        )

    def finalize(self, channel: int, req: str) -> None:
        """Ask for every word up to now as finals; ``Finalized(req, ...)`` follows them."""
        entry = self._streaming(channel)
        if len(entry.waiting) >= MAX_WAITING_FINALIZES:
            raise TooManyRequests(f"{MAX_WAITING_FINALIZES} finalize requests wait already")
        entry.waiting.append(req)
        self._wanting[channel] = None
        self._fork_waiting()

    def stop(self, channel: int) -> None:
        """No more audio: flush, publish everything; with ``Stopped`` the channel is gone."""
        entry = self._streaming(channel)
        entry.is_stopping = True
        self._wanting.pop(channel, None)  # the flush itself answers them
        self._hear(entry, entry.flush_audio(), 0.0)
        self._engine.finish(entry.stream)

    def drop(self, channel: int) -> None:
        """Forget a channel and free its slots at once. Idempotent."""
        entry = self._channels.pop(channel, None)
        if entry is None:
            return
        self._wanting.pop(channel, None)
        for stream in [stream for stream, owner in self._by_stream.items() if owner == channel]:
            self._free(stream)

    def snapshot(self, channel: int) -> bytes | None:
        """All that a channel is; None while a finalize or a stop is under way."""
        entry = self._channels[channel]
        if not entry.is_quiet:
            return None
        whole = {"hearing": entry.hearing(), "reading": entry.reading()}
        return state.pack(whole, self._engine.snapshot(entry.stream), checks_itself=True)

    def record(self, channel: int) -> bytes:
        """Return what it takes to go on behind the last final: small.

        The audio before it is to be encoded again.
        To be asked for in the step that brought the final.
        """
        entry = self._channels[channel]
        if not entry.is_settled:
            raise AssertionError("a final was read and something in front of it was not")
        return state.pack({"reading": entry.reading()}, self._engine.record(entry.stream))

    def restore(
        self, options: ChannelOptions, *, snapshot: bytes | None, record: bytes | None
    ) -> int:
        """Open a channel as a snapshot (None: the start) and a later record left it.

        The audio behind the snapshot is to be fed again. Raises as ``open``, and BadSnapshot.
        """
        channel = self.open(options)
        try:
            if snapshot is not None:
                self._take_up(channel, snapshot)
            if record is not None:
                parts, blob = state.unpack(record)
                entry = self._channels[channel]
                entry.restore(entry.hearing(), parts["reading"])
                self._engine.install(entry.stream, blob)
        except (KeyError, TypeError, IndexError) as error:
            self.drop(channel)
            raise BadSnapshot("the state of a channel lacks a part") from error
        except EngineError:
            self.drop(channel)
            raise
        return channel

    def _take_up(self, channel: int, snapshot: bytes) -> None:
        parts, blob = state.unpack(snapshot)
        entry = self._channels[channel]
        self._free(entry.stream)
        entry.stream = self._engine.restore(blob)
        self._by_stream[entry.stream] = channel
        self._engine.bias(entry.stream, entry.options.biasing)
        entry.restore(parts["hearing"], parts["reading"])

    def is_behind(self, channel: int) -> bool:
        """Whether a chunk of the audio given so far is not decoded yet."""
        entry = self._channels[channel]
        frames = entry.heard_frames + entry.options.look_ahead + 1
        return entry.heard_16k >= heard_samples(frames)

    def undecoded_s(self, channel: int) -> float:
        """Seconds of the audio given so far that are not decoded; 0 of a channel that is gone."""
        entry = self._channels.get(channel)
        if entry is None:
            return 0.0
        return (entry.heard_16k - FRAME_SAMPLES * entry.heard_frames) / SAMPLE_RATE_HZ

    def is_ready(self) -> bool:
        """Whether ``step`` would do something now."""
        return self._engine.is_ready()

    def step(self) -> list[tuple[int, Event]]:
        """Run one batch of the engine; the events of each channel come in their order."""
        self._fork_waiting()
        touched: dict[int, None] = {}
        for emission in self._engine.step():
            channel = self._by_stream.get(emission.stream)
            if channel is None:
                continue
            touched[channel] = None
            self._channels[channel].receive(emission)
            if emission.finished:
                self._free(emission.stream)
        events = [
            (channel, event) for channel in touched for event in self._channels[channel].read()
        ]
        for channel in touched:
            if self._channels[channel].is_closed:
                del self._channels[channel]
        self._fork_waiting()
        return events

    def _streaming(self, channel: int) -> Channel:
        entry = self._channels.get(channel)
        if entry is None:
            raise UnknownChannel(f"no channel {channel}")
        if entry.is_stopping:
            raise ChannelStopping(f"channel {channel} is stopping")
        return entry

    def _hear(self, entry: Channel, samples: Samples, now: float) -> None:
        if len(samples):
            self._engine.feed(entry.stream, samples, now=now)

    def _free(self, stream: int) -> None:
        self._by_stream.pop(stream, None)
        self._engine.drop(stream)

    def _fork_waiting(self) -> None:
        """Fork the channels that wait, oldest first, one fork each, while there are slots."""
        for channel in list(self._wanting):
            entry = self._channels[channel]
            if entry.fork is not None:
                continue
            try:
                fork = self._engine.fork(entry.stream)
            except NoFreeSlot:
                return
            del self._wanting[channel]
            self._by_stream[fork] = channel
            self._hear_fork(fork, entry)

    def _hear_fork(self, fork: int, entry: Channel) -> None:
        owed = entry.owed_audio()
        entry.begin_fork(fork)
        if len(owed):
            self._engine.feed(fork, owed)
        self._engine.finish(fork)
