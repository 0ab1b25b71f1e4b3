"""The training loop: one config in, checkpoints and a log out; can be stopped and resumed.

Does: schedule, losses, optimizer, averaged weights, dev error, checkpoints.
Does not know: how files are decoded, what NeMo wants of an export.

``out`` holds the prepared data, last.pt, best.pt (averaged weights of the best dev error) and
log.jsonl, a line every few steps and one an evaluation. A run that is asked to stop saves first.
"""

import copy
import io
import json
import logging
import math
import random
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asr.training import batches, losses
from asr.training.augment import Changes
from asr.training.config import BadConfig, TrainingConfig, load
from asr.training.data import SHORTEST_S, TOKENIZER, Clip, Corpus, EpochPlan, prepare
from asr.training.evaluate import evaluate
from asr.training.export import begin_with, first_line, load_state
from asr.training.model import Encoded, Model
from asr.training.parallel import Group, launch
from asr.training.teacher import A_FRAME, SIZE, Heard, Teacher, rows_of

LAST, BEST, LOG = "last.pt", "best.pt", "log.jsonl"
FLOOR = 0.02
"""A run ends at this share of the learning rate."""
RNNT_SHARE, CTC_SHARE_WITH_RNNT = 0.7, 0.3
STEPS_A_LINE = 25
SHAPE = (
    "width", "layers", "heads", "kernel", "channels", "vocabulary", "predictor", "joint",
)  # fmt: skip
"""Settings of a model that its weights depend on."""
_logger = logging.getLogger("rivulet.training")


@dataclass(slots=True)
class Progress:
    """How far a run is."""

    step: int = 0
    hours: float = 0.0
    """Audio seen."""
    spent_s: float = 0.0
    best_wer: float = math.inf
    epoch: int = 0
    """Number of the shuffle that it is in, from 1 on."""
    epoch_hours: float = 0.0
    """Audio seen before that one."""
    taken: int = 0
    """Batches taken of it."""


@dataclass(slots=True)
class Averages:
    """Losses as they are shown: slowly moving."""

    values: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Take a step's value in."""
        old = self.values.get(name, value)
        self.values[name] = 0.98 * old + 0.02 * value

    def line(self) -> str:
        """Write all of them in one line."""
        return " ".join(f"{k} {v:.3f}" for k, v in self.values.items())


def run(config_path: Path, *, out: Path, resume: bool) -> int:
    """Train as a file says; returns an exit status. The ``rivulet train`` verb calls this."""
    return train(load(config_path), out=out, resume=resume)


def train(config: TrainingConfig, *, out: Path, resume: bool) -> int:
    """Train as the config says; returns an exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if (out / LAST).exists() and not resume:
        _logger.error("%s holds a run: --resume goes on with it, another --out begins one", out)
        return 2
    prepare(config.data, out, vocabulary=config.model.vocabulary, start=config.run.start)
    if config.loss.teacher:
        Teacher(out)  # says what is missing before processes are started
    return launch(config.run.processes, _work, (config, out))


def _work(group: Group, config: TrainingConfig, out: Path) -> None:
    if group.leads:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        Trainer(config, out, group).fit()
    except (BadConfig, OSError) as error:  # said once, whatever process has it
        if group.leads:
            _logger.error("%s", error)
        raise SystemExit(1) from error


class Trainer:
    """One run: the network, its average, the optimizer and how far they are."""

    def __init__(self, config: TrainingConfig, out: Path, group: Group | None = None) -> None:
        torch.set_num_threads(config.run.threads)
        torch.manual_seed(config.run.seed)
        self.config, self.out, self.group = config, out, group or Group()
        self.device = _device(config.run.device)
        self.corpus = Corpus(config.data, out)
        if len(self.corpus.pieces) != config.model.vocabulary:
            raise BadConfig(
                f"vocabulary = {config.model.vocabulary}, but {out / TOKENIZER} has"
                f" {len(self.corpus.pieces)} pieces: set it so, or train into another folder"
            )
        self.teacher = Teacher(out) if config.loss.teacher else None
        self.model = Model(
            config.model,
            len(self.corpus.sounds.inventory),
            taught=A_FRAME * SIZE if self.teacher else 0,
        ).to(self.device)
        self.filters = batches.centred_filters(self.corpus, config.run.seed)
        if config.run.start is not None:
            self.filters = begin_with(self.model, config.run.start)
        self.average = copy.deepcopy(self.model).eval()
        self.progress, self.shown = Progress(), Averages()
        self.rng = random.Random(config.run.seed)
        self.optimizer = self._optimizer()
        self._queue: list[list[Clip]] = []
        if (out / LAST).exists():
            self._restore()
            if self.progress.epoch:  # not of a checkpoint from before they were counted
                self._queue = self._epoch()
                del self._queue[max(0, len(self._queue) - self.progress.taken) :]
        if not self.group.leads:
            self.rng.seed(f"{config.run.seed} {self.group.rank} {self.progress.step}")
        # Every process and every sitting has noise and dropout of its own.
        torch.manual_seed(self.rng.getrandbits(63))

    def _optimizer(self) -> torch.optim.AdamW:
        run = self.config.run
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        vectors = [p for p in self.model.parameters() if p.dim() <= 1]
        groups = [
            {"params": matrices, "weight_decay": run.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=run.learning_rate, betas=(0.9, 0.98), fused=True)

    def fit(self) -> None:
        """Train until the minutes, the steps or the hours are spent."""
        run, state = self.config.run, self.progress
        self._introduce()
        saved = evaluated = state.spent_s
        while self._told() < 1.0 and not self.group.stopped() and not self.group.orphaned():
            began = time.monotonic()
            self._step()
            state.spent_s += time.monotonic() - began
            if not self.group.leads:
                continue
            try:
                if state.step % STEPS_A_LINE == 0:
                    self._show()
                if state.spent_s - evaluated >= 60 * run.evaluate_minutes:
                    evaluated = state.spent_s
                    self._evaluate(every=run.dev_every)
                if state.spent_s - saved >= 60 * run.save_minutes:
                    saved = state.spent_s
                    self._save()
            except OSError as error:  # a full disk: there may be room again at the next time
                _logger.error("not written, the run goes on: %s", error)
        if self.group.leads and not self.group.orphaned():
            self._end()

    def _end(self) -> None:
        """Judge the run on all dev clips, if it is at its end, and save."""
        if self.done() >= 1.0:
            for every in sorted({self.config.run.dev_every, 1}, reverse=True):
                self._evaluate(every=every)
        self._save()
        if self.done() < 1.0:
            _logger.info("asked to stop: saved at step %d, --resume goes on", self.progress.step)

    def _introduce(self) -> None:
        """Say what is trained on, before the first figures come."""
        if not self.group.leads:
            return
        corpus, size = self.corpus, sum(p.numel() for p in self.model.parameters())
        if corpus.unfit:
            _logger.warning(
                "%d clips are shorter than %g s or longer than longest_s = %g s: left out",
                len(corpus.unfit), SHORTEST_S, self.config.data.longest_s,
            )  # fmt: skip
        hours = sum(c.seconds for c in corpus.train) / 3_600
        _logger.info(
            "%d clips, %.2f h, to train on, %d of dev; %.1f million parameters; from step %d on",
            len(corpus.train), hours, len(corpus.dev), size / 1e6, self.progress.step,
        )  # fmt: skip

    def _told(self) -> float:
        """Agree on how much is behind: the rate of every step, and its end, depend on it."""
        self.progress.spent_s = self.group.told(self.progress.spent_s)
        return self.done()

    def done(self) -> float:
        """How much of the run is behind: 1 at its end."""
        run, state = self.config.run, self.progress
        minutes = state.spent_s / 60
        return max(minutes / run.minutes, state.step / run.steps, state.hours / run.hours)

    def _next(self) -> list[Clip]:
        state = self.progress
        if not self._queue:
            state.epoch, state.epoch_hours, state.taken = state.epoch + 1, state.hours, 0
            self._queue = self._epoch()
        state.taken += 1
        return self._queue.pop()

    def _epoch(self) -> list[list[Clip]]:
        """Shuffle by the epoch's number: a run that is resumed hears the rest of the same one."""
        data, hours = self.config.data, self.progress.epoch_hours
        timed = hours < data.timed_hours
        longest = data.short_longest_s if hours < data.short_hours else data.longest_s
        shuffle = random.Random(f"{self.config.run.seed} {self.group.rank} {self.progress.epoch}")
        return self.corpus.epoch(EpochPlan(longest, timed), shuffle)

    def _step(self) -> None:
        config, state = self.config, self.progress
        views = 2 if config.loss.agree else 1
        clips = self._next()
        gain_only = state.hours < config.augment.from_hours
        changes = Changes(config.augment, self.rng, gain_only=gain_only)
        batch = batches.load(self.corpus, clips, self.filters, changes, views=views)
        look_ahead = self.rng.choice(config.model.look_aheads)
        dropout = 0.0 if gain_only else config.augment.dropout
        total = self._loss(batch, clips * views, look_ahead, dropout)
        total.backward()  # type: ignore[no-untyped-call]
        self.group.average(p.grad for p in self.model.parameters() if p.grad is not None)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.run.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        if bool(torch.isfinite(norm)):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.hours += self.group.total(batch.seconds) / 3_600
        self.shown.add("grad", float(norm))
        self._follow()

    def learning_rate(self) -> float:
        """Warm up by steps, stay, then fall in a line: a stopped run can be given more minutes."""
        run, state = self.config.run, self.progress
        left = min(1.0, (1.0 - min(1.0, self.done())) / max(run.decay, 1e-9))
        return run.learning_rate * min(1.0, (state.step + 1) / run.warmup_steps) * max(FLOOR, left)

    @torch.no_grad()
    def _follow(self) -> None:
        keep = min(self.config.run.ema, (1 + self.progress.step) / (10 + self.progress.step))
        slow: list[Tensor] = list(self.average.parameters())
        fast: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(slow, fast, 1 - keep)

    def _loss(
        self, batch: batches.Batch, clips: list[Clip], look_ahead: int, dropout: float
    ) -> Tensor:
        weights, model, dev = self.config.loss, self.model, self.device
        with torch.autocast(dev.type, torch.bfloat16, enabled=self.config.run.bf16):
            encoded = model.encoder(batch.mel.to(dev), batch.frames.to(dev), look_ahead, dropout)
            final, middle = model.ctc(encoded.final), model.ctc(encoded.middle)
            sounds = model.sound_logits(encoded.sounding)
        pieces = losses.ctc(final, encoded.frames, batch.pieces)
        heard = losses.ctc(sounds, encoded.frames * 4, batch.sounds)
        total = weights.ctc * pieces + weights.sounds * heard
        if weights.middle:
            total = total + weights.middle * losses.ctc(middle, encoded.frames, batch.pieces)
        if weights.agree:
            apart = losses.agreement(final, encoded.frames, batch.pieces)
            total = total + weights.agree * apart
            self.shown.add("agree", apart.item())
        self.shown.add("ctc", pieces.item())
        self.shown.add("sounds", heard.item())
        if self.progress.hours >= weights.rnnt_hours:
            total = CTC_SHARE_WITH_RNNT * total + RNNT_SHARE * self._transducer(encoded, batch)
        if self.progress.hours < weights.frame_hours and any(c.times for c in clips):
            of_pieces, of_sounds = batches.frame_targets(
                self.corpus, clips, batch.speeds, final.shape[1], look_ahead
            )
            by_frame = losses.frame_cross_entropy(final, of_pieces.to(dev))
            by_frame = by_frame + losses.frame_cross_entropy(sounds, of_sounds.to(dev))
            self.shown.add("frames", by_frame.item())
            total = total + weights.frames * by_frame
        if self.teacher is not None:
            total = total + weights.teacher * self._likeness(encoded, batch, clips)
        return total

    def _likeness(self, encoded: Encoded, batch: batches.Batch, clips: list[Clip]) -> Tensor:
        assert self.teacher is not None and self.model.taught is not None
        heard = [
            Heard(clip.states, rows_of(clip.length), speed)
            for clip, speed in zip(clips, batch.speeds, strict=True)
        ]
        targets, inside = self.teacher.targets(heard, encoded.middle.shape[1])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.run.bf16):
            states = self.model.taught(encoded.middle)
        loss = losses.likeness(states, targets.to(self.device), inside.to(self.device))
        self.shown.add("teacher", loss.item())
        return loss

    def _transducer(self, encoded: Encoded, batch: batches.Batch) -> Tensor:
        model = self.model
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.run.bf16):
            ours = model.joint.enc(encoded.final)
            theirs = model.joint.pred(model.decoder(batch.pieces.ids.to(self.device)))
            out = model.joint.joint_net[2]
            assert isinstance(out, nn.Linear)
            loss = losses.rnnt(ours, theirs, out, encoded.frames, batch.pieces)
        self.shown.add("rnnt", loss.item())
        return loss * self.config.loss.rnnt

    def _show(self) -> None:
        state = self.progress
        pace = state.hours / max(state.spent_s, 1e-9) * 3_600
        _logger.info(
            "step %d hours %.2f %s lr %.2e min %.1f pace %.0f",
            state.step, state.hours, self.shown.line(), self.learning_rate(),
            state.spent_s / 60, pace,
        )  # fmt: skip
        self._log({})

    def _evaluate(self, *, every: int) -> None:
        began, state, run = time.monotonic(), self.progress, self.config.run
        result = evaluate(self.average, self.corpus, self.filters, run.dev_look_ahead, every)
        state.spent_s += time.monotonic() - began
        row = {"dev_wer": result.wer, "silent": result.silent, "dev_every": every}
        self._log(row)
        _logger.info("%s", row)
        # The errors of a part of the clips and of all of them are not comparable.
        if every == run.dev_every and result.wer["all"] <= state.best_wer:
            before, state.best_wer = state.best_wer, result.wer["all"]
            try:
                _write(self.out / BEST, self._checkpoint())
            except OSError:
                state.best_wer = before
                raise

    def _log(self, extra: dict[str, Any]) -> None:
        state = self.progress
        row = {
            "step": state.step, "hours": round(state.hours, 2),
            "minutes": round(state.spent_s / 60, 1),
            "losses": {k: round(v, 3) for k, v in self.shown.values.items()},
        }  # fmt: skip
        with (self.out / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(row | extra) + "\n")

    def _checkpoint(self) -> dict[str, Any]:
        return {
            "config": asdict(self.config.model),
            "inventory": self.corpus.sounds.inventory,
            "filters": self.filters,
            "average": self.average.state_dict(),
            "progress": asdict(self.progress),
            "losses": dict(self.shown.values),
        }

    def _save(self) -> None:
        state = self._checkpoint()
        state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        state["rng"] = self.rng.getstate()
        _write(self.out / LAST, state)

    def _restore(self) -> None:
        last = self.out / LAST
        state = load_state(last, self.device)
        # What the weights do not show, the look-aheads, may change with the config.
        now, other = asdict(self.config.model), state["config"]
        other = ", ".join(f"{k} = {v}" for k, v in other.items()
                          if k in SHAPE and v != now[k])  # fmt: skip
        if other:
            raise BadConfig(f"{last} has {other}, not what [model] says: train into another folder")
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise BadConfig(
                f"{last} has other heads than this run (of sounds by the lexicon and the words of"
                f" its sources, of a teacher): {first_line(error)}"
            ) from error
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.filters, self.progress = state["filters"].cpu(), Progress(**state["progress"])
        self.shown = Averages(state["losses"])
        version, numbers, rest = state["rng"]
        self.rng.setstate((version, tuple(numbers), rest))


def _write(path: Path, state: dict[str, Any]) -> None:
    """Write beside and rename: a stopped run, or a full disk, leaves the old checkpoint whole."""
    draft, packed = path.with_suffix(".tmp"), io.BytesIO()
    torch.save(state, packed)  # into a file it tells a full disk from nothing else
    try:
        draft.write_bytes(packed.getbuffer())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def _device(name: str) -> torch.device:
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise BadConfig(f"device = {name!r} is not here: {first_line(error)}") from error
