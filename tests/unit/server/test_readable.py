"""Readable text: nothing that was stable or final is ever written otherwise."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.numerals import LEXICON
from server.readable import Writer
from server.wire.messages import Final, Partial, Readable, Turn
from tests.unit.server.wire.foreign import final, partial, turn


def texts(*messages: Any, rules: Readable | None = None) -> list[str]:
    writer = Writer(rules or Readable())
    found = list[str]()
    for message in messages:
        after = writer.write(message)
        assert isinstance(after, Partial | Final | Turn)
        found.append(after.text or "")
    return found


def test_a_sentence_has_a_capital_and_an_end() -> None:
    said = texts(final("turn on the light"), final("can i go", id=1), final("yes i'm here", id=2))
    assert said == ["Turn on the light.", "Can I go?", "Yes I'm here."]


@pytest.mark.parametrize(
    "said",
    ["is it", "do you know", "don't you know", "may i come in", "when did he go", "when", "why",
     "where do they live", "what time is it", "how much is that", "who said so", "why not",
     "what's the time", "where's my car", "which one is it", "had you been there", "is there one"],
)  # fmt: skip
def test_a_question_ends_with_its_mark(said: str) -> None:
    assert texts(final(said))[0].endswith("?")


@pytest.mark.parametrize(
    "said",
    ["don't worry", "do the dishes", "have a nice day", "may first is fine", "what a day",
     "when i was young we had none", "when the war was over they came home",
     "what you need is sleep", "where he lives nobody knows", "how it works is a secret",
     "do not do that", "should be fine", "will do", "has been a long day", "would not say so",
     "had a great day", "which is fine", "which means no", "that's right", "it's late"],
)  # fmt: skip
def test_what_only_begins_as_a_question_does_is_none(said: str) -> None:
    assert texts(final(said))[0].endswith(".")


def test_a_segment_that_was_cut_goes_on_as_one_sentence() -> None:
    said = texts(final("what is the", cause="max"), final("time now", id=1))
    assert said == ["What is the", "time now."]


def test_each_rule_can_be_off() -> None:
    said = final("is it twenty one")
    assert texts(said, rules=Readable(capitals=False)) == ["is it 21?"]
    assert texts(said, rules=Readable(punctuation=False)) == ["Is it 21"]
    assert texts(said, rules=Readable(numbers=False)) == ["Is it twenty one?"]


def test_a_number_that_may_go_on_is_not_stable_yet() -> None:
    writer = Writer(Readable())
    seen = [
        writer.write(partial(stable, tail, rev=rev))
        for rev, (stable, tail) in enumerate(
            [("i am", "twenty"), ("i am twenty", "won"), ("i am twenty one years", "")], start=1
        )
    ]
    assert [(p.stable, p.text) for p in seen if isinstance(p, Partial)] == [
        ("I am", "I am 20"),
        ("I am", "I am 20 won"),
        ("I am 21 years", "I am 21 years"),
    ]


def test_word_spans_of_a_number_are_one() -> None:
    after = Writer(Readable()).write(final("gate twenty one", at_ms=100))
    assert isinstance(after, Final)
    assert [(w.w, w.s, w.e) for w in after.words or ()] == [("Gate", 100, 180), ("21.", 200, 380)]


def test_word_spans_of_millions_are_two() -> None:
    after = Writer(Readable()).write(final("one point five million dollars", at_ms=0))
    assert isinstance(after, Final)
    assert [(w.w, w.s, w.e) for w in after.words or ()] == [
        ("1.5", 0, 280), ("million", 300, 380), ("dollars.", 400, 480)
    ]  # fmt: skip


def test_an_eager_end_says_what_the_end_says() -> None:
    said = texts(
        turn("start"),
        final("well then", cause="max"),
        turn("eager_end", text="well then is it twelve"),
        final("is it twelve", id=1),
        turn("end", text="well then is it twelve"),
        final("next", id=2),
    )
    assert said[2] == said[4] == "Well then is it 12."
    assert said[5] == "Next."


def test_what_a_model_wrote_itself_stays() -> None:
    assert texts(final("Turn on 5 lights!")) == ["Turn on 5 lights!"]


def test_a_final_without_words_changes_nothing() -> None:
    assert texts(final(""), final("yes", id=1)) == ["", "Yes."]


words = st.lists(st.sampled_from(["i", "cat", "what", "first", *LEXICON]), min_size=1, max_size=8)


@given(said=st.lists(words, min_size=1, max_size=3), data=st.data())
def test_stable_words_only_grow_and_begin_the_final(
    said: list[list[str]], data: st.DataObject
) -> None:
    writer = Writer(Readable())
    for number, segment in enumerate(said):
        stable = ""
        for count in range(len(segment) + 1):
            tail = " ".join(data.draw(words))
            after = writer.write(partial(" ".join(segment[:count]), tail, id=number))
            assert isinstance(after, Partial)
            assert after.stable.startswith(stable)
            assert after.text.startswith(after.stable)
            stable = after.stable
        cause = data.draw(st.sampled_from(["endpoint", "max"]))
        done = writer.write(final(" ".join(segment), id=number, cause=cause))
        assert isinstance(done, Final)
        assert done.text.startswith(stable)
        assert " ".join(word.w for word in done.words or ()) == done.text


@pytest.mark.parametrize("message", [partial("a b"), final("a b"), turn("end", text="a b")])
def test_without_any_rule_text_stays(message: Any) -> None:
    off = Readable(capitals=False, punctuation=False, numbers=False)
    assert Writer(off).write(message) == message
