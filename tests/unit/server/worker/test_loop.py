"""The engine host, driven by hand: commands in, reports out."""

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from asr.events import Event, Final, Finalized, Stopped
from asr.interface import (
    NO_BIASING,
    PATIENT,
    BadBiasing,
    Biasing,
    Emission,
    EngineError,
    Phrase,
    Samples,
)
from asr.scripted import ScriptedEngine, silence, utter
from server.worker import link
from server.worker.heart import Activity
from server.worker.loop import MOST_CHANGES, MOST_UNDECODED_S, PREPARE_S, Host, MailboxClosed


class Letterbox:
    """A mailbox of lists."""

    def __init__(self, *batches: list[link.Command]) -> None:
        self.batches = list(batches)
        self.reports: list[link.Report] = []

    def receive(self, *, may_wait: bool) -> list[link.Command]:
        if self.batches:
            return self.batches.pop(0)
        if may_wait:
            raise MailboxClosed
        return []

    def send(self, report: link.Report) -> None:
        self.reports.append(report)

    def events(self, session: int, channel: int = 0) -> list[Event]:
        steps = [report for report in self.reports if isinstance(report, link.Step)]
        return [
            link.event_of(item)
            for step in steps
            for item in step.events
            if (item.session, item.channel) == (session, channel)
        ]

    def failures(self) -> dict[int, str]:
        return {r.session: r.code for r in self.reports if isinstance(r, link.Failed)}


class Warmer(ScriptedEngine):
    """Remembers what was warmed."""

    def __init__(self) -> None:
        super().__init__(slots=8)
        self.warmed: list[int] = []

    def warm(self, look_ahead: int) -> None:
        self.warmed.append(look_ahead)


class Favouring(ScriptedEngine):
    """Remembers what streams were to favour."""

    def __init__(self) -> None:
        super().__init__(slots=8)
        self.favoured: list[tuple[Phrase, ...]] = []

    def open(
        self, look_ahead: int, *, language: str | None = None, biasing: Biasing = NO_BIASING
    ) -> int:
        self.favoured.append(biasing.phrases)
        return super().open(look_ahead, language=language)

    def bias(self, stream: int, biasing: Biasing) -> None:
        self.favoured.append(biasing.phrases)


def opening(session: int, **changes: object) -> link.Open:
    fields: dict[str, object] = {
        "session": session, "encoding": "pcm_f32le", "rate": 16_000, "channels": 1, "look_ahead": 1,
        "language": None, "turns": link.Turns(), "partials": "all", "words": True,
    }  # fmt: skip
    return link.Open(**(fields | changes))  # type: ignore[arg-type]


def saying(session: int, text: str) -> link.Audio:
    return link.Audio(session, np.concatenate([utter(text), silence(800)]).tobytes(), 0.0)


def run(*batches: list[link.Command], engine: ScriptedEngine | None = None) -> Letterbox:
    box = Letterbox(*batches)
    Host(engine or ScriptedEngine(slots=8), box).run()
    return box


def text_of(events: list[Event]) -> str:
    return " ".join(event.text for event in events if isinstance(event, Final))


def test_a_session_is_opened_heard_and_stopped() -> None:
    box = run([opening(1), saying(1, "good day"), link.Stop(1)])
    assert isinstance(box.reports[0], link.Ready)
    assert box.reports[1] == link.Opened(1)
    assert text_of(box.events(1)) == "good day"
    assert isinstance(box.events(1)[-1], Stopped)


def test_the_first_class_is_warm_before_ready_and_the_others_while_nobody_is_served() -> None:
    engine = Warmer()
    box = Letterbox([opening(1)], [], [], [link.Drop(1)])
    warmed_when_ready: list[int] = []

    class Watching(Letterbox):
        def send(self, report: link.Report) -> None:
            if isinstance(report, link.Ready):
                warmed_when_ready.extend(engine.warmed)
            box.send(report)

    Host(engine, Watching(*box.batches), first_look_ahead=1).run()
    assert warmed_when_ready == [1]
    assert sorted(engine.warmed) == [0, 1, 6, 13]


def test_nothing_is_warmed_while_somebody_is_served() -> None:
    engine = Warmer()
    box = Letterbox()
    host = Host(engine, box, first_look_ahead=1)
    host.turn([opening(1)])
    host.turn([])
    assert engine.warmed == []
    host.turn([link.Drop(1)])
    assert engine.warmed


def test_bad_audio_fails_its_session_and_no_other() -> None:
    bad = link.Audio(2, np.full(100, np.nan, np.float32).tobytes(), 0.0)
    box = run([opening(1), opening(2), saying(1, "good day"), bad, saying(2, "no"), link.Stop(1)])
    assert box.failures() == {2: "unsupported_audio"}
    assert text_of(box.events(1)) == "good day"
    assert not box.events(2)


def test_an_odd_byte_count_fails_its_session() -> None:
    assert run([opening(1), link.Audio(1, b"abc", 0.0)]).failures() == {1: "unsupported_audio"}


def test_a_full_engine_says_over_capacity_and_keeps_no_half_session() -> None:
    engine = ScriptedEngine(slots=2)  # one stream, one fork
    box = run([opening(1, channels=2), opening(2), link.Drop(2)], engine=engine)
    assert box.failures() == {1: "over_capacity"}
    assert engine.slots_in_use == 0


def test_an_unsupported_look_ahead_is_a_bad_request() -> None:
    assert run([opening(1, look_ahead=5)]).failures() == {1: "bad_request"}


def test_a_drop_frees_the_slots_and_tells_so() -> None:
    engine = ScriptedEngine(slots=8)
    box = run([opening(1, channels=2)], [saying(1, "good day"), link.Drop(1)], engine=engine)
    steps = [report for report in box.reports if isinstance(report, link.Step)]
    assert (steps[0].slots_in_use, steps[-1].slots_in_use, engine.slots_in_use) == (2, 0, 0)


def test_a_drop_is_told_before_a_class_is_warmed() -> None:
    told: list[int] = []
    box = Letterbox()

    class Slow(ScriptedEngine):
        def warm(self, look_ahead: int) -> None:
            told.extend(r.slots_in_use for r in box.reports if isinstance(r, link.Step))

    host = Host(Slow(slots=8), box)
    host.turn([opening(1)])
    host.turn([link.Drop(1)])
    assert told == [1, 0]


def test_two_channels_are_heard_apart() -> None:
    left, right = utter("good day"), utter("no thank")
    both = np.stack([left, right], axis=1).tobytes()
    box = run([opening(1, channels=2), link.Audio(1, both, 0.0), link.Stop(1)])
    assert (text_of(box.events(1, 0)), text_of(box.events(1, 1))) == ("good day", "no thank")


def test_commands_of_a_forgotten_session_are_nothing() -> None:
    late: list[link.Command] = [
        saying(9, "no"),
        link.Gap(9, 1),
        link.Finalize(9, "1"),
        link.Stop(9),
        link.Drop(9),
    ]
    assert not run([opening(1)], late).failures()


def test_too_many_finalizes_fail_the_session_that_asks() -> None:
    asking: list[link.Command] = [link.Finalize(1, str(number)) for number in range(40)]
    assert set(run([opening(1), opening(2), *asking]).failures()) <= {1}


def test_a_failing_step_ends_the_host() -> None:
    class Broken(ScriptedEngine):
        def step(self) -> list[Emission]:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run([opening(1), saying(1, "good")], engine=Broken())


def test_quit_ends_the_host_though_there_is_work() -> None:
    box = run([opening(1), saying(1, "good day"), link.Quit()])
    assert not any(isinstance(event, Stopped) for event in box.events(1))


def test_boosted_phrases_reach_every_stream_of_a_session_and_only_when_named() -> None:
    engine = Favouring()
    opened = opening(1, channels=2, boost=(("sun", 3.0),))
    others = link.Configure(1, None, "none")
    run([opened, others, link.Configure(1, None, None, (("moon", 2.0),))], engine=engine)
    sun, moon = (Phrase("sun", 3.0),), (Phrase("moon", 2.0),)
    assert engine.favoured == [sun, sun, moon, moon]


def records(box: Letterbox) -> list[link.Record]:
    return [r for step in box.reports if isinstance(step, link.Step) for r in step.records]


def saved(box: Letterbox) -> list[link.Saved]:
    return [report for report in box.reports if isinstance(report, link.Saved)]


def pcm(text: str, pause_ms: int = 0) -> bytes:
    return np.concatenate([utter(text), silence(pause_ms)]).tobytes()


def test_a_record_comes_with_the_final_and_a_checkpoint_with_where_it_is() -> None:
    said = link.Audio(1, pcm("good day", 1_600), 0.0)
    box = run([opening(1), said], [link.Checkpoint(1)])
    assert [(record.session, record.channel) for record in records(box)] == [(1, 0)]
    (report,) = saved(box)
    assert (report.session, report.at) == (1, len(said.data) // 4)


def test_a_session_goes_on_from_a_snapshot_and_a_record_without_saying_it_again() -> None:
    first = run([opening(1), link.Checkpoint(1)], [link.Audio(1, pcm("good day", 1_600), 0.0)])
    state = link.State(saved(first)[0].snapshots[0], records(first)[0].blob)
    again = opening(1, states=(state,), replay_until=10**9)
    replay = [link.Audio(1, pcm("good day", 1_600), 0.0), link.Audio(1, pcm("no", 1_600), 0.0)]
    second = run([again, *replay, link.Stop(1)])
    assert (text_of(first.events(1)), text_of(second.events(1))) == ("good day", "no")


def test_a_finalize_in_a_replay_waits_for_the_audio_before_it() -> None:
    told: list[link.Command] = [
        saying(1, "good day yes"), link.Finalize(1, "r"), saying(1, "no thank you")
    ]  # fmt: skip
    decoding: list[list[link.Command]] = [[]] * 40
    live = run([opening(1), told[0]], *decoding, told[1:], [link.Stop(1)])
    replayed = run([opening(1, replay_until=10**9), *told, link.Stop(1)])
    finals = [e for e in live.events(1) if isinstance(e, Final)]
    assert [e for e in replayed.events(1) if isinstance(e, Final)] == finals
    assert len(finals) == 3


def test_a_channel_that_had_stopped_is_not_opened_again() -> None:
    engine = ScriptedEngine(slots=8)
    both = np.stack([utter("good day"), utter("no thank")], axis=1).tobytes()
    states = (link.State(is_closed=True), link.State())
    again = opening(1, channels=2, states=states)
    box = run([again, link.Audio(1, both, 0.0), link.Finalize(1, "r"), link.Stop(1)], engine=engine)
    assert box.events(1, 0) == []
    assert text_of(box.events(1, 1)) == "no thank"
    assert engine.slots_in_use == 0


def test_a_channel_that_answered_is_not_asked_again() -> None:
    asked = link.Finalize(1, "r", (0,))
    box = run([opening(1, channels=2), asked])
    answers = [[type(e) for e in box.events(1, channel)] for channel in (0, 1)]
    assert answers == [[], [Final, Finalized]]


def test_a_damaged_state_fails_its_session_and_takes_no_slot() -> None:
    engine = ScriptedEngine(slots=8)
    broken = (link.State(), link.State(snapshot=b"nonsense"))
    box = run([opening(1, channels=2, states=broken)], engine=engine)
    assert box.failures() == {1: "bad_request"}
    assert engine.slots_in_use == 0


def test_an_engine_without_snapshots_says_so_and_its_session_goes_on() -> None:
    class Plain(ScriptedEngine):
        def snapshot(self, stream: int) -> bytes:
            raise EngineError("none")

        def record(self, stream: int) -> bytes:
            raise EngineError("none")

    going_on: list[link.Command] = [saying(1, "good day"), link.Stop(1)]
    box = run([opening(1), link.Checkpoint(1)], going_on, engine=Plain())
    assert saved(box) == [link.Saved(1, 0, ())]
    assert text_of(box.events(1)) == "good day"


@pytest.mark.parametrize("has_heart", [True, False])
def test_a_host_with_a_heart_says_before_that_it_warms_up(has_heart: bool) -> None:  # noqa: FBT001
    box = Letterbox()
    Host(Warmer(), box, activity=Activity() if has_heart else None).run()
    pulses = [report for report in box.reports if isinstance(report, link.Pulse)]
    assert pulses == [link.Pulse("warming", 0)] * (3 if has_heart else 0)


class Slow(ScriptedEngine):
    """Takes a second for each packet, three for each session; its steps take nothing."""

    def __init__(self) -> None:
        super().__init__(slots=8)
        self.now = 0.0

    def feed(self, stream: int, samples: Samples, *, now: float = 0.0) -> None:
        self.now += 1.0
        super().feed(stream, samples, now=now)

    def open(
        self, look_ahead: int, *, language: str | None = None, biasing: Biasing = NO_BIASING
    ) -> int:
        self.now += 3.0
        return super().open(look_ahead, language=language)


def test_a_step_costs_what_streams_bring_with_them_but_not_that_they_come() -> None:
    engine, packet = Slow(), link.Audio(1, silence(160).tobytes(), 0.0)
    box = Letterbox([opening(1), packet], [opening(2), packet, packet], [link.Stop(1)])
    Host(engine, box, clock=lambda: engine.now).run()
    costs = [report.seconds for report in box.reports if isinstance(report, link.Step)]
    assert [cost for cost in costs if cost >= 1] == [1.0, 2.0]


class Recording(ScriptedEngine):
    """Remembers what was heard and stepped, in their order; 0 stands for a step."""

    def __init__(self) -> None:
        super().__init__(slots=8)
        self.done: list[int] = []

    def feed(self, stream: int, samples: Samples, *, now: float = 0.0) -> None:
        self.done.append(len(samples))
        super().feed(stream, samples, now=now)

    def step(self) -> list[Emission]:
        self.done.append(0)
        return super().step()


def packets(session: int, audio: Samples, samples: int = 320) -> list[link.Command]:
    """Audio as it comes, packet by packet, each sent later than the one before."""
    pieces = np.split(audio, range(samples, len(audio), samples))
    return [link.Audio(session, piece.tobytes(), n / 50) for n, piece in enumerate(pieces, 1)]


@pytest.mark.parametrize("rate", [8_000, 16_000])
def test_packets_are_heard_together_as_soon_as_they_make_a_chunk(rate: int) -> None:
    engine, audio = Recording(), utter("good day no thank you", rate=rate)
    box = run([opening(1, rate=rate)], *([p] for p in packets(1, audio)), [link.Stop(1)],
              engine=engine)  # fmt: skip
    whole = run([opening(1, rate=rate), link.Audio(1, audio.tobytes(), 0.0), link.Stop(1)])
    assert box.events(1)[-1] == whole.events(1)[-1]
    assert text_of(box.events(1)) == "good day no thank you"
    heard = [samples for samples in engine.done if samples]
    assert len(heard) <= len(audio) / rate * 1000 / 160 + 4
    assert sum(heard) >= len(audio) * 16_000 // rate
    idle = [b for a, b in zip(engine.done, engine.done[1:], strict=False) if a and b]
    assert len(idle) <= 3  # what is heard makes a chunk, but for the first packet and the rest


def test_what_was_collected_is_heard_before_the_command_behind_it() -> None:
    audio = utter("good day")
    box = run([opening(1)], *([p] for p in packets(1, audio)), [link.Checkpoint(1)],
              [link.Finalize(1, "f")], [link.Stop(1)])  # fmt: skip
    assert text_of(box.events(1)) == "good day"
    assert Finalized("f", len(audio)) in box.events(1)
    (report,) = saved(box)
    assert report.at == len(audio)


def test_a_checkpoint_that_had_to_wait_is_of_what_was_heard_meanwhile() -> None:
    box = Letterbox()
    host = Host(ScriptedEngine(slots=8), box)
    first, *rest = packets(1, utter("good day"))
    host.turn([opening(1), first, link.Finalize(1, "f"), link.Checkpoint(1), *rest[:3]])
    (report,) = saved(box)
    assert report.at < 4 * 320
    assert b'"fed":%d,' % report.at in report.snapshots[0]


@pytest.mark.parametrize("ms", [20, 400])
def test_what_was_in_time_stays_so_when_something_comes_that_may_wait(ms: int) -> None:
    times = list[float]()

    class Noting(ScriptedEngine):
        def feed(self, stream: int, samples: Samples, *, now: float = 0.0) -> None:
            times.append(now)
            super().feed(stream, samples, now=now)

    host = Host(Noting(slots=8), Letterbox())
    live = packets(1, silence(60))
    host.turn([opening(1), *live, link.Audio(1, silence(ms).tobytes(), PATIENT)])
    assert times == [1 / 50, 3 / 50, PATIENT]


@pytest.mark.parametrize("before", [link.Audio(1, silence(400).tobytes(), PATIENT), link.Gap(1, 9)])
def test_what_may_wait_is_due_with_the_first_packet_behind_it(before: link.Command) -> None:
    engine = Recording()
    host = Host(engine, Letterbox())
    host.turn([opening(1), *packets(1, silence(40)), before])
    host.turn(packets(1, silence(40), 640))
    assert engine.done.count(640) == 1


def a_flood(session: int, seconds: int) -> list[link.Command]:
    second = silence(1_000).tobytes()
    return [link.Audio(session, second, 0.0) for _ in range(seconds)]


def test_minutes_of_audio_at_once_hold_no_step_up() -> None:
    engine = Recording()
    run([opening(1), *a_flood(1, 120), link.Stop(1)], engine=engine)
    assert sum(engine.done) >= 120 * 16_000
    assert engine.done.index(0) <= MOST_UNDECODED_S + 1


def test_who_speaks_beside_a_flood_does_not_wait_until_it_is_heard() -> None:
    engine, said = Recording(), saying(2, "good day")
    box = run([opening(1), opening(2), *a_flood(1, 120), said, link.Stop(2)], engine=engine)
    assert engine.done.index(len(said.data) // 4) <= MOST_UNDECODED_S + 1
    assert text_of(box.events(2)) == "good day"


def test_a_flood_is_said_to_its_end_in_its_order() -> None:
    said = [saying(1, word) for word in ("good day", "no thank you", "yes")] * 12
    box = run([opening(1), *said, link.Stop(1)])
    assert text_of(box.events(1)) == " ".join(["good day no thank you yes"] * 12)
    assert isinstance(box.events(1)[-1], Stopped)


def test_a_checkpoint_amid_a_flood_is_of_what_was_heard() -> None:
    box = Letterbox()
    host = Host(ScriptedEngine(slots=8), box)
    host.turn([opening(1), *a_flood(1, 60), link.Checkpoint(1)])
    (report,) = saved(box)
    assert 0 < report.at <= (MOST_UNDECODED_S + 2) * 16_000


def test_a_drop_amid_a_flood_is_obeyed_at_once() -> None:
    engine = ScriptedEngine(slots=8)
    host = Host(engine, Letterbox())
    host.turn([opening(1), *a_flood(1, 60), link.Drop(1)])
    host.turn([])
    assert engine.slots_in_use == 0


@pytest.mark.parametrize("last", [link.Audio(1, b"", 9.0), link.Stop(1)])
def test_what_may_wait_is_due_when_something_comes_behind_it_that_does_not(
    last: link.Command,
) -> None:
    times = list[float]()

    class Noting(ScriptedEngine):
        def feed(self, stream: int, samples: Samples, *, now: float = 0.0) -> None:
            times.append(now)
            super().feed(stream, samples, now=now)

    patient = [msgspec.structs.replace(one, sent=PATIENT) for one in a_flood(1, 20)]
    host = Host(Noting(slots=8), Letterbox())
    host.turn([opening(1), *patient, link.Gap(1, 16_000), *patient])
    assert set(times) == {PATIENT}
    host.turn([last])
    times.clear()
    while host._holding:
        host.turn([])
    assert times.count(PATIENT) <= 1  # the gap is due with what follows it
    assert len(times) > 20


class Compiling(Favouring):
    """Phrases take a hundred steps of a millisecond each to prepare."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0

    def prepare(self, biasing: Biasing) -> Iterator[None]:
        for _ in range(100):
            self.time += 0.001
            yield
        if biasing.phrases[0].text == "bad":
            raise BadBiasing("phrase 0 cannot be written")


def compiling_host() -> tuple[Host, Letterbox, Compiling]:
    engine, box = Compiling(), Letterbox()
    return Host(engine, box, clock=lambda: engine.time), box, engine


def test_nobody_waits_for_the_phrases_of_another_session() -> None:
    host, box, engine = compiling_host()
    host.turn([opening(1), saying(1, "good day")])
    favouring = opening(2, boost=(("sun", 3.0),))
    host.turn([favouring, saying(2, "sun"), link.Stop(2), link.Checkpoint(2)])
    while not box.events(2):
        before = engine.time
        host.turn([saying(1, "good day")])
        assert engine.time - before < PREPARE_S + 0.0011
    steps = box.reports[: box.reports.index(link.Opened(2))]
    assert sum(isinstance(report, link.Step) for report in steps) >= 8
    while host._has_work():
        host.turn([])
    assert text_of(box.events(2)) == "sun"
    assert [phrase.text for phrase in engine.favoured[-1]] == ["sun"]


def test_audio_waits_behind_phrases_however_little_it_is() -> None:
    heard_before = list[int]()

    class Noting(Compiling):
        def bias(self, stream: int, biasing: Biasing) -> None:
            heard_before.append(host._sessions[1].at)

    engine = Noting()
    host = Host(engine, Letterbox(), clock=lambda: engine.time)
    host.turn([opening(1), *packets(1, silence(20))])
    host.turn([link.Configure(1, None, None, (("sun", 3.0),)), *packets(1, silence(60))])
    while host._has_work():
        host.turn([])
    assert heard_before == [320]
    assert host._sessions[1].at == 4 * 320


def test_other_phrases_count_from_the_audio_behind_them_on() -> None:
    host, box, engine = compiling_host()
    host.turn([opening(1)])
    host.turn([link.Configure(1, None, None, (("sun", 3.0),)), saying(1, "sun"), link.Stop(1)])
    assert not engine.favoured[1:]
    while host._has_work():
        host.turn([])
    assert text_of(box.events(1)) == "sun" and len(engine.favoured) == 2


def test_changes_of_phrases_cannot_pile_up() -> None:
    host, box, engine = compiling_host()
    change = link.Configure(1, None, None, (("sun", 3.0),))
    host.turn([opening(1), opening(2), *[change] * MOST_CHANGES, saying(1, "sun")])
    assert not box.failures()
    host.turn([change, change, saying(2, "moon"), link.Stop(2)])
    assert box.failures() == {1: "bad_request"}
    while host._has_work():
        host.turn([])
    assert text_of(box.events(2)) == "moon" and not engine.slots_in_use


def test_a_session_that_goes_while_its_phrases_are_compiled_leaves_nothing() -> None:
    host, box, engine = compiling_host()
    host.turn([opening(1, boost=(("sun", 3.0),))])
    host.turn([link.Drop(1)])
    assert not host._waiting_for_phrases() and not engine.slots_in_use
    host.turn([opening(2, boost=(("bad", 3.0),)), saying(2, "sun")])
    while host._waiting_for_phrases():
        host.turn([])
    assert box.failures() == {2: "bad_request"} and not engine.favoured
