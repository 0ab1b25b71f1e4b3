"""What computes a batch: the parts of an engine, and how a step runs over them.

Does: the rows of streams -> encoder frames and what was heard, in the parts' pools in place;
as operations one by one, or as functions over fixed memory that a GPU records (``asr.graphs``).
Does not know: who the streams are, plans, time.
"""

import logging
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from asr.decoder.base import Heard
from asr.decoder.decoding import Decoding
from asr.decoder.fixed import FixedDecoder, Rows, Said
from asr.encoder.batch import StepInput
from asr.encoder.encoder import Encoder
from asr.encoder.pool import SlotPool
from asr.encoder.prompt import PromptKernel
from asr.features import FFT, HOP, FrontEnd
from asr.graphs import Act, Arena, Layout, Record
from asr.schedule import bucket
from asr.stream import Take

_logger = logging.getLogger("rivulet.engine")
COUNTS = ("slot", "valid", "heard", "prompt", "missing", "given", "made",
          "from1", "from2", "until1", "until2")  # fmt: skip
"""Numbers of a row: ``valid`` frames, of which ``heard`` are decoded; mel rows up to which there is
nothing (``missing``), up to which they are ``given``, and up to which they are ``made`` here."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Streams that advance together by ``steps`` frames."""

    takes: list[Take]
    slots: list[int]
    prompts: list[int]
    silent: list[int]
    """Rows that are only encoded: their decoder is ahead of them."""
    look_ahead: int
    steps: int


@dataclass(frozen=True, slots=True)
class Machine:
    """What an engine computes with."""

    front_end: FrontEnd
    encoder: Encoder
    prompt: PromptKernel | None
    pool: SlotPool
    decoding: Decoding
    device: torch.device


class Runner(Protocol):
    """Computes batches."""

    def run(self, batch: Batch) -> tuple[Tensor, list[Heard]]:
        """Return encoder frames [rows, T, D], good until the next call, and what each row says."""
        ...

    def warm(self, batch: Batch) -> None:
        """Make ready for batches of this shape; the batch is run on the spare slot."""
        ...


class EagerRunner:
    """Operations one by one: the way of a CPU.

    ``pads``: its products are built for each number of rows, so that these had better be few.
    """

    def __init__(self, machine: Machine, *, pads: bool) -> None:
        self._machine, self._pads = machine, pads

    def run(self, batch: Batch) -> tuple[Tensor, list[Heard]]:
        """Encode and decode."""
        machine, step = self._machine, self._input(batch)
        x = machine.encoder.step(machine.pool, step)
        if machine.prompt is not None:
            ids = torch.tensor(batch.prompts, device=machine.device)
            x = machine.prompt(x, F.pad(ids, (0, len(x) - len(ids))))
        first, valid_B = machine.pool.frames_S[step.slots_B] - step.valid_B, step.valid_B
        if batch.silent:
            valid_B = valid_B.clone()
            valid_B[batch.silent] = 0
        return x, _decoded(machine.decoding, x, Rows(step.slots_B, valid_B, first))

    def warm(self, batch: Batch) -> None:
        """Let kernels be built."""
        self.run(batch)

    def _input(self, batch: Batch) -> StepInput:
        """Make mel rows and stack them; what pads them to a bucket is the spare slot's."""
        machine, takes, slots = self._machine, batch.takes, batch.slots
        rows = bucket(len(takes)) if self._pads else len(takes)
        mel = self._mel(takes, rows, batch.steps)
        padding = rows - len(takes)
        if padding:
            none = takes[0].rows[:0]
            empty = Take(0, none, takes[0].samples[:0], 0, (0, 0), (0, 0))
            takes, slots = takes + [empty] * padding, slots + [machine.pool.spare] * padding

        def tensor(values: object) -> Tensor:
            return torch.tensor(values, device=machine.device)

        return StepInput(
            mel_BTF=mel.to(machine.device),
            slots_B=tensor(slots),
            valid_B=tensor([take.valid for take in takes]),
            stage_from=tensor([take.stage_from for take in takes]).T,
            stage_until=tensor([take.stage_until for take in takes]).T,
            look_ahead=batch.look_ahead,
        )

    def _mel(self, takes: list[Take], rows: int, steps: int) -> Tensor:
        """Return [rows, 8 T, bins]: those of all streams are made at once."""
        made = self._machine.front_end.log_mel(torch.cat([take.windows for take in takes]))
        mel, at = torch.zeros(rows, 8 * steps, self._machine.front_end.bins), 0
        for into, take in zip(mel, takes, strict=False):
            first, count = take.given, take.made
            into[take.missing : first] = take.rows
            into[first : first + count] = made[at : at + count]
            at += count
        return mel


def _decoded(decoding: Decoding, x_BTD: Tensor, rows: Rows) -> list[Heard]:
    """Decode operation by operation, where the decoder is."""
    parts = (x_BTD, rows.slots_B, rows.valid_B, rows.first_frame_B)
    return decoding.step(*(part.to(decoding.device) for part in parts))


class GraphRunner:
    """Fixed memory and functions over it, one set a shape; recorded where ``record`` is given."""

    def __init__(self, machine: Machine, record: Record | None) -> None:
        self._machine, self._record = machine, record
        self._arenas = Arena(machine.device), Arena(machine.device), Arena(machine.device)
        self._passes: dict[tuple[int, int, int], _Pass] = {}
        self.failure = ""
        """Why nothing is recorded any more: steps go on operation by operation."""

    def run(self, batch: Batch) -> tuple[Tensor, list[Heard]]:
        """Encode and decode; a shape that was not warmed is run operation by operation."""
        return self._pass(batch).run(batch)

    def warm(self, batch: Batch) -> None:
        """Record this shape."""
        found = self._pass(batch)
        found.run(batch)
        if self._record is None:
            return
        try:
            found.record(self._record)
        except RuntimeError as error:  # all of torch's own are
            self._record, self.failure = None, str(error)
            found.forget()
            _logger.warning("a step cannot be recorded, the engine runs slower so: %s", error)

    def _pass(self, batch: Batch) -> "_Pass":
        shape = batch.look_ahead, batch.steps, bucket(len(batch.takes))
        if shape not in self._passes:
            self._passes[shape] = _Pass(self._machine, shape, self._arenas)
        return self._passes[shape]


class _Pass:
    """A step of one shape: one copy in, the encoder, the decoder, one copy out.

    Greedy decoding runs in fixed shapes too, but for rows that favour something; those, any other
    decoding, or one on another device, wait for the encoder and run operation by operation.
    """

    def __init__(
        self, machine: Machine, shape: tuple[int, int, int], arenas: tuple[Arena, Arena, Arena]
    ) -> None:
        self._machine, (self._look_ahead, self._steps, self._rows) = machine, shape
        mel = (self._rows, 8 * self._steps, machine.front_end.bins)
        samples = (self._rows, (8 * self._steps - 1) * HOP + FFT)
        self._into = arenas[0].block(
            {
                "samples": (torch.float32, samples),
                "counts": (torch.int64, (len(COUNTS), self._rows)),
            }
        )
        self._given = arenas[1].block({"mel": (torch.float32, mel)})
        """Rows made before a stream was restored: seldom are there any."""
        self._encode: Act = self._encoded
        self._begin: Act = self._begun
        self._go_on: Act = self._gone_on
        self._x = self._prepared = torch.empty(0)
        self._at = Rows(self._x, self._x, self._x)
        is_near = machine.decoding.device == self._into.there["counts"].device
        self._fixed: FixedDecoder | None = machine.decoding.fixed if is_near else None
        if self._fixed is not None:
            layout: Layout = Said.layout(self._rows, self._fixed.room(self._steps))
            self._out = arenas[2].block(layout)
            self._said, self._heard = Said(**self._out.there), Said(**self._out.here)

    def run(self, batch: Batch) -> tuple[Tensor, list[Heard]]:
        """Advance the streams."""
        decoding, own = self._machine.decoding, list[int]()
        if self._fixed is not None:
            own = [row for row, slot in enumerate(batch.slots) if decoding.favours(slot)]
        self._fill(batch, {*batch.silent, *own})
        self._into.send()
        self._encode()
        if self._fixed is None:
            return self._x, _decoded(decoding, self._x, self._at)
        self._begin()
        self._out.fetch()
        while int(self._heard.left):  # on the host: a row says more than almost any does
            self._go_on()
            self._out.fetch()
        heard = decoding.rated(self._heard.heard())
        for row, said in zip(own, self._decoded_alone(batch, own), strict=True):
            heard[row] = said
        return self._x, heard

    def record(self, record: Record) -> None:
        """Record what runs, each part behind what it reads."""
        self._encode = record(self._encoded)
        self._encode()
        if self._fixed is not None:
            self._begin = record(self._begun)
            self._begin()
            self._go_on = record(self._gone_on)

    def forget(self) -> None:
        """Run operation by operation again."""
        self._encode, self._begin, self._go_on = self._encoded, self._begun, self._gone_on

    def _decoded_alone(self, batch: Batch, own: list[int]) -> list[Heard]:
        """Decode rows that favour something; they do not make the others wait for the host."""
        if not own:
            return []
        valid = [0 if row in batch.silent else batch.takes[row].valid for row in own]
        rows, valid_N = (torch.tensor(each, device=self._x.device) for each in (own, valid))
        at = self._at
        parts = Rows(at.slots_B[rows], valid_N, at.first_frame_B[rows])
        return _decoded(self._machine.decoding, self._x[rows], parts)

    def _fill(self, batch: Batch, silent: set[int]) -> None:
        """Write what the streams bring to the host's side of the fixed memory."""
        takes = batch.takes
        samples = self._into.here["samples"].numpy()
        into = self._into.here["counts"].numpy()
        into[:] = 0
        into[0] = self._machine.pool.spare
        rows, is_given = [], False
        for row, take in enumerate(takes):
            given, made, valid = take.given, take.made, take.valid
            is_given |= given > take.missing
            rows.append(
                (batch.slots[row], valid, 0 if row in silent else valid, batch.prompts[row],
                 take.missing, given, given + made, *take.stage_from, *take.stage_until)
            )  # fmt: skip
            begin = given * HOP
            samples[row, begin : begin + len(take.samples)] = take.samples
        into[:, : len(takes)] = np.array(rows).T
        if is_given:
            for mel, take in zip(self._given.here["mel"], takes, strict=False):
                mel[take.missing : take.given] = take.rows
            self._given.send()

    def _encoded(self) -> None:
        machine, counts = self._machine, dict(zip(COUNTS, self._into.there["counts"], strict=True))
        at = self._into.there["counts"]
        step = StepInput(
            mel_BTF=self._mel(counts),
            slots_B=counts["slot"],
            valid_B=counts["valid"],
            stage_from=at[7:9],
            stage_until=at[9:11],
            look_ahead=self._look_ahead,
        )
        x = machine.encoder.step(machine.pool, step)
        self._x = x if machine.prompt is None else machine.prompt(x, counts["prompt"])
        first = machine.pool.frames_S[counts["slot"]] - counts["valid"]
        self._at = Rows(counts["slot"], counts["heard"], first)

    def _mel(self, counts: dict[str, Tensor]) -> Tensor:
        """Return mel rows [B, 8 T, bins]: zeros, those given, those made here, zeros."""
        given, front = self._given.there["mel"], self._machine.front_end
        windows = self._into.there["samples"].unfold(1, FFT, HOP)
        made = front.log_mel(windows.reshape(-1, FFT)).view(given.shape)
        row = torch.arange(given.shape[1], device=given.device)[:, None]
        missing, until, end = (counts[name][:, None, None] for name in COUNTS[4:7])
        mel = torch.where(row < until, given, made)
        return mel.masked_fill((row < missing) | (row >= end), 0.0)

    def _begun(self) -> None:
        if self._fixed is not None:
            self._prepared = self._fixed.begin(self._x, self._at, self._said)
            self._fixed.go_on(self._prepared, self._at, self._said)

    def _gone_on(self) -> None:
        if self._fixed is not None:
            self._fixed.go_on(self._prepared, self._at, self._said)
