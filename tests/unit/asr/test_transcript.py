"""Tokens become words once: growth, stability, and the seam after a forked final."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.events import Word
from asr.interface import Token
from asr.scripted import PIECES, tokens_of
from asr.tokenizer import Tokenizer
from asr.transcript import Transcript, confidence_of, text_of

TOKENIZER = Tokenizer(pieces=PIECES)


def transcript(*said: tuple[str, int]) -> Transcript:
    return more(Transcript(TOKENIZER), *said)


def more(to: Transcript, *said: tuple[str, int]) -> Transcript:
    """Say pieces at frames; "-ing" continues a word."""
    for text, frame in said:
        ids = [PIECES.index(text[1:])] if text.startswith("-") else tokens_of(text)
        for number, token in enumerate(ids):
            at = frame + number
            to.add(Token(token, at, 0.9 - 0.1 * number), at * 80, at * 80 + 80)
    return to


def spelled(*said: tuple[str, int], to: Transcript | None = None) -> Transcript:
    """Say pieces of a vocabulary that has the mark of a word's start alone, and marks."""
    pieces = ("▁", "▁turn", "x", ".", "<en-US>", "▁<zh-CN>", "</s>", "<0xC3>", "<0xA9>")
    to = to or Transcript(Tokenizer(pieces=pieces))
    for piece, at in said:
        to.add(Token(pieces.index(piece), at, 0.9), at * 80, at * 80 + 80)
    return to


def cut(live: Transcript, *tail: tuple[str, int], at: int) -> tuple[Word, ...]:
    """Publish a fork that said ``tail`` in its flush and ended at frame ``at``."""
    return live.publish_fork(more(live.fork(), *tail), at)


def test_a_word_spans_its_first_to_its_last_token() -> None:
    words = transcript(("kitchen", 3), ("light", 9)).words
    assert words[0] == Word("kitchen", 240, 400, 0.8)
    assert words[1] == Word("light", 720, 800, 0.9)
    assert confidence_of(words) == (0.8 + 0.9) / 2
    assert confidence_of(()) == 1.0


def test_a_word_is_stable_when_the_next_one_begins() -> None:
    said = transcript(("turn", 1), ("on", 3))
    assert (said.text, said.stable) == ("turn on", 1)
    more(said, ("the", 5))
    assert (said.text, said.stable) == ("turn on the", 2)


def test_the_mark_of_a_word_is_no_word_before_a_letter_follows() -> None:
    said = spelled(("▁turn", 1), ("▁", 4))
    assert (said.text, said.stable, said.words[-1].text) == ("turn", 1, "turn")
    spelled(("x", 5), ("▁turn", 8), to=said)
    assert said.text == "turn x turn"
    assert said.words[1] == Word("x", 320, 480, 0.9)


def test_a_mark_without_a_letter_leaves_nothing_in_the_text() -> None:
    said = spelled(("▁", 0), ("▁turn", 1), ("▁", 4), ("▁turn", 6), ("▁", 9))
    assert said.text == "turn turn"
    assert text_of(said.publish()) == "turn turn"
    assert spelled(("x", 12), to=said).text == "x"


@pytest.mark.parametrize("fork_hears", [True, False])
def test_the_letters_behind_a_mark_at_a_cut_are_said_once(*, fork_hears: bool) -> None:
    said = spelled(("▁turn", 1), ("▁", 8))
    fork = spelled(*([("x", 8)] if fork_hears else []), to=said.fork())
    finals = text_of(said.publish_fork(fork, 9))
    spelled(("x", 10), ("▁turn", 30), to=said)
    assert f"{finals} {said.text}" == "turn x turn"


def test_turn_tokens_are_no_text() -> None:
    assert transcript(("good", 1), ("<EOU>", 2)).text == "good"


@pytest.mark.parametrize("mark", ["<en-US>", "▁<zh-CN>", "</s>"])
def test_the_name_of_a_language_behind_a_sentence_is_no_text(mark: str) -> None:
    said = spelled(("▁turn", 1), (".", 2), ("▁", 3), (mark, 3), ("▁turn", 9), (mark, 10))
    assert [word.text for word in said.words] == ["turn.", "turn"]
    assert said.words[-1].end_ms == 800


def test_a_word_written_in_bytes_is_shown_in_characters_when_they_are_whole() -> None:
    said = spelled(("x", 1), ("<0xC3>", 2))
    assert said.text == said.words[0].text == "x\ufffd"
    again = Transcript(Tokenizer(pieces=()))
    again.restore(said.state())
    for of in (said, said.fork()):
        assert text_of(spelled(("<0xA9>", 3), ("x", 4), to=of).publish()) == "xéx"
    assert again.text == "x\ufffd"


def test_published_words_are_forgotten() -> None:
    said = transcript(("turn", 1), ("on", 3), ("kit", 5))
    assert text_of(said.publish(2)) == "turn on"
    assert more(said, ("-chen", 6)).text == "kitchen"
    assert text_of(said.publish()) == "kitchen"
    assert not said.has_words
    assert text_of(said.publish()) == ""


def test_a_piece_after_a_published_word_is_a_word_of_its_own() -> None:
    said = transcript(("talk", 1))
    said.publish()
    assert more(said, ("-ing", 20)).text == "ing"


def test_a_model_that_never_starts_a_word_builds_no_endless_one() -> None:
    said = transcript(("talk", 0), *[("-ing", n) for n in range(1, 1000)])
    assert max(len(word.text) for word in said.words) < 256


def test_words_after_a_final_do_not_start_before_its_end() -> None:
    said = transcript(("turn", 1))
    cut(said, ("on", 8), at=9)
    assert more(said, ("on", 7), ("light", 8), ("lamp", 20)).words[0].start_ms == 720


def test_live_words_that_the_fork_said_are_not_said_again() -> None:
    said = transcript(("turn", 1))
    assert text_of(cut(said, ("on", 8), ("the", 8), at=9)) == "turn on the"
    more(said, ("on", 7), ("the", 10), ("light", 12), ("lamp", 14))
    assert said.text == "light lamp"


def test_a_new_word_soon_after_a_cut_is_kept() -> None:
    said = transcript(("turn", 1))
    cut(said, at=9)
    assert more(said, ("no", 9)).text == "no"


def test_a_word_that_the_fork_missed_is_said_by_the_live_stream() -> None:
    said = transcript(("turn", 1))
    assert text_of(cut(said, at=9)) == "turn"
    more(said, ("on", 8), ("light", 15))
    assert said.text == "on light"


def test_another_spelling_of_a_published_word_is_dropped() -> None:
    said = transcript(("turn", 1))
    cut(said, ("two", 8), at=9)
    more(said, ("ten", 10), ("light", 12), ("lamp", 14))
    assert said.text == "light lamp"


def test_a_published_word_that_the_live_stream_completes_is_dropped() -> None:
    said = transcript(("turn", 1))
    cut(said, ("kit", 8), at=9)
    more(said, ("kitchen", 8), ("-s", 12), ("light", 14), ("lamp", 16))
    assert said.text == "light lamp"


def test_pieces_that_complete_a_word_begun_before_the_cut_belong_to_its_final() -> None:
    said = transcript(("talk", 7))
    assert text_of(cut(said, ("-ing", 8), at=9)) == "talking"
    assert more(said, ("-ed", 10), ("now", 12)).text == "now"


def test_half_of_a_published_word_is_not_said_as_a_word() -> None:
    said = transcript(("turn", 1))
    cut(said, ("kitchen", 6), at=9)
    more(said, ("kit", 6), ("no", 7), ("light", 22))
    assert said.text == "light"


def test_a_word_in_doubt_is_shown_once_it_is_old_enough() -> None:
    said = transcript(("turn", 1))
    cut(said, ("on", 8), at=9)
    more(said, ("please", 16))
    assert not said.settle(18)
    assert said.text == ""
    assert said.settle(20)
    assert said.text == "please"


def test_the_same_word_twice_in_a_final_and_once_after_it() -> None:
    said = transcript(("no", 1))
    cut(said, ("no", 8), at=9)
    more(said, ("no", 10), ("no", 13), ("now", 15))
    assert said.text == "no now"


def test_two_cuts_in_a_row_remember_what_is_still_to_be_repeated() -> None:
    said = transcript()
    cut(said, ("turn", 4), at=5)
    more(said, ("turn", 4))
    assert text_of(cut(said, ("turn", 6), at=7)) == "turn"
    assert more(said, ("turn", 6), ("turn", 8), ("light", 30)).text == "turn light"


def test_nothing_spoken_is_in_a_repr() -> None:
    said = transcript(("turn", 1))
    cut(said, ("kitchen", 8), at=9)
    more(said, ("lamp", 30))
    shown = repr(said) + "".join(map(repr, said._words)) + repr(said._seam)
    assert not any(word in shown for word in ("turn", "kitchen", "lamp"))


@given(
    words=st.lists(st.sampled_from(("turn", "on", "kitchen", "talking", "no")), max_size=20),
    publish=st.lists(st.integers(0, 3), max_size=20),
)
def test_whatever_is_published_when_all_words_come_out_once_and_in_order(
    words: list[str], publish: list[int]
) -> None:
    said, out = Transcript(TOKENIZER), list[Word]()
    for number, word in enumerate(words):
        more(said, (word, 4 * number))
        before = said.text.split()[: said.stable]
        taken = said.publish(min(said.stable, publish[number] if number < len(publish) else 0))
        assert [w.text for w in taken] == before[: len(taken)]
        out += taken
    out += said.publish()
    assert [word.text for word in out] == words
    assert [word.start_ms for word in out] == [320 * number for number in range(len(words))]


def test_a_word_from_before_the_first_of_two_cuts_is_not_said_behind_the_second() -> None:
    said = transcript()
    cut(said, ("turn", 4), at=5)
    assert text_of(cut(said, ("turn", 4), ("on", 6), at=7)) == "on"
    assert more(said, ("turn", 4), ("on", 6), ("light", 30)).text == "light"
