"""Checkpoints of cache-aware FastConformer models, read without NeMo and without running code."""

from asr.checkpoint.spec import (
    Checkpoint,
    CheckpointError,
    ModelSpec,
    UnreadableCheckpoint,
    UnsupportedModel,
    bytes_per_stream,
)

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "ModelSpec",
    "UnreadableCheckpoint",
    "UnsupportedModel",
    "bytes_per_stream",
]
