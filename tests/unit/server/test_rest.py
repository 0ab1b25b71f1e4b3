"""Sessions that are still give their slots back, and nobody can tell from what they say."""

import asyncio
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr.events import Final, Finalized, Progress, Stopped
from asr.interface import PATIENT, Samples
from asr.scripted import silence, utter
from server.airing import AIR_S
from server.listener import NO_ROOM
from server.wire.errors import OverCapacity
from server.worker import link
from tests.unit.server.house import Client, House, opening

PACKET = 2_560
"""Whole cells of the scripted engine: what is said is heard wherever it begins."""


def packets(audio: Samples) -> list[bytes]:
    whole = len(audio) // PACKET * PACKET
    return [audio[i : i + PACKET].tobytes() for i in range(0, whole, PACKET)]


def said(text: str) -> Samples:
    """A text, its endpoint and silence up to a whole packet."""
    audio = np.concatenate([utter(text), silence(800)])
    return np.concatenate([audio, np.zeros(-len(audio) % PACKET, np.float32)])


def zeros(seconds: float) -> Samples:
    return np.zeros(round(seconds * 16_000) // PACKET * PACKET, np.float32)


def hiss(seconds: float, seed: int = 1) -> Samples:
    noise = np.random.default_rng(seed).standard_normal(len(zeros(seconds)))
    return (noise * 10 ** (-62 / 20)).astype(np.float32)


async def full(slots: int = 2, **options: Any) -> House:
    """A house where room is short at once: its only stream but one is for forks."""
    return await House(slots=slots, rest_after_s=1.0, **options).open()


async def hear(house: House, audio: Samples, number: int = 1) -> None:
    for count, packet in enumerate(packets(audio)):
        house.keeper.send(link.Audio(number, packet, 0.0), number)
        if count % 5 == 4:
            await house.settle()
    await house.settle()


async def stop(house: House, number: int = 1) -> None:
    house.keeper.send(link.Stop(number), number)
    await house.settle()


def is_resting(house: House, number: int = 1) -> bool:
    return house.keeper._tenants[number].is_resting


def nothing_came(house: House, number: int = 1, seconds: float = 10.0) -> None:
    """Let a while pass in which the client sends nothing."""
    tenant = house.keeper._tenants[number]
    tenant._still._heard_s -= seconds
    tenant._look_now()


async def undisturbed(audio: Samples, **changes: Any) -> Client:
    """What is said of audio by a server on which nobody rests."""
    house, client = await House().open(), Client()
    begin(house, client, **changes)
    await hear(house, audio)
    await stop(house)
    return client


def begin(house: House, client: Client, number: int = 1, **changes: Any) -> None:
    house.keeper.attach(msgspec.structs.replace(opening(number), **changes), client)
    house.run()


@pytest.mark.parametrize("seconds", [2.0, 9.0, 33.0, 61.4, 150.0])
async def test_silence_costs_no_slot_and_the_words_behind_it_are_the_same(seconds: float) -> None:
    audio = np.concatenate([said("turn on"), zeros(seconds), said("thank you"), zeros(3)])
    expected = (await undisturbed(audio)).finals()
    house, client = await full(), Client()
    begin(house, client)
    await hear(house, np.concatenate([said("turn on"), zeros(seconds)]))
    assert is_resting(house)
    assert house.slots_in_use == 0
    assert [final.text for final in client.finals()] == ["turn on"]
    heard = len(said("turn on")) + len(zeros(seconds))
    assert client.events[-1] == (0, Progress(heard))
    await hear(house, said("thank you"))
    assert [final.text for final in client.finals()] == ["turn on", "thank you"]
    await hear(house, zeros(3))
    await stop(house)
    assert client.finals() == expected
    assert (0, Stopped(len(audio), 2)) in client.events
    assert house.manager.resting == house.slots_in_use == 0


async def test_of_a_long_silence_next_to_nothing_is_decoded_or_kept() -> None:
    house, client = await full(), Client()
    begin(house, client)
    await hear(house, np.concatenate([said("turn on"), zeros(120)]))
    heard = list[int]()
    engine = house.workers[0].engine
    feed = engine.feed

    def count(stream: int, samples: Samples, *, now: float = 0.0) -> None:
        heard.append(len(samples))
        feed(stream, samples, now=now)

    engine.feed = count  # type: ignore[method-assign]
    await hear(house, zeros(600))
    assert is_resting(house)
    assert sum(heard) < 45 * 16_000  # two seconds in each minute, and what comes in between
    assert house.keeper.resting[0] < 100_000


async def test_what_a_session_at_rest_gathered_waits_for_the_others_until_it_speaks() -> None:
    house, client = await full(), Client()
    begin(house, client)
    await hear(house, np.concatenate([said("turn on"), zeros(4)]))
    assert is_resting(house)
    times = list[float]()
    engine = house.workers[0].engine
    feed = engine.feed

    def note(stream: int, samples: Samples, *, now: float = 0.0) -> None:
        times.append(now)
        feed(stream, samples, now=now)

    engine.feed = note  # type: ignore[method-assign]
    place = house.manager._places[0]
    await hear(house, zeros(80))
    assert times
    assert set(times) == {PATIENT}
    for packet in packets(hiss(AIR_S + 1)):  # it comes back, and hears what comes next
        house.keeper.send(link.Audio(1, packet, 0.0), 1)
    assert (place.streams, place.load.total()) == (1, 0)
    times.clear()
    house.keeper.send(link.Audio(1, packets(utter("thank you"))[0], 5.0), 1)
    assert (place.streams, place.load.total()) == (1, 1)
    await house.settle()
    assert times[-1] == 5.0
    house.keeper.release(1)
    await house.settle()
    assert (place.streams, place.load.total()) == (0, 0)


@pytest.mark.parametrize(("encoding", "rate"), [("mulaw", 8_000), ("pcm_s16le", 16_000)])
async def test_silence_is_silence_in_other_formats(encoding: Any, rate: int) -> None:
    cell = rate * 80 // 1_000
    zero = {"mulaw": b"\xff", "pcm_s16le": b"\0\0"}[encoding] * cell
    expected, found = list[Final](), list[Final]()
    speech = utter("please thank you", rate=rate)
    s16 = (np.concatenate([speech, np.zeros(-len(speech) % cell)]) * 32_000).astype("<i2")
    raw = s16.tobytes() if encoding == "pcm_s16le" else _mulaw(s16)
    loud = [raw[i : i + len(zero)] for i in range(0, len(raw), len(zero))]
    script = [*loud, *[zero] * 560, *loud, *[zero] * 20]
    for rests in (False, True):
        house, client = (await full() if rests else await House().open()), Client()
        begin(house, client, encoding=encoding, rate=rate)
        for number, packet in enumerate(script):
            house.keeper.send(link.Audio(1, packet, 0.0), 1)
            if number % 50 == 49:
                await house.settle()
            if rests and number == len(loud) + 559:
                await house.settle()
                assert is_resting(house)
        await stop(house)
        (found if rests else expected).extend(client.finals())
    assert [final.text for final in expected] == ["please thank you"] * 2
    assert found == expected


def _mulaw(samples: Any) -> bytes:
    from asr.audio import decode

    table = decode(bytes(range(256)), "mulaw")[0]
    nearest = np.abs(table[None, :] - samples[:, None] / 32768).argmin(axis=1)
    return nearest.astype(np.uint8).tobytes()


async def test_a_quiet_room_is_decoded_now_and_then_and_rests_in_between() -> None:
    audio = np.concatenate([said("turn on"), hiss(3 * AIR_S), said("thank you"), zeros(2)])
    expected = (await undisturbed(audio)).finals()
    house, client = await full(), Client()
    begin(house, client)
    states, decoded = list[bool](), set[int]()
    for packet in packets(audio):
        house.keeper.send(link.Audio(1, packet, 0.0), 1)
        await house.settle()
        states.append(is_resting(house))
        decoded.add(house.keeper._tenants[1].ledger.saved_at)
        assert house.keeper._tenants[1].ledger.unheard <= (AIR_S + 2) * 16_000
    await stop(house)
    assert states.count(True) > len(states) // 2
    assert len(decoded) >= 4
    assert client.finals() == expected


async def test_a_client_that_sends_nothing_rests_in_the_middle_of_its_turn() -> None:
    audio = said("turn on the kitchen light please")
    middle = len(audio) // 2 // PACKET * PACKET
    expected = (await undisturbed(audio)).finals()
    house, client = await House(rest_after_s=1.0).open(), Client()
    begin(house, client)
    await hear(house, audio[:middle])
    nothing_came(house)
    await house.settle()
    assert is_resting(house)
    assert house.slots_in_use == 0
    await hear(house, audio[middle:])
    assert not is_resting(house)
    await stop(house)
    assert client.finals() == expected


async def test_an_open_turn_ends_when_it_is_due_though_only_silence_comes() -> None:
    house, client = await full(), Client()
    begin(house, client)
    await hear(house, utter("turn on the kitchen light please"))
    nothing_came(house)
    await house.settle()
    assert is_resting(house)
    await hear(house, zeros(1))
    assert [final.cause for final in client.finals()] == ["endpoint"]


async def test_where_there_is_room_only_who_sends_nothing_gives_its_slot_back() -> None:
    house, client = await House(slots=8, rest_after_s=1.0).open(), Client()
    begin(house, client)
    await hear(house, zeros(5))
    assert not is_resting(house)
    nothing_came(house)
    await house.settle()
    assert is_resting(house)


async def test_nobody_rests_where_it_is_not_asked_for() -> None:
    house, client = await House(slots=2).open(), Client()
    begin(house, client)
    await hear(house, zeros(5))
    house.keeper._tenants[1]._look_now()
    await house.settle()
    assert not is_resting(house)


async def test_a_finalize_and_a_stop_reach_a_session_at_rest() -> None:
    house, client = await full(), Client()
    begin(house, client)
    await hear(house, np.concatenate([said("turn on"), zeros(4)]))
    assert is_resting(house)
    house.keeper.send(link.Finalize(1, "a"), 1)
    await house.settle()
    assert any(isinstance(event, Finalized) for _, event in client.events)
    await hear(house, zeros(4))
    assert is_resting(house)
    await stop(house)
    assert isinstance(client.events[-1][1], Stopped)


async def test_ten_times_as_many_are_connected_as_there_are_slots() -> None:
    house = await full(slots=3)
    clients = [Client() for _ in range(20)]
    for number, client in enumerate(clients):
        begin(house, client, number)
        await hear(house, zeros(3), number)
    assert house.manager.resting >= 19
    with pytest.raises(OverCapacity):
        begin(house, Client(), 99)
    for number in range(20):
        await hear(house, said("thank you"), number)
        await hear(house, zeros(2), number)
    assert [client.finals()[0].text for client in clients] == ["thank you"] * 20
    assert {note for client in clients for note in client.notes} == {"opened"}
    for number in range(20):
        house.keeper.release(number)
    await house.settle()
    assert (house.slots_in_use, house.manager.resting, house.manager.sessions) == (0, 0, 0)
    assert house.manager._lobby.resting_channels == 0


async def test_who_returns_waits_for_a_slot_and_live_streams_keep_theirs() -> None:
    house, clients = await full(), [Client(), Client()]
    begin(house, clients[0], 0)
    await hear(house, zeros(3), 0)
    begin(house, clients[1], 1)
    words = utter("please thank you now we are here and there it is good")
    half = len(words) // 2 // PACKET * PACKET
    await hear(house, words[:half], 1)
    await hear(house, said("turn on"), 0)
    assert house.keeper._tenants[1].is_served
    assert not house.keeper._tenants[0].is_served
    with pytest.raises(OverCapacity):
        begin(house, Client(), 2)
    await hear(house, words[half:], 1)
    await hear(house, zeros(4), 1)
    await stop(house, 0)
    await stop(house, 1)
    assert [final.text for final in clients[0].finals()] == ["turn on"]
    assert clients[1].finals()[0].text == "please thank you now we are here and there it is good"


async def test_who_finds_no_slot_in_time_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.tenant.RETURN_WITHIN_S", 0.0)
    house, clients = await full(), [Client(), Client()]
    begin(house, clients[0], 0)
    await hear(house, zeros(3), 0)
    begin(house, clients[1], 1)
    await hear(house, utter("please thank you"), 1)
    await hear(house, utter("turn on"), 0)
    assert clients[0].notes[-1] == ("over_capacity", NO_ROOM)
    assert house.keeper._tenants[1].is_served


async def test_some_room_is_kept_for_returns_and_new_sessions_do_not_get_it() -> None:
    house = await House(slots=18, rest_after_s=1.0).open()
    for number in range(4):
        begin(house, Client(), number)
        nothing_came(house, number)
        await house.settle()
    streams = house.manager.room.streams
    kept = house.manager._lobby.reserve(streams, 1)
    assert kept == streams // 8 > 0
    for number in range(streams - kept):
        begin(house, Client(), 10 + number)
    with pytest.raises(OverCapacity):
        begin(house, Client(), 99)
    await hear(house, utter("turn on"), 0)
    assert house.keeper._tenants[0].is_served


async def test_a_killed_worker_takes_nothing_from_sessions_at_rest() -> None:
    audio = np.concatenate([said("turn on"), zeros(50), said("thank you"), zeros(3)])
    expected = (await undisturbed(audio)).finals()
    house, client = await full(), Client()
    begin(house, client)
    for number, packet in enumerate(packets(audio)):
        house.keeper.send(link.Audio(1, packet, 0.0), 1)
        if number % 7 == 6:
            await house.settle()
        if number % 40 == 39:
            house.living[0].kill()
            await house.settle()
    await stop(house)
    assert client.finals() == expected
    assert set(client.notes) == {"opened"}


@pytest.mark.parametrize("seconds", [4.0, 70.0, 300.0])
async def test_a_session_at_rest_goes_on_in_another_gateway(seconds: float) -> None:
    audio = np.concatenate([said("turn on"), zeros(seconds), said("thank you"), zeros(3)])
    expected = (await undisturbed(audio)).finals()
    house, client = await full(), Client()
    ticket = house.begin(client)
    before = len(said("turn on")) + len(zeros(seconds))
    await hear(house, audio[:before])
    assert is_resting(house)
    assert before - client.safe <= 62 * 16_000, "the client has to keep too much"
    other = await full(store=house.store)
    found = await other.keeper.come_back(ticket.token, client, 2)
    assert found is not None
    at = other.keeper._tenants[2].ledger.at
    assert at >= client.safe
    other.keeper.resume(2)
    await hear(other, audio[at:], 2)
    await stop(other, 2)
    assert client.finals() == expected


async def test_a_client_that_leaves_and_returns_finds_its_session_at_rest() -> None:
    house, client = await full(), Client()
    ticket = house.begin(client)
    await hear(house, np.concatenate([said("turn on"), zeros(4)]))
    assert is_resting(house)
    house.keeper.put_away(1, client)
    assert (house.keeper.away, house.manager.resting) == (1, 0)
    assert await house.keeper.come_back(ticket.token, client, 2) is not None
    house.keeper.resume(1)
    await hear(house, said("thank you"))
    await stop(house)
    assert [final.text for final in client.finals()] == ["turn on", "thank you"]


ACT = st.one_of(
    st.sampled_from(["turn on", "thank you", "kill", "rest", "nothing", "finalize"]),
    st.floats(0.2, 70).map(zeros),
    st.floats(0.2, 25).map(hiss),
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(acts=st.lists(ACT, min_size=2, max_size=8))
def test_whenever_sessions_rest_their_finals_are_those_of_sessions_that_do_not(
    acts: list[Any],
) -> None:
    async def run(house: House, *, is_disturbed: bool) -> tuple[list[Final], list[object]]:
        client = Client()
        house.begin(client)
        for act in acts:
            if isinstance(act, str):
                await _strike(house, act, is_disturbed=is_disturbed)
            else:
                await hear(house, act)
        await stop(house)
        house.keeper.release(1)
        await house.settle()
        assert house.slots_in_use == house.manager.resting == 0
        answers = [event for _, event in client.events if isinstance(event, Finalized)]
        return client.finals(), [*answers, *client.notes]

    async def both() -> None:
        expected = await run(await House().open(), is_disturbed=False)
        assert await run(await full(), is_disturbed=True) == expected

    asyncio.run(both())


async def _strike(house: House, act: str, *, is_disturbed: bool) -> None:
    if act == "finalize":
        house.keeper.send(link.Finalize(1, "a"), 1)
        await house.settle()
    elif act not in ("kill", "rest", "nothing"):
        await hear(house, said(act))
    elif not is_disturbed:
        return
    elif act == "kill":
        for worker in house.living:  # none, where the one before is not started again yet
            worker.kill()
    elif act == "nothing":
        nothing_came(house)
    elif house.keeper._tenants[1].is_served and house.keeper._tenants[1].is_settled:
        house.keeper._tenants[1]._rest()
