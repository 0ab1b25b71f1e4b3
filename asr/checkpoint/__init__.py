"""Checkpoints of cache-aware FastConformer models, read without NeMo and without running code."""

from asr.checkpoint.hub import DEFAULT_MODEL, embedded_models
from asr.checkpoint.load import LATEST_MS, calibration_of, inspect, load_checkpoint
from asr.checkpoint.spec import (
    Checkpoint,
    CheckpointError,
    ModelSpec,
    UnreadableCheckpoint,
    UnsupportedModel,
    bytes_per_stream,
)

__all__ = [
    "DEFAULT_MODEL",
    "LATEST_MS",
    "Checkpoint",
    "CheckpointError",
    "ModelSpec",
    "UnreadableCheckpoint",
    "UnsupportedModel",
    "bytes_per_stream",
    "calibration_of",
    "embedded_models",
    "inspect",
    "load_checkpoint",
]
