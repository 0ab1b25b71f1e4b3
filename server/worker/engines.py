"""Which engine a worker runs, named by strings so that it can cross a process border.

Does: EngineSpec -> StreamingEngine, importing torch or NeMo only when it is asked for.
Does not know: workers, links, sessions.
"""

import os
from dataclasses import dataclass
from typing import Literal

from asr.interface import EngineError, StreamingEngine
from asr.scripted import ScriptedEngine

Backend = Literal["own", "nemo", "scripted"]
Precision = Literal["auto", "fp32", "bf16", "int8"]

COST_OF_KIND = {"cuda": 1.0, "cpu": 4.0}
"""Of an audio hour where nobody says it. The numbers mean nothing but their order: beside GPU
workers those on processors take what is too much for the GPUs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSpec:
    """How to make an engine."""

    model: str = ""
    """Path or name; empty: the embedded model."""
    device: str = "cpu"
    """cpu: any core; cpu:N: core N and no other; cuda:N."""
    decoder_device: str = ""
    """cpu or cuda:N; empty: the encoder's."""
    backend: Backend = "own"
    precision: Precision = "auto"
    slots: int = 64
    lm: str = "auto"
    """File of a language model for the model's vocabulary; auto: the model's own, if any; none."""
    lm_weight: float | None = None
    beam: int | None = None
    """Hypotheses of a search over a CTC head; 1: greedy; None: 24 with a language model."""
    look_ahead: int | None = None
    """Class that is warm first; None: the model's default."""
    audio_hour_cost: float | None = None
    """What an hour of audio costs on that device; None: the kind's default."""

    @property
    def cost(self) -> float:
        """What an hour of audio costs there, as stated or by kind."""
        stated = self.audio_hour_cost
        return COST_OF_KIND[self.device.partition(":")[0]] if stated is None else stated


def build(spec: EngineSpec) -> StreamingEngine:
    """Load the model (seconds) and return its engine; may pin this process to a core.

    Raises EngineError when the machine lacks the device.
    """
    device = _taken(spec.device)
    if spec.backend == "scripted":
        return ScriptedEngine(slots=spec.slots)
    import torch  # a light process (scripted engine, gateway) does without

    from asr.checkpoint import DEFAULT_MODEL
    from asr.engine import EngineConfig, load_engine

    torch.set_num_threads(1)  # two OpenMP pools on one core collapse; one process per core instead
    for wanted in (device, spec.decoder_device):
        kind, _, number = wanted.partition(":")
        if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
            raise EngineError(f"torch sees no GPU here for the device {wanted}")
    config = EngineConfig(
        device=device,
        decoder_device=spec.decoder_device,
        slots=spec.slots,
        precision=spec.precision,
        lm=spec.lm,
        lm_weight=spec.lm_weight,
        beam=spec.beam,
    )
    return load_engine(spec.model or DEFAULT_MODEL, config, backend=spec.backend)


def _taken(device: str) -> str:
    """Pin this process when the device is one core; return the device as torch names it."""
    kind, _, core = device.partition(":")
    if kind != "cpu" or not core:
        return device
    try:
        os.sched_setaffinity(0, {int(core)})
    except OSError as error:
        raise EngineError(f"there is no core {core} for us on this machine") from error
    return kind
