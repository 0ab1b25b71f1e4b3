"""Feeds over real sockets: what a peer says becomes the words of a leg."""

import asyncio
import base64
import contextlib
import json
import math
import struct
import time
import uuid
from collections.abc import AsyncIterator
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.http11 import Response
from websockets.typing import Origin, Subprotocol

from asr.scripted import utter
from clients.connection import Connection, RivuletError
from clients.connection import connect as dial
from edge import recogniser, status
from edge.adapters import twilio
from edge.adapters.rtp import STATIC, codec_of
from edge.listeners import FeedConfig, Listeners, Listening
from edge.pause import Pause
from edge.peers import fetching
from edge.wire import Policy
from server.keys import Keyring, Scope, add_key
from server.wire.messages import AudioFormat, Error, Final, ResumeFrom
from tests import audiohook
from tests.edge_rig import (
    PACKET,
    RATE_HZ,
    Rig,
    another_edge_node,
    another_node,
    feed,
    rig,
    sentences,
    spoken,
    words_of,
)
from tests.io.serving import pcm

pytestmark = pytest.mark.io

TEXTS = sentences(3)
SAID = " ".join(TEXTS)
CALL = uuid.UUID("11223344-5566-7788-99aa-bbccddeeff00")
URL, SECRET = "wss://edge.example/twilio", "auth token"
TOKEN_S = 0.08
DRACHTIO = Subprotocol("audio.drachtio.org")


@contextlib.asynccontextmanager
async def feeding(r: Rig, **settings: Any) -> AsyncIterator[tuple[Listening, Listeners]]:
    config = FeedConfig(
        audiosocket_port=0,
        web_port=0,
        rtp_port=0,
        twilio_url=URL,
        twilio_secret=SECRET,
        **({"codecs": {**STATIC, 96: codec_of("L16/16000")}} | settings),
    )

    def respond(path: str) -> Response | None:
        return status.respond(path, status.of_node(r.node, listeners.counters.refused))

    listeners = Listeners(config, r.node, respond=respond)
    async with listeners.listening() as ports:
        yield ports, listeners


async def told(r: Rig) -> None:
    """Wait until a call was here and is over; its words are those that were said."""
    await r.until(lambda: any(kind == "closed" for _, kind, _ in r.events) and not r.node.legs)
    assert " ".join(result.text for _, _, result in r.finals if result.text) == SAID


def linear() -> bytes:
    """The sentences as 16-bit samples at 8 kHz."""
    parts = [np.concatenate([utter(t, rate=RATE_HZ), np.zeros(7_680, np.float32)]) for t in TEXTS]
    return pcm(np.concatenate(parts))


async def send_linear(socket: ClientConnection) -> None:
    audio = linear()
    for at in range(0, len(audio), 320):
        await socket.send(audio[at : at + 320])


def frame(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BH", kind, len(payload)) + payload


async def test_an_audiosocket_call() -> None:
    async with rig() as r, feeding(r) as (ports, _):
        _, writer = await asyncio.open_connection("127.0.0.1", ports.audiosocket)
        audio = linear()
        writer.write(frame(1, CALL.bytes))
        for at in range(0, len(audio), 320):
            writer.write(frame(0x10, audio[at : at + 320]))
        writer.write(frame(0))
        await told(r)
        writer.close()


@pytest.mark.parametrize("policy", ["core", "edge"])
async def test_a_chunk_is_decoded_as_soon_as_all_of_it_is_there(
    monkeypatch: pytest.MonkeyPatch, policy: Policy
) -> None:
    monkeypatch.setattr(recogniser, "PAUSE_AFTER_S", 60.0)
    async with rig(policy) as r:
        leg, audio = r.open(), spoken(TEXTS)

        def is_decoded(samples: int) -> bool:
            if policy == "edge":
                return leg.recogniser is not None and leg.recogniser.done == samples
            return [held.leg.done for held in r.core.legs.values()] == [samples]

        for chunk in range(4):  # of 160 ms; the first one is shorter
            begin = leg.leg.ring.head
            feed(leg, audio[begin : 800 + 1_280 * chunk])
            await r.until(partial(is_decoded, 740 + 1_280 * chunk))
        feed(leg, audio[leg.leg.ring.head :])
        leg.end()
        assert await words_of(leg) == SAID


async def test_an_audiosocket_call_on_hold_is_kept_and_its_words_are_final() -> None:
    async with rig() as r, feeding(r) as (ports, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", ports.audiosocket)
        audio = linear()
        writer.write(frame(1, CALL.bytes))
        for at in range(0, len(audio) - 15_360, 320):  # without the silence at its end
            writer.write(frame(0x10, audio[at : at + 320]))
        assert await reader.readexactly(323) == frame(0x10, bytes(320))
        await r.until(lambda: len([f for f in r.finals if f[2].text]) == len(TEXTS))
        assert r.node.legs
        writer.write(frame(0))
        await told(r)
        writer.close()


async def test_an_audiosocket_call_that_is_held_for_too_long_is_over() -> None:
    async with rig() as r, feeding(r, idle_s=1.0) as (ports, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", ports.audiosocket)
        writer.write(frame(1, CALL.bytes) + frame(0x10, bytes(320)))
        assert await reader.read() == frame(0x10, bytes(320))
        await r.until(lambda: not r.node.legs)
        writer.close()


async def test_an_audiosocket_of_an_unknown_call_is_hung_up() -> None:
    async with rig() as r, feeding(r, calls=frozenset({str(uuid.uuid4())})) as (ports, listeners):
        reader, writer = await asyncio.open_connection("127.0.0.1", ports.audiosocket)
        writer.write(frame(1, CALL.bytes) + frame(0x10, bytes(320)))
        assert await reader.read() == b"\0\0\0"
        assert listeners.counters.refused == {"audiosocket": 1}
        assert not r.node.legs
        writer.close()


HOOK_SECRET = base64.b64encode(b"client secret").decode()


def audiohook_headers(ports: Listening, nonce: str) -> dict[str, str]:
    """What Genesys sends with a request, signed now."""
    headers = {"host": f"127.0.0.1:{ports.web}", "x-api-key": SECRET}
    headers |= {f"audiohook-{name}-id": name for name in ("organization", "session", "correlation")}
    parameters = f';keyid="{SECRET}";nonce="{nonce}";created={int(time.time())}'
    headers |= audiohook.signed("/audiohook", headers, HOOK_SECRET, parameters)
    del headers["host"]  # the client sends it
    return headers


async def test_an_audiohook_call_must_be_signed_where_a_secret_is_known() -> None:
    settings = {"audiohook_key": SECRET, "audiohook_secret": HOOK_SECRET}
    async with rig() as r, feeding(r, **settings) as (ports, listeners):
        address = f"ws://127.0.0.1:{ports.web}/audiohook"
        with pytest.raises(InvalidStatus, match="401"):
            await connect(address, additional_headers={"X-API-KEY": SECRET})
        headers = audiohook_headers(ports, "first")
        async with connect(address, additional_headers=headers) as socket:
            media = [{"type": "audio", "format": "L16", "channels": ["external"], "rate": 8000}]
            opening = {"version": "2", "id": "x", "type": "open", "seq": 1}
            await socket.send(json.dumps(opening | {"parameters": {"media": media}}))
            assert json.loads(await socket.recv())["type"] == "opened"
            await send_linear(socket)
            await socket.send(json.dumps(opening | {"type": "close", "seq": 2, "parameters": {}}))
            await told(r)
        with pytest.raises(InvalidStatus, match="401"):  # said again by somebody who listened
            await connect(address, additional_headers=headers)
        assert listeners.counters.refused == {"audiohook signature": 2}


UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
KEY = f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET //[ HTTP/1.1\r\n", 404),
        ("GET / HTTP/1.1\r\nUpgrade: h2c\r\nUpgrade: x\r\n", 200),
        (f"GET /audiohook HTTP/1.1\r\n{UPGRADE}{KEY}X-API-KEY: a\r\nX-API-KEY: b\r\n", 401),
        (f"GET /twilio HTTP/1.1\r\n{UPGRADE}{KEY}" + 2 * "X-Twilio-Signature: a\r\n", 403),
    ],
    ids=["no address", "Upgrade twice", "a key twice", "a signature twice"],
)
async def test_a_request_that_is_odd_is_answered_and_makes_no_error(
    request_: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with rig() as r, feeding(r, audiohook_key=SECRET) as (ports, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", ports.web)
        writer.write(f"{request_}Host: x\r\n\r\n".encode())
        assert int((await reader.readline()).split()[1]) == status
        writer.close()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def signed(url: str = URL, secret: str = SECRET) -> dict[str, str]:
    return {"X-Twilio-Signature": twilio.signature(url, secret)}


async def test_a_twilio_stream_of_two_tracks() -> None:
    async with rig() as r, feeding(r) as (ports, _):
        address = f"ws://127.0.0.1:{ports.web}/twilio"
        async with connect(address, additional_headers=signed()) as socket:
            start = {
                "callSid": "CA1",
                "tracks": ["inbound", "outbound"],
                "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            }
            await socket.send('{"event":"connected","protocol":"Call","version":"1.0.0"}')
            await socket.send(json.dumps({"event": "start", "streamSid": "MZ1", "start": start}))
            audio = spoken(TEXTS)
            for at in range(0, len(audio), PACKET):
                payload = base64.b64encode(audio[at : at + PACKET]).decode()
                media = {"track": "inbound", "timestamp": str(at // 8), "payload": payload}
                await socket.send(json.dumps({"event": "media", "media": media}))
            await socket.send('{"event":"stop"}')
            await told(r)


@pytest.mark.parametrize("headers", [{}, signed(secret="another"), signed("wss://other/twilio")])
async def test_a_twilio_stream_without_our_signature_is_refused(headers: dict[str, str]) -> None:
    async with rig() as r, feeding(r) as (ports, listeners):
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://127.0.0.1:{ports.web}/twilio", additional_headers=headers)
        assert refused.value.response.status_code == 403
        assert listeners.counters.refused == {"twilio signature": 1}


async def test_l16_over_a_websocket_at_8_khz() -> None:
    async with rig() as r, feeding(r) as (ports, _):
        async with connect(f"ws://127.0.0.1:{ports.web}/l16?rate=8000") as socket:
            await send_linear(socket)
        await told(r)


async def test_a_call_over_asterisks_websocket_is_held_while_nothing_comes() -> None:
    async with rig() as r, feeding(r) as (ports, _):
        async with connect(f"ws://127.0.0.1:{ports.web}/asterisk?name=Ann") as socket:
            await socket.send("MEDIA_START connection_id:x channel_id:1.2 format:slin ptime:20")
            audio = linear()
            for at in range(0, len(audio) - 15_360, 320):  # without the silence at its end
                await socket.send(audio[at : at + 320])
            await r.until(lambda: len([f for f in r.finals if f[2].text]) == len(TEXTS))
            assert [leg.leg.opening.name for leg in r.node.legs.values()] == ["Ann"]
        await told(r)


def fork(ports: Listening, query: str) -> connect:
    """Dial as mod_audio_fork does: a subprotocol that nobody has to choose."""
    url = f"ws://127.0.0.1:{ports.web}/l16?{query}"
    return connect(url, origin=Origin("http://127.0.0.1"), subprotocols=[DRACHTIO])


async def test_a_fork_that_was_shut_down_gracefully_is_over_though_its_socket_stays() -> None:
    async with rig() as r, feeding(r) as (ports, _):
        async with fork(ports, "rate=8000") as socket:
            await socket.send('{"uuid":"grace"}')
            await send_linear(socket)
            await socket.send(b"")
            await told(r)
            async with asyncio.timeout(15):
                await socket.wait_closed()


async def test_a_stereo_fork_of_which_each_side_has_its_words() -> None:
    said = np.frombuffer(linear(), np.int16)
    both = np.stack([said, np.zeros_like(said)], axis=1).tobytes()
    async with rig() as r, feeding(r) as (ports, _):
        async with fork(ports, "rate=8000&channels=2") as socket:
            await socket.send('{"uuid":"stereo"}')
            for at in range(0, len(both), 640):
                await socket.send(both[at : at + 640])
            await r.until(lambda: len(r.node.legs) == 2)
            names = [leg.leg.opening.name for leg in r.node.legs.values()]
        await told(r)
        assert names == ["stereo/inbound", "stereo/outbound"]


class WholeTokens(Pause):
    """A pause in which time passes in whole tokens of the script, which hears no halves."""

    def answered(self) -> float:
        return math.ceil(super().answered() / TOKEN_S) * TOKEN_S

    def end(self, now: float) -> float:
        return math.ceil(super().end(now) / TOKEN_S) * TOKEN_S


async def test_time_passes_while_a_fork_is_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.listeners.Pause", WholeTokens)
    first, second = (pcm(utter(text, rate=RATE_HZ)) for text in TEXTS[:2])
    async with rig() as r, feeding(r, pause_s=0.02) as (ports, _):
        async with fork(ports, "rate=8000") as socket:
            await socket.send(first)
            await r.until(lambda: bool(r.finals))  # nothing came behind its last word
            (leg,) = r.node.legs.values()
            end = len(first) // 2
            await r.until(lambda: leg.leg.ring.head > end + RATE_HZ)
            before = leg.leg.ring.head
            await socket.send(second)
        await r.until(lambda: not r.node.legs)
        finals = [final for _, _, final in r.finals if final.text]
        assert [final.text for final in finals] == TEXTS[:2]
        assert finals[1].start_ms >= before * 1000 // RATE_HZ


async def test_a_websocket_that_never_brings_audio_is_closed() -> None:
    async with rig() as r, feeding(r, idle_s=0.1, pause_s=0.02) as (ports, _):
        async with fork(ports, "rate=8000") as socket:
            await socket.send('{"uuid":"nobody"}')
            async with asyncio.timeout(15):
                await socket.wait_closed()
        assert not r.events


async def test_half_a_sample_closes_that_websocket_only() -> None:
    async with rig() as r, feeding(r) as (ports, _):
        async with connect(f"ws://127.0.0.1:{ports.web}/l16?rate=8000") as socket:
            await socket.send(b"abc")
            with pytest.raises(ConnectionClosedError):
                await socket.recv()
            assert socket.close_code == 1008
        async with connect(f"ws://127.0.0.1:{ports.web}/l16?rate=8000") as socket:
            await send_linear(socket)
        await told(r)


def datagrams(audio: bytes) -> list[bytes]:
    return [
        struct.pack(">BBHII", 0x80, 0, (65_530 + n) & 0xFFFF, 160 * n, 7)
        + audio[160 * n : 160 * n + 160]
        for n in range(len(audio) // 160)
    ]


async def test_an_rtp_call_with_disorder_and_doubles() -> None:
    async with rig() as r, feeding(r, idle_s=1.0, window_s=5.0) as (ports, _):
        loop = asyncio.get_running_loop()
        transport, _protocol = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("127.0.0.1", ports.rtp or 0)
        )
        sent = datagrams(spoken(TEXTS))
        transport.sendto(b"not RTP at all")
        transport.sendto(sent[0])  # the first one says where the stream begins
        for n in range(0, len(sent), 4):
            for packet in [*reversed(sent[n : n + 4]), sent[n]]:
                transport.sendto(packet)
            await asyncio.sleep(0.001)
        await told(r)
        transport.close()


async def test_an_rtp_sender_that_falls_silent_has_its_words_final_and_the_call_goes_on() -> None:
    async with rig() as r, feeding(r, idle_s=60.0) as (ports, _):
        transport, _protocol = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("127.0.0.1", ports.rtp or 0)
        )
        for packet in datagrams(spoken(TEXTS[:1], pause_ms=0)):
            transport.sendto(packet)
            await asyncio.sleep(0.001)
        await r.until(lambda: any(result.text == TEXTS[0] for _, _, result in r.finals))
        assert r.node.legs
        transport.close()


@pytest.mark.parametrize("beside", [0, 1], ids=["on the port of RTP", "on the next one"])
async def test_an_rtp_call_is_over_when_its_source_says_bye(beside: int) -> None:
    async with rig() as r, feeding(r) as (ports, listeners):
        loop = asyncio.get_running_loop()
        host, rtp = "127.0.0.1", ports.rtp or 0
        transport, _protocol = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=(host, 0)
        )
        control, own = transport, transport.get_extra_info("sockname")[1]
        if beside:
            control, _protocol = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, local_addr=(host, own + beside)
            )
        sent = datagrams(spoken(TEXTS))
        half = len(sent) // 2
        for part, source in ((sent[:half], 8), (sent[half:], 7)):  # the first one is no source here
            for packet in part:
                transport.sendto(packet, (host, rtp))
                await asyncio.sleep(0.0005)
            control.sendto(b"\x81\xcb\0\0", (host, rtp + beside))
            bye = struct.pack(">BBHI", 0x81, 203, 1, source)
            control.sendto(bye, (host, rtp + beside))
        await told(r)
        assert r.node.closed == {"done": 1}
        assert listeners.counters.refused == {"rtcp datagram": 2}
        transport.close()
        control.close()


async def test_an_rtp_port_whose_next_one_is_taken_does_without_rtcp() -> None:
    async with rig() as r, feeding(r) as (ports, _):
        config = FeedConfig(rtp_port=(ports.rtp or 0) - 1)
        async with Listeners(config, r.node, respond=lambda _: None).listening() as others:
            assert others.rtp == (ports.rtp or 0) - 1


async def test_of_two_rtp_sources_at_one_address_the_second_adds_no_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge.adapters.rtp.TAKE_OVER_S", 60.0)  # however slow this machine is
    async with rig() as r, feeding(r, idle_s=1.0, window_s=5.0) as (ports, listeners):
        loop = asyncio.get_running_loop()
        transport, _protocol = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("127.0.0.1", ports.rtp or 0)
        )
        sent = datagrams(spoken(TEXTS))
        for packet in sent:
            transport.sendto(packet)
            transport.sendto(packet[:8] + b"none" + packet[12:])
            await asyncio.sleep(0.0005)
        await r.until(lambda: bool(r.node.legs))
        (leg,) = r.node.legs.values()
        await told(r)
        assert leg.leg.ring.head == len(sent) * PACKET + PACKET  # the last one of the second
        assert listeners.counters.refused == {"rtp source": len(sent) - 1}
        transport.close()


@pytest.mark.parametrize(("network", "refused"), [("127.0.0.0/8", 0), ("10.0.0.0/8", 1)])
async def test_rtp_is_a_call_from_known_networks_only(network: str, refused: int) -> None:
    async with rig() as r, feeding(r, rtp_from=(ip_network(network),)) as (ports, listeners):
        loop = asyncio.get_running_loop()
        transport, _protocol = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("127.0.0.1", ports.rtp or 0)
        )
        transport.sendto(datagrams(bytes(160))[0])
        await r.until(lambda: bool(r.node.legs or listeners.counters.refused))
        assert listeners.counters.refused.get("rtp address", 0) == refused
        assert len(r.node.legs) == 1 - refused
        transport.close()


async def test_an_rtp_call_that_changes_its_codec_goes_on_as_another_leg() -> None:
    async with rig() as r, feeding(r, idle_s=1.0) as (ports, _):
        loop = asyncio.get_running_loop()
        transport, _protocol = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("127.0.0.1", ports.rtp or 0)
        )
        before = [struct.pack(">BBHII", 0x80, 96, n, 320 * n, 7) + bytes(640) for n in range(10)]
        for packet in [*before, *datagrams(b"\xff" * 8 * PACKET + spoken(TEXTS))]:
            transport.sendto(packet)
            await asyncio.sleep(0.0005)
        await r.until(lambda: len(r.node.legs) == 1 and 2 in r.node.legs)
        after = r.node.legs[2]
        await told(r)
        assert after.leg.ring.head == 8 * PACKET + len(spoken(TEXTS))  # from its first packet on
        assert r.node.closed == {"done": 2}
        transport.close()


async def test_the_status_pages_tell_of_link_and_legs_and_of_no_words() -> None:
    async with rig() as r, feeding(r) as (ports, _):
        leg = r.open(name="call 7")
        leg.append(8_000, bytes(8_000))
        await r.until(lambda: r.uplink.state.is_up and leg.leg.acked == 8_000)
        texts = []
        for path in ("/status", "/metrics", "/", "/nothing"):
            reader, writer = await asyncio.open_connection("127.0.0.1", ports.web)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
            texts.append(body)
            assert head.startswith("HTTP/1.1 404" if path == "/nothing" else "HTTP/1.1 200")
            writer.close()
        state = json.loads(texts[0])
        assert state["link"]["is_up"] and state["legs"][0]["name"] == "call 7"
        assert "rivulet_edge_link_up 1" in texts[1] and "rivulet_edge_legs 1" in texts[1]
        assert leg.leg.opening.secret not in "".join(texts)
        assert leg.leg.opening.session not in "".join(texts)
        assert "<title>" in texts[2]
        core = status.of_core(r.core)
        assert (core["nodes"][0]["node"], core["nodes"][0]["legs"]) == ("n1", 1)
        assert core["legs"][0] | {"received_s": 1.0, "is_connected": True} == core["legs"][0]
        found = status.respond("/status", core)
        assert found is not None and leg.leg.opening.session.encode() not in found.body


async def test_a_node_that_recognises_tells_how_far_behind_it_is() -> None:
    async with rig("edge") as r:
        leg = r.open()
        feed(leg, spoken(TEXTS)[: 740 + 1_280 + 400])
        await r.until(lambda: leg.recogniser is not None and leg.recogniser.done == 740 + 1_280)
        state = status.of_node(r.node, {})
        assert state["legs"][0]["behind"] == 0.05
        assert "\nrivulet_edge_behind_seconds 0.05\n" in status.metrics(state)
        await leg.stop_local()
        assert status.of_node(r.node, {})["legs"][0]["behind"] is None


def native(ports: Listening, **changes: Any) -> tuple[str, dict[str, Any]]:
    audio = AudioFormat(encoding="mulaw", rate=RATE_HZ)
    return f"ws://127.0.0.1:{ports.web}/v1/stream", {"audio": audio} | changes


async def heard(connection: Connection) -> list[str]:
    return [m.text async for m in connection if isinstance(m, Final) and m.text]


async def test_where_a_node_has_keys_our_own_clients_show_one_for_streams(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    scopes: tuple[Scope, ...] = ("stream", "files")
    key, files = (add_key(file, scope, (scope,), None) for scope in scopes)
    async with rig() as r, feeding(r, keyring=Keyring(file)) as (ports, listeners):
        url, options = native(ports)
        for shown in (None, "guess", files):
            with pytest.raises(RivuletError) as refused:
                async with dial(url, token=shown, **options):
                    pass
            assert refused.value.code == "unauthorized"
        assert listeners.counters.refused == {"key": 3} and not r.node.legs
        async with dial(url, token=key, **options) as connection:
            await connection.send(spoken(TEXTS))
            await connection.stop()
            assert " ".join(await heard(connection)) == SAID


@pytest.mark.parametrize("path", ["/l16?rate=8000", "/asterisk?name=a"])
async def test_where_a_node_has_keys_an_exchange_shows_one_as_its_password(
    tmp_path: Path, path: str
) -> None:
    file = tmp_path / "keys.json"
    key = add_key(file, "exchange", ("stream",), None)
    async with rig() as r, feeding(r, keyring=Keyring(file)) as (ports, listeners):
        for shown in ("", "anybody:guess@"):
            with pytest.raises(InvalidStatus) as refused:
                async with connect(f"ws://{shown}127.0.0.1:{ports.web}{path}"):
                    pass
            assert refused.value.response.status_code == 401
        assert listeners.counters.refused == {"key": 2}
        async with connect(f"ws://anybody:{key}@127.0.0.1:{ports.web}{path}") as socket:
            assert (await socket.ping()) is not None


async def test_a_client_of_our_own_wire_cannot_tell_a_node_from_a_server() -> None:
    async with rig() as r, feeding(r) as (ports, listeners):
        url, options = native(ports)
        async with dial(url, **options) as connection:
            await connection.send(spoken(TEXTS))
            await connection.stop()
            assert " ".join(await heard(connection)) == SAID
        assert not r.node.legs
        await r.until(lambda: not listeners._native.clients)  # nor anything of the conversation


async def first_final(connection: Connection) -> tuple[list[str], int]:
    """Hear up to a final; return its text and number."""
    async for message in connection:
        if isinstance(message, Final):
            return [message.text], message.id
    raise AssertionError("the connection ended without a final")


async def told_of(
    socket: ClientConnection, token: str, last: int | None = None, *, encoding: str = "mulaw"
) -> dict[str, Any]:
    """Ask a node to go on with a session; its answer."""
    start: dict[str, Any] = {"type": "start", "v": 1}
    start["resume"] = {"token": token, "last_final": last}
    start["audio"] = {"encoding": encoding, "rate": RATE_HZ}
    await socket.send(json.dumps(start))
    return dict(json.loads(await socket.recv()))


async def test_a_client_takes_its_session_to_another_node() -> None:
    async with rig() as r, another_node(r, "n2") as second:
        other = Listeners(FeedConfig(web_port=0), second, respond=lambda _: None)
        async with feeding(r) as (ports, _), other.listening() as elsewhere:
            audio = spoken(TEXTS)
            half = len(audio) // 2 // PACKET * PACKET
            url, options = native(ports)
            async with dial(url, **options) as connection:
                await connection.send(audio[:half])
                first, last = await first_final(connection)
                token = connection.ready.token
            address = f"ws://127.0.0.1:{elsewhere.web}/v1/stream"
            subprotocols = [Subprotocol("rivulet.v1")]
            async with connect(address, subprotocols=subprotocols) as socket:
                ready = await told_of(socket, token, last)
                assert ready["resumed"] is True and 0 < ready["at"] <= half
                await socket.send(audio[ready["at"] :])
                await socket.send('{"type":"stop"}')
                messages = [json.loads(text) async for text in socket]
            finals = [m["text"] for m in messages if m["type"] == "final"]
            assert " ".join(filter(None, first + finals)) == SAID
            assert messages[-1]["type"] == "done"


@pytest.mark.parametrize("has", ["last_final", "finals"])
async def test_a_client_takes_its_session_and_its_state_to_another_node_that_recognises(
    has: str,
) -> None:
    async with rig("edge", is_apart=True) as r, another_edge_node(r, "n2") as second:
        fetch = fetching(second.moves, second.uplink)
        other = Listeners(FeedConfig(web_port=0), second.node, respond=lambda _: None, fetch=fetch)
        async with feeding(r) as (ports, _), other.listening() as elsewhere:
            audio = spoken(TEXTS)
            half = len(audio) // 2 // PACKET * PACKET
            url, options = native(ports)
            async with dial(url, **options) as connection:
                await connection.send(audio[:half])
                first, last = await first_final(connection)
                token = connection.ready.token
                resume = ResumeFrom(token=token, finals=(last + 1,))
                if has == "last_final":
                    resume = ResumeFrom(token=token, last_final=last)
                address = f"ws://127.0.0.1:{elsewhere.web}/v1/stream"
                async with dial(address, **options, resume=resume) as again:  # make before break
                    assert again.ready.resumed and 0 < again.ready.at <= half
                    await again.send(audio[again.ready.at :])
                    await again.stop()
                    assert " ".join(filter(None, first + await heard(again))) == SAID
                with pytest.raises(RivuletError, match="4409"):
                    await heard(connection)
        assert " ".join(x.text for _, _, x in r.finals if x.text) == SAID


@pytest.mark.parametrize("token", ["nonsense", "abc.1.wrong", "abc.x.y"])
async def test_a_token_that_names_no_session_is_refused(token: str) -> None:
    async with rig() as r, feeding(r) as (ports, _):
        leg = r.open()
        opening = leg.leg.opening
        url = f"ws://127.0.0.1:{ports.web}/v1/stream"
        if token.startswith("abc.1"):
            token = f"{opening.session}.1.wrong"
        async with connect(url, subprotocols=[Subprotocol("rivulet.v1")]) as socket:
            start = {"type": "start", "v": 1, "resume": {"token": token}}
            start["audio"] = {"encoding": "mulaw", "rate": RATE_HZ}
            await socket.send(json.dumps(start))
            answer = json.loads(await socket.recv())
            assert (answer["type"], answer["code"]) == ("error", "resume_unknown")
        assert opening.secret not in json.dumps(answer)


async def test_a_node_says_what_it_does_not_take() -> None:
    async with rig() as r, feeding(r) as (ports, _):
        url, options = native(ports, audio=AudioFormat(encoding="mulaw", rate=8_000, channels=2))
        with pytest.raises(RivuletError, match="one channel"):
            async with dial(url, **options):
                pass
        url, options = native(ports)
        async with dial(url, **options) as connection:
            await connection.finalize()
            message = await anext(connection)
            assert isinstance(message, Error) and not message.fatal


async def test_a_client_that_comes_back_with_other_audio_is_told() -> None:
    async with rig() as r, feeding(r) as (ports, _):
        url, options = native(ports)
        async with dial(url, **options) as connection:
            await connection.send(spoken(TEXTS)[:RATE_HZ])
            token = connection.ready.token
        async with connect(url, subprotocols=[Subprotocol("rivulet.v1")]) as socket:
            answer = await told_of(socket, token, encoding="pcm_s16le")
            assert (answer["type"], answer["code"]) == ("error", "unsupported_audio")
        async with connect(url, subprotocols=[Subprotocol("rivulet.v1")]) as socket:
            assert (await told_of(socket, token))["type"] == "ready"


async def test_a_node_that_cannot_ask_the_core_keeps_nothing_of_a_session_that_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge.native.PLACE_S", 0.2)
    async with rig() as r, another_node(r, "n2") as first:
        before = Listeners(FeedConfig(web_port=0), first, respond=lambda _: None)
        async with feeding(r) as (ports, _), before.listening() as elsewhere:
            audio = spoken(TEXTS)
            half = len(audio) // 2 // PACKET * PACKET
            url, options = native(ports)
            async with dial(f"ws://127.0.0.1:{elsewhere.web}/v1/stream", **options) as connection:
                await connection.send(audio[:half])
                said, last = await first_final(connection)
                token = connection.ready.token
            r.link.cut()
            await r.until(lambda: not r.uplink.state.is_up)
            for _ in range(2):  # the second time as the first: nothing stands where it asks
                async with connect(url, subprotocols=[Subprotocol("rivulet.v1")]) as socket:
                    answer = await told_of(socket, token, last)
                    assert (answer["type"], answer["code"]) == ("error", "internal")
            assert not r.node.legs
            r.link.heal()
            monkeypatch.undo()
            async with connect(url, subprotocols=[Subprotocol("rivulet.v1")]) as socket:
                ready = await told_of(socket, token, last)
                assert ready["type"] == "ready" and 0 < ready["at"] <= half
                await socket.send(audio[ready["at"] :])
                await socket.send('{"type":"stop"}')
                messages = [json.loads(text) async for text in socket]
            finals = [m["text"] for m in messages if m["type"] == "final"]
            assert " ".join(filter(None, said + finals)) == SAID


async def test_a_node_does_not_go_on_with_what_moved_away_while_its_link_was_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge.native.PLACE_S", 0.2)
    async with rig(rto_s=0.05) as r, another_node(r, "n2") as second:
        other = Listeners(FeedConfig(web_port=0), second, respond=lambda _: None)
        async with feeding(r) as (ports, _), other.listening() as elsewhere:
            audio = spoken(TEXTS)
            third = len(audio) // 3 // PACKET * PACKET
            url, options = native(ports)
            async with dial(url, **options) as connection:
                await connection.send(audio[:third])
                said, last = await first_final(connection)
                token = connection.ready.token
            r.link.cut()
            await r.until(lambda: not r.uplink.state.is_up)
            address = f"ws://127.0.0.1:{elsewhere.web}/v1/stream"
            async with connect(address, subprotocols=[Subprotocol("rivulet.v1")]) as socket:
                ready = await told_of(socket, token, last)
                token = ready["token"]
                await socket.send(audio[ready["at"] : 2 * third])
                await r.until(lambda: any(x.leg.acked == 2 * third for x in second.legs.values()))
            async with connect(url, subprotocols=[Subprotocol("rivulet.v1")]) as socket:
                answer = await told_of(socket, token, last)
                assert (answer["type"], answer["code"]) == ("error", "internal")
            r.link.heal()
            monkeypatch.undo()
            async with connect(url, subprotocols=[Subprotocol("rivulet.v1")]) as socket:
                ready = await told_of(socket, token, last)
                assert ready["type"] == "ready" and third < ready["at"] <= 2 * third
                await socket.send(audio[ready["at"] :])
                await socket.send('{"type":"stop"}')
                messages = [json.loads(text) async for text in socket]
            finals = [m["text"] for m in messages if m["type"] == "final"]
            assert " ".join(filter(None, said + finals)) == SAID
