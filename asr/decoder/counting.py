"""Text -> a pruned back-off n-gram: interpolated modified Kneser-Ney (Chen and Goodman 1999).

Does: count, discount, leave out what is rare and what the text misses least, write the tables of
``asr.decoder.ngram``.
Does not know: audio, streams, where the text is from.
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from asr.decoder.ngram import NgramModel, NgramTables, coded, small
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


class TextError(Exception):
    """A text cannot be read or spelled; the message says which or why."""


def read_lines(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the lines of text files, gzip or plain. Raises TextError."""
    for path in paths:
        opener = gzip.open if path.suffix == ".gz" else open
        try:
            with opener(path, "rt", encoding="utf-8") as lines:
                yield from filter(None, map(str.strip, lines))
        except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
            raise TextError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def encode_lines(lines: Iterable[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Spell sentences as the model does; those with an unknown piece are left out.

    Raises TextError where the checkpoint does not say how.
    """
    import sentencepiece

    if not tokenizer.model_proto:
        raise TextError(
            "the checkpoint lists its pieces without the one SentencePiece model that spells texts"
            " in them: take the .nemo of the same model (one with a tokenizer for each language"
            " takes no language model)"
        )
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model_proto)
    unknown = processor.unk_id()
    spelled = processor.encode(list(lines))
    return [ids for ids in spelled if ids and unknown not in ids]


@dataclass(slots=True)
class _Fit:
    """What is kept of the levels, and what that makes of them."""

    kept: list[NDArray[np.bool_]]
    probability: list[Reals]
    gamma: list[Reals]
    """What is left for the shorter context, by parent."""


def estimate(
    sentences: Sequence[Sequence[int]],
    vocabulary: int,
    *,
    order: int = 6,
    cutoffs: Sequence[int] = CUTOFFS,
    most: int | None = None,
) -> NgramModel:
    """Estimate an n-gram of this order (2 or more), of no more than ``most`` n-grams."""
    levels = _count(sentences, vocabulary, order)
    floors = [0, *(cutoffs[min(n, len(cutoffs) - 1)] for n in range(1, order))]
    fit = _fit(levels, [level.raw >= floor for level, floor in zip(levels, floors, strict=True)])
    if most is not None:
        fit = _fit(levels, _worth_most(levels, fit, most))
    return NgramModel(_tables(levels, fit, vocabulary))


def _fit(levels: list[_Level], kept: list[NDArray[np.bool_]]) -> _Fit:
    """Interpolate each level with the one below; what is not kept leaves its share to it."""
    probabilities, gammas = list[Reals](), list[Reals]()
    lower: Reals = np.full(1, 1.0 / (len(levels[0].label) - 1))
    for level, keep in zip(levels, kept, strict=True):
        parents = len(lower) if gammas else 1
        share = _shares(level, parents)
        gamma: Reals = 1.0 - np.bincount(level.parent, share * keep, minlength=parents)
        behind = lower[level.suffix] if gammas else lower[0]
        lower = share + gamma[level.parent] * behind
        probabilities.append(lower)
        gammas.append(gamma)
    return _Fit(kept, probabilities, gammas)


def _worth_most(levels: list[_Level], fit: _Fit, most: int) -> list[NDArray[np.bool_]]:
    """Keep the n-grams whose loss costs the text most (Stolcke 1998), contexts and ends with them.

    Contexts weigh as often as they occur, not as the discounted model has them, which misleads
    (Chelba et al. 2010).
    """
    worth = [np.full(len(level.label), -np.inf) for level in levels]
    for n in range(len(levels) - 1, 0, -1):
        level, keep = levels[n], fit.kept[n]
        np.maximum(worth[n], _losses(levels, fit, n), out=worth[n], where=keep)
        for needed in (level.parent, level.suffix):
            np.maximum.at(worth[n - 1], needed[keep], worth[n][keep])
    every = np.concatenate([w[keep] for w, keep in zip(worth[1:], fit.kept[1:], strict=True)])
    room = max(0, most - 1 - len(levels[0].label))
    limit = -np.partition(-every, room)[room] if room < len(every) else -np.inf
    return [fit.kept[0], *(k & (w > limit) for w, k in zip(worth[1:], fit.kept[1:], strict=True))]


def _losses(levels: list[_Level], fit: _Fit, n: int) -> Reals:
    """Return how many nats the text would cost more without each n-gram of a level."""
    level, keep, tiny = levels[n], fit.kept[n], 1e-12
    p, lower = fit.probability[n], fit.probability[n - 1][level.suffix]
    parents = len(levels[n - 1].label)
    left = 1.0 - np.bincount(level.parent, p * keep, minlength=parents)[level.parent]
    left_below = 1.0 - np.bincount(level.parent, lower * keep, minlength=parents)[level.parent]
    rise = np.log(np.maximum(left + p, tiny) / np.maximum(left_below + lower, tiny))
    back_off = np.log(np.maximum(fit.gamma[n][level.parent], tiny))
    own = p * (np.log(np.maximum(p, tiny)) - np.log(np.maximum(lower, tiny)) - rise)
    others = np.maximum(left, 0.0) * (rise - back_off)
    return levels[n - 1].raw[level.parent] * (own - others)


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
        found, where, ids, raw = _distinct(key)
        suffix, parent = gram[ends][where], found // width
        before = levels[-1]
        before.count = np.where(
            before.is_start, before.raw, np.bincount(suffix, minlength=len(before.raw))
        )
        levels.append(_Level(parent, found % width, raw, raw, suffix, before.is_start[parent]))
        gram = np.full(len(tokens), -1, np.int64)
        gram[ends] = ids
    levels[0].count[vocabulary] = 0  # a start is never said
    return levels


def _distinct(key: Ids) -> tuple[Ids, Ids, Ids, Ids]:
    """Return what occurs, in order, where (anywhere), its number at each place, and how often.

    Twice as fast as ``np.unique``, which must sort in a stable way to know where.
    """
    by_key = key.argsort()
    is_new = np.diff(key[by_key], prepend=-1) != 0
    ids = np.empty_like(key)
    ids[by_key] = np.cumsum(is_new) - 1
    begins = np.flatnonzero(is_new)
    return key[by_key[begins]], by_key[begins], ids, np.diff(begins, append=len(key))


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


def _tables(levels: list[_Level], fit: _Fit, vocabulary: int) -> NgramTables:
    """Leave out what is pruned; what is kept has kept parents and suffixes."""
    labels, log_probs, back_offs, children = [np.zeros(1, np.int64)], [np.zeros(1)], [], []
    parents_kept = np.ones(1, np.bool_)
    for n, level in enumerate(levels):
        keep = fit.kept[n]
        labels.append(level.label[keep])
        log_probs.append(np.log(np.maximum(fit.probability[n][keep], 1e-9)))
        gamma = fit.gamma[n][parents_kept]
        back_offs.append(np.log(np.maximum(gamma, 1e-9)))
        number = np.bincount(level.parent[keep], minlength=len(parents_kept))
        children.append(number[parents_kept])
        parents_kept = keep
    singles = vocabulary + 2  # and the root, all of which are known
    numbers = torch.from_numpy(np.concatenate(children))[1:]
    return NgramTables(
        vocabulary=vocabulary,
        order=len(levels),
        label=small(torch.from_numpy(np.concatenate(labels))[singles:]),
        log_prob=coded(torch.from_numpy(np.concatenate(log_probs))[1:]),
        children=small(numbers),
        back_off=coded(torch.from_numpy(np.concatenate(back_offs))[1:][numbers > 0]),
    )
