"""Bad days of a node: each has a named outcome and costs nobody else a word."""

import asyncio
import contextlib
import dataclasses
import errno
import io
import json
import os
import struct
from pathlib import Path

import pytest

from edge.adapters.events import Audio, Started
from edge.feeds import Feed
from edge.listeners import FeedConfig, Listeners
from edge.recogniser import Recogniser
from edge.run import Transcripts
from edge.uplink import Timing
from server.wire.messages import Final
from tests.edge_rig import (
    PACKET,
    another_edge_node,
    another_node,
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


async def test_a_disk_that_fills_up_loses_by_name_and_takes_audio_again_when_it_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_full, write = False, os.pwrite

    def pwrite(file: int, data: bytes, at: int) -> int:
        if is_full:
            raise OSError(errno.ENOSPC, "no space left on device")
        return write(file, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    half = HALF // 640 * 640  # whole tokens of the script
    async with rig(spill=tmp_path, memory_ms=4_000) as r:
        leg, other = r.open(), r.open()
        feed(leg, AUDIO[:half])
        await r.until(lambda: leg.leg.acked == half)
        r.link.cut()
        await r.until(lambda: not r.uplink.state.is_up)
        is_full = True
        feed(leg, AUDIO)
        feed(other, AUDIO[: 3 * 8_000])  # fits into the memory
        (loss,) = leg.leg.ring.losses
        assert loss.cause == "spill_full"
        spilled = r.node.spilled_bytes
        is_full = False
        feed(leg, AUDIO)
        assert r.node.spilled_bytes > spilled
        lost = sum(one.end - one.begin for one in leg.leg.ring.losses)
        feed(other, AUDIO[3 * 8_000 :])
        leg.end()
        other.end()
        r.link.heal()
        assert (await words_of(leg)).endswith(SAID)
        assert await words_of(other) == SAID
        assert r.node.losses == {"spill_full": lost}
        assert r.node.spilled_bytes == 0


@pytest.mark.parametrize("jump", [3_600 * 8_000, -3_600 * 8_000, 2**31 - 1])
async def test_a_sender_whose_clock_jumps_goes_on_without_a_hole(jump: int) -> None:
    async with rig() as r:
        config = FeedConfig(rtp_port=0, idle_s=1.0, window_s=5.0)
        async with Listeners(config, r.node, respond=lambda _: None).listening() as ports:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, remote_addr=("127.0.0.1", ports.rtp or 0)
            )
            for number in range(len(AUDIO) // PACKET):
                stamp = number * PACKET + (jump if number * PACKET >= HALF else 0) + 2**31
                head = struct.pack(">BBHII", 0x80, 0, number & 0xFFFF, stamp & 0xFFFFFFFF, 7)
                transport.sendto(head + AUDIO[number * PACKET : (number + 1) * PACKET])
                if number % 4 == 0:
                    await asyncio.sleep(0.001)
            await r.until(lambda: any(kind == "closed" for _, kind, _ in r.events))
            transport.close()
        assert " ".join(x.text for _, _, x in r.finals if x.text) == SAID


@pytest.mark.parametrize("size", [1, 7, 12], ids=["one byte", "half a head", "a head alone"])
async def test_truncated_rtp_in_mid_call_is_counted_and_costs_no_word(size: int) -> None:
    async with rig() as r:
        listeners = Listeners(
            FeedConfig(rtp_port=0, idle_s=1.0, window_s=5.0), r.node, respond=lambda _: None
        )
        async with listeners.listening() as ports:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, remote_addr=("127.0.0.1", ports.rtp or 0)
            )
            cut = 0
            for number in range(len(AUDIO) // PACKET):
                head = struct.pack(">BBHII", 0x80, 0, number & 0xFFFF, number * PACKET, 7)
                packet = head + AUDIO[number * PACKET : (number + 1) * PACKET]
                transport.sendto(packet)
                if number % 50 == 7:
                    transport.sendto(packet[:size])
                    cut += 1
                if number % 4 == 0:
                    await asyncio.sleep(0.001)
            await r.until(lambda: any(kind == "closed" for _, kind, _ in r.events))
            transport.close()
        assert listeners.counters.refused == {"rtp datagram": cut}
        assert " ".join(x.text for _, _, x in r.finals if x.text) == SAID


async def test_a_feed_that_claims_a_year_of_silence_goes_on_where_it_is() -> None:
    async with rig() as r:
        call = Feed(r.node)
        call.take([Started("call", "mulaw", 8_000)])
        call.take([Audio(AUDIO[:HALF], at=0)])
        call.take([Audio(AUDIO[HALF:], at=365 * 86_400 * 8_000)])
        (leg,) = call.legs.values()
        call.end()
        assert await words_of(leg) == SAID
        assert call.clock_jumps == 1


async def test_a_node_that_comes_back_with_stale_state_is_fenced_and_changes_nothing() -> None:
    async with rig(rto_s=0.05) as r, another_node(r, "n2") as second:
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        await r.until(lambda: leg.leg.acked == HALF and bool(leg.leg.transcript.finals))
        r.link.cut()
        await r.until(lambda: not r.uplink.state.is_up)
        taken = second.open(leg.ticket())
        await r.until(taken.is_placed.is_set)
        feed(leg, AUDIO[HALF : HALF + 8_000])  # the old node still hears something
        feed(taken, AUDIO[taken.leg.ring.head :])
        r.link.heal()
        await r.until(leg.is_over.is_set)
        assert leg.leg.closed is not None and leg.leg.closed.reason == "fenced"
        taken.end()
        await words_of(taken)
        assert " ".join(x.text for _, _, x in r.finals if x.text) == SAID


async def test_of_two_nodes_that_both_recognise_a_session_the_later_owner_is_heard() -> None:
    async with rig("edge", is_apart=True) as r, another_edge_node(r, "n2") as second:
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        await heard(leg, HALF - 8_000)
        await r.until(lambda: bool(r.core.legs) and second.uplink.state.is_up)
        given = await r.moves.give(leg)
        taken = await second.moves.take(given)
        await r.moves.take_back(leg, given)  # as if the answer of the other had been lost
        feed(leg, AUDIO[HALF:])
        feed(taken, AUDIO[HALF:])
        await leg.is_over.wait()
        assert leg.leg.closed is not None and leg.leg.closed.reason == "fenced"
        taken.end()
        assert await words_of(taken) == SAID
        assert " ".join(x.text for _, _, x in r.finals if x.text) == SAID
        assert [number for _, number, _ in r.finals] == list(range(len(r.finals)))


async def test_a_leg_that_fails_at_its_node_is_told_as_failed_and_leaves_none_at_the_core(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hear = Recogniser._hear

    def hear_one(self: Recogniser, message: object, origin: int) -> None:
        hear(self, message, origin)
        if isinstance(message, Final) and message.text:
            raise RuntimeError("on purpose")

    monkeypatch.setattr(Recogniser, "_hear", hear_one)
    async with rig("edge") as r:
        leg, out = r.open(), io.StringIO()
        await r.until(lambda: bool(r.core.legs))
        r.node._on_event = Transcripts(out).event
        feed(leg, AUDIO)
        await r.until(leg.is_over.is_set)
        assert leg.leg.closed is not None and leg.leg.closed.reason == "failed"
        assert json.loads(out.getvalue().splitlines()[-1])["reason"] == "failed"
        await r.until(lambda: not r.core.legs)
        assert [x.text for _, _, x in r.finals if x.text] == TEXTS[:1]


async def test_a_session_that_comes_back_with_other_audio_is_refused_alone() -> None:
    async with rig() as r, another_node(r, "n2", timing=Timing()) as second:
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        await r.until(lambda: leg.leg.acked == HALF)
        ticket = leg.ticket()
        for changes in ({"encoding": "pcm_s16le"}, {"rate": 16_000}):
            wrong = second.open(dataclasses.replace(ticket, **changes))
            await r.until(wrong.is_over.is_set)
            assert wrong.leg.closed is not None and wrong.leg.closed.reason == "refused"
        feed(leg, AUDIO[HALF:])
        leg.end()
        assert await words_of(leg) == SAID
        assert second.uplink is not None and second.uplink.state.connections == 1


async def test_a_caller_who_lacks_finals_that_are_gone_is_refused_and_the_owner_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge.coreleg.KEEP_MS", 0)
    async with rig() as r, another_node(r, "n2") as second:
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        await r.until(lambda: bool(r.core.legs) and len(leg.leg.transcript.finals) >= 1)
        held = next(iter(r.core.legs.values()))
        await r.until(lambda: not held.leg.has_finals_from(0))
        late = second.open(dataclasses.replace(leg.ticket(), finals=0))
        await r.until(late.is_over.is_set)
        assert late.leg.closed is not None and late.leg.closed.reason == "failed"
        feed(leg, AUDIO[HALF:])
        leg.end()
        assert await words_of(leg) == SAID


async def test_a_disk_that_takes_no_transcripts_is_told_of_once_and_ends_no_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    full = Path("/dev/full").open("a")  # noqa: ASYNC230 - closing it fails, as it should
    try:
        async with rig(timing=Timing()) as r:
            r.core.on_final = Transcripts(full).final
            r.node._on_event = Transcripts(full).event
            leg = r.open()
            feed(leg, AUDIO)
            leg.end()
            assert await words_of(leg) == SAID
            assert r.uplink.state.connections == 1
    finally:
        with contextlib.suppress(OSError):
            full.close()
    told = [x for x in caplog.records if x.getMessage() == "transcripts are not written"]
    assert len(told) == 2  # one at each end
