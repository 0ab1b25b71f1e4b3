"""The laboratory with runs that are made up: what is played is planned, what is heard is judged."""

import io

import pytest

from clients.errors import CommandError
from clients.load import lab
from clients.load.caller import Target
from clients.load.judge import Limits
from clients.load.lab import Laboratory, short
from clients.load.material import Material, Voice
from clients.load.plan import RATE_HZ, Traffic
from clients.load.run import OnTick, Run
from clients.load.search import Search
from clients.load.share import Tick
from clients.load.tally import Ended, Tally
from clients.load.view import View

TRAFFIC = Traffic(seconds=20.0, ramp_s=2.0, warm_s=2.0, latencies=("low",))
MATERIAL = Material(
    staying=(Voice(bytes(2 * 24 * RATE_HZ), "one two"),),
    brief=(Voice(bytes(2 * 4 * RATE_HZ), "three"),),
)


def laboratory() -> Laboratory:
    return Laboratory(
        target=Target(url="ws://192.0.2.1:1/v1/stream"),
        traffic=TRAFFIC,
        material=MATERIAL,
        limits=Limits(),
        view=View(io.StringIO(), is_terminal=False),
    )


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """A server that holds ten streams: beyond them lag passes the limit, beyond 20 words change."""
    runs: list[Run] = []

    def play(run: Run, on_tick: OnTick) -> Tally:
        runs.append(run)
        streams, tally = len(run.seats), Tally()
        for second in range(26):
            on_tick(second, Tick(streams, (), 0.0, 0, 0))
            tally.lags["low"].add(second, 0.05 if streams <= 10 else 0.3)
            tally.late.add(second, 0.001)
        for call in (call for seat in run.seats for call in seat):
            text = ("one two", "three")[call.voice] if streams <= 20 else "noise"
            tally.calls.append(Ended(call.voice, "low", text, call.is_whole, 160, call.end_s))
            tally.ends["low"].add(call.end_s, 0.1)
        return tally

    monkeypatch.setattr(lab, "play", play)
    return runs


def test_quiet_comes_first_and_its_words_are_what_load_must_not_change(played: list[Run]) -> None:
    laboratory_ = laboratory()
    quiet = laboratory_.listen()
    assert len(played[0].seats) == 1
    assert (quiet.wer, quiet.calls) == (0.0, 2)
    calm, loud = laboratory_.run(4), laboratory_.run(24)
    assert (calm.changed, calm.breaks) == (0, ())
    assert loud.changed == loud.compared > 0
    assert any("transcripts changed" in text for text in loud.breaks)


def test_the_search_finds_what_the_server_holds(played: list[Run]) -> None:
    laboratory_ = laboratory()
    laboratory_.listen()
    search = laboratory_.search(Search(most=100, confirm=1))
    assert search.best == 10
    assert [len(run.seats) for run in played[1:]].count(10) == 2
    brief = short(laboratory_.report(search))
    assert (brief["streams"], brief["at"]["streams"]) == (10, 10)


def test_a_server_that_fails_in_quiet_ends_the_measurement_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def play(run: Run, on_tick: OnTick) -> Tally:
        tally = Tally()
        tally.calls.append(Ended(0, "low", "", True, 0, 1.0, "over_capacity"))
        return tally

    monkeypatch.setattr(lab, "play", play)
    with pytest.raises(CommandError, match="fails every stream even in quiet: over_capacity"):
        laboratory().listen()
