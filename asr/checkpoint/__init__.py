"""Checkpoints of cache-aware FastConformer models, read without NeMo and without running code."""

from asr.checkpoint.hub import DEFAULT_MODEL, embedded_models
from asr.checkpoint.load import inspect, load_checkpoint
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
    "Checkpoint",
    "CheckpointError",
    "ModelSpec",
    "UnreadableCheckpoint",
    "UnsupportedModel",
    "bytes_per_stream",
    "embedded_models",
    "inspect",
    "load_checkpoint",
]
