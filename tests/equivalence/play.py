"""Random traffic over one engine: packets, joins, leaves, forks, moves; everything is recorded.

Does: stream utterances through an engine in a random order and keep what came out of each.
Does not know: NeMo, models.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr.interface import Emission, Token


@dataclass(frozen=True, slots=True)
class Utterance:
    """What one stream says, and how it is heard."""

    samples: NDArray[np.float32]
    look_ahead: int
    language: str | None = None


@dataclass(slots=True)
class Heard:
    """One stream of an utterance: an utterance that was forked is heard several times."""

    utterance: int
    at: int = 0
    tokens: list[Token] = field(default_factory=list)
    encoded: list[Tensor] = field(default_factory=list)
    frames: int = 0
    is_finished: bool = False

    @property
    def rows(self) -> Tensor:
        """All encoder frames."""
        return torch.cat(self.encoded)

    def copied(self) -> "Heard":
        """The past of a fork."""
        return replace(self, tokens=list(self.tokens), encoded=list(self.encoded))


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """How often what happens, per round or per stream and round."""

    seed: int = 0
    packet: tuple[int, int] = (1, 6000)
    join: float = 0.3
    send: float = 0.7
    fork: float = 0.05
    move: float = 0.05
    """Snapshot, drop, restore."""
    stranger: float = 0.1
    """A loud stream that is dropped in the middle and leaves its rows behind."""


class Player:
    """Plays utterances over an engine with slots that may be fewer than the utterances."""

    def __init__(self, engine: Any, utterances: list[Utterance], traffic: Traffic) -> None:
        self._engine, self._utterances, self._traffic = engine, utterances, traffic
        self._random = np.random.default_rng(traffic.seed)
        self._waiting = list(range(len(utterances)))
        self._live: dict[int, Heard] = {}
        self.done: list[Heard] = []
        self.forks = self.moves = 0
        self.batches: list[int] = []
        engine.trace = self._keep

    def play(self) -> list[Heard]:
        """Run until every utterance was heard to its end."""
        while self._waiting or self._live:
            self._join()
            for slot in list(self._live):
                self._meddle(slot)
            for slot, heard in self._live.items():
                if not heard.is_finished and self._chance(self._traffic.send):
                    self._send(slot, heard)
            if self._chance(0.6):
                self._step()
        return self.done

    def _chance(self, share: float) -> bool:
        return bool(self._random.random() < share)

    def _has_room(self) -> bool:
        return bool(self._engine.slots_in_use < self._engine.info.slots)

    def _join(self) -> None:
        if (
            self._waiting
            and self._has_room()
            and (not self._live or self._chance(self._traffic.join))
        ):
            number = self._waiting.pop(0)
            said = self._utterances[number]
            self._live[self._engine.open(said.look_ahead, language=said.language)] = Heard(number)
        if self._has_room() and self._chance(self._traffic.stranger):
            said = self._utterances[int(self._random.integers(len(self._utterances)))]
            slot = self._engine.open(said.look_ahead, language=said.language)
            self._engine.feed(slot, self._random.uniform(-1, 1, 20_000).astype(np.float32))
            self._step()
            self._engine.drop(slot)

    def _meddle(self, slot: int) -> None:
        heard = self._live[slot]
        if self._has_room() and self._chance(self._traffic.fork):
            self._live[self._engine.fork(slot)] = heard.copied()
            self.forks += 1
        elif self._chance(self._traffic.move):
            blob = self._engine.snapshot(slot)
            self._engine.drop(slot)
            self._live[self._engine.restore(blob)] = self._live.pop(slot)
            self.moves += 1

    def _send(self, slot: int, heard: Heard) -> None:
        samples = self._utterances[heard.utterance].samples
        until = heard.at + int(self._random.integers(*self._traffic.packet))
        self._engine.feed(slot, samples[heard.at : until])
        heard.at = until
        if until >= len(samples):
            self._engine.finish(slot)
            heard.is_finished = True

    def _step(self) -> None:
        emissions = self._engine.step()
        self.batches.append(len(emissions))
        for emission in emissions:
            self._take(emission)

    def _take(self, emission: Emission) -> None:
        heard = self._live.get(emission.stream)
        if heard is None:
            return
        heard.tokens += emission.tokens
        heard.frames = emission.frames
        if emission.finished:
            self.done.append(self._live.pop(emission.stream))

    def _keep(self, slot: int, encoded: Tensor) -> None:
        if slot in self._live:
            self._live[slot].encoded.append(encoded.clone())
