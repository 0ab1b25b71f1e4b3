"""What a run has learned, as a picture and a line of figures.

``python -m asr.training.report RUN PICTURE.svg`` draws the losses and the dev error against hours
of audio seen. Does not know: the network, audio. Needs matplotlib.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOG = "log.jsonl"
LOSSES = {"ctc": "CTC, nats a piece", "sounds": "CTC of sounds, nats", "teacher": "teacher, error"}


@dataclass(frozen=True, slots=True)
class Curve:
    """Values of one figure against hours of audio seen."""

    hours: list[float]
    values: list[float]


@dataclass(frozen=True, slots=True)
class Report:
    """All that a log says."""

    losses: dict[str, Curve]
    errors: dict[str, Curve]
    """Word error rate in per cent by dev source, ``all`` together."""
    hours: float
    minutes: float

    def figures(self) -> dict[str, float]:
        """Give the line of figures."""
        every = self.errors["all"].values if "all" in self.errors else []
        best = {"best_dev_wer": min(every) / 100} if every else {}
        return {"audio_hours": self.hours, "wall_minutes": self.minutes, **best}


def read(run: Path) -> Report:
    """Read the log of a run; what was taken back, to go on from before it, is left out."""
    rows = list[dict[str, Any]]()
    for line in (run / LOG).read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # a full disk cut it
        while rows and rows[-1]["hours"] >= row["hours"]:
            rows.pop()
        rows.append(row)
    losses: dict[str, Curve] = {}
    errors: dict[str, Curve] = {}
    for row in rows:
        for into, values in ((losses, row["losses"]), (errors, _errors_of(row))):
            for name, value in values.items():
                curve = into.setdefault(name, Curve([], []))
                curve.hours.append(row["hours"])
                curve.values.append(value)
    last = rows[-1] if rows else {"hours": 0.0, "minutes": 0.0}
    return Report(losses, errors, last["hours"], last["minutes"])


def _errors_of(row: dict[str, Any]) -> dict[str, float]:
    """Return the errors of a row; those of a part of the set are not comparable."""
    return row.get("dev_wer", {}) if row.get("dev_every", 1) == 1 else {}


def draw(report: Report, picture: Path) -> None:
    """Draw losses on the left and dev errors on the right."""
    from matplotlib.figure import Figure  # only pictures need it

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, label in LOSSES.items():
        if curve := report.losses.get(name):
            left.plot(curve.hours, curve.values, label=label)
    for name, curve in report.errors.items():
        style = {"color": "black", "linewidth": 2.5} if name == "all" else {"linestyle": "--"}
        right.plot(curve.hours, curve.values, marker=".", label=name, **style)
    for axis, title in ((left, "losses"), (right, "dev word error rate, %")):
        axis.set(title=title, xlabel="hours of audio seen")
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    figure.savefig(picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    try:
        report = read(arguments.run)
        draw(report, arguments.picture)
    except OSError as error:
        raise SystemExit(f"{error.filename}: {error.strerror}") from error
    sys.stdout.write(json.dumps(report.figures()) + "\n")
