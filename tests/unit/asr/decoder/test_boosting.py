"""Phrases gain what the plain rules say, however many streams look at once."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.decoder import boosting
from asr.decoder.boosting import FIRST_SHARE, Automaton, BoostPool

VOCABULARY = 4
Pieces = tuple[int, ...]
Phrases = dict[Pieces, float]

pieces = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=4).map(tuple)
phrase_lists = st.dictionaries(pieces, st.sampled_from([0.0, 1.0, 2.0, 3.5]), max_size=6)
texts = st.lists(st.integers(0, VOCABULARY - 1), max_size=12).map(tuple)


def paid(path: Pieces, phrases: Phrases) -> float:
    """Every piece of an open prefix pays the best weight of the phrases that begin so."""
    total = 0.0
    for end in range(1, len(path) + 1):
        best = max(w for phrase, w in phrases.items() if phrase[:end] == path[:end])
        total += best * (FIRST_SHARE if end == 1 else 1.0)
    return total


def begins_a_phrase(path: Pieces, phrases: Phrases) -> bool:
    return any(w > 0 and phrase[: len(path)] == path for phrase, w in phrases.items())


def kept(dropped: Pieces, phrases: Phrases) -> float:
    """The best set of whole phrases in what was dropped that do not overlap."""
    best = [0.0] * (len(dropped) + 1)
    for end in range(1, len(dropped) + 1):
        best[end] = best[end - 1]
        for phrase, weight in phrases.items():
            start = end - len(phrase)
            if weight > 0 and start >= 0 and dropped[start:end] == phrase:
                best[end] = max(best[end], best[start] + paid(phrase, phrases))
    return best[-1]


def totals(text: Pieces, phrases: Phrases) -> list[float]:
    """What a text has gained behind each of its pieces."""
    start, banked, found = 0, 0.0, []
    for end in range(1, len(text) + 1):
        opening = start
        while opening < end and not begins_a_phrase(text[opening:end], phrases):
            opening += 1
        banked += kept(text[start:opening], phrases)
        start = opening
        found.append(banked + paid(text[start:end], phrases))
    return found


@settings(max_examples=150, deadline=None)
@given(phrase_lists, texts)
def test_gains_add_up_to_what_the_rules_say(phrases: Phrases, text: Pieces) -> None:
    automaton, state, total = Automaton(phrases, VOCABULARY), 0, 0.0
    for piece, expected in zip(text, totals(text, phrases), strict=True):
        state, gain = automaton.step(state, piece)
        total += gain
        assert total == pytest.approx(expected, abs=1e-4)
    assert automaton.follow(automaton.path(state)) == state


@settings(max_examples=40, deadline=None)
@given(st.lists(phrase_lists, min_size=1, max_size=3), texts)
def test_streams_of_different_phrases_look_together_as_alone(
    lists: list[Phrases], text: Pieces
) -> None:
    automata = [Automaton(phrases, VOCABULARY) for phrases in lists]
    pool = BoostPool(slots=4, vocabulary=VOCABULARY, device=torch.device("cpu"))
    for slot, automaton in enumerate(automata):
        pool.set(slot, automaton)
    slots, states = torch.arange(4), [0] * len(lists)
    for piece in text:
        moves = pool.look(slots, pool.states(slots))
        for slot, automaton in enumerate(automata):
            for other in range(VOCABULARY):
                state, gain = automaton.step(states[slot], other)
                assert int(moves.next[slot, other]) == state
                assert float(moves.gain[slot, other]) == pytest.approx(gain, abs=1e-4)
            states[slot] = automaton.step(states[slot], piece)[0]
        assert moves.gain[3].tolist() == [0.0] * VOCABULARY  # the slot without phrases
        pool.move(slots, moves.next[:, piece])
        assert [pool.path(slot) for slot in range(len(lists))] == [
            automaton.path(state) for automaton, state in zip(automata, states, strict=True)
        ]


def run(phrases: Mapping[Pieces, float], text: Pieces) -> float:
    automaton, state, total = Automaton(phrases, VOCABULARY), 0, 0.0
    for piece in text:
        state, gain = automaton.step(state, piece)
        total += gain
    return total


def test_a_broken_off_prefix_gains_nothing_and_a_whole_phrase_is_kept() -> None:
    phrases = {(0, 1, 2): 2.0, (0, 1): 1.0}
    assert run(phrases, (0, 3)) == pytest.approx(0.0, abs=1e-5)
    assert run({(0, 1, 2): 2.0}, (0, 1, 3)) == pytest.approx(0.0, abs=1e-5)
    whole = 2.0 * FIRST_SHARE + 2.0
    assert run(phrases, (0, 1, 3)) == pytest.approx(whole)
    assert run(phrases, (0, 1, 2, 3)) == pytest.approx(whole + 2.0)


def test_only_a_piece_that_goes_on_with_a_phrase_is_lifted_against_blank() -> None:
    pool = BoostPool(slots=1, vocabulary=VOCABULARY, device=torch.device("cpu"))
    pool.set(0, Automaton({(0, 1): 2.0}, VOCABULARY))
    slot = torch.tensor([0])
    assert pool.look(slot, pool.states(slot)).lift.tolist() == [[0.0] * VOCABULARY]
    pool.move(slot, pool.look(slot, pool.states(slot)).next[:, 0])
    assert pool.look(slot, pool.states(slot)).lift.tolist() == [[0.0, 2.0, 0.0, 0.0]]


def test_other_phrases_go_on_behind_what_was_said_last() -> None:
    pool = BoostPool(slots=1, vocabulary=VOCABULARY, device=torch.device("cpu"))
    pool.set(0, Automaton({(0, 1, 2): 2.0}, VOCABULARY))
    slot = torch.tensor([0])
    for piece in (0, 1):
        pool.move(slot, pool.look(slot, pool.states(slot)).next[:, piece])
    pool.set(0, Automaton({(1, 3): 2.0}, VOCABULARY))
    assert pool.path(0) == [1]
    pool.set(0, None)
    assert pool.path(0) == []


@pytest.fixture
def joins(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many automata were joined, each time."""
    counted, join = list[int](), boosting._Union.__init__

    def counting(union: boosting._Union, automata: Iterable[Automaton], *rest: Any) -> None:
        counted.append(len(parts := list(automata)))
        join(union, parts, *rest)

    monkeypatch.setattr(boosting._Union, "__init__", counting)
    return counted


def test_a_fork_comes_and_goes_and_no_automata_are_joined_anew(joins: list[int]) -> None:
    pool = BoostPool(slots=3, vocabulary=VOCABULARY, device=torch.device("cpu"))
    slots = torch.arange(3)
    pool.set(0, Automaton({(0, 1): 2.0}, VOCABULARY))
    alone = pool.look(slots[:1], pool.states(slots[:1]))
    pool.copy(0, 2)
    both = pool.look(slots, pool.states(slots))
    assert torch.equal(both.gain[2], alone.gain[0]) and not both.gain[1].any()
    pool.clear(2)
    assert not pool.look(slots, pool.states(slots)).gain[1:].any()
    assert joins == [1]
    pool.set(1, Automaton({(2, 3): 2.0}, VOCABULARY))
    pool.look(slots, pool.states(slots))
    for slot in (0, 1):
        pool.clear(slot)
    pool.look(slots, pool.states(slots))
    assert joins == [1, 2, 0]  # what nobody has is not kept
