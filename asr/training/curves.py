"""What more speech of a kind, or more layers, bring: one run again and again, and a picture.

``python -m asr.training.curves CONFIG FOLDER --vary SOURCE... --hours 0 4 12`` trains the run of
the config for each figure (of fewer hours some of the clips of more), ``--layers 6 9 12`` for each
depth; both write curves.json and curves.svg. A run of hours that begins with a model is also judged
as the mean of its weights and those it began with.
Does not know: the network, losses, the loop that trains. The picture needs matplotlib.
"""

import argparse
import json
import logging
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import fill
from typing import Any

import torch

from asr.offline import ManifestError
from asr.training.config import BadConfig, TrainingConfig, check, load
from asr.training.data import INDEX, PCM, RATE, TOKENIZER, Corpus, prepare
from asr.training.evaluate import evaluate
from asr.training.export import FILTERS, WINDOW, begin_with, read
from asr.training.model import Model
from asr.training.report import LOG
from asr.training.train import LAST, train

RESULTS, PICTURE, DATA = "curves.json", "curves.svg", "data"
LETTERS = 80
"""Fit below the picture in a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a run had, and what it learned."""

    layers: int
    parameters: int
    """Of what is exported."""
    varied_hours: float
    """Of the sources that the runs differ in."""
    real_hours: float
    synthetic_hours: float
    audio_hours: float
    """Seen in training, each round counted."""
    dev_wer: dict[str, float]
    """Per cent by dev source, greedy, ``all`` together."""
    dev_wer_of_mean: dict[str, float] | None
    """The same of the mean with the model that the run began with."""


def clips_of(
    index: Sequence[dict[str, Any]], varied: Sequence[str], hours: float
) -> list[dict[str, Any]]:
    """Choose the clips of a run: of the varied sources these hours at most, always the same."""
    room, taken = hours * 3_600 * RATE, set[int]()
    for i in random.Random(1).sample(range(len(index)), len(index)):
        if index[i]["source"] in varied and (room := room - index[i]["length"]) >= 0:
            taken.add(i)
    return [c for i, c in enumerate(index) if c["source"] not in varied or i in taken]


def measure(
    config: TrainingConfig, out: Path, clips: Sequence[dict[str, Any]], varied: Sequence[str]
) -> Measured:
    """Train a run, or go on with it; its error is that of all dev clips at its end."""
    out.mkdir(exist_ok=True)
    (out / INDEX).write_text("".join(json.dumps(c) + "\n" for c in clips), encoding="utf-8")
    for name in (PCM, TOKENIZER):
        if not (out / name).exists():
            (out / name).symlink_to(Path("..") / DATA / name)
    if status := train(config, out=out, resume=True):
        raise SystemExit(status)
    rows = [json.loads(line) for line in (out / LOG).read_text(encoding="utf-8").splitlines()]
    last = next(row for row in reversed(rows) if row.get("dev_every") == 1)

    def sum_of(chosen: Sequence[dict[str, Any]]) -> float:
        return round(sum(c["length"] for c in chosen) / RATE / 3_600, 2)

    trained = read(out, LAST).weights
    return Measured(
        layers=config.model.layers,
        parameters=sum(v.numel() for k, v in trained.items() if k not in (FILTERS, WINDOW)),
        varied_hours=sum_of([c for c in clips if c["source"] in varied]),
        real_hours=sum_of([c for c in clips if c["split"] == "train"]),
        synthetic_hours=sum_of([c for c in clips if c["split"] == "synthetic"]),
        audio_hours=last["hours"],
        dev_wer=last["dev_wer"],
        # What lost layers at its start wrote no words: the mean with it says nothing.
        dev_wer_of_mean=error_of_mean(config, out) if varied and config.run.start else None,
    )


def error_of_mean(config: TrainingConfig, out: Path) -> dict[str, float]:
    """Judge half the weights of a run and half those it began with."""
    assert config.run.start is not None
    corpus = Corpus(config.data, out)
    state = torch.load(out / LAST, weights_only=True, map_location="cpu")
    begun, ended = (Model(config.model, len(state["inventory"])) for _ in range(2))
    filters = begin_with(begun, config.run.start)
    ended.load_state_dict(state["average"], strict=False)  # a teacher's head is not wanted
    with torch.no_grad():
        for ours, theirs in zip(ended.parameters(), begun.parameters(), strict=True):
            ours.lerp_(theirs, 0.5)
    return evaluate(ended.eval(), corpus, filters, config.run.dev_look_ahead).wer


def draw(rows: Sequence[Measured], varied: Sequence[str], picture: Path) -> None:
    """Draw the error of each dev source against what the runs differ in."""
    from matplotlib.figure import Figure  # only pictures need it

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axis = figure.subplots()

    def place(row: Measured) -> float:
        return row.varied_hours if varied else row.parameters / 1e6

    along = sorted(rows, key=place)
    for source in rows[0].dev_wer:
        errors = [(row.dev_wer_of_mean or row.dev_wer)[source] for row in along]
        style = {"color": "black", "linewidth": 2.5} if source == "all" else {"linestyle": "--"}
        axis.plot(
            [place(row) for row in along], errors, marker="o", markersize=4, label=source, **style
        )
    label = f"hours of {', '.join(varied)}" if varied else "million parameters"
    axis.set(xlabel=fill(label, LETTERS), ylabel="dev word error rate, %, greedy")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    figure.savefig(picture)


def main(arguments: argparse.Namespace) -> None:
    """Train what is missing, write results after each run."""
    config, folder, varied = load(arguments.config), arguments.folder, arguments.vary
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    data = folder / DATA
    prepare(config.data, data, vocabulary=config.model.vocabulary, start=config.run.start)
    index = [json.loads(line) for line in (data / INDEX).read_text(encoding="utf-8").splitlines()]
    sources = {clip["source"] for clip in index}
    if unknown := set(varied) - sources:
        raise SystemExit(f"{', '.join(unknown)}: not among {', '.join(sorted(sources))}")
    runs = {f"{h:g}h": (config, clips_of(index, varied, h)) for h in arguments.hours}
    for layers in arguments.layers:
        deep = replace(config, model=replace(config.model, layers=layers))
        check(deep)
        runs[f"{layers}layers"] = deep, index
    rows = list[Measured]()
    for name, (run, clips) in runs.items():
        rows.append(measure(run, folder / name, clips, varied))
        text = json.dumps([asdict(row) for row in rows], indent=1)
        (folder / RESULTS).write_text(text + "\n", encoding="utf-8")
        draw(rows, varied, folder / PICTURE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("folder", type=Path)
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--vary", nargs="+", default=[], help="sources: names of manifests")
    kind.add_argument("--layers", type=int, nargs="+", default=[], help="depths, a run each")
    parser.add_argument("--hours", type=float, nargs="+", default=[], help="of sources, a run each")
    wanted = parser.parse_args()
    if bool(wanted.vary) != bool(wanted.hours):
        parser.error("--vary SOURCE... and --hours N... go together")
    try:
        main(wanted)
    except (BadConfig, ManifestError, FileNotFoundError) as wrong:
        raise SystemExit(str(wrong)) from wrong
