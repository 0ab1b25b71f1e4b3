"""Engines whose steps are timed, each in a process of its own so that none disturbs another.

Does: our recogniser and NeMo 3.0.0's pipelines behind one interface: advance B live streams by one
chunk, from samples to text. Left context is full before anything is timed.
Does not know: what is done with the times, sockets.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal, Protocol

import numpy as np
import torch

from asr.encoder.linear import Precision, make_linear
from asr.engine import EngineConfig, load_engine
from asr.interface import Emission, StreamingEngine
from asr.live import Recognizer
from asr.options import ChannelOptions
from server.worker import link
from tests.equivalence.models import audio

FRAME_SAMPLES = 1_280
FIRST_EXTRA = 200
"""Samples that our first frame needs beyond its own."""
CONTEXT_S = 5.6
"""70 encoder frames."""
MATERIAL_S = 20.0
VOICES = 16
GEMM_SHAPE = (512, 2048)
GEMM_REPEATS = 20
START_TIMEOUT_S = 900.0

Mode = Literal["cache", "nocache", "buffered"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """Which engine, and what it has to be ready for."""

    kind: Literal["ours", "nemo", "sherpa"]
    model: str
    look_ahead: int
    batches: tuple[int, ...]
    precision: Precision = "fp32"
    """NeMo computes in fp32 on a CPU whatever it is told."""
    mode: Mode = "cache"
    core: int | None = None
    """The only core it may run on; None: any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Asked of a process with our engine: so many steps, answered with a Timing of them all."""

    rows: int
    count: int
    save_every: int = 0
    """Steps between two snapshots of a stream, by turns of the streams; 0: none."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One step."""

    wall_ms: float
    cpu_ms: float
    tokens: int


class Subject(Protocol):
    """An engine with groups of live streams, one group for each batch size."""

    def step(self, rows: int) -> int:
        """Advance the group of ``rows`` streams by a chunk; return the tokens said."""


class Ours:
    """Our engine with everything a worker does for a step: features to events of the transcript."""

    def __init__(self, spec: Spec) -> None:
        slots = sum(spec.batches) + 1
        engine = load_engine(spec.model, EngineConfig(slots=slots, precision=spec.precision))
        engine.warm(spec.look_ahead)
        self._tokens = 0
        self._count_tokens(engine)
        self._recognizer = Recognizer(engine)
        self._chunk = FRAME_SAMPLES * (spec.look_ahead + 1)
        self._voices = [audio(MATERIAL_S, seed) for seed in range(VOICES)]
        options = ChannelOptions(look_ahead=spec.look_ahead)
        self._groups = {
            rows: [self._recognizer.open(options) for _ in range(rows)] for rows in spec.batches
        }
        self._at = dict.fromkeys(spec.batches, 0)
        chunks = -(-int(CONTEXT_S * 16_000) // self._chunk)
        for rows in spec.batches:
            self._feed(rows, chunks * self._chunk + FIRST_EXTRA)
            self._drain()

    def step(self, rows: int) -> int:
        """Feed a chunk to every stream of the group and run."""
        self._feed(rows, self._chunk)
        return self._drain()

    def save(self, rows: int, number: int, every: int) -> int:
        """Write snapshots as a worker does, of the streams whose turn it is; return their bytes."""
        size = 0
        for stream in range(number % every, rows, every):
            blob = self._recognizer.snapshot(self._groups[rows][stream])
            size += len(link.frame(link.Saved(stream, 0, (blob or b"",))))
        return size

    def _feed(self, rows: int, count: int) -> None:
        begin = self._at[rows]
        for number, channel in enumerate(self._groups[rows]):
            voice = self._voices[number % VOICES]
            where = (begin + number * 997 + np.arange(count)) % len(voice)
            self._recognizer.feed(channel, voice[where])
        self._at[rows] = begin + count

    def _drain(self) -> int:
        before = self._tokens
        while self._recognizer.is_ready():
            self._recognizer.step()
        return self._tokens - before

    def _count_tokens(self, engine: StreamingEngine) -> None:
        """Look over the engine's shoulder: the recogniser only tells of text."""
        run = engine.step

        def step() -> list[Emission]:
            emissions = run()
            self._tokens += sum(len(emission.tokens) for emission in emissions)
            return emissions

        engine.step = step  # type: ignore[method-assign]


class Nemo:
    """A streaming pipeline of NeMo 3.0.0, driven one frame of audio per stream and call."""

    def __init__(self, spec: Spec) -> None:
        self._pipeline = build_pipeline(spec)
        self._chunk = FRAME_SAMPLES * (spec.look_ahead + 1)
        self._voices = [torch.from_numpy(audio(MATERIAL_S, seed)) for seed in range(VOICES)]
        self._steps = dict.fromkeys(spec.batches, 0)
        self._first = {rows: sum(spec.batches[:i]) for i, rows in enumerate(spec.batches)}
        self._tokens = 0
        self._count_tokens()
        for rows in spec.batches:
            for _ in range(-(-int(CONTEXT_S * 16_000) // self._chunk)):
                self.step(rows)

    def step(self, rows: int) -> int:
        """Hand the pipeline a frame of every stream of the group."""
        step, chunk = self._steps[rows], self._chunk
        self._steps[rows] = step + 1
        frames, streams = [], range(self._first[rows], self._first[rows] + rows)
        for number, stream in enumerate(streams):
            voice = self._voices[number % VOICES]
            begin = (step * chunk + number * 997) % (len(voice) - chunk)
            samples = voice[begin : begin + chunk]
            frames.append(frame_of(samples, stream, is_first=step == 0))
        before = self._tokens
        self._pipeline.transcribe_step(frames)
        return self._tokens - before

    def _count_tokens(self) -> None:
        """Look at the tokens of each step before the pipeline clears them."""
        from nemo.collections.asr.inference.streaming.state.state import StreamingState

        clear = StreamingState.cleanup_after_response

        def counted(state: Any) -> None:
            self._tokens += len(state.current_step_tokens)
            clear(state)

        StreamingState.cleanup_after_response = counted


def build_pipeline(spec: Spec) -> Any:
    """Return a streaming pipeline of NeMo, its session open."""
    from nemo.collections.asr.inference.factory.pipeline_builder import PipelineBuilder
    from nemo.utils import logging
    from omegaconf import OmegaConf

    logging.setLevel(logging.ERROR)
    pipeline: Any = PipelineBuilder.build_pipeline(OmegaConf.create(pipeline_config(spec)))
    if spec.mode == "buffered":
        _spare_features(pipeline)
    pipeline.open_session()
    return pipeline


def _spare_features(pipeline: Any) -> None:
    """Leave features as they are where the model was made for that.

    The buffered pipeline normalizes them whatever the model says. Random weights, whose blanks are
    tuned, would then say 80 tokens a second in place of 4, and a step cost half as much again.
    """
    from nemo.collections.asr.inference.pipelines import buffered_rnnt_pipeline

    if pipeline.asr_model.asr_model.cfg.preprocessor.normalize == "NA":
        buffered_rnnt_pipeline.normalize_features = lambda features, lengths=None: features


def frame_of(
    samples: torch.Tensor, stream: int, *, is_first: bool, lacking: int | None = None
) -> Any:
    """Return a chunk as NeMo's pipelines take it.

    ``lacking``: samples that the last one of a stream is short of a chunk; None: not the last.
    """
    from nemo.collections.asr.inference.streaming.framing.request import Frame
    from nemo.collections.asr.inference.streaming.framing.request_options import ASRRequestOptions

    return Frame(
        samples=torch.nn.functional.pad(samples, (0, lacking or 0)),
        stream_id=stream,
        is_first=is_first,
        is_last=lacking is not None,
        length=len(samples),
        options=ASRRequestOptions() if is_first else None,
    )


def pipeline_config(spec: Spec) -> dict[str, Any]:
    """Return NeMo's own settings for a pipeline with greedy RNN-T decoding on one CPU thread."""
    is_cached = spec.mode == "cache"
    greedy = {
        "use_cuda_graph_decoder": False,
        "max_symbols": 10,
        "preserve_frame_confidence": False,
    }
    decoding = {
        "strategy": "greedy_batch",
        "preserve_alignments": False,
        "fused_batch_size": -1,
        "greedy": greedy,
    }
    return {
        "pipeline_type": "buffered" if spec.mode == "buffered" else "cache_aware",
        "asr_decoding_type": "rnnt",
        "asr": {
            "model_name": spec.model,
            "device": "cpu",
            "device_id": 0,
            "compute_dtype": "float32",
            "use_amp": False,
            "decoding": decoding,
        },
        "streaming": {
            "sample_rate": 16_000,
            "batch_size": max(spec.batches),
            "word_boundary_tolerance": 4,
            "att_context_size": [70, spec.look_ahead],
            "use_cache": is_cached,
            "use_feat_cache": is_cached,
            "chunk_size_in_secs": None,
            "chunk_size": 0.08 * (spec.look_ahead + 1),
            "left_padding_size": CONTEXT_S,
            "right_padding_size": 0.0,
            "padding_mode": "right",
            "request_type": "frame",
            "num_slots": 2 * sum(spec.batches),
            "stateful": True,
        },
        "endpointing": {"stop_history_eou": 800, "residue_tokens_at_end": 2},
        "confidence": {
            "exclude_blank": True,
            "aggregation": "mean",
            "method_cfg": {
                "name": "entropy",
                "entropy_type": "tsallis",
                "alpha": 0.5,
                "entropy_norm": "exp",
            },
        },
        "itn": {
            "input_case": "lower_cased",
            "whitelist": None,
            "overwrite_cache": False,
            "max_number_of_permutations_per_split": 729,
            "left_padding_size": 4,
            "batch_size": 32,
            "n_jobs": 1,
        },
        "matmul_precision": "high",
        "log_level": 40,
        "enable_pnc": False,
        "enable_itn": False,
        "enable_nmt": False,
        "asr_output_granularity": "segment",
        "cache_dir": None,
        "lang": None,
        "return_tail_result": False,
    }


def gemm_gflops(rows: int, precision: Precision) -> float:
    """Return the rate of this core's own packed matrix product at so many rows."""
    inner, outer = GEMM_SHAPE
    linear = make_linear(torch.randn(outer, inner), None, precision)
    x = torch.randn(rows, inner)
    for _ in range(3):
        linear(x)
    began = time.process_time()
    for _ in range(GEMM_REPEATS):
        linear(x)
    seconds = (time.process_time() - began) / GEMM_REPEATS
    return 2 * rows * inner * outer / seconds / 1e9


@contextlib.contextmanager
def started(
    target: Callable[[Connection, Spec], None], spec: Spec
) -> Iterator[tuple[Connection, Any]]:
    """Run a subject in a process of its own; yields the link to it and what it said first."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, spec), daemon=True)
    process.start()
    theirs.close()
    try:
        try:
            said = ours.recv() if ours.poll(START_TIMEOUT_S) else None
        except EOFError:
            said = None
        if said is None:
            raise SystemExit(f"{spec.kind} did not start")
        yield ours, said
    finally:
        process.terminate()
        process.join()


def work(peer: Connection, spec: Spec) -> None:
    """Serve steps until ended: the target of a process.

    Asked ``(rows, matmul)``: one step under torch's matmul precision, answered with a Timing.
    Asked ``("gemm", rows)``: the rate of the matrix product. Asked Steps: many steps of ours, with
    the bytes of snapshots in place of tokens.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if spec.core is not None:
        os.sched_setaffinity(0, {spec.core})
    torch.set_num_threads(1)
    subject: Subject = Ours(spec) if spec.kind == "ours" else Nemo(spec)
    peer.send("ready")
    while True:
        asked = peer.recv()
        if isinstance(asked, Steps):
            assert isinstance(subject, Ours)
            peer.send(many(subject, asked))
            continue
        if asked[0] == "gemm":
            peer.send(gemm_gflops(asked[1], spec.precision))
            continue
        rows, matmul = asked
        torch.set_float32_matmul_precision(matmul)
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = subject.step(rows)
        times = (1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu))
        peer.send((*times, tokens))


def many(subject: Ours, asked: Steps) -> Timing:
    """Run steps in a row, snapshots among them."""
    wall, cpu, size = time.perf_counter(), time.process_time(), 0
    for number in range(asked.count):
        subject.step(asked.rows)
        if asked.save_every:
            size += subject.save(asked.rows, number, asked.save_every)
    return Timing(1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu), size)


def batches_up_to(batches: Sequence[int], most: int) -> tuple[int, ...]:
    """Return the batch sizes that a slow engine is asked for."""
    return tuple(rows for rows in batches if rows <= most) or (min(batches),)
