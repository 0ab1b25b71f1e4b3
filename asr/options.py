"""How one channel is recognised, as its client asked.

Does not know: engines, sessions, wires.
"""

from dataclasses import dataclass, field
from typing import Literal

from asr.interface import NO_BIASING, SAMPLE_RATE_HZ, Biasing
from asr.turns import Endpointing

Partials = Literal["all", "stable", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOptions:
    """How one channel is recognised."""

    look_ahead: int
    rate: int = SAMPLE_RATE_HZ
    language: str | None = None
    partials: Partials = "all"
    words: bool = True
    """Whether finals carry their words."""
    endpointing: Endpointing = field(default_factory=Endpointing)
    biasing: Biasing = NO_BIASING
