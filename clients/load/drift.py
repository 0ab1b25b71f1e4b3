"""Does the lag grow? The slope of lag over time, and how sure it is.

Does: medians of each second, a straight line through them.
Does not know: what the values are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = Sequence[float] | NDArray[np.float64]
BIN_S = 1.0


class Drift(NamedTuple):
    """Milliseconds of lag per minute of running."""

    ms_per_min: float
    error: float
    """Standard error of it."""


def drift_of(at_s: Numbers, lags_s: Numbers) -> Drift:
    """Fit a line through the median lag of each second: one bad second moves it little."""
    at, lags = np.asarray(at_s, float), np.asarray(lags_s, float)
    if not len(at):
        return Drift(0.0, 0.0)
    bins = np.floor((at - at.min()) / BIN_S).astype(int)
    centres = np.unique(bins)
    if len(centres) < 3:
        return Drift(0.0, 0.0)
    medians = np.array([np.median(lags[bins == number]) for number in centres])
    x = centres - centres.mean()
    slope = float((x * medians).sum() / (x * x).sum())
    rest = medians - medians.mean() - slope * x
    error = float(np.sqrt((rest**2).sum() / (len(x) - 2) / (x * x).sum()))
    per_min = 60_000 / BIN_S
    return Drift(slope * per_min, error * per_min)
