"""A session that is recognised on a node moves with its state: to another node, to the core."""

import asyncio
import dataclasses
from pathlib import Path

import msgspec
import pytest

from edge import moves, wire
from edge.coreleg import CoreLeg
from edge.handover import Ahead, Handover
from edge.leg import Leg
from edge.moves import Moves, NotMovable
from edge.node import NodeLeg, TooManyLegs
from edge.peers import NotGiven, fetch
from edge.uplink import Uplink
from edge.wire import Close, Frame, FrameError, Kind, Where
from tests.edge_rig import (
    PACKET,
    EdgeNode,
    Rig,
    another_edge_node,
    feed,
    heard,
    rig,
    sentences,
    spoken,
    words_of,
)

pytestmark = pytest.mark.io

TEXTS = sentences(4)
AUDIO = spoken(TEXTS)
SAID = " ".join(TEXTS)
HALF = len(AUDIO) // 2 // PACKET * PACKET + PACKET * 7
"""In the middle of a sentence."""


async def goes_on(leg: NodeLeg) -> None:
    """Wait until the node goes on with the session of another, and not with a new one."""
    while leg.recogniser is None or leg.recogniser.past is None:
        leg.stirred.clear()
        await leg.stirred.wait()
    assert leg.recogniser.is_resumed


async def test_a_session_moves_to_another_node_in_mid_word_and_its_words_are_the_same() -> None:
    async with rig("edge", is_apart=True) as r, another_edge_node(r, "n2") as second:
        leg = r.open(name="call")
        feed(leg, AUDIO[:HALF])
        await heard(leg, HALF - 8_000)
        moved = await second.fetch(leg)
        await leg.is_over.wait()
        assert leg.leg.closed is not None
        assert leg.leg.closed.reason == "fenced"
        assert moved.leg.ring.head == HALF
        await goes_on(moved)
        feed(moved, AUDIO[HALF:])
        moved.end()
        assert await words_of(moved) == SAID
        assert " ".join(x.text for _, _, x in r.finals if x.text) == SAID
        assert [number for _, number, _ in r.finals] == list(range(len(r.finals)))
        assert leg.leg.audio_frames == moved.leg.audio_frames == 0


async def test_a_node_that_is_full_keeps_nothing_of_a_session_that_comes_and_it_goes_on(
    tmp_path: Path,
) -> None:
    async with rig("edge", is_apart=True) as r, another_edge_node(r, "n2") as second:
        second.node.config = dataclasses.replace(
            second.node.config, max_legs=0, memory_ms=100, spill_folder=tmp_path
        )
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        await heard(leg, HALF - 8_000)
        given = await r.moves.give(leg)
        with pytest.raises(TooManyLegs):
            await second.moves.take(msgspec.structs.replace(given, audio=((len(AUDIO), AUDIO),)))
        assert second.node.spilled_bytes == 0
        await r.moves.take_back(leg, given)
        feed(leg, AUDIO[HALF:])
        leg.end()
        assert await words_of(leg) == SAID


async def test_a_session_goes_to_and_fro_many_times_and_no_word_is_lost_or_doubled() -> None:
    async with rig("edge", is_apart=True) as r, another_edge_node(r, "n2") as second:
        nodes = [EdgeNode(r.node, r.moves, r.uplink), second]
        leg, step = r.open(), len(AUDIO) // 9 // PACKET * PACKET
        await r.until(lambda: leg.recogniser is not None and leg.recogniser.past is not None)
        for number in range(8):
            feed(leg, AUDIO[leg.leg.ring.head : (number + 1) * step])
            if number % 3:
                await heard(leg, leg.leg.ring.head - 6_000)
            await r.until(lambda: second.uplink.state.is_up and bool(r.core.legs))
            leg = await nodes[(number + 1) % 2].fetch(leg)
            await goes_on(leg)
            assert leg.leg.ring.head == (number + 1) * step
        feed(leg, AUDIO[leg.leg.ring.head :])
        leg.end()
        assert await words_of(leg) == SAID
        assert " ".join(x.text for _, _, x in r.finals if x.text) == SAID


async def test_the_core_goes_on_with_a_session_of_a_node_and_its_words_are_the_same() -> None:
    async with rig("edge", is_apart=True) as r:
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        await heard(leg, HALF - 8_000)
        await r.until(lambda: r.uplink.state.is_up and bool(r.core.legs))
        await r.moves.to_core(leg)
        (held,) = r.core.legs.values()
        await r.until(lambda: held.leg._recogniser.is_resumed)
        feed(leg, AUDIO[HALF:])
        leg.end()
        assert await words_of(leg) == SAID
        assert " ".join(x.text for _, _, x in r.finals if x.text) == SAID
        assert [number for _, number, _ in r.finals] == list(range(len(r.finals)))


async def test_the_snapshot_is_at_the_core_before_the_fence_and_travels_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with rig("edge", is_apart=True) as r:
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        await heard(leg, HALF - 8_000)
        await r.until(lambda: r.uplink.state.is_up and bool(r.core.legs))
        given, write, give = list[Handover](), Uplink._write, Moves.give
        before, behind = list[int](), list[int]()

        async def noted(mover: Moves, leg: NodeLeg) -> Handover:
            (held,) = r.core.legs.values()
            assert held.leg.ahead.snapshot is not None
            assert held.leg.ahead.snapshot[2]
            given.append(await give(mover, leg))
            return given[-1]

        def counted(uplink: Uplink, frames: list[Frame]) -> None:
            parts = [len(frame.payload) for frame in frames if frame.kind is Kind.STATE]
            (behind if given else before).extend(parts)
            write(uplink, frames)

        monkeypatch.setattr(Moves, "give", noted)
        monkeypatch.setattr(Uplink, "_write", counted)
        await r.moves.to_core(leg)
        (held,) = r.core.legs.values()
        await r.until(lambda: held.leg._recogniser.is_resumed)
        assert given[0].moved is not None and given[0].moved.snapshot is not None
        blob = len(given[0].moved.snapshot[2])
        assert sum(before) > blob
        assert 0 < sum(behind) < blob
        feed(leg, AUDIO[HALF:])
        leg.end()
        assert await words_of(leg) == SAID


async def to_core_in_mid_word(r: Rig) -> None:
    leg = r.open()
    feed(leg, AUDIO[:HALF])
    await heard(leg, HALF - 8_000)
    await r.until(lambda: r.uplink.state.is_up and bool(r.core.legs))
    await r.moves.to_core(leg)
    (held,) = r.core.legs.values()
    await r.until(lambda: held.leg._recogniser.is_resumed)
    feed(leg, AUDIO[HALF:])
    leg.end()
    assert await words_of(leg) == SAID


async def test_a_core_that_lost_what_went_ahead_gets_all_of_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with rig("edge", is_apart=True, rto_s=0.05) as r:
        give_up, sizes = Leg.give_up_to_core, list[int]()

        def lost(leg: Leg, state: bytes, covered: int, rest: bytes = b"") -> None:
            (held,) = r.core.legs.values()
            held.leg.ahead = Ahead(None)
            assert leg.is_ahead_there
            sizes.extend((len(rest), len(state)))
            give_up(leg, state, covered, rest)

        monkeypatch.setattr(Leg, "give_up_to_core", lost)
        await to_core_in_mid_word(r)
        assert sizes[0] < sizes[1]
        assert r.uplink.state.connections > 1  # that connection was given up for it


async def test_a_core_that_takes_nothing_ahead_gets_all_of_it_behind_the_fence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CoreLeg, "_state_ahead", lambda *_: None)
    monkeypatch.setattr(moves, "AHEAD_S", 0.05)
    async with rig("edge", is_apart=True) as r:
        await to_core_in_mid_word(r)


@pytest.mark.parametrize("cuts", [1, 3])
async def test_a_cut_while_a_session_goes_to_the_core_loses_nothing(cuts: int) -> None:
    async with rig("edge", is_apart=True, rto_s=0.05) as r:
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        await heard(leg, HALF - 8_000)
        await r.until(lambda: r.uplink.state.is_up and bool(r.core.legs))
        going = asyncio.create_task(r.moves.to_core(leg))
        for _ in range(cuts):
            r.link.drop_all()
            await asyncio.sleep(0)
            await r.until(lambda: r.uplink.state.is_up)
        await going
        r.link.drop_all()
        feed(leg, AUDIO[HALF:])
        leg.end()
        assert await words_of(leg) == SAID
        assert " ".join(x.text for _, _, x in r.finals if x.text) == SAID


async def test_without_the_core_nothing_moves_there_and_the_node_goes_on() -> None:
    async with rig("edge", is_apart=True, rto_s=0.05) as r:
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        r.link.cut()
        await r.until(lambda: not r.uplink.state.is_up)
        with pytest.raises(NotMovable, match="not reached"):
            await r.moves.to_core(leg)
        feed(leg, AUDIO[HALF:])
        leg.end()
        await r.until(lambda: leg.leg.is_complete)
        assert leg.leg.transcript.final_text() == SAID


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_leg_that_the_core_does_not_take_goes_on_at_its_node(
    *, is_late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig("edge", is_apart=True) as r:
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        await heard(leg, HALF - 8_000)
        await r.until(lambda: bool(r.core.legs))
        refused = Frame(Kind.CLOSE, leg.leg.number, 0, Close(reason="refused").pack())
        give = Moves.give

        async def give_and_be_refused(moves: Moves, leg: NodeLeg) -> Handover:
            given = await give(moves, leg)
            leg.leg.acked = -1  # a final is on its way
            asyncio.get_running_loop().call_soon(r.uplink._receive, [refused])
            return given

        if is_late:
            monkeypatch.setattr(Moves, "give", give_and_be_refused)
        else:
            r.uplink._receive([refused])
        async with asyncio.timeout(5):
            with pytest.raises(NotMovable, match="does not take"):
                await r.moves.to_core(leg)
        feed(leg, AUDIO[HALF:])
        leg.end()
        await leg.is_over.wait()
        assert leg.leg.transcript.final_text() == SAID


async def test_a_core_without_the_state_begins_anew_behind_the_last_final() -> None:
    async with rig("edge", is_apart=True) as r:
        r.core.adopt = None
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        await heard(leg, HALF - 8_000)
        await r.until(lambda: r.uplink.state.is_up and bool(r.core.legs))
        await r.moves.to_core(leg)
        feed(leg, AUDIO[HALF:])
        leg.end()
        assert await words_of(leg) == SAID


@pytest.mark.parametrize("parts", [1, 2], ids=["before the fence", "behind it"])
async def test_a_node_that_takes_and_vanishes_leaves_the_session_where_it_was(parts: int) -> None:
    async with rig("edge", is_apart=True) as r:
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        await heard(leg, HALF - 8_000)
        await r.until(lambda: bool(r.core.legs))
        opening = leg.leg.opening
        where = await r.uplink.where(opening.session, opening.secret)
        asked = Where(session=opening.session, secret=opening.secret)
        reader, writer = await asyncio.open_connection(*where.peer.split(":"))
        writer.write(Frame(Kind.MOVE, payload=asked.pack()).pack())
        await _state(reader)
        if parts == 2:
            writer.write(Frame(Kind.MOVE).pack())
            await _state(reader)
        writer.transport.abort()
        await r.until(lambda: leg.recogniser is not None)
        feed(leg, AUDIO[HALF:])
        leg.end()
        assert await words_of(leg) == SAID


async def _state(reader: asyncio.StreamReader) -> bytes:
    """Read one part of a handover."""
    data = b""
    while True:
        _, kind, flags, _, _, size = wire.HEAD.unpack(await reader.readexactly(wire.HEAD.size))
        data += await reader.readexactly(size)
        assert kind == Kind.STATE
        if flags & wire.LAST:
            return data


async def test_the_snapshot_travels_before_the_fence_and_only_once() -> None:
    async with rig("edge", is_apart=True) as r:
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        await heard(leg, HALF - 8_000)
        ahead = await r.moves.ahead(leg)
        assert ahead.snapshot is not None
        assert ahead.snapshot[2]
        assert leg.recogniser is not None
        given = await r.moves.give(leg)
        rest = ahead.taken_from(given)
        assert rest.moved is not None
        assert rest.moved.snapshot == (*ahead.snapshot[:2], b"")
        assert ahead.put_into(rest) == given
        with pytest.raises(FrameError, match="without its snapshot"):
            Ahead(None).put_into(rest)
        await r.moves.take_back(leg, given)
        feed(leg, AUDIO[HALF:])
        leg.end()
        assert await words_of(leg) == SAID


async def test_who_does_not_know_the_secret_gets_no_session_and_learns_no_address() -> None:
    async with rig("edge", is_apart=True) as r, another_edge_node(r, "n2") as second:
        leg = r.open()
        await r.until(lambda: bool(r.core.legs) and second.uplink.state.is_up)
        session = leg.leg.opening.session
        assert (await second.uplink.where(session, "wrong")).peer == ""
        peer = (await second.uplink.where(session, leg.leg.opening.secret)).peer
        with pytest.raises(NotGiven):
            await fetch(second.moves, Where(session=session, peer=peer, node="n1"), "wrong")
        assert leg.recogniser is not None and not leg.is_over.is_set()
