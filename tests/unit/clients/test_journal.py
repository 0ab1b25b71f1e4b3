"""What a client tells again after its connection broke, and what it may forget."""

from hypothesis import given, settings
from hypothesis import strategies as st

from clients.journal import RING_S, Journal
from server.wire.messages import ClientGap, Configure, Finalize, Stop

RATE = 10


def told(journal: Journal) -> list[object]:
    """Tell all that is due."""
    found = list[object]()
    while (due := journal.next()) is not None:
        found.append(due)
        journal.told()
    return found


def test_what_is_due_comes_in_order_and_audio_in_pieces() -> None:
    journal = Journal(RATE, 2)
    journal.audio(b"aabbcc")
    journal.request(Finalize(req="r"))
    assert journal.next() == b"aabbcc"
    journal.told(1)
    assert told(journal) == [b"bbcc", Finalize(req="r")]
    assert (journal.end, journal.is_told) == (3, True)


def test_everything_from_where_the_server_goes_on_is_told_again() -> None:
    journal = Journal(RATE, 2)
    journal.audio(b"aabbcc")
    journal.request(ClientGap(samples=4))
    journal.audio(b"dd")
    told(journal)
    journal.audio(b"ee")
    journal.rewind(1)
    assert told(journal) == [b"bbcc", ClientGap(samples=4), b"dd", b"ee"]
    journal.rewind(5)
    assert told(journal) == [ClientGap(samples=2), b"dd", b"ee"]
    journal.rewind(0)  # a server that had less after all
    assert told(journal) == [
        b"aa",
        b"bbcc",
        ClientGap(samples=2),
        ClientGap(samples=2),
        b"dd",
        b"ee",
    ]


def test_a_request_is_told_again_until_it_is_answered() -> None:
    journal = Journal(RATE, 1)
    journal.request(Configure(req="a"))
    journal.audio(b"xy")
    journal.request(Finalize(req="b"))
    told(journal)
    journal.answered("a")
    journal.rewind(2)
    assert told(journal) == [Finalize(req="b")]
    journal.answered("b")
    journal.rewind(2)
    assert told(journal) == []


def test_a_stop_is_left_to_the_one_who_said_it() -> None:
    journal = Journal(RATE, 1)
    journal.request(Stop())
    journal.rewind(0)
    assert told(journal) == []


def test_safe_audio_is_forgotten_and_its_time_passes_as_a_gap_if_it_is_asked_for() -> None:
    journal = Journal(RATE, 1)
    journal.audio(b"aaaa")
    journal.audio(b"bb")
    told(journal)
    journal.safe(5)
    journal.rewind(3)
    assert told(journal) == [ClientGap(samples=1), b"bb"]


def test_what_is_kept_is_bounded() -> None:
    journal = Journal(RATE, 1)
    for _ in range(3 * RING_S):
        journal.audio(bytes(RATE))
        told(journal)
    assert len(journal._told) <= RING_S + 1


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    backs=st.lists(st.floats(0, 1), max_size=5),
    data=st.data(),
)
def test_a_server_hears_every_sample_once_wherever_it_goes_on(
    sizes: list[int], backs: list[float], data: st.DataObject
) -> None:
    journal, heard, said = Journal(1_000, 1), bytearray(), bytearray()
    for number, size in enumerate(sizes):
        piece = bytes([number]) * size
        said += piece
        journal.audio(piece)
        for _ in range(data.draw(st.integers(0, 3))):
            due = journal.next()
            if isinstance(due, bytes):
                count = data.draw(st.integers(1, len(due)))
                heard += due[:count]
                journal.told(count)
        if backs:
            at = round(backs.pop() * len(heard))
            del heard[at:]
            journal.rewind(at)
    for rest in told(journal):
        assert isinstance(rest, bytes)
        heard += rest
    assert heard == said
