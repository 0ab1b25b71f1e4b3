"""The load laboratory against real sockets: our server, scripted, and rivals' wires."""

import asyncio
import io
import json
import multiprocessing
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve

from asr.scripted import silence, utter
from clients.__main__ import main, parser_of
from clients.errors import CommandError
from clients.load.caller import Caller, CallFailed, Target, check
from clients.load.judge import Limits
from clients.load.lab import Laboratory, short
from clients.load.material import Material, Voice
from clients.load.plan import RATE_HZ, Call, Traffic
from clients.load.search import Search
from clients.load.share import Order, Ready, work
from clients.load.tally import Tally
from clients.load.view import View
from server.keys import add_key
from tests.io.serving import all_slots_free, figure, pcm, serving

pytestmark = pytest.mark.io

TRAFFIC = Traffic(seconds=1.0, ramp_s=0.2, warm_s=0.2, latencies=("low", "80"), churn=0.5)
Handler = Callable[[ServerConnection], Awaitable[None]]


def voice(text: str, seconds: float) -> Voice:
    said = utter(text)
    rest = silence(round(1000 * seconds) - 1000 * len(said) // RATE_HZ)
    return Voice(pcm(np.concatenate([said, rest])), text)


MATERIAL = Material(
    staying=(voice("turn on the", TRAFFIC.total_s),), brief=(voice("light please", 0.8),)
)


def laboratory(url: str) -> Laboratory:
    return Laboratory(
        target=Target(url=url),
        traffic=TRAFFIC,
        material=MATERIAL,
        limits=Limits(),
        view=View(io.StringIO(), is_terminal=False),
        quiet_at_once=4,
    )


async def test_the_whole_laboratory_measures_a_server() -> None:
    async with serving(slots=16) as server:
        lab = laboratory(server.addresses.websocket)
        quiet = await asyncio.to_thread(lab.listen)
        assert (quiet.calls, quiet.failures, quiet.wer) == (4, {}, 0.0)
        point = await asyncio.to_thread(lab.run, 3)
        await all_slots_free(server)
        assert await figure(server, "rivulet_errors_total") == 0
    assert point.failures == {}
    assert point.calls >= 3
    assert (point.changed, point.wer) == (0, 0.0)
    assert {name: figures.chunk_ms for name, figures in point.classes.items()} == {
        "80": 80,
        "low": 160,
    }
    for figures in point.classes.values():
        assert figures.chunk_lag is not None
        assert figures.chunk_lag.count >= 4
        assert figures.finalize is not None
    report = json.loads(json.dumps(lab.report(Search(most=3))))
    assert report["models"][0]["id"] == "scripted"
    assert short(report)["runs"] == 1


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_load_process_whose_parent_is_gone_ends(*, is_begun: bool) -> None:
    call = Call(3_600.0, 0, RATE_HZ, True, 20, "low")
    order = Order(Target(url="ws://127.0.0.1:9/v1/stream"), ((call,),), (b"",))
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, order))
    process.start()
    theirs.close()
    assert ours.recv() == Ready()
    if is_begun:
        ours.send(time.monotonic())
    ours.close()
    process.join()  # long before that call is due
    assert process.exitcode == 0


async def test_streams_that_a_full_server_refuses_are_counted_by_reason() -> None:
    async with serving(slots=4) as server:
        lab = laboratory(server.addresses.websocket)
        point = await asyncio.to_thread(lab.run, 8)
        await all_slots_free(server)
    assert point.failures["over_capacity"] > 0
    assert set(point.failures) == {"over_capacity"}
    assert point.verdict.value in ("broken", "void")
    assert any("over_capacity" in reason for reason in point.breaks)


async def one_call(target: Target, latency: str, text: str = "good day") -> Tally:
    """A call of 1.2 s, due as fast as if it had been spoken before."""
    said = voice(text, 1.2)
    call = Call(-1.2, 0, said.samples, True, 40, latency)
    tally = Tally()
    await Caller(target, call, said.pcm, asyncio.get_running_loop().time(), tally).run()
    return tally


@asynccontextmanager
async def fake(handler: Handler) -> AsyncIterator[str]:
    """A server that speaks a rival's language."""
    async with serve(handler, "127.0.0.1", 0, compression=None) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def sherpa(connection: ServerConnection) -> None:
    """A JSON for each chunk of 160 ms once its window is full, as sherpa-onnx's server does."""
    samples, chunks = 0, 0
    async for message in connection:
        if message == "Done":
            result = {"text": "GOOD DAY", "segment": 0, "timestamps": [0.2, 0.9]}
            await connection.send(json.dumps(result | {"is_final": True}))
            await connection.send("Done!")
            return
        samples += len(np.frombuffer(message, "<f4"))  # type: ignore[arg-type]
        while samples >= (chunks + 1) * 2560 + 1760:
            chunks += 1
            result = {"text": "GOOD", "segment": 0, "timestamps": [0.2], "is_final": False}
            await connection.send(json.dumps(result))


async def nemo_speech(connection: ServerConnection) -> None:
    """A delta where words are heard, as NeMo-Speech.cpp's server does."""
    prefix = "conversation.item.input_audio_transcription."

    async def say(**event: Any) -> None:
        await connection.send(json.dumps(event))

    await say(type="session.created", session={})
    samples, is_updated = 0, False
    async for message in connection:
        if isinstance(message, bytes):
            assert is_updated
            samples += len(message) // 2
            if samples == 8 * 640:
                await say(type=prefix + "delta", delta="good", audio_processed=0.32)
        elif json.loads(message)["type"] == "session.update":
            is_updated = True
            await say(type="session.updated", session={})
        else:
            words = [{"word": "good", "start": 0.1, "end": 0.3}, {"word": "day", "end": 0.9}]
            await say(type=prefix + "completed", transcript="good day", words=words)
            await say(type="input_audio_buffer.committed")


async def test_sherpa_onnx_is_measured_by_the_same_hand() -> None:
    async with fake(sherpa) as url:
        target = Target(url=url, wire="sherpa-onnx")
        tally = await one_call(target, "160")
    (call,) = tally.calls
    assert (call.text, call.failure, call.chunk_ms) == ("GOOD DAY", "", 160)
    due = [at for at, _ in zip(tally.lags["160"].at_s, range(3), strict=False)]
    assert due == pytest.approx([-1.2 + 0.28, -1.2 + 0.44, -1.2 + 0.6])
    assert len(tally.ends["160"].values) == 1
    assert len(tally.words["160"].values) == 2


async def test_nemo_speech_is_measured_by_the_same_hand() -> None:
    async with fake(nemo_speech) as url:
        target = Target(url=url, wire="nemo-speech")
        await check(target, "160")
        tally = await one_call(target, "160")
    (call,) = tally.calls
    assert (call.text, call.failure) == ("good day", "")
    assert list(tally.lags["160"].at_s) == pytest.approx([-1.2 + 0.32])
    assert len(tally.words["160"].values) == 1


async def test_a_server_that_hangs_up_or_talks_nonsense_fails_the_call_by_name() -> None:
    async def hang_up(connection: ServerConnection) -> None:
        await connection.recv()
        connection.transport.abort()

    async def nonsense(connection: ServerConnection) -> None:
        await connection.send("[")
        await connection.wait_closed()

    async with fake(hang_up) as url:
        tally = await one_call(Target(url=url, wire="sherpa-onnx"), "160")
        assert tally.calls[0].failure == "closed with 1006 before the end"
    async with fake(nonsense) as url:
        tally = await one_call(Target(url=url, wire="sherpa-onnx"), "160")
        assert tally.calls[0].failure == "a message that cannot be read"


async def test_a_check_says_why_a_server_takes_no_streams() -> None:
    async with serving(slots=2) as server:
        url = server.addresses.websocket
        await check(Target(url=url), "low")
        await all_slots_free(server)
        with pytest.raises(CallFailed, match="HTTP 404"):
            await check(Target(url=url + "/nowhere"), "low")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "no server answers at ws://127.0.0.1:{port}/v1/stream (ConnectionRefusedError)"),
        (["--wire", "sherpa-onnx"], "the wire sherpa-onnx needs the chunk of the server's model"),
        (["--latency", "quick"], "a latency is low, balanced, accurate or 80 to 2000 ms"),
        (["--packets", "3"], "packets last between 10 and 1000 ms"),
        (["--start", "0"], "a search starts between 1 and the most streams"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert main(["load", f"ws://127.0.0.1:{port}", *arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"rivulet: {sentence.format(port=port)}")
    assert said.count("\n") == 1


async def test_a_server_that_asks_for_a_key_is_met_with_the_option_for_it(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    add_key(file, "shop", (), None)
    async with serving(keys=str(file)) as server:
        args = parser_of("load").parse_args([server.addresses.websocket])
        with pytest.raises(CommandError, match="HTTP 401; --token takes a key"):
            await asyncio.to_thread(args.run, args)


def test_an_address_that_is_no_websocket_is_one_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["load", "http://127.0.0.1:1"]) == 1
    assert "is no address of a WebSocket" in capsys.readouterr().err
