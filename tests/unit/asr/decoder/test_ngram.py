"""A back-off n-gram is a distribution, batched as alone, and survives its file."""

import dataclasses
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from asr.decoder import ngram
from asr.decoder.counting import estimate
from asr.decoder.ngram import BadNgram, NgramModel, load

VOCABULARY = 4
PIECES = tuple("abcd")
CODING = 0.03
"""Probabilities are stored in steps of 1/16 nat."""

corpora = st.lists(
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=8), min_size=1, max_size=12
)


def all_states(model: NgramModel) -> torch.Tensor:
    histories = [[VOCABULARY], *[[a, b, c] for a in range(4) for b in range(4) for c in range(4)]]
    return torch.tensor(sorted({model.follow(history) for history in histories} | {0}))


@settings(max_examples=40, deadline=None)
@given(corpora, st.integers(2, 4), st.sampled_from([(1, 1, 1, 1), (1, 1, 2, 2), (1, 2, 3, 3)]))
def test_probabilities_sum_to_one_behind_every_history(
    corpus: list[list[int]], order: int, cutoffs: tuple[int, ...]
) -> None:
    model = estimate(corpus, VOCABULARY, order=order, cutoffs=cutoffs)
    log_prob, following = model.look(all_states(model))
    torch.testing.assert_close(
        log_prob.exp().sum(-1), torch.ones(len(log_prob)), atol=2 * CODING, rtol=0
    )
    assert int(following.max()) < model.nodes


@settings(max_examples=40, deadline=None)
@given(corpora, st.integers(2, 4), st.integers(0, 40))
def test_what_is_left_of_a_model_is_a_distribution_of_the_size_asked_for(
    corpus: list[list[int]], order: int, most: int
) -> None:
    model = estimate(corpus, VOCABULARY, order=order, cutoffs=(1, 1, 1, 1), most=most)
    assert model.nodes <= max(most, VOCABULARY + 2)  # root, single labels and the start
    log_prob, _ = model.look(all_states(model))
    torch.testing.assert_close(
        log_prob.exp().sum(-1), torch.ones(len(log_prob)), atol=2 * CODING, rtol=0
    )


def test_n_grams_that_the_text_needs_stay_before_those_that_are_often_said() -> None:
    """Behind 0 comes 1 whatever was before; 3 comes only behind 2, 1."""
    corpus = [[0, 1, 0], [1, 0, 1], [3, 0, 1], [0, 1, 3]] * 40 + [[2, 1, 3, 2, 1, 3]] * 10
    whole = estimate(corpus, VOCABULARY, order=3, cutoffs=(1, 1, 1))
    rare = estimate(corpus, VOCABULARY, order=3, cutoffs=(1, 60, 60))
    left = estimate(corpus, VOCABULARY, order=3, cutoffs=(1, 1, 1), most=rare.nodes)
    assert left.nodes <= rare.nodes < whole.nodes
    assert cost(whole, corpus) < cost(left, corpus) < cost(rare, corpus)


def cost(model: NgramModel, corpus: list[list[int]]) -> float:
    """Nats for a text."""
    nats = 0.0
    for sentence in corpus:
        state = model.start
        for piece in sentence:
            log_prob, following = model.look(torch.tensor([state]))
            nats -= float(log_prob[0, piece])
            state = int(following[0, piece])
    return nats


@settings(max_examples=30, deadline=None)
@given(corpora, st.lists(st.integers(0, VOCABULARY - 1), max_size=8))
def test_many_streams_look_together_as_one_walks_alone(
    corpus: list[list[int]], text: list[int]
) -> None:
    model = estimate(corpus, VOCABULARY, order=3, cutoffs=(1, 1, 1))
    states = torch.tensor([model.start, 0])
    said = [[VOCABULARY], list[int]()]
    for piece in text:
        together, following = model.look(states)
        for row in range(2):
            alone, _ = model.look(states[row : row + 1])
            torch.testing.assert_close(together[row], alone[0])
        states = following[:, piece]
        for row in range(2):
            said[row].append(piece)
            assert int(states[row]) == model.follow(said[row])
            assert model.follow(model.path(int(states[row]))) == int(states[row])


def test_what_was_read_often_is_likely_behind_its_history() -> None:
    model = estimate([[0, 1, 2]] * 20 + [[1, 3]] * 20, VOCABULARY, order=3, cutoffs=(1, 1, 1))
    behind, _ = model.look(torch.tensor([model.follow([0, 1]), model.follow([VOCABULARY, 1])]))
    assert behind[0].argmax() == 2
    assert behind[1].argmax() == 3
    assert behind[0, 2].exp() > 0.8


def test_a_file_says_the_same_and_is_refused_with_another_vocabulary(tmp_path: Path) -> None:
    model, path = estimate([[0, 1, 2], [1, 2]], VOCABULARY, order=3), tmp_path / "lm.safetensors"
    model.save(path, PIECES, "two sentences")
    os.umask(umask := os.umask(0o022))
    assert path.stat().st_mode & 0o444 == 0o444 & ~umask, "a server of another user reads it"
    again = load(path, PIECES)
    for mine, other in zip(
        model.look(all_states(model)), again.look(all_states(again)), strict=True
    ):
        torch.testing.assert_close(mine, other)
    with pytest.raises(BadNgram, match="another model's vocabulary"):
        load(path, tuple("abce"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadNgram, match="cannot be read"):
        load(path, PIECES)


def in_torch() -> AbstractContextManager[object]:
    """Have no C++."""
    return mock.patch.object(ngram, "library", return_value=None)


@settings(max_examples=40, deadline=None)
@given(corpora, st.integers(2, 4))
def test_cpp_and_torch_derive_the_same_tables(corpus: list[list[int]], order: int) -> None:
    model = estimate(corpus, VOCABULARY, order=order, cutoffs=(1, 1, 1, 1))
    with in_torch():
        other = NgramModel(model.tables)
    assert model.start == other.start
    for name, rows in model.packed().items():
        torch.testing.assert_close(rows, other.packed()[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("way", [nullcontext, in_torch])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_a_file_holds_it_is_refused_or_stays_within_its_tables(
    tmp_path_factory: pytest.TempPathFactory,
    way: Callable[[], AbstractContextManager[object]],
    data: st.DataObject,
) -> None:
    path = tmp_path_factory.mktemp("lm") / "lm.safetensors"
    estimate([[0, 1, 2], [1, 2, 3], [2, 2]], VOCABULARY, order=3, cutoffs=(1, 1, 1)).save(
        path, PIECES, "three sentences"
    )
    with safe_open(path, "pt") as file:
        head = file.metadata()
    tensors = load_file(path)
    name = data.draw(st.sampled_from(sorted(tensors)))
    tensor = tensors[name].to(torch.int16)
    places = st.integers(0, len(tensor) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=2)):
        tensor[place] = data.draw(st.integers(-3, 300))
    tensors[name] = tensor
    save_file(tensors, path, metadata=head)
    try:
        with way():
            model = load(path, PIECES)
    except BadNgram:
        return
    rows = model.packed()
    assert int(rows["child"][:, 0].max()) <= VOCABULARY
    assert int(rows["child"][:, 1].max()) < len(rows["state"])
    assert int((rows["state"][:, 0] + rows["state"][:, 1]).max()) <= model.nodes


def test_a_number_of_children_below_none_is_refused() -> None:
    tables = estimate([[0, 1, 2], [1, 2, 3]], VOCABULARY, order=3, cutoffs=(1, 1, 1)).tables
    children = tables.children.to(torch.int16)
    none, some = int(children.argmin()), int(children.argmax())
    children[none], children[some] = -1, children[some] + 1
    with pytest.raises(BadNgram, match="do not fit"):
        NgramModel(dataclasses.replace(tables, children=children))
