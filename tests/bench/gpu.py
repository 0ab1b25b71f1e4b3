"""The engine on a GPU: cost of a step by batch size, streams it would hold, the words it says.

    python -m tests.bench.gpu --out FOLDER           one GPU, under eight minutes
    python -m tests.bench.gpu --out FOLDER --rehearse      the same code on a CPU, tiny shapes

Does: one JSON line for each measurement, written as it is known; a variant that fails is reported
and the next one goes on; a + b * B fitted to medians, N* = (0.9 * period - a) / b.
Does not know: sockets, sessions. Needs torch, numpy, sentencepiece, safetensors alone.
"""

import argparse
import gc
import json
import statistics
import time
import traceback
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from asr.checkpoint import load_checkpoint
from asr.checkpoint.spec import Checkpoint, ModelSpec
from asr.engine import Engine, EngineConfig
from asr.interface import FRAME_MS, FRAME_SAMPLES
from asr.runner import GraphRunner
from asr.schedule import Limits
from tests.bench.gpu_models import HYBRID_115M, RNNT_600M, TINY, Samples, babble, model

BUSY = 0.9
FIRST_EXTRA = 200
"""Samples that the first frame needs beyond its own."""
MATERIAL_S = 20.0
VOICES = 16
WARM_STEPS = 3
EAGER_UP_TO = 64
"""Its features are made on the host, one thread: larger batches say nothing new."""
OFTEN_FROM = 64
"""Larger batches are repeated fewer times."""

Numbers = Literal["fp32", "tf32", "bf16"]
Mode = Literal["graphs", "eager"]
Said = list[list[tuple[int, int]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured, and how much of it."""

    device: str
    shapes: dict[str, ModelSpec]
    variants: tuple[tuple[str, Numbers, Mode], ...]
    look_aheads: tuple[int, ...]
    sizes: tuple[int, ...]
    repeats: int
    check_s: float


ON_GPU = Plan(
    device="cuda",
    shapes={"600M": RNNT_600M, "115M": HYBRID_115M},
    # What matters most comes first: the time may be over before the end.
    variants=(
        ("600M", "bf16", "graphs"), ("115M", "bf16", "graphs"),
        ("600M", "bf16", "eager"), ("115M", "bf16", "eager"),
        ("115M", "fp32", "graphs"), ("115M", "tf32", "graphs"),
        ("600M", "tf32", "graphs"), ("600M", "fp32", "graphs"),
        ("115M", "fp32", "eager"), ("600M", "fp32", "eager"),
    ),
    look_aheads=(0, 1, 6, 13),
    sizes=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    repeats=12,
    check_s=8.0,
)  # fmt: skip
REHEARSAL = Plan(
    device="cpu",
    shapes={"600M": TINY, "115M": TINY},
    variants=(
        ("600M", "bf16", "graphs"), ("115M", "tf32", "graphs"), ("115M", "fp32", "eager"),
        ("1M", "fp32", "graphs"),  # there is none: a failure is reported and the rest goes on
    ),
    look_aheads=(0, 6),
    sizes=(1, 2, 4),
    repeats=2,
    check_s=1.5,
)  # fmt: skip


@dataclass(slots=True)
class Report:
    """Lines of JSON in a file and on the screen."""

    path: Path
    lines: list[dict[str, Any]] = field(default_factory=list)

    def line(self, **values: Any) -> None:
        """Write one down at once."""
        self.lines.append(values)
        text = json.dumps(values)
        with self.path.open("a") as file:
            file.write(text + "\n")
        print(text, flush=True)


class Bench:
    """Measures a plan until its time is over."""

    def __init__(self, plan: Plan, report: Report, *, until: float, speech: list[Samples]) -> None:
        self._plan, self._report, self._until, self._speech = plan, report, until, speech
        self._models: dict[str, Checkpoint] = {}
        self._voices = [babble(MATERIAL_S, seed) for seed in range(VOICES)]

    def run(self) -> None:
        """Check the words, then measure every variant."""
        self._guarded("machine", self._machine)
        self._guarded("words, embedded model", self._embedded_words)
        self._guarded("words, RNN-T", self._rnnt_words)
        for variant in self._plan.variants:
            self._guarded(" ".join(variant), partial(self._variant, *variant))
        self._summary()

    def _guarded(self, name: str, act: Callable[[], None]) -> None:
        if time.monotonic() > self._until:
            self._report.line(kind="skipped", what=name, why="no time left")
            return
        try:
            act()
        except Exception as error:  # noqa: BLE001 one variant must not cost the others
            where = traceback.format_exc(limit=-4)
            self._report.line(kind="error", what=name, error=repr(error)[:500], where=where[-1500:])
        gc.collect()  # engines refer to themselves and hold gigabytes
        if self._is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    @property
    def _is_cuda(self) -> bool:
        return self._plan.device.startswith("cuda")

    def _machine(self) -> None:
        name = torch.cuda.get_device_name() if self._is_cuda else "a CPU: a rehearsal"
        self._report.line(kind="machine", device=name, torch=torch.__version__)

    def _model(self, shape: str) -> Checkpoint:
        if shape not in self._models:
            began = time.monotonic()
            self._models[shape] = model(shape, self._plan.shapes[shape], self._frames)
            seconds = round(time.monotonic() - began, 1)
            self._report.line(kind="model", shape=shape, seconds=seconds)
        return self._models[shape]

    def _frames(self, checkpoint: Checkpoint) -> Tensor:
        """Encode some audio, for a model that is being made."""
        engine = self._engine(checkpoint, "fp32", "eager", slots=1)
        parts = list[Tensor]()
        engine.trace = lambda _, x: parts.append(x.cpu().clone())
        for seed in range(3):
            stream = engine.open(6)
            engine.feed(stream, babble(MATERIAL_S, seed))
            while engine.is_ready():
                engine.step()
            engine.drop(stream)
        return torch.cat(parts)

    def _engine(
        self, checkpoint: Checkpoint, numbers: Numbers, mode: Mode, *, slots: int
    ) -> Engine:
        config = EngineConfig(
            slots=slots,
            precision="bf16" if numbers == "bf16" else "fp32",
            device=self._plan.device,
            lm="none",
            limits=Limits(max_rows=512, max_frames=7168),
            graphs=mode == "graphs",
        )
        engine = Engine(checkpoint, config)
        kind = "tf32" if numbers == "tf32" else "ieee"
        torch.backends.cuda.matmul.fp32_precision = kind
        torch.backends.cudnn.conv.fp32_precision = kind  # type: ignore[attr-defined]
        return engine

    def _embedded_words(self) -> None:
        self._compare("embedded", load_checkpoint(), self._speech)

    def _rnnt_words(self) -> None:
        shape = list(self._plan.shapes)[-1]
        self._compare(shape, self._model(shape), self._speech[:3])

    def _compare(self, name: str, checkpoint: Checkpoint, speech: list[Samples]) -> None:
        """Say who says what the CPU says: tokens and their frames, many streams at once."""
        host = EngineConfig(slots=len(speech), precision="fp32", lm="none", device="cpu")
        for look_ahead in checkpoint.spec.look_aheads[1:3]:
            truth = said_by(Engine(checkpoint, host), look_ahead, speech)
            kinds: list[tuple[Numbers, Mode]] = [
                ("fp32", "eager"), ("fp32", "graphs"), ("tf32", "graphs"), ("bf16", "graphs")
            ]  # fmt: skip
            for numbers, mode in kinds:
                engine = self._engine(checkpoint, numbers, mode, slots=len(speech))
                if mode == "graphs":
                    engine.warm(look_ahead)
                ours = said_by(engine, look_ahead, speech)
                self._report.line(
                    kind="words",
                    model=name,
                    look_ahead=look_ahead,
                    numbers=numbers,
                    mode=mode,
                    identical=sum(a == b for a, b in zip(truth, ours, strict=True)),
                    streams=len(truth),
                    tokens=sum(map(len, truth)),
                    others=sum(len(set(a) ^ set(b)) for a, b in zip(truth, ours, strict=True)),
                )

    def _variant(self, shape: str, numbers: Numbers, mode: Mode) -> None:
        sizes = self._plan.sizes
        if mode == "eager":
            sizes = tuple(size for size in sizes if size <= EAGER_UP_TO)
        engine = self._engine(self._model(shape), numbers, mode, slots=max(sizes))
        about = {"shape": shape, "numbers": numbers, "mode": mode}
        for look_ahead in self._plan.look_aheads:
            if time.monotonic() > self._until:
                self._report.line(kind="skipped", **about, look_ahead=look_ahead, why="no time")
                continue
            began = time.monotonic()
            if mode == "graphs":
                sizes = self._warmed(engine, look_ahead, sizes)
            warming = time.monotonic() - began
            runner = engine._runner
            if isinstance(runner, GraphRunner) and runner.failure:
                self._report.line(kind="error", what=f"recording {about}", error=runner.failure)
            points = list(self._points(engine, look_ahead, sizes))
            line = fitted(points, (look_ahead + 1) * FRAME_MS)
            memory = torch.cuda.max_memory_allocated() / 2**30 if self._is_cuda else 0.0
            self._report.line(
                kind="cost", **about, look_ahead=look_ahead, **line, points=points,
                warm_s=round(warming, 1), memory_gib=round(memory, 2),
            )  # fmt: skip

    def _warmed(self, engine: Engine, look_ahead: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Record steps; return the sizes that the memory is large enough for."""
        while len(sizes) > 2:
            try:
                engine.warm(look_ahead, sizes)
            except torch.OutOfMemoryError:
                self._report.line(kind="full", look_ahead=look_ahead, streams=sizes[-1])
                sizes = sizes[:-1]
            else:
                return sizes
        raise RuntimeError("the memory is too small for any batch")

    def _points(
        self, engine: Engine, look_ahead: int, sizes: tuple[int, ...]
    ) -> Iterator[dict[str, float]]:
        for size in sizes:
            repeats = max(2, self._plan.repeats // (1 if size < OFTEN_FROM else 2))
            try:
                yield measured(engine, look_ahead, size, repeats, self._voices)
            except torch.OutOfMemoryError:
                self._report.line(kind="error", what=f"{size} streams", error="out of memory")
                return

    def _summary(self) -> None:
        costs = [line for line in self._report.lines if line["kind"] == "cost"]
        words = [line for line in self._report.lines if line["kind"] == "words"]
        exact = [line for line in words if line["numbers"] == "fp32"]
        self._report.line(
            kind="summary",
            n_star={
                f"{line['shape']} {line['numbers']} {line['mode']} "
                f"{(line['look_ahead'] + 1) * FRAME_MS} ms": line["n_star"]
                for line in costs
            },
            fp32_words_identical=bool(exact)
            and all(line["identical"] == line["streams"] for line in exact),
            errors=sum(line["kind"] == "error" for line in self._report.lines),
            skipped=sum(line["kind"] == "skipped" for line in self._report.lines),
        )


def measured(
    engine: Engine, look_ahead: int, size: int, repeats: int, voices: list[Samples]
) -> dict[str, float]:
    """Advance ``size`` live streams chunk by chunk; medians in ms."""
    chunk = FRAME_SAMPLES * (look_ahead + 1)
    streams = [engine.open(look_ahead) for _ in range(size)]
    fed, stepped, tokens, at = list[float](), list[float](), 0, 0
    for number in range(WARM_STEPS + repeats):
        count = chunk + (0 if at else FIRST_EXTRA)
        began = time.perf_counter()
        for row, stream in enumerate(streams):
            voice = voices[row % len(voices)]
            where = (at + row * 997) % (len(voice) - count)
            engine.feed(stream, voice[where : where + count])
        between = time.perf_counter()
        emissions = []
        while engine.is_ready():
            emissions += engine.step()
        ended, at = time.perf_counter(), at + count
        if number >= WARM_STEPS:
            fed.append(1000 * (between - began))
            stepped.append(1000 * (ended - between))
            tokens += sum(len(emission.tokens) for emission in emissions)
    device = on_device_ms(engine, (look_ahead, look_ahead + 1, size))
    for stream in streams:
        engine.drop(stream)
    return {
        "size": size,
        "feed_ms": round(statistics.median(fed), 3),
        "step_ms": round(statistics.median(stepped), 3),
        "device_ms": device,
        "tokens_a_second": round(tokens / (repeats * size * chunk / 16_000), 2),
    }


@torch.inference_mode()
def on_device_ms(engine: Engine, shape: tuple[int, int, int]) -> float:
    """Time the functions of a step alone, again and again on what was heard last."""
    runner = engine._runner
    found = runner._passes.get(shape) if isinstance(runner, GraphRunner) else None
    if found is None:
        return 0.0
    times = []
    for _ in range(5):
        began = time.perf_counter()
        found._encode()
        found._begin()
        found._out.fetch()
        times.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(times), 3)


def fitted(points: list[dict[str, float]], period_ms: float) -> dict[str, float]:
    """Fit a + b * B to feeding and stepping, each point by its share; streams a period holds."""
    sizes = np.array([point["size"] for point in points])
    cost = np.array([point["feed_ms"] + point["step_ms"] for point in points])
    b, a = np.polyfit(sizes, cost, 1, w=1 / cost)
    largest = BUSY * period_ms / cost[-1] * sizes[-1]
    return {
        "period_ms": period_ms,
        "a_ms": round(float(a), 3),
        "b_ms": round(float(b), 5),
        "n_star": int((BUSY * period_ms - a) / b) if b > 0 else 0,
        "n_in_full_batches": int(largest),
    }


def said_by(engine: Engine, look_ahead: int, speech: list[Samples]) -> Said:
    """Play all at once in packets that fit no chunk; return tokens and their frames."""
    streams = [engine.open(look_ahead) for _ in speech]
    said = dict[int, list[tuple[int, int]]]((stream, []) for stream in streams)
    packet = 3_001
    for at in range(0, max(map(len, speech)) + packet, packet):
        for stream, samples in zip(streams, speech, strict=True):
            if at < len(samples):
                engine.feed(stream, samples[at : at + packet])
            elif at < len(samples) + packet:
                engine.finish(stream)
        while engine.is_ready():
            for emission in engine.step():
                said[emission.stream] += [(token.id, token.frame) for token in emission.tokens]
    return [said[stream] for stream in streams]


def speech_in(folder: Path | None, seconds: float) -> list[Samples]:
    """Read WAV files of 16 kHz, 16 bits, one channel; without any, make some noise."""
    found = list[Samples]()
    for path in sorted(folder.glob("*.wav")) if folder else ():
        with wave.open(str(path)) as file:
            if (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (16_000, 2, 1):
                pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2")
                long = pcm[: int(16_000 * MATERIAL_S)]
                found.append(long.astype(np.float32) / np.float32(32768))
    return found[:12] or [babble(seconds * (0.5 + 0.1 * n), 100 + n) for n in range(6)]


def main(arguments: list[str] | None = None) -> int:
    """Measure; 0 when nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.jsonl")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU with tiny shapes")
    parser.add_argument("--minutes", type=float, default=7.0, help="start nothing later")
    parser.add_argument("--speech", type=Path, help="folder of WAV files to compare words on")
    chosen = parser.parse_args(arguments)
    began = time.monotonic()
    torch.set_num_threads(1)  # as a worker has it
    chosen.out.mkdir(parents=True, exist_ok=True)
    report, plan = Report(chosen.out / "gpu.jsonl"), REHEARSAL if chosen.rehearse else ON_GPU
    speech = speech_in(chosen.speech, plan.check_s)
    Bench(plan, report, until=began + 60 * chosen.minutes, speech=speech).run()
    return int(any(line["kind"] == "error" for line in report.lines))


if __name__ == "__main__":
    raise SystemExit(main())
