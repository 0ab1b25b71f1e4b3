"""A back-off n-gram over the pieces of a vocabulary, for many streams at once.

Does: (state, piece) -> (log probability, state), dense over pieces; files without pickle.
Does not know: how it was estimated (``asr.decoder.counting``), acoustic scores, text.

The n-grams are a trie, nodes by level and within it by (parent, label); a state is a node: the
longest end of what was said that can still be extended.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from asr.interface import EngineError

FORMAT = "rivulet-ngram-1"
STEPS_PER_NAT = 2048
"""Log probabilities are stored as int16 in these steps: down to -16 nats."""
FLOOR = -15.9


class BadNgram(EngineError):
    """A language model file cannot be used; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NgramTables:
    """What a file holds; node 0 is the root, nodes 1 .. V + 1 are single labels (V: the start)."""

    vocabulary: int
    order: int
    label: Tensor
    log_prob: Tensor
    """int16, nats times STEPS_PER_NAT."""
    back_off: Tensor
    """The same, of the nodes that are shorter than ``order``, which come first."""
    children: Tensor
    """Children of each of those nodes."""


def digest(pieces: Iterable[str]) -> str:
    """Identity of a vocabulary."""
    return hashlib.sha256("\n".join(pieces).encode()).hexdigest()[:16]


def coded(nats: Tensor) -> Tensor:
    """Return log probabilities as a file has them."""
    return (nats.clamp(FLOOR, -FLOOR) * STEPS_PER_NAT).round().to(torch.int16)


class NgramModel:
    """The tables, and what is derived from them when they are read.

    Rows of 32-bit words, so that one is a cache line: ``child`` [nodes, 3]: label, next state, log
    probability; ``state`` [nodes with children, 4]: first child, number of children, suffix,
    back-off. Reals keep their bits.
    """

    def __init__(self, tables: NgramTables) -> None:
        self.tables = tables
        self._vocabulary, self._order = tables.vocabulary, tables.order
        width, nodes = tables.vocabulary + 1, len(tables.label)
        label, children = tables.label.long(), tables.children.long()
        inner = len(children)
        begin = 1 + children.cumsum(0) - children
        parents = torch.repeat_interleave(torch.arange(inner), children)
        parent = torch.cat([torch.zeros(1, dtype=torch.long), parents])
        fits = len(parent) == nodes == len(tables.log_prob) and inner == len(tables.back_off)
        if not fits or nodes <= width or int(children[0]) != width:
            raise BadNgram("the tables of the language model do not fit together")
        key = parent * width + label  # ascending
        key[0] = -1
        suffix = torch.zeros(nodes, dtype=torch.long)
        start, end = 1, 1 + width
        while end < nodes:  # level by level: a suffix is one level higher
            start, end = end, int(begin[end - 1] + children[end - 1])
            wanted = suffix[parent[start:end]] * width + label[start:end]
            found = torch.searchsorted(key, wanted)
            if end <= start or not torch.equal(key[found], wanted):
                raise BadNgram("the tables of the language model do not fit together")
            suffix[start:end] = found
        # A node that nothing follows is left for its longest suffix that something does.
        state = torch.arange(nodes)
        for _ in range(tables.order):
            is_dead = (state >= inner) | (children[state.clamp(max=inner - 1)] == 0)
            state = torch.where(is_dead, suffix[state], state)
        children[0] = 0  # the root's children are the dense first row
        log_prob, back_off = tables.log_prob.float(), tables.back_off.float()
        self._child = _in_rows(label, state, log_prob / STEPS_PER_NAT)
        self._state = _in_rows(begin, children, suffix[:inner], back_off / STEPS_PER_NAT)
        self._begin = self._state[1:, 0].contiguous()
        self.start = int(state[width])

    def to(self, device: torch.device) -> "NgramModel":
        """Move the tables to a device."""
        for name in ("_child", "_state", "_begin"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    @property
    def nodes(self) -> int:
        """N-grams of all lengths."""
        return len(self._child)

    def look(self, states_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return log probability and next state of every piece [N, V] behind each state."""
        chain = [self._state[states_N]]
        for _ in range(self._order - 2):
            chain.append(self._state[chain[-1][:, 2]])
        rows, v = len(states_N), self._vocabulary
        # A spare column takes what pads the rows with fewer children.
        _, following, log_prob = _columns(self._child[1 : v + 2])
        log_prob, following = log_prob.repeat(rows, 1), following.repeat(rows, 1)
        for states in reversed(chain):
            begin, count, _, back_off = _columns(states)
            log_prob = log_prob + back_off[:, None]
            widest = int(count.max())
            if not widest:
                continue
            step = torch.arange(widest, device=count.device)
            is_child = step < count[:, None]
            label, after, p = _columns(self._child[torch.where(is_child, begin[:, None] + step, 0)])
            label = torch.where(is_child, label, v)
            log_prob = log_prob.scatter(1, label, p)
            following = following.scatter(1, label, after)
        return log_prob[:, :-1], following[:, :-1]

    def packed(self) -> dict[str, Tensor]:
        """Return the rows that ``look`` reads."""
        return {"child": self._child, "state": self._state}

    def path(self, state: int) -> list[int]:
        """Return the labels that lead to a state; the start of a stream is the label V."""
        labels = []
        while state:
            labels.append(int(self._child[state, 0]))
            state = int(torch.searchsorted(self._begin, state, right=True))
        return labels[::-1]

    def follow(self, labels: Sequence[int]) -> int:
        """Return the state behind these labels; no more of them count than a state can hold."""
        state = 0
        for label in labels[1 - self._order :]:
            while (child := self._find(state, label)) == 0 and state:
                state = int(self._state[state, 2])
            state = int(self._child[child, 1])
        return state

    def _find(self, state: int, label: int) -> int:
        """Return the child of a state, or 0."""
        if not state:
            return label + 1
        begin, count = self._state[state, :2].tolist()
        row = self._child[begin : begin + count, 0].contiguous()
        place = int(torch.searchsorted(row, label))
        return begin + place if place < count and int(row[place]) == label else 0

    def save(self, path: Path, pieces: Iterable[str], about: str) -> None:
        """Write a safetensors file."""
        tables = self.tables
        head = {"format": FORMAT, "vocabulary": digest(pieces), "about": about}
        head |= {"order": str(tables.order), "labels": str(tables.vocabulary)}
        tensors = {name: getattr(tables, name) for name in _TENSORS}
        save_file(tensors, path, metadata=head)


def _in_rows(*columns: Tensor) -> Tensor:
    words = [c.view(torch.int32) if c.is_floating_point() else c.int() for c in columns]
    return torch.stack(words, 1)


def _columns(rows: Tensor) -> list[Tensor]:
    """Return the columns of rows [..., C], the last one as the reals that it holds."""
    *whole, last = rows.unbind(-1)
    return [*(column.long() for column in whole), last.view(torch.float32)]


_TENSORS = ("label", "log_prob", "back_off", "children")


def load(path: Path, pieces: tuple[str, ...]) -> NgramModel:
    """Read a file written for this vocabulary. Raises BadNgram."""
    try:
        with safe_open(path, "pt") as file:
            head = file.metadata() or {}
            if head.get("format") != FORMAT:
                raise BadNgram(f"{path} is not a language model of this version")
            if head.get("vocabulary") != digest(pieces):
                raise BadNgram(f"{path} was made for another model's vocabulary")
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
            order, labels = int(head["order"]), int(head["labels"])
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise BadNgram(f"{path} cannot be read as a language model") from error
    return NgramModel(NgramTables(vocabulary=labels, order=order, **tensors))
