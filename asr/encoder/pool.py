"""The slots: preallocated encoder caches, one row a stream, written in place.

Does: allocate, clear, copy, export and import rows; one spare row takes the padding of batches.
Does not know: who owns a slot, audio, tokens.
Shapes: L layers, S slots (+1 spare), H heads, R left-context frames, K kernel, D width,
C channels, F bands.
The key/value row of frame n is n % R: nothing is shifted; rows older than a stream are masked.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from asr.checkpoint.spec import ModelSpec

OVERRUN = 16


@dataclass(frozen=True, slots=True)
class SlotPool:
    """Caches of all slots."""

    keys_LSHdR: Tensor
    """Across: a product with a query then runs along the frames."""
    values_LSHRd: Tensor
    conv_LSKD: Tensor
    """Input of the depthwise convolution, after GLU and pad mask: kernel - 1 frames."""
    mel_SF: Tensor
    stage1_SFC: Tensor
    stage2_SFC: Tensor
    """Last input column of each subsampling stage."""
    frames_S: Tensor
    """Encoder frames produced so far."""

    @classmethod
    def allocate(
        cls, spec: ModelSpec, slots: int, *, dtype: torch.dtype, device: torch.device
    ) -> "SlotPool":
        """Make zeroed caches for ``slots`` streams and the spare row."""
        rows, head = slots + 1, spec.d_model // spec.heads
        half = spec.mel_bins // 2 + 1
        layers, heads, left = spec.layers, spec.heads, spec.left_context

        def zeros(*shape: int, of: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(*shape, dtype=of, device=device)

        # The native kit reads whole registers: from the last row some numbers too far.
        keys = zeros(layers * rows * heads * head * left + OVERRUN, of=dtype)[:-OVERRUN]
        return cls(
            keys_LSHdR=keys.view(layers, rows, heads, head, left),
            values_LSHRd=zeros(layers, rows, heads, left, head, of=dtype),
            conv_LSKD=zeros(spec.layers, rows, spec.conv_kernel - 1, spec.d_model),
            mel_SF=zeros(rows, spec.mel_bins),
            stage1_SFC=zeros(rows, half, spec.subsampling_channels, of=dtype),
            stage2_SFC=zeros(rows, half // 2 + 1, spec.subsampling_channels, of=dtype),
            frames_S=zeros(rows, of=torch.long),
        )

    @property
    def spare(self) -> int:
        """The row that padded batch entries use."""
        return self.frames_S.shape[0] - 1

    def clear(self, slot: int) -> None:
        """Set a row to the start of a stream (old keys and values are masked, not wiped)."""
        self.conv_LSKD[:, slot] = 0
        for cache in (self.mel_SF, self.stage1_SFC, self.stage2_SFC, self.frames_S):
            cache[slot] = 0

    def copy(self, source: int, target: int) -> None:
        """Copy a row."""
        for cache in (self.keys_LSHdR, self.values_LSHRd, self.conv_LSKD):
            cache[:, target] = cache[:, source]
        for cache in (self.mel_SF, self.stage1_SFC, self.stage2_SFC, self.frames_S):
            cache[target] = cache[source]

    def export_row(self, slot: int) -> dict[str, Tensor]:
        """Return a row, for a snapshot; it changes with the pool."""
        row = {}
        for field in fields(self):
            cache: Tensor = getattr(self, field.name)
            by_layer = field.name.split("_")[1].startswith("L")
            row[field.name] = cache[:, slot] if by_layer else cache[slot]
        return row

    def import_row(self, slot: int, row: dict[str, Tensor]) -> None:
        """Put back what ``export_row`` gave; ValueError when it does not fit this pool."""
        for field in fields(self):
            cache: Tensor = getattr(self, field.name)
            by_layer = field.name.split("_")[1].startswith("L")
            target = cache[:, slot] if by_layer else cache[slot]
            if row[field.name].shape != target.shape:
                raise ValueError(f"{field.name} has shape {tuple(row[field.name].shape)}")
            target.copy_(row[field.name])

    def bytes_per_slot(self) -> int:
        """Memory of one row."""
        total = sum(
            cache.numel() * cache.element_size()
            for cache in (getattr(self, field.name) for field in fields(self))
        )
        return int(total // self.frames_S.shape[0])
