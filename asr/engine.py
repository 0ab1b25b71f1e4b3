"""The streaming engine: plan a batch, run encoder and decoder over it, commit.

Does: many streams of any age and look-ahead over one copy of the weights; fork, snapshot, restore.
Does not know: words, turns, sessions, sockets, processes. Time enters as ``now`` only.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from asr import snapshot
from asr.checkpoint import load_checkpoint
from asr.checkpoint.spec import Checkpoint
from asr.decoder.decoding import Decoding, Setup
from asr.encoder.encoder import Encoder, Parts
from asr.encoder.linear import DTYPES, beside
from asr.encoder.pool import SlotPool
from asr.encoder.product import way_of
from asr.encoder.prompt import PromptKernel
from asr.features import FFT, HOP, FrontEnd
from asr.graphs import recorder
from asr.interface import (
    MAX_WEIGHT,
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
    StreamingEngine,
    Token,
    UnknownStream,
    UnsupportedLookAhead,
)
from asr.precision import choose_precision
from asr.runner import Batch, EagerRunner, GraphRunner, Machine, Runner
from asr.schedule import BUCKETS, GPU_LIMITS, Limits, Plan, Ready, bucket, plan_step
from asr.stream import Stream, Take
from asr.tokenizer import Tokenizer

LOUDEST = 32.0
"""Float samples are cut here (30 dB over full scale): caches stay finite whatever is sent."""
LM_WEIGHT = 0.7
"""Best on dev with rivulet-en and a beam."""
MAX_BEAM = 64
FRONT_END = "preprocessor.featurizer."
BEFORE_DECODER = (FRONT_END, "encoder.", "prompt_kernel.")


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """How an engine is set up."""

    slots: int = 16
    """Streams at once, forks included; memory grows linearly with it."""
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    decoder: Literal["auto", "rnnt", "ctc"] = "auto"
    """``auto``: RNN-T when the checkpoint has it."""
    device: str = "cpu"
    decoder_device: str = ""
    """Where the decoder runs; empty: where the encoder does."""
    beam: int | None = None
    """Hypotheses of a search over a CTC head; 1: greedy; None: 24 with a language model."""
    lm: str = "auto"
    """File of a language model for the model's vocabulary; auto: the model's own, if any; none."""
    lm_weight: float | None = None
    """Its share where a stream names none; None: LM_WEIGHT."""
    limits: Limits | None = None
    """None: what suits the device."""
    parts: Parts = "auto"
    """``plain``: what lies between matrix products in torch, even where C++ could be compiled."""
    graphs: bool | None = None
    """Run steps over fixed memory, recorded on a GPU (``asr.graphs``); None: on a GPU."""

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"slots must be at least 1, not {self.slots}")
        if self.beam is not None and not 1 <= self.beam <= MAX_BEAM:
            raise ValueError(f"beam must be 1 to {MAX_BEAM}, not {self.beam}")
        if self.lm_weight is not None and not 0 <= self.lm_weight <= MAX_WEIGHT:
            raise ValueError(f"lm_weight must be 0 to {MAX_WEIGHT:g}, not {self.lm_weight:g}")


class Engine:
    """Our own engine (asr.interface.StreamingEngine)."""

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig | None = None) -> None:
        self._config = config = config or EngineConfig()
        self._spec = spec = checkpoint.spec
        self._checkpoint = checkpoint
        self._device = torch.device(config.device)
        self._precision = choose_precision(config.precision, checkpoint.fingerprint, config.device)
        if self._device.type == "cuda" and self._precision == "fp32":
            # By torch's default convolutions would be TF32, in NVIDIA's containers products too,
            # and the words not those of a CPU.
            torch.backends.cuda.matmul.fp32_precision = "ieee"
            torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
        tensors = {name: t.to(self._device) for name, t in checkpoint.tensors.items()}
        self._front_end = FrontEnd(
            checkpoint.tensors[FRONT_END + "window"].float(),
            checkpoint.tensors[FRONT_END + "fb"].float().squeeze(0),
        )
        self._limits = config.limits or (GPU_LIMITS if self._device.type == "cuda" else Limits())
        widest = max(max(spec.look_aheads) + 1, self._limits.max_steps)
        self._encoder = Encoder(
            tensors, spec, precision=self._precision, max_steps=widest, parts=config.parts
        )
        others = beside(self._precision)
        self._prompt = PromptKernel(tensors, spec, others) if spec.num_prompts else None
        self._pool = SlotPool.allocate(
            spec, config.slots, dtype=DTYPES[self._precision], device=self._device
        )
        setup = Setup(
            slots=config.slots,
            precision=others,
            head=config.decoder,
            beam=config.beam,
            lm={"auto": checkpoint.lm, "none": ""}.get(config.lm, config.lm),
            lm_weight=LM_WEIGHT if config.lm_weight is None else config.lm_weight,
            parts=config.parts,
        )
        self._decoding = Decoding(checkpoint, self._decoder_tensors(tensors), setup)
        self._runner = self._make_runner()
        self._streams: dict[int, Stream] = {}
        self._busy = set[int]()
        """Streams with a chunk to run or an end to tell: noted when something happens to one, since
        to ask each of hundreds for every packet costs more than the packet."""
        self._copies = set[int]()
        self._free = list(range(config.slots - 1, -1, -1))
        self.last_step: StepStats | None = None
        self.trace: Callable[[int, Tensor], None] | None = None
        """Called with (stream, encoder frames [T, D]) after each step, for equivalence tests."""

    @property
    def info(self) -> EngineInfo:
        """What a front end must know of this engine."""
        return EngineInfo(
            model=self._checkpoint.name,
            fingerprint=self._checkpoint.fingerprint,
            look_aheads=self._spec.look_aheads,
            slots=self._config.slots,
            precision=self._precision,
            decoder=self._decoding.name,
            bytes_per_stream=self._pool.bytes_per_slot(),
            languages=tuple(self._spec.prompts) or self._checkpoint.languages,
            turn_tokens=self.tokenizer.turn_tokens,
            late_ms=self._checkpoint.calibration.late_ms,
            alphabet=self._decoding.alphabet,
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's vocabulary."""
        return self._checkpoint.tokenizer

    @property
    def slots_in_use(self) -> int:
        """Streams and forks alive."""
        return len(self._streams)

    def prepare(self, biasing: Biasing) -> Iterator[None]:
        """Compile phrases, a little with each step."""
        return self._decoding.prepare(biasing)

    def open(
        self, look_ahead: int, *, language: str | None = None, biasing: Biasing = NO_BIASING
    ) -> int:
        """Take a slot for a new stream."""
        if look_ahead not in self._spec.look_aheads:
            known = ", ".join(map(str, self._spec.look_aheads))
            raise UnsupportedLookAhead(f"look-ahead {look_ahead} is not one of {known}")
        prompt = self._prompt_id(language)
        self._decoding.check(biasing)
        slot = self._place(Stream.start(self._front_end, look_ahead, prompt))
        self._decoding.bias(slot, biasing)
        return slot

    def bias(self, stream: int, biasing: Biasing) -> None:
        """Favour this from the next step on."""
        self._get(stream)
        self._decoding.check(biasing)
        self._decoding.bias(stream, biasing)

    def feed(self, stream: int, samples: Samples, *, now: float = 0.0) -> None:
        """Append 16 kHz mono samples."""
        state = self._get(stream)
        if state.is_finishing:
            raise EngineError("the stream is finished and takes no more audio")
        samples = np.asarray(samples, np.float32)
        if not np.isfinite(samples).all():
            raise EngineError("samples must be finite numbers")
        state.feed(np.clip(samples, -LOUDEST, LOUDEST), now)
        self._look(stream)

    def lacks(self, stream: int) -> int:
        """How many samples until one chunk more could run."""
        return self._get(stream).lacks()

    def finish(self, stream: int) -> None:
        """Flush what remains in the next steps."""
        state = self._get(stream)
        state.finish()
        if state.source is not None and self._streams[state.source].frames != state.frames:
            state.source = None
        self._look(stream)

    def drop(self, stream: int) -> None:
        """Free the slot."""
        if self._streams.pop(stream, None) is not None:
            self._busy.discard(stream)
            self._copies.discard(stream)
            for copy in map(self._streams.__getitem__, self._copies):
                if copy.source == stream:
                    copy.source = None
            self._decoding.clear(stream)
            self._free.append(stream)

    def fork(self, stream: int) -> int:
        """Copy a stream into a free slot."""
        copy = self._place(self._get(stream).fork())
        self._pool.copy(stream, copy)
        self._decoding.copy(stream, copy)
        self._streams[copy].source = stream
        self._copies.add(copy)
        return copy

    def snapshot(self, stream: int) -> bytes:
        """All that the stream is, for ``restore`` in any engine of the same model and decoder.

        Of another precision too: unlike machines hand streams to each other, and copying converts.
        """
        state = self._get(stream).state()
        rows = self._pool.export_row(stream) | self._decoding.export_row(stream)
        return snapshot.pack(state | rows, self._identity())

    def restore(self, blob: bytes) -> int:
        """Open a stream from a snapshot."""
        tensors = snapshot.unpack(blob, self._identity())
        slot = self._place(Stream.from_state(self._front_end, tensors))
        try:
            self._pool.import_row(slot, tensors)
            self._decoding.import_row(slot, tensors)
        except (KeyError, ValueError, TypeError, RuntimeError, BadBiasing) as error:
            self.drop(slot)
            raise BadSnapshot("the snapshot does not fit this model") from error
        return slot

    def record(self, stream: int) -> bytes:
        """Return the decoder's row and the frame it belongs to."""
        frame = {"frame": torch.tensor(self._get(stream).frames)}
        return snapshot.pack(frame | self._decoding.export_place(stream), self._identity())

    def install(self, stream: int, record: bytes) -> None:
        """Take up a decoder's row; the stream reaches its frame by encoding alone."""
        state, tensors = self._get(stream), snapshot.unpack(record, self._identity())
        try:
            self._decoding.import_place(stream, tensors)
            state.decode_from = int(tensors["frame"])
            self._look(stream)
        except (KeyError, ValueError, RuntimeError) as error:
            raise BadSnapshot("the record does not fit this model") from error

    def is_ready(self) -> bool:
        """Whether a step has something to do."""
        return bool(self._going())

    @torch.inference_mode()
    def step(self) -> list[Emission]:
        """Plan a batch, run it, commit."""
        done = [self._end(slot) for slot, s in self._going().items() if s.is_done()]
        ready = [
            Ready(slot, stream.look_ahead, chunks, stream.due)
            for slot, stream in self._going().items()
            if (chunks := stream.chunks_ready())
        ]
        plan = plan_step(ready, self._limits)
        return done + (self._run(plan) if plan else [])

    @torch.inference_mode()
    def warm(self, look_ahead: int, sizes: Sequence[int] | None = None) -> None:
        """Run every batch bucket, or these, once through the streaming path on the spare slot."""
        spare, steps = self._pool.spare, look_ahead + 1
        most = max(1, min(self._limits.most_rows(steps), self._config.slots))
        none = torch.zeros(0, self._spec.mel_bins)
        silence = np.zeros((8 * steps - 1) * HOP + FFT, np.float32)
        take = Take(0, none, silence, steps, (0, 0), (4 * steps, 2 * steps))
        # The largest first: the others find its memory there.
        for rows in sorted(sizes or {bucket(size) for size in (*BUCKETS, most) if size <= most})[
            ::-1
        ]:
            batch = Batch([take] * rows, [spare] * rows, [0] * rows, [], look_ahead, steps)
            self._runner.warm(batch)
        self._pool.clear(spare)
        self._decoding.clear(spare)

    def _run(self, plan: Plan) -> list[Emission]:
        began = time.perf_counter()
        steps = plan.chunks * (plan.look_ahead + 1)
        streams = [self._streams[slot] for slot in plan.streams]
        takes = [stream.take(steps) for stream in streams]
        for slot in plan.streams:
            self._look(slot)
        batch = Batch(
            takes,
            slots=list(plan.streams),
            prompts=[stream.prompt or 0 for stream in streams],
            silent=[row for row, s in enumerate(streams) if s.frames <= s.decode_from],
            look_ahead=plan.look_ahead,
            steps=steps,
        )
        x, rows = self._runner.run(batch)
        if self.trace:
            for row, (slot, take) in enumerate(zip(plan.streams, takes, strict=True)):
                self.trace(slot, x[row, : take.valid])
        emissions = []
        for slot, stream, heard in zip(plan.streams, streams, rows, strict=False):
            tokens, is_done = heard.decided, stream.is_done()
            if is_done:
                tokens += self._flush(slot)
            open_ = () if is_done else tuple(heard.open)
            emissions.append(Emission(slot, stream.frames, tuple(tokens), is_done, open_))
        for emission in emissions:
            if emission.finished:
                self.drop(emission.stream)
        self.last_step = StepStats(
            look_ahead=plan.look_ahead,
            batch=len(streams),
            frames=steps,
            seconds=time.perf_counter() - began,
        )
        return emissions

    def _decoder_tensors(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights behind the encoder, where the decoder runs."""
        device = torch.device(self._config.decoder_device or self._config.device)
        behind = {k: v for k, v in tensors.items() if not k.startswith(BEFORE_DECODER)}
        return {name: tensor.to(device) for name, tensor in behind.items()}

    def _make_runner(self) -> Runner:
        on_gpu = self._device.type == "cuda"
        is_fixed = on_gpu if self._config.graphs is None else self._config.graphs
        front_end = self._front_end.to(self._device) if is_fixed else self._front_end
        machine = Machine(
            front_end, self._encoder, self._prompt, self._pool, self._decoding, self._device
        )
        if is_fixed:
            return GraphRunner(machine, recorder(self._device))
        return EagerRunner(machine, pads=way_of(self._precision) is None)

    def _end(self, slot: int) -> Emission:
        frames, tokens = self._streams[slot].frames, self._flush(slot)
        self.drop(slot)
        return Emission(slot, frames, tuple(tokens), finished=True)

    def _look(self, slot: int) -> None:
        """Note whether a stream has something to do."""
        stream = self._streams[slot]
        if stream.chunks_ready() or stream.is_done():
            self._busy.add(slot)
        else:
            self._busy.discard(slot)

    def _going(self) -> dict[int, Stream]:
        """Return the busy streams that do not wait for what a copy says for them."""
        copies = (self._streams[slot] for slot in self._copies)
        waiting = {copy.source for copy in copies if copy.is_finishing}
        return {slot: self._streams[slot] for slot in sorted(self._busy - waiting)}

    def _flush(self, slot: int) -> list[Token]:
        """Return what a stream that ends had not told; whom it speaks for holds to it."""
        tokens, source = self._decoding.flush(slot), self._streams[slot].source
        if source is not None:
            self._decoding.agree(source, slot)
        return tokens

    def _place(self, stream: Stream) -> int:
        if not self._free:
            raise NoFreeSlot(f"all {self._config.slots} slots are taken")
        slot = self._free.pop()
        self._pool.clear(slot)
        self._decoding.clear(slot)
        self._streams[slot] = stream
        self._look(slot)
        return slot

    def _get(self, stream: int) -> Stream:
        try:
            return self._streams[stream]
        except KeyError:
            raise UnknownStream(f"stream {stream} is not open") from None

    def _prompt_id(self, language: str | None) -> int | None:
        prompts = self._spec.prompts
        if not self._spec.num_prompts:
            return None
        wanted = language or ("auto" if "auto" in prompts else next(iter(prompts), ""))
        if wanted not in prompts:
            raise EngineError(f"the model has no prompt for language {wanted!r}")
        return prompts[wanted]

    def _identity(self) -> dict[str, str]:
        return {
            "fingerprint": self._checkpoint.fingerprint,
            "decoder": self._decoding.name,
        }


def load_engine(
    model: str, config: EngineConfig | None = None, *, backend: Literal["own", "nemo"] = "own"
) -> StreamingEngine:
    """Open a checkpoint by path or name and make an engine for it."""
    if backend == "nemo":
        from asr.reference import NemoEngine  # NeMo takes seconds to import and may be absent

        config = config or EngineConfig()
        if config.lm not in ("auto", "none") or (config.beam or 1) > 1:
            raise EngineError("a language model and a beam need our own engine")
        return NemoEngine.load(model, slots=config.slots)
    return Engine(load_checkpoint(model), config)
