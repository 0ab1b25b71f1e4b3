"""A cut backhaul: every word comes, each once, and the transcript is that of an uncut run."""

import asyncio
import dataclasses
import socket
from pathlib import Path

import pytest

from edge.wire import Close, Frame, Kind, Open
from tests.edge_rig import Rig, another_node, feed, keep, rig, sentences, spoken, words_of

pytestmark = pytest.mark.io

TEXTS = sentences(4)
AUDIO = spoken(TEXTS)
HALF = len(AUDIO) // 2 // 160 * 160 + 160 * 7
"""In the middle of a sentence."""


async def test_a_leg_becomes_an_ordinary_session_and_its_words_come_back() -> None:
    async with rig() as r:
        leg = r.open(name="call 1")
        feed(leg, AUDIO)
        leg.end()
        assert await words_of(leg) == " ".join(TEXTS)
        assert [number for _, number, _ in r.finals] == list(range(len(r.finals)))
        await r.until(lambda: not r.core.legs)
        assert not r.uplink.legs and not r.node.legs


async def test_words_are_the_same_after_a_cut_in_mid_sentence() -> None:
    async with rig() as r:
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        await r.until(lambda: leg.leg.acked == HALF)
        r.link.cut()
        await r.until(lambda: not r.uplink.state.is_up)
        feed(leg, AUDIO[HALF:])
        leg.end()
        assert leg.leg.backlog > 0
        r.link.heal()
        assert await words_of(leg) == " ".join(TEXTS)
        assert r.uplink.state.connections == 2


async def test_many_short_cuts_at_random_lose_and_double_nothing() -> None:
    async with rig(rto_s=0.05) as r:
        legs = [r.open() for _ in range(5)]
        said = [sentences(4, seed=n) for n in range(5)]
        audio = [spoken(texts) for texts in said]
        for at in range(0, max(map(len, audio)), 8_000):
            for leg, sound in zip(legs, audio, strict=True):
                feed(leg, sound[at : at + 8_000])
            if at % 24_000 == 0:
                r.link.drop_all()
            await asyncio.sleep(0)
        for leg in legs:
            leg.end()
        assert [await words_of(leg) for leg in legs] == [" ".join(texts) for texts in said]


async def test_a_cut_longer_than_the_memory_is_spilled_and_loses_nothing(tmp_path: Path) -> None:
    async with rig(spill=tmp_path, memory_ms=1_000) as r:
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        await r.until(lambda: leg.leg.acked == HALF)
        r.link.cut()
        feed(leg, AUDIO[HALF:])
        leg.end()
        assert r.node.spilled_bytes > 0
        r.link.heal()
        assert await words_of(leg) == " ".join(TEXTS)
        assert r.node.spilled_bytes == 0
        assert not r.node.losses


async def test_a_full_disk_loses_the_oldest_audio_of_its_leg_by_name_and_nothing_else(
    tmp_path: Path,
) -> None:
    async with rig(spill=tmp_path / "not-there", memory_ms=6_000) as r:
        leg, other = r.open(), r.open()
        feed(leg, AUDIO[:HALF])
        await r.until(lambda: leg.leg.acked == HALF)
        r.link.cut()
        await r.until(lambda: not r.uplink.state.is_up)
        feed(leg, AUDIO * 2)
        leg.end()
        feed(other, AUDIO[: 48_000 // 160 * 160])
        other.end()
        r.link.heal()
        heard = await words_of(leg)
        assert heard.startswith(TEXTS[0])
        assert len(heard.split()) < 12 * len(TEXTS)
        assert (await words_of(other)).startswith(" ".join(TEXTS[:2]))
        assert set(r.node.losses) == {"spill_full"}


async def test_a_cut_that_takes_the_resolver_along_heals_as_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with rig() as r:
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        await r.until(lambda: leg.leg.acked == HALF)
        r.uplink.address = dataclasses.replace(r.uplink.address, host="core.example")

        async def unknown(host: str, *_: object, **__: object) -> None:
            raise socket.gaierror(socket.EAI_AGAIN, f"{host}: no resolver answers")

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
        r.link.cut()
        await r.until(lambda: not r.uplink.state.is_up)
        feed(leg, AUDIO[HALF:])
        leg.end()
        r.link.heal()
        assert await words_of(leg) == " ".join(TEXTS)


async def test_new_legs_of_a_cut_begin_when_it_heals() -> None:
    async with rig() as r:
        await r.until(lambda: r.uplink.state.is_up)
        r.link.cut()
        leg = r.open()
        feed(leg, AUDIO)
        leg.end()
        await r.until(lambda: not r.uplink.state.is_up)
        r.link.heal()
        assert await words_of(leg) == " ".join(TEXTS)


async def test_a_core_that_forgot_everything_goes_on_behind_the_last_final() -> None:
    async with rig() as r:
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        await r.until(lambda: len(leg.leg.transcript.finals) >= 2)
        await r.core.close()
        r.core.registry.nodes.clear()
        feed(leg, AUDIO[HALF:])
        leg.end()
        assert await words_of(leg) == " ".join(TEXTS)


async def test_a_worker_that_dies_loses_no_word_of_a_leg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.manager.RETRY_AFTER_S", 0.1)
    async with rig() as r:
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        await r.until(lambda: bool(leg.leg.transcript.finals))
        place = r.server.manager._places[0]
        r.server.manager._gone(place, "killed by a test")
        feed(leg, AUDIO[HALF:])
        leg.end()
        assert await words_of(leg) == " ".join(TEXTS)
        assert [n for _, n, _ in r.finals] == list(range(len(r.finals)))


async def test_under_the_policy_edge_no_audio_goes_up_and_every_final_does_once() -> None:
    async with rig("edge", rto_s=0.05) as r:
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        await r.until(lambda: len(r.finals) >= 1)
        r.link.cut()
        feed(leg, AUDIO[HALF:])
        leg.end()
        await r.until(lambda: leg.leg.is_complete)
        assert leg.leg.transcript.final_text() == " ".join(TEXTS)
        r.link.heal()
        assert await words_of(leg) == " ".join(TEXTS)
        assert " ".join(result.text for _, _, result in r.finals if result.text) == " ".join(TEXTS)
        assert [number for _, number, _ in r.finals] == list(range(len(r.finals)))
        assert leg.leg.audio_frames == 0
        assert r.link.up.bytes < len(AUDIO) / 10


async def test_a_core_that_refuses_a_leg_does_not_silence_a_node_that_recognises_itself() -> None:
    async with rig("edge") as r:
        r.core.config = dataclasses.replace(r.core.config, max_legs=0)
        leg = r.open()
        await r.until(lambda: leg.leg.is_over)
        assert not leg.is_over.is_set()
        feed(leg, AUDIO)
        leg.end()
        await r.until(leg.is_over.is_set)
        assert leg.leg.transcript.final_text() == " ".join(TEXTS)
        assert not r.finals


async def test_core_and_local_gives_words_during_the_cut_and_the_core_replaces_them() -> None:
    async with rig("core+local") as r:
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        await r.until(lambda: leg.leg.acked == HALF and bool(leg.leg.transcript.finals))
        r.link.cut()
        feed(leg, AUDIO[HALF:])
        await r.until(lambda: any(kind == "provisional" for _, kind, _ in r.events))
        await r.until(lambda: leg.leg.transcript.text().startswith(" ".join(TEXTS[:3])))
        assert not leg.leg.transcript.final_text().startswith(" ".join(TEXTS[:3]))
        leg.end()
        r.link.heal()
        assert await words_of(leg) == " ".join(TEXTS)
        assert leg.leg.transcript.text() == " ".join(TEXTS)
        await r.until(lambda: leg.local is None or leg.local.done())


async def test_a_session_that_moves_from_node_to_node_loses_and_doubles_no_word() -> None:
    async with rig() as r, another_node(r, "n2") as second:
        nodes, leg, at = [r.node, second], r.open(), 0
        finals = dict[int, str]()
        for number in range(8):
            end = min(len(AUDIO), at + 8_000 + 160 * number)
            feed(leg, AUDIO[at:end])
            # what was not acknowledged yet is the caller's to send again, as in `resume`
            old, leg = leg, nodes[(number + 1) % 2].open(leg.ticket())
            await r.until(leg.is_placed.is_set)
            at = leg.leg.ring.head
            await r.until(old.is_over.is_set)
            assert old.leg.closed is not None and old.leg.closed.reason == "fenced"
            keep(finals, old)
        feed(leg, AUDIO[at:])
        leg.end()
        await words_of(leg)
        keep(finals, leg)
        assert " ".join(filter(None, finals.values())) == " ".join(TEXTS)
        assert [number for _, number, _ in r.finals] == list(range(len(finals)))
        await r.until(lambda: not any(x._legs for x in r.core._connections.values()))


async def test_what_the_core_heard_of_a_node_that_died_becomes_final() -> None:
    async with rig() as r:
        r.core.config = dataclasses.replace(r.core.config, linger_s=0.1)
        leg = r.open()
        feed(leg, AUDIO[: -960 * 8])  # its last sentence has no pause behind it
        await r.until(lambda: leg.leg.acked == leg.leg.ring.head)
        r.link.cut()
        r.link.drop_all()
        await r.until(lambda: not r.core.legs)
        await r.until(lambda: " ".join(x.text for _, _, x in r.finals if x.text) == " ".join(TEXTS))


async def _raw(r: Rig, *frames: Frame) -> bytes:
    """Say something raw to the core; all it answers until it ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", r.link.target_port)
    writer.write(b"".join(frame.pack() for frame in frames))
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    return answer


async def test_a_peer_that_is_no_node_is_told_and_dropped_and_others_go_on() -> None:
    async with rig() as r:
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        assert b"AUDIO before HELLO" in await _raw(r, Frame(Kind.AUDIO, 1, 0, bytes(160)))
        reader, writer = await asyncio.open_connection("127.0.0.1", r.link.target_port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n\r\n\r\n\r\n\r\n")
        assert b"frame version" in await reader.read()
        writer.close()
        feed(leg, AUDIO[HALF:])
        leg.end()
        assert await words_of(leg) == " ".join(TEXTS)


async def test_two_nodes_that_both_own_a_session_are_told_apart_by_epoch() -> None:
    async with rig() as r:
        leg = r.open()
        feed(leg, AUDIO[:HALF])
        await r.until(lambda: leg.leg.acked == HALF)
        opening = leg.leg.opening
        hello = Frame(Kind.HELLO, payload=b'{"node":"n2","epoch":1}')

        def claim(secret: str, epoch: int) -> Frame:
            claimed = Open(
                session=opening.session, secret=secret, encoding="mulaw", rate=8_000, epoch=epoch
            )
            return Frame(Kind.OPEN, 7, HALF, claimed.pack())

        reader, writer = await asyncio.open_connection("127.0.0.1", r.link.target_port)
        writer.write(hello.pack() + claim("wrong", 9).pack() + claim(opening.secret, 1).pack())
        heard = b""
        while b"unauthorized" not in heard or b"fenced" not in heard:
            heard += await reader.read(65_536)
        assert not leg.is_over.is_set()
        writer.write(claim(opening.secret, 2).pack())
        await r.until(lambda: leg.is_over.is_set())
        assert leg.leg.closed == Close(
            reason="fenced", text="another node goes on with this session"
        )
        assert r.node.closed == {"fenced": 1}
        writer.close()
