"""What append-only wires are told: stable words, each once, whatever the final looks like."""

from hypothesis import given
from hypothesis import strategies as st

from server.wire.adapter import Growth
from tests.unit.server.wire.foreign import final, partial

words = st.lists(st.sampled_from(["a", "bc", "d"]), max_size=6)


@given(said=words, rest=words, tails=st.lists(words, max_size=4))
def test_pieces_join_to_the_final_whatever_the_tails_were(
    said: list[str], rest: list[str], tails: list[list[str]]
) -> None:
    growth, heard = Growth(), ""
    for count in range(len(said) + 1):
        tail = " ".join(tails[count]) if count < len(tails) else ""
        heard += growth.partial(partial(" ".join(said[:count]), tail))
    heard += growth.final(final(" ".join(said + rest)))
    assert heard == " ".join(said + rest)


def test_a_final_that_writes_said_words_otherwise_adds_the_rest_only() -> None:
    growth = Growth()
    assert growth.partial(partial("turn on")) == "turn on"
    assert growth.final(final("Turn on, the light.")) == " the light."


def test_the_next_segment_begins_anew() -> None:
    growth = Growth()
    growth.final(final("yes"))
    assert growth.partial(partial("no", id=1)) == "no"
