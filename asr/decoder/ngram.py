"""A back-off n-gram over the pieces of a vocabulary, for many streams at once.

Does: (state, piece) -> (log probability, state), dense over pieces; files without pickle.
Does not know: how it was estimated (``asr.decoder.counting``), acoustic scores, text.

The n-grams are a trie, nodes by level and within it by (parent, label); a state is a node: the
longest end of what was said that can still be extended.
"""

import ctypes
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from asr.interface import EngineError
from asr.native import library

SOURCE = Path(__file__).with_suffix(".cpp")
FORMAT = "rivulet-ngram-2"
STEPS_PER_NAT = 16
"""Log probabilities are stored as a byte in these steps: down to -15.9 nats."""


class BadNgram(EngineError):
    """A language model file cannot be used; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NgramTables:
    """What a file holds; node 0 is the root, nodes 1 .. V + 1 are single labels (V: the start).

    Labels and numbers are bytes where they fit: an n-gram takes three to four bytes.
    """

    vocabulary: int
    order: int
    label: Tensor
    """Of the nodes behind the single labels."""
    log_prob: Tensor
    """Of all nodes but the root: uint8, nats times -STEPS_PER_NAT."""
    children: Tensor
    """How many, of the nodes but the root that are shorter than ``order``, which come first."""
    back_off: Tensor
    """Of those that have children; as ``log_prob``."""


def digest(pieces: Iterable[str]) -> str:
    """Identity of a vocabulary."""
    return hashlib.sha256("\n".join(pieces).encode()).hexdigest()[:16]


def coded(nats: Tensor) -> Tensor:
    """Return log probabilities as a file has them."""
    return (nats * -STEPS_PER_NAT).round().clamp(0, 255).to(torch.uint8)


def small(numbers: Tensor) -> Tensor:
    """Return whole numbers in the fewest bytes that hold them."""
    most = int(numbers.max()) if len(numbers) else 0
    return numbers.to(torch.uint8 if most < 2**8 else torch.int16 if most < 2**15 else torch.int32)


class NgramModel:
    """The tables, and what is derived from them when they are read.

    Rows of 32-bit words, so that one is a cache line: ``child`` [nodes, 3]: label, next state, log
    probability; ``state`` [nodes with children, 4]: first child, number of children, state of the
    longest end that has children, back-off. Reals keep their bits.
    """

    def __init__(self, tables: NgramTables) -> None:
        self.tables = tables
        self._vocabulary, self._order = tables.vocabulary, tables.order
        width = tables.vocabulary + 1
        root = torch.zeros(1, dtype=torch.int32)
        label = torch.cat([root, torch.arange(width, dtype=torch.int32), tables.label.int()])
        children = torch.cat([root + width, tables.children.int()])
        nodes, has_children = len(label), children > 0
        states = has_children.nonzero()[:, 0]
        fits = nodes == int(children.sum()) + 1 == len(tables.log_prob) + 1
        is_sound = int(children.min()) >= 0 <= int(label.min()) and int(label.max()) < width
        if not fits or not is_sound or len(states) != len(tables.back_off) + 1:
            raise BadNgram("the tables of the language model do not fit together")
        number = torch.zeros(nodes, dtype=torch.int32)  # of states; of others, 0: the root
        number[states] = torch.arange(len(states), dtype=torch.int32)
        shorter = _follow_ends(label, children, number)
        none, step = torch.zeros(1), -STEPS_PER_NAT
        log_prob = torch.cat([none, tables.log_prob / step])
        back_off = torch.cat([none, tables.back_off / step])
        begin = 1 + (children.cumsum(0, dtype=torch.int32) - children)[states]
        count = children[states]
        count[0] = 0  # the root's children are the dense first row
        self._child = _in_rows(label, number, log_prob)
        self._state = _in_rows(begin, count, shorter[states], back_off)
        self._node, self._begin = states.int(), begin.int()
        self.start = int(self._child[width, 1])

    def to(self, device: torch.device) -> "NgramModel":
        """Move the tables to a device."""
        for name in ("_child", "_state", "_begin", "_node"):
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
            node = int(self._node[state])
            labels.append(int(self._child[node, 0]))
            state = int(torch.searchsorted(self._begin, node, right=True)) - 1
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
        path.write_bytes(save(tensors, metadata=head))  # save_file's are for their owner alone


def _follow_ends(label: Tensor, children: Tensor, number: Tensor) -> Tensor:
    """Return the state of each n-gram without its first label; give those that are none one.

    An n-gram without its first label is one level higher. Where nothing follows it, the longest
    end of it that something follows is its state.
    """
    functions = library(SOURCE)
    shorter = torch.zeros_like(label)
    tensors = label, children, number, shorter
    if functions is None:
        is_sound = _searched(*tensors)
    else:
        sizes = ctypes.c_int64(len(label)), ctypes.c_int64(len(children))
        pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)
        is_sound = bool(functions.follow_ends(*sizes, *pointers))
    if not is_sound:
        raise BadNgram("the tables of the language model do not fit together")
    return shorter


def _searched(label: Tensor, children: Tensor, number: Tensor, shorter: Tensor) -> bool:
    """Do what the C++ does, level by level; takes ten times as long."""
    ends = torch.zeros_like(label)
    start, stop = 1, 1 + int(children[0])
    width, key = stop - start, torch.arange(stop - start)  # (context, label) of a level, ascending
    while stop < len(label):
        count = children[start:stop]
        context = torch.repeat_interleave(torch.arange(start, start + len(count)), count)
        level = slice(stop, stop + len(context))
        wanted = ends[context].long() * width + label[level]
        found = torch.searchsorted(key, wanted).clamp(max=len(key) - 1)
        if not len(context) or not torch.equal(key[found], wanted):
            return False
        ends[level] = found + start
        shorter[level] = number[start:stop][found]
        number[level] = torch.where(number[level] > 0, number[level], shorter[level])
        key = context * width + label[level]
        start, stop = level.start, level.stop
    return True


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
                raise BadNgram(f"{path} is not a language model of this version: make it again")
            if head.get("vocabulary") != digest(pieces):
                raise BadNgram(f"{path} was made for another model's vocabulary")
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
            order, labels = int(head["order"]), int(head["labels"])
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise BadNgram(f"{path} cannot be read as a language model") from error
    return NgramModel(NgramTables(vocabulary=labels, order=order, **tensors))
