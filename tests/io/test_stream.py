"""Real sockets on loopback, a real server, a scripted engine."""

import asyncio
import json

import numpy as np
import pytest

from asr.scripted import silence, utter
from tests.io.serving import (
    all_slots_free,
    config,
    dial,
    figure,
    get,
    pcm,
    read,
    read_until,
    rest,
    serving,
    speech,
    start,
    talk,
    transcript,
)

pytestmark = pytest.mark.io

TEXT = "turn on the light please"


@pytest.mark.parametrize("latency", ["low", "balanced", "accurate", {"chunk_ms": 80}])
async def test_words_come_back_in_every_latency_class(latency: object) -> None:
    async with serving() as server:
        assert transcript(await talk(server, speech(TEXT), latency=latency)) == TEXT


@pytest.mark.parametrize("packet", [2, 1_000, 32_000])
async def test_words_do_not_depend_on_packet_sizes(packet: int) -> None:
    async with serving() as server:
        assert (
            transcript(await talk(server, speech("hear the sun"), packet=packet)) == "hear the sun"
        )


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
async def test_words_come_back_at_other_rates(rate: int) -> None:
    audio = pcm(np.concatenate([utter(TEXT, rate=rate), silence(800, rate=rate)]))
    async with serving() as server:
        messages = await talk(server, audio, audio={"encoding": "pcm_s16le", "rate": rate})
        assert transcript(messages) == TEXT
        assert messages[-1]["samples"] == len(audio) // 2


async def test_two_channels_are_two_transcripts() -> None:
    left, right = utter("good day"), utter("no thank you")
    length = max(len(left), len(right)) + 16_000
    both = np.zeros((length, 2), np.float32)
    both[: len(left), 0], both[: len(right), 1] = left, right
    async with serving() as server:
        messages = await talk(
            server,
            pcm(both.reshape(-1)),
            audio={"encoding": "pcm_s16le", "rate": 16_000, "channels": 2},
        )
        assert transcript(messages, 0) == "good day"
        assert transcript(messages, 1) == "no thank you"
        assert messages[-1] == {"type": "done", "samples": length, "finals": 2}
        await all_slots_free(server)


async def test_many_streams_at_once_do_not_mix() -> None:
    texts = ["one two three", "red green blue", "walk and talk", "here and there", "sun moon star"]
    async with serving(is_process=True, workers=2) as server:
        answers = await asyncio.gather(*(talk(server, speech(text)) for text in texts))
        assert [transcript(messages) for messages in answers] == texts


async def test_finalize_answers_with_the_words_so_far_and_the_stream_goes_on() -> None:
    async with serving() as server, dial(server) as socket:
        await socket.send(start())
        await socket.send(speech("turn on the", silence_ms=0))
        await socket.send('{"type":"finalize","req":"a"}')
        final = await read_until(socket, "final")
        assert (final["text"], final["cause"]) == ("turn on the", "finalize")
        assert (await read_until(socket, "finalized"))["req"] == "a"
        await socket.send(speech("light please"))
        await socket.send('{"type":"stop"}')
        messages = await rest(socket)
        assert [m["text"] for m in messages if m["type"] == "final"] == ["light please"]


async def test_a_file_longer_than_the_window_is_paced_by_acks() -> None:
    audio = speech("one two three four five six seven eight nine ten", silence_ms=2_000)
    async with serving(limits={"window_ms": 1_000}) as server, dial(server) as socket:
        await socket.send(start())
        sent = done = 0
        while sent < len(audio) // 2:
            while done + 16_000 - sent < 1_600:
                done = (await read_until(socket, "ack"))["done"]
            await socket.send(audio[sent * 2 : (sent + 1_600) * 2])
            sent += 1_600
        await socket.send('{"type":"stop"}')
        assert (await rest(socket))[-1]["type"] == "done"


async def test_more_audio_than_the_window_is_refused() -> None:
    async with serving(limits={"window_ms": 1_000}) as server, dial(server) as socket:
        await socket.send(start())
        for _ in range(40):
            await socket.send(bytes(64_000))
        messages = await rest(socket)
        assert (messages[-1]["code"], socket.close_code) == ("too_far_ahead", 4413)
        await all_slots_free(server)


async def test_a_long_gap_does_not_close_the_window_and_words_stay_where_they_were_said() -> None:
    async with serving() as server, dial(server) as socket:
        await socket.send(start())
        await socket.send(speech("good day"))
        await socket.send('{"type":"gap","samples":1600000}')
        assert (await read_until(socket, "gap"))["samples"] == 1_600_000
        await socket.send(speech("here we are"))
        await socket.send('{"type":"stop"}')
        messages = await rest(socket)
        finals = [m for m in messages if m["type"] == "final"]
        assert [m["text"] for m in finals if m["start_ms"] > 100_000] == ["here we are"]
        assert messages[-1]["type"] == "done"


async def test_pause_stands_still_and_resume_goes_on() -> None:
    async with serving() as server, dial(server) as socket:
        await socket.send(start())
        await socket.send('{"type":"pause"}')
        assert await read_until(socket, "state") == {"type": "state", "state": "paused", "at": 0}
        await socket.send('{"type":"resume"}')
        assert (await read_until(socket, "state"))["state"] == "streaming"
        await socket.send(speech("good day"))
        await socket.send('{"type":"stop"}')
        assert transcript(await rest(socket)) == "good day"


async def test_ready_tells_what_is_applied_and_what_is_ignored() -> None:
    async with serving() as server, dial(server) as socket:
        await socket.send(start(language="en-GB", colour="red", boost=[{"phrase": "moon"}]))
        ready = await read(socket)
        assert ready["ignored"] == ["colour", "boost"]
        assert ready["applied"]["language"] == "en"
        assert ready["applied"]["latency"] == "low"
        assert (ready["chunk_ms"], ready["resumed"], ready["at"]) == (160, False, 0)


async def test_a_full_server_says_so_and_serves_again_when_a_client_leaves() -> None:
    async with serving(slots=2) as server:  # one stream and one fork
        async with dial(server) as first:
            await first.send(start())
            await read_until(first, "ready")
            async with dial(server) as second:
                await second.send(start())
                error = (await rest(second))[-1]
                assert (error["code"], second.close_code) == ("over_capacity", 4429)
                assert error["retry_after"] > 0
        await all_slots_free(server)
        assert transcript(await talk(server, speech("here we are"))) == "here we are"


async def test_a_full_house_refuses_handshakes_with_retry_after() -> None:
    async with serving(max_connections=1) as server, dial(server):
        headers = (
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        )
        answer = await get(server, "/v1/stream", headers=headers)
        assert (answer["status"], answer["headers"]["retry-after"]) == (503, "5")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_a_page_of_another_site_is_refused_in_words(host: str) -> None:
    async with (
        serving(host=host) as server,
        dial(server, origin="https://elsewhere.example") as socket,
    ):
        assert (await read(socket))["code"] == "forbidden_origin"
        await rest(socket)
        assert socket.close_code == 4403


async def test_a_name_pointed_at_loopback_is_another_site() -> None:
    async with serving() as server:
        port = server.addresses.port
        site = f"rebound.example:{port}"
        async with dial(
            server,
            url=f"ws://{site}/v1/stream",
            host="127.0.0.1",
            port=port,
            origin=f"http://{site}",
        ) as socket:
            assert (await read(socket))["code"] == "forbidden_origin"


async def test_our_own_page_may_connect() -> None:
    async with serving() as server:
        origin = server.addresses.page.rstrip("/")
        async with dial(server, origin=origin) as socket:
            await socket.send(start())
            assert (await read(socket))["type"] == "ready"


async def test_an_origin_that_was_allowed_may_connect() -> None:
    origin = "https://captions.example"
    async with serving(origins=(origin,)) as server, dial(server, origin=origin) as socket:
        await socket.send(start())
        assert (await read(socket))["type"] == "ready"


async def test_an_idle_client_is_told_and_closed() -> None:
    async with (
        serving(limits={"idle_ms": 50}, start_timeout_s=1_000) as server,
        dial(server) as socket,
    ):
        await socket.send(start())
        messages = await rest(socket)
        assert (messages[-1]["code"], socket.close_code) == ("idle_timeout", 4408)
        await all_slots_free(server)


async def test_health_metrics_and_models_are_answered_on_the_same_port() -> None:
    async with serving() as server:
        assert json.loads((await get(server, "/livez"))["body"]) == {"live": True}
        ready = await get(server, "/readyz")
        assert (ready["status"], json.loads(ready["body"])["ready"]) == (200, True)
        models = json.loads((await get(server, "/v1/models"))["body"])["models"]
        assert models[0]["id"] == "scripted"
        assert sorted(models[0]["chunk_ms"]) == [80, 160, 560, 1120]
        await talk(server, speech("good day"))
        assert await figure(server, "rivulet_step_batch_count") > 0
        assert await figure(server, "rivulet_audio_seconds_total") > 1


async def test_an_unknown_path_is_one_sentence_and_the_page_is_guarded() -> None:
    async with serving() as server:
        missing = await get(server, "/../server/config.py")
        assert missing["status"] == 404
        assert list(json.loads(missing["body"])) == ["error"]
        assert (await get(server, "/v1/stream"))["status"] == 426
        assert (await get(server, "/livez", method="DELETE"))["status"] == 405
        page = await get(server, "/?utm=1")
        assert page["status"] == 200
        assert "default-src 'none'" in page["headers"]["content-security-policy"]
        assert (await get(server, "/app.js"))["headers"]["content-type"].startswith("text/jav")
        assert (await get(server, "/page/app.js", method="HEAD"))["body"] == b""


async def test_a_server_that_ends_warns_flushes_and_closes_with_1001() -> None:
    async with serving() as server, dial(server) as socket:
        await socket.send(start())
        await read_until(socket, "ready")
        await socket.send(speech("hear the moon", silence_ms=0))
        await read_until(socket, "partial")
        stopping = asyncio.create_task(server.gateway.stop())
        assert (await read_until(socket, "goaway"))["reason"] == "drain"
        messages = await rest(socket)
        await stopping
        assert (transcript(messages), socket.close_code) == ("hear the moon", 1001)


def test_the_default_configuration_is_local_only() -> None:
    assert config().host == "127.0.0.1"


async def test_readable_text_is_written_where_it_is_asked_for() -> None:
    async with serving() as server:
        said = speech("turn on the light") + speech("yes")
        plain = await talk(server, said)
        wish = {"capitals": True, "punctuation": True, "numbers": False}
        messages = await talk(server, said, readable=wish, words=True)
    assert transcript(plain) == "turn on the light yes"
    assert transcript(messages) == "Turn on the light. Yes."
    finals = [m for m in messages if m["type"] == "final"]
    assert [word["w"] for word in finals[0]["words"]] == ["Turn", "on", "the", "light."]
    ends = [m["text"] for m in messages if m["type"] == "turn" and m["event"] == "end"]
    assert ends == ["Turn on the light.", "Yes."]
