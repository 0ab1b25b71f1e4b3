"""Text -> a pruned back-off n-gram: interpolated modified Kneser-Ney (Chen and Goodman 1999).

Does: count, discount, prune by count, write the tables of ``asr.decoder.ngram``.
Does not know: audio, streams, where the text is from.
"""

import gzip
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from asr.decoder.ngram import NgramModel, NgramTables, coded
from asr.tokenizer import Tokenizer

Ids = NDArray[np.int64]
Reals = NDArray[np.floating[Any]]
CUTOFFS = (1, 1, 2, 4, 6, 6)
"""Fewest occurrences of an n-gram of each length that is kept; must not fall."""


@dataclass(slots=True)
class _Level:
    """The n-grams of one length, sorted by (parent, label)."""

    parent: Ids
    label: Ids
    raw: Ids
    count: Ids
    """Distinct labels in front; the occurrences for the longest, and behind a start."""
    suffix: Ids
    is_start: NDArray[np.bool_]
    """Whether its first label is the start of a sentence."""


def read_lines(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the lines of text files, gzip or plain."""
    for path in paths:
        opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open()
        with opened as lines:
            yield from filter(None, map(str.strip, lines))


def encode_lines(lines: Iterable[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Spell sentences as the model does; those with an unknown piece are left out."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model_proto)
    unknown = processor.unk_id()
    spelled = processor.encode(list(lines))
    return [ids for ids in spelled if ids and unknown not in ids]


def estimate(
    sentences: Sequence[Sequence[int]],
    vocabulary: int,
    *,
    order: int = 6,
    cutoffs: Sequence[int] = CUTOFFS,
) -> NgramModel:
    """Estimate an n-gram of this order (2 or more)."""
    levels = _count(sentences, vocabulary, order)
    probabilities, gammas = list[Reals](), list[Reals]()
    kept = list[NDArray[np.bool_]]()
    lower: Reals = np.full(1, 1.0 / vocabulary)
    for n, level in enumerate(levels):
        keep = level.raw >= (cutoffs[min(n, len(cutoffs) - 1)] if n else 0)
        parents = len(kept[-1]) if kept else 1
        share = _shares(level, parents)
        gamma: Reals = 1.0 - np.bincount(level.parent, share * keep, minlength=parents)
        behind = lower[level.suffix] if n else np.full(len(level.label), lower[0])
        lower = share + gamma[level.parent] * behind
        probabilities.append(lower)
        gammas.append(gamma)
        kept.append(keep)
    return NgramModel(_tables(levels, probabilities, gammas, kept, vocabulary))


def _count(sentences: Sequence[Sequence[int]], vocabulary: int, order: int) -> list[_Level]:
    width = vocabulary + 1
    lengths = np.array([len(sentence) + 1 for sentence in sentences])
    tokens = np.concatenate([np.asarray([vocabulary, *s], np.int64) for s in sentences])
    place = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    # Every single label exists, said or not: the first level is dense.
    every = np.arange(width, dtype=np.int64)
    raw = np.bincount(tokens, minlength=width)
    zero = np.zeros(width, np.int64)
    levels = [_Level(zero, every, raw, raw, zero, every == vocabulary)]
    gram, ids = tokens, tokens  # the n-gram that ends at each position, where there is one
    for n in range(2, order + 1):
        ends = np.flatnonzero(place >= n - 1)
        key = gram[ends - 1] * width + tokens[ends]
        found, first, ids, raw = np.unique(
            key, return_index=True, return_inverse=True, return_counts=True
        )
        suffix, parent = gram[ends][first], found // width
        before = levels[-1]
        before.count = np.where(
            before.is_start, before.raw, np.bincount(suffix, minlength=len(before.raw))
        )
        levels.append(_Level(parent, found % width, raw, raw, suffix, before.is_start[parent]))
        gram = np.full(len(tokens), -1, np.int64)
        gram[ends] = ids
    levels[0].count[vocabulary] = 0  # a start is never said
    return levels


def _shares(level: _Level, parents: int) -> Reals:
    """Return the discounted share of each n-gram in what follows its context."""
    having = [int(np.count_nonzero(level.count == k)) for k in range(1, 5)]
    ratio = having[0] / max(1, having[0] + 2 * having[1])
    discount = np.zeros(4)
    for k in (1, 2, 3):
        if having[k - 1]:
            discount[k] = np.clip(k - (k + 1) * ratio * having[k] / having[k - 1], 0.1, k - 0.1)
        else:
            discount[k] = 0.5
    total = np.bincount(level.parent, level.count, minlength=parents)
    left = level.count - discount[np.minimum(level.count, 3)]
    return np.maximum(left, 0.0) / np.maximum(total[level.parent], 1)


def _tables(
    levels: list[_Level],
    probabilities: list[Reals],
    gammas: list[Reals],
    kept: list[NDArray[np.bool_]],
    vocabulary: int,
) -> NgramTables:
    """Leave out what is pruned; what is kept has kept parents and suffixes."""
    labels, log_probs, back_offs, children = [np.zeros(1, np.int64)], [np.zeros(1)], [], []
    parents_kept = np.ones(1, np.bool_)
    for n, level in enumerate(levels):
        keep = kept[n]
        labels.append(level.label[keep])
        log_probs.append(np.log(np.maximum(probabilities[n][keep], 1e-9)))
        gamma = gammas[n][parents_kept]
        back_offs.append(np.log(np.maximum(gamma, 1e-9)))
        number = np.bincount(level.parent[keep], minlength=len(parents_kept))
        children.append(number[parents_kept])
        parents_kept = keep
    back_offs[0][:] = 0.0  # nothing is behind single labels
    small = torch.int16 if vocabulary < 2**15 - 1 else torch.int32
    return NgramTables(
        vocabulary=vocabulary,
        order=len(levels),
        label=torch.from_numpy(np.concatenate(labels)).to(small),
        log_prob=coded(torch.from_numpy(np.concatenate(log_probs))),
        back_off=coded(torch.from_numpy(np.concatenate(back_offs))),
        children=torch.from_numpy(np.concatenate(children)).to(small),
    )
