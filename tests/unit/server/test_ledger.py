"""The books of a session: what comes again after a worker's death, and what is said only once."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.events import (
    EagerEnd,
    Event,
    Final,
    Finalized,
    Partial,
    Progress,
    Stopped,
    TurnEnd,
    TurnResumed,
    TurnStart,
)
from server.hush import SETTLED_S, skippable
from server.ledger import (
    MAX_COMMANDS,
    RING_S,
    SMALL_BYTES,
    SNAPSHOT_EVERY_S,
    Ledger,
    LedgerFull,
    kept_from,
)
from server.worker import link

RATE = 8_000


def opening(channels: int = 1) -> link.Open:
    turns = link.Turns()
    return link.Open(1, "mulaw", RATE, channels, 6, None, turns, partials="all", words=False)


def audio(samples: int, channels: int = 1) -> link.Audio:
    return link.Audio(1, bytes(samples * channels), 5.0)


def final(number: int) -> Final:
    return Final(number, "no", 0, 10, 0.5, "endpoint", ())


def partial(stable: str, text: str, *, rev: int, id: int = 0) -> Partial:
    return Partial(id, rev, stable, text, 0, 10)


def take(ledger: Ledger, *events: Event, record: bytes = b"", channel: int = 0) -> list[Event]:
    records = {channel: record} if record else {}
    return [event for _, event in ledger.take([(channel, e) for e in events], records)]


def back(ledger: Ledger) -> tuple[link.Open, list[link.Command]]:
    first, *rest = ledger.revive(9, now=50.0)
    assert isinstance(first, link.Open)
    assert first.session == 9
    return first, rest


@given(
    sizes=st.lists(st.integers(1, SMALL_BYTES + 9), min_size=1, max_size=40),
    when=st.integers(0, 40),
    channels=st.integers(1, 2),
)
def test_small_packets_are_kept_together_and_come_again_from_wherever_a_snapshot_was(
    sizes: list[int], when: int, channels: int
) -> None:
    ledger, said, begins = Ledger(opening(channels)), b"", [0]
    for size in sizes:
        data = bytes((len(said) + n) % 251 for n in range(size * channels))
        ledger.note(link.Audio(1, data, 5.0))
        said += data
        begins.append(ledger.at)
    _, rest = back(ledger)
    packets = [command.data for command in rest if isinstance(command, link.Audio)]
    assert b"".join(packets) == said
    assert all(len(packet) >= SMALL_BYTES for packet in packets[:-1])
    at = begins[min(when, len(sizes))]
    assert ledger.saved(link.Saved(1, at, (b"all",) * channels))
    first, rest = back(ledger)
    packets = [command.data for command in rest if isinstance(command, link.Audio)]
    assert (first.at, b"".join(packets)) == (at, said[at * channels :])
    assert ledger.unheard == ledger.at - at


def test_a_session_that_is_told_too_much_between_snapshots_is_given_up() -> None:
    ledger = Ledger(opening())
    for _ in range(MAX_COMMANDS // 2):
        ledger.note(audio(1))
        ledger.note(link.Gap(1, 1))
    assert len(back(ledger)[1]) == MAX_COMMANDS
    ledger.note(audio(1))
    with pytest.raises(LedgerFull):
        ledger.revive(9, now=50.0)


def test_a_session_without_a_state_begins_again_with_all_it_was_told() -> None:
    ledger = Ledger(opening())
    told: list[link.Command] = [
        audio(800),
        link.Gap(1, 80),
        link.Configure(1, None, "none"),
        audio(8),
        link.Stop(1),
    ]
    for command in told:
        ledger.note(command)
    first, rest = back(ledger)
    assert (first.at, first.replay_until, first.states) == (0, 888, (link.State(),))
    assert [type(command) for command in rest] == [type(command) for command in told]
    assert all(command.session == 9 for command in rest)  # type: ignore[union-attr]
    assert [c.sent for c in rest if isinstance(c, link.Audio)] == [50.0, 50.0]


def test_what_a_snapshot_has_heard_does_not_come_again() -> None:
    ledger = Ledger(opening())
    ledger.note(audio(800))
    ledger.note(link.Configure(1, None, "none"))
    ledger.note(audio(800))
    ledger.note(audio(80))
    assert ledger.saved(link.Saved(1, 1_600, (b"all",)))
    first, rest = back(ledger)
    assert first.states == (link.State(snapshot=b"all"),)
    assert (first.at, first.replay_until, first.partials) == (1_600, 1_680, "none")
    assert rest == [link.Audio(9, bytes(80), 50.0)]
    assert ledger.saved_at == 1_600


def test_of_changes_between_which_nothing_came_one_is_kept() -> None:
    ledger = Ledger(opening())
    ledger.note(audio(80))
    for weight in range(100):
        ledger.note(link.Configure(1, None, "none"))
        ledger.note(link.Configure(1, None, None, (("rivulet", weight),)))
    one = link.Configure(9, None, "none", (("rivulet", 99),))
    assert back(ledger)[1][1:] == [one]
    ledger.note(link.Finalize(1, "r"))
    ledger.note(link.Configure(1, None, "all"))
    later = link.Configure(9, None, "all")
    assert back(ledger)[1][1:] == [one, link.Finalize(9, "r"), later]
    take(ledger, Finalized("r", 80))
    assert back(ledger)[1][1:] == [link.Configure(9, None, "all", (("rivulet", 99),))]
    ledger.note(audio(8))
    ledger.note(link.Configure(1, None, "none"))
    assert [type(command) for command in back(ledger)[1][1:]] == [
        link.Configure,
        link.Audio,
        link.Configure,
    ]


def test_a_record_goes_with_the_snapshot_before_it_and_a_snapshot_replaces_both() -> None:
    ledger = Ledger(opening())
    ledger.saved(link.Saved(1, 0, (b"s0",)))
    take(ledger, final(0), record=b"r0")
    assert back(ledger)[0].states == (link.State(b"s0", b"r0"),)
    ledger.saved(link.Saved(1, 0, (b"s1",)))
    assert back(ledger)[0].states == (link.State(b"s1", None),)


def test_a_final_is_let_through_once() -> None:
    ledger = Ledger(opening())
    assert take(ledger, final(0), record=b"r") == [final(0)]
    assert take(ledger, final(0), final(1), record=b"r") == [final(1)]


def test_a_finalize_that_was_answered_is_not_asked_again() -> None:
    ledger = Ledger(opening())
    for req in ("a", "b"):
        ledger.note(link.Finalize(1, req))
    assert take(ledger, final(0), Finalized("a", 0), record=b"r")[1:] == [Finalized("a", 0)]
    assert back(ledger)[1] == [link.Finalize(9, "b")]
    assert take(ledger, Finalized("a", 0)) == []


def test_of_two_channels_only_the_one_that_owes_an_answer_is_asked_again() -> None:
    ledger = Ledger(opening(2))
    ledger.note(link.Finalize(1, "a"))
    take(ledger, final(0), Finalized("a", 0), record=b"r", channel=1)
    assert back(ledger)[1] == [link.Finalize(9, "a", (1,))]


def test_an_unanswered_finalize_outlives_a_snapshot() -> None:
    ledger = Ledger(opening())
    ledger.note(audio(80))
    ledger.note(link.Finalize(1, "a"))
    ledger.note(audio(80))
    ledger.saved(link.Saved(1, 160, (b"s",)))
    assert back(ledger)[1] == [link.Finalize(9, "a")]


def test_turn_events_since_the_last_state_are_not_said_again() -> None:
    ledger = Ledger(opening())
    begin, eager, again = TurnStart(0, 5), EagerEnd(0, 9, "no", 0.5), TurnResumed(0, 10)
    assert take(ledger, begin, eager) == [begin, eager]
    back(ledger)
    assert take(ledger, begin, eager, again) == [again]
    back(ledger)
    assert take(ledger, begin, eager, again) == []
    end = TurnEnd(0, 20, "no", "silence")
    assert take(ledger, final(0), end, record=b"r") == [final(0), end]
    back(ledger)
    assert take(ledger, TurnStart(1, 30)) == [TurnStart(1, 30)]


def test_a_replay_that_parts_ways_keeps_the_order_of_turns() -> None:
    ledger = Ledger(opening())
    take(ledger, TurnStart(0, 5), EagerEnd(0, 9, "no", 0.5), TurnResumed(0, 10))
    back(ledger)
    end = TurnEnd(0, 20, "no", "silence")
    assert take(ledger, TurnStart(0, 5), final(0), end, record=b"r") == [final(0), end]


def test_a_snapshot_in_the_middle_of_a_replay_leaves_what_is_still_to_come_again() -> None:
    ledger = Ledger(opening())
    take(ledger, TurnStart(0, 5), EagerEnd(0, 9, "no", 0.5))
    back(ledger)
    take(ledger, TurnStart(0, 5))
    ledger.saved(link.Saved(1, 0, (b"s",)))
    back(ledger)
    assert take(ledger, EagerEnd(0, 9, "no", 0.5)) == []


def test_a_stable_prefix_never_shrinks_in_a_replay_and_revisions_go_on() -> None:
    ledger = Ledger(opening())
    shown = partial("no no", "no no one", rev=4)
    assert take(ledger, shown) == [shown]
    back(ledger)
    assert take(ledger, partial("", "no", rev=1)) == []
    assert take(ledger, partial("no no", "no no one", rev=2)) == []
    assert take(ledger, partial("no no one", "no no one is", rev=3)) == [
        partial("no no one", "no no one is", rev=5)
    ]
    assert ledger.shown() == [(0, partial("no no one", "no no one is", rev=5))]
    take(ledger, final(0), record=b"r")
    assert ledger.shown() == []
    assert take(ledger, partial("", "yes", rev=1, id=1)) == [partial("", "yes", rev=1, id=1)]


def test_progress_passes() -> None:
    assert take(Ledger(opening()), Progress(4)) == [Progress(4)]


def test_a_channel_that_has_stopped_stays_so() -> None:
    ledger = Ledger(opening(2))
    take(ledger, final(0), Stopped(5, 1), channel=1)
    ledger.saved(link.Saved(1, 0, (b"s", b"")))
    assert back(ledger)[0].states == (link.State(b"s"), link.State(is_closed=True))
    assert not ledger.is_over


def test_snapshots_are_wanted_once_in_a_while_of_audio() -> None:
    ledger = Ledger(opening())
    ledger.stagger(0.5)
    half = audio(SNAPSHOT_EVERY_S * RATE // 2)
    assert not ledger.wants_snapshot()
    asked = []
    for _ in range(4):
        ledger.note(half)
        asked.append(ledger.wants_snapshot())
    assert asked == [True, False, True, False]


def test_what_is_kept_is_bounded() -> None:
    ledger = Ledger(opening())
    for _ in range(RING_S):
        ledger.note(audio(RATE))
    back(ledger)
    ledger.note(audio(RATE))
    with pytest.raises(LedgerFull):
        ledger.revive(9, now=0.0)


def test_an_engine_without_records_cannot_be_followed() -> None:
    ledger = Ledger(opening())
    take(ledger, final(0))
    with pytest.raises(LedgerFull):
        ledger.revive(9, now=0.0)
    other = Ledger(opening())
    assert not other.saved(link.Saved(1, 0, ()))
    with pytest.raises(LedgerFull):
        other.revive(9, now=0.0)


def test_a_store_gives_back_the_snapshot_and_the_newer_records() -> None:
    ledger = Ledger(opening(2))
    ledger.note(audio(80, 2))
    ledger.note(link.Configure(1, None, "none"))
    ledger.note(audio(80, 2))
    ledger.saved(link.Saved(1, 160, (b"s0", b"s1")))
    whole = ledger.kept(with_snapshots=True)
    take(ledger, final(0), record=b"r0")
    take(ledger, final(0), Stopped(1, 1), channel=1)
    kept = kept_from(ledger.kept(with_snapshots=False), whole)
    assert kept is not None
    assert kept.opening.states == (link.State(b"s0", b"r0"), link.State(is_closed=True))
    assert (kept.opening.at, kept.opening.partials, kept.finals) == (160, "none", (1, 1))
    again = Ledger(kept.opening, kept.finals)
    assert again.at == 160
    assert take(again, final(0), final(1), record=b"r1") == [final(1)]
    assert kept_from(None, None) is None


def test_the_records_alone_are_small() -> None:
    ledger = Ledger(opening())
    ledger.saved(link.Saved(1, 0, (bytes(1_000_000),)))
    take(ledger, final(0), record=bytes(5_000))
    assert len(ledger.kept(with_snapshots=False)) < 10_000


def rest_of(ledger: Ledger) -> list[int]:
    """Samples of the commands that bring a session back."""
    return [ledger.length(command) for command in back(ledger)[1]]


def test_a_silence_in_a_rest_is_kept_by_its_length_and_spelled_out_once() -> None:
    ledger = Ledger(opening())
    ledger.saved(link.Saved(1, 0, (b"s",)))
    ledger.hush(3 * RATE)
    assert (ledger.at, ledger.hushed, ledger.unheard, ledger.state_bytes) == (
        3 * RATE, 3 * RATE, 0, 1,
    )  # fmt: skip
    commands = back(ledger)[1]
    assert all(isinstance(command, link.Audio) for command in commands)
    assert b"".join(c.data for c in commands if isinstance(c, link.Audio)) == b"\xff" * 3 * RATE
    assert (ledger.at, ledger.hushed) == (3 * RATE, 0)
    assert rest_of(ledger) == [RATE] * 3


def test_of_a_settled_silence_whole_chunks_are_left_out() -> None:
    ledger = Ledger(opening())
    ledger.note(audio(80))
    ledger.saved(link.Saved(1, 0, (b"s",)))
    ledger.settle()
    ledger.hush(60 * RATE)
    assert (ledger.unheard, ledger.hushed) == (0, 60 * RATE + 80)
    gap, *zeros = back(ledger)[1]
    assert isinstance(gap, link.Gap)
    assert (gap.samples - 2 * RATE) % (7 * 640) == 0
    assert sum(map(ledger.length, zeros)) == 60 * RATE + 80 - gap.samples < 7 * 640
    assert ledger.at == 60 * RATE + 80
    ledger.hush(9 * RATE)
    assert not ledger.is_settled, "what follows has another state behind it"


def test_of_a_silence_that_nobody_heard_the_beginning_is_spelled_out() -> None:
    ledger = Ledger(opening())
    ledger.saved(link.Saved(1, 0, (b"s",)))
    ledger.hush(600 * RATE + 80)
    heard, (gap, *rest) = back(ledger)[1][:SETTLED_S], back(ledger)[1][SETTLED_S:]
    assert [ledger.length(command) for command in heard] == [RATE] * SETTLED_S
    assert all(isinstance(command, link.Audio) for command in heard)
    assert isinstance(gap, link.Gap)
    assert (gap.samples - 2 * RATE) % (7 * 640) == 0
    assert sum(map(ledger.length, rest)) < 7 * 640
    assert ledger.at == 600 * RATE + 80


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 16_001])
@pytest.mark.parametrize("look_ahead", [0, 1, 6])
def test_what_is_left_out_is_whole_chunks_of_whole_samples(rate: int, look_ahead: int) -> None:
    how = msgspec.structs.replace(opening(), rate=rate, look_ahead=look_ahead)
    for seconds in (1, 3, 200):
        skipped = skippable(seconds * rate, how)
        assert skipped <= seconds * rate
        left_out = skipped - 2 * rate
        assert skipped == 0 or left_out * 1_000 % (rate * 80 * (look_ahead + 1)) == 0
    assert skippable(200 * rate, how) > (0 if rate == 16_001 else 190 * rate)


def test_a_gap_that_the_client_tells_does_not_fill_what_is_kept() -> None:
    ledger = Ledger(opening())
    ledger.note(link.Gap(1, 2 * RING_S * RATE))
    ledger.note(audio(80))
    assert rest_of(ledger) == [2 * RING_S * RATE, 80]


@pytest.mark.parametrize("encoding", ["pcm_s16le", "pcm_f32le", "mulaw", "alaw"])
def test_a_session_in_any_encoding_may_hear_no_silence_at_all(encoding: link.Encoding) -> None:
    ledger = Ledger(msgspec.structs.replace(opening(), encoding=encoding))
    ledger.note(link.Audio(1, b"\x01" * 640, 0.0))
    assert ledger.saved(link.Saved(1, ledger.at, (b"s",)))
    assert back(ledger)[1] == []
