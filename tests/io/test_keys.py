"""A server that asks for keys, over sockets."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from server.app import Running, StartError
from server.config import ConfigError
from server.keys import add_key, remove_key
from server.posts import MAX_WISH_BYTES
from tests.io.serving import (
    Message,
    config,
    dial,
    get,
    read,
    read_until,
    rest,
    serving,
    speech,
    start,
    transcript,
)

pytestmark = pytest.mark.io


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def key(keys: Path) -> str:
    return add_key(keys, "shop", ("stream", "files", "tokens"), 2)


@contextlib.asynccontextmanager
async def locked(keys: Path) -> AsyncIterator[Running]:
    async with serving(keys=str(keys)) as server:
        yield server


async def hear(server: Running, headers: dict[str, str], query: str = "") -> str:
    url = server.addresses.websocket + query
    async with dial(server, url=url, additional_headers=headers) as socket:
        await socket.send(start())
        await read_until(socket, "ready")
        await socket.send(speech("good day"))
        await socket.send('{"type":"stop"}')
        return transcript(await rest(socket))


async def status_of(server: Running, path: str, headers: dict[str, str] | None = None) -> int:
    url = server.addresses.websocket.replace("/v1/stream", path)
    with pytest.raises(InvalidStatus) as caught:
        async with connect(url, additional_headers=headers):
            pass
    return caught.value.response.status_code


async def token(server: Running, key: str, body: str = "", *, path: str = "/v1/tokens") -> Message:
    headers = f"Authorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n"
    reader, writer = await asyncio.open_connection(server.addresses.host, server.addresses.port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: here\r\n{headers}\r\n{body}".encode())
    head, _, answer = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return {"status": int(head.split()[1]), **json.loads(answer)}


async def test_a_stream_needs_a_key_and_gets_on_with_one(keys: Path, key: str) -> None:
    async with locked(keys) as server:
        for scheme in ("Bearer", "Token"):
            assert await hear(server, {"Authorization": f"{scheme} {key}"}) == "good day"
        for path in ("/v1/stream", "/v1/listen", "/v2/listen?model=flux", "/v1/realtime", "/v3/ws"):
            assert await status_of(server, path) == 401
            assert await status_of(server, path, {"Authorization": f"Token {key}x"}) == 401
        assert await status_of(server, f"/v1/stream?token={key}") == 401


async def test_wires_with_a_port_of_their_own_ask_too(keys: Path, key: str) -> None:
    async with serving(keys=str(keys), vosk_port=0, sherpa_port=0) as server:
        for wire in ("vosk", "sherpa"):
            url = f"ws://127.0.0.1:{server.gateway.ports.port_of(wire)}"
            with pytest.raises(InvalidStatus) as caught:
                async with connect(url):
                    pass
            assert caught.value.response.status_code == 401
            async with connect(url, additional_headers={"Authorization": f"Bearer {key}"}):
                pass
    with pytest.raises(ConfigError, match="Wyoming"):
        config(keys=str(keys), wyoming_port=0)


async def test_riva_reads_its_key_from_the_metadata(keys: Path, key: str) -> None:
    grpc = pytest.importorskip("grpc")
    async with serving(keys=str(keys), grpc_port=0) as server:
        where = f"127.0.0.1:{server.gateway.ports.port_of('grpc')}"
        async with grpc.aio.insecure_channel(where) as channel:
            for method in ("Recognize", "StreamingRecognize"):
                path = f"/nvidia.riva.asr.RivaSpeechRecognition/{method}"
                call = channel.unary_unary(path)
                for shown, is_known in ((f"Bearer {key}", True), (f"Bearer {key}x", False)):
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await call(b"", metadata=(("authorization", shown),))
                    is_refused = caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
                    assert is_refused != is_known
                    assert key not in (caught.value.details() or "")


async def test_those_who_read_a_meeting_along_need_a_key_or_a_token(keys: Path, key: str) -> None:
    async with locked(keys) as server:
        assert await status_of(server, "/v1/meeting/room") == 401
        made = await token(server, key)
        url = server.addresses.websocket.replace("/v1/stream", "/v1/meeting/room")
        async with connect(f"{url}?token={made['token']}"):
            pass


async def test_a_page_is_told_inside_the_socket(keys: Path, key: str) -> None:
    async with locked(keys) as server:
        host = f"http://127.0.0.1:{server.addresses.port}"
        async with dial(server, origin=host) as socket:
            error = (await rest(socket))[-1]
            assert (error["code"], socket.close_code) == ("unauthorized", 4401)
        names = [Subprotocol("rivulet.v1"), Subprotocol(f"auth.{key}")]
        async with connect(server.addresses.websocket, origin=host, subprotocols=names) as socket:  # type: ignore[arg-type]
            await socket.send(start())
            await read_until(socket, "ready")


async def test_a_token_opens_a_stream_from_its_address(keys: Path, key: str) -> None:
    async with locked(keys) as server:
        made = await token(server, key, '{"expires_in": 30}')
        assert (made["status"], made["expires_in"]) == (200, 30)
        assert await hear(server, {}, f"?token={made['token']}") == "good day"
        assert (await token(server, made["token"]))["status"] == 401  # a token makes no tokens
        assert (await token(server, "nobody"))["status"] == 401
        assert (await token(server, key, '{"expires_in": 0}'))["status"] == 400
        assert (await token(server, key, "\0"))["status"] == 400


async def test_files_need_a_key_too(keys: Path, key: str) -> None:
    async with locked(keys) as server:
        for path in ("/v1/listen", "/v1/audio/transcriptions"):
            answer = await get(server, path, method="POST", headers="Content-Length: 0\r\n")
            assert answer["status"] == 401


async def test_a_key_has_so_many_streams_at_once_and_is_told(keys: Path, key: str) -> None:
    async with locked(keys) as server, contextlib.AsyncExitStack() as stack:
        headers = {"Authorization": f"Bearer {key}"}
        sockets = [
            await stack.enter_async_context(dial(server, additional_headers=headers))
            for _ in range(3)
        ]
        for socket in sockets[:2]:
            await socket.send(start())
            await read_until(socket, "ready")
        await sockets[2].send(start())
        error = (await rest(sockets[2]))[-1]
        assert (error["code"], sockets[2].close_code) == ("rate_limited", 4429)
        await sockets[0].send('{"type":"stop"}')
        await rest(sockets[0])
        assert await hear(server, headers) == "good day"


async def test_sessions_that_are_left_behind_and_resumed_are_within_the_limit(
    keys: Path, key: str
) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    tokens = list[str]()
    async with locked(keys) as server, contextlib.AsyncExitStack() as stack:
        for count in (1, 2, 2, 2):
            async with dial(server, additional_headers=headers) as socket:
                await socket.send(start())
                tokens.append((await read_until(socket, "ready"))["token"])
                socket.transport.abort()
            while server.keeper.away != count:  # noqa: ASYNC110 - a count has no event
                await asyncio.sleep(0)
        answers = list[str]()
        for token_ in tokens:
            socket = await stack.enter_async_context(dial(server, additional_headers=headers))
            await socket.send(start(resume={"token": token_}))
            while (message := await read(socket))["type"] not in ("ready", "error"):
                pass
            answers.append(message.get("code", "ready"))
        assert answers == ["resume_unknown", "resume_unknown", "ready", "ready"]


async def test_a_removed_key_opens_nothing_more(keys: Path, key: str) -> None:
    async with locked(keys) as server:
        remove_key(keys, "shop")
        assert await status_of(server, "/v1/stream", {"Authorization": f"Bearer {key}"}) == 401


async def test_no_key_is_logged(
    keys: Path, key: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG, logger="server"):
        async with locked(keys) as server:
            made = await token(server, key)
            await hear(server, {}, f"?token={made['token']}")
            await hear(server, {"Authorization": f"Token {key}"})
            await status_of(server, "/v1/listen", {"Authorization": f"Token {key}x"})
    printed = capfd.readouterr()
    for text in (caplog.text, printed.out, printed.err):
        assert key not in text
        assert made["token"] not in text


@pytest.mark.parametrize("path", ["/v1/tokens", "/v1/realtime/transcription_sessions"])
async def test_nobody_makes_the_server_read_much_before_it_looks_at_the_key(
    keys: Path, key: str, path: str
) -> None:
    async with locked(keys) as server:
        chunk = f"{MAX_WISH_BYTES + 1:x}\r\n"
        for length, body in (
            (f"Content-Length: {MAX_WISH_BYTES + 1}", ""),
            ("Transfer-Encoding: chunked", chunk),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.addresses.port)
            writer.write(f"POST {path} HTTP/1.1\r\nHost: here\r\n{length}\r\n\r\n{body}".encode())
            assert (await reader.read()).startswith(b"HTTP/1.1 413 ")
            writer.close()


async def test_without_keys_nobody_gets_a_token(key: str) -> None:
    async with serving() as server:
        assert (await token(server, key))["status"] == 400


async def test_an_address_that_opens_too_often_is_told_when_to_retry() -> None:
    async with serving(opens_per_minute=2) as server:
        for _ in range(2):
            assert await hear(server, {}) == "good day"
        assert await status_of(server, "/v1/stream") == 429
        assert await status_of(server, "/v1/listen") == 429


async def test_a_file_of_keys_that_cannot_be_read_is_said_in_a_sentence(keys: Path) -> None:
    with pytest.raises(StartError, match="No such file"):
        async with locked(keys):
            pass


async def test_a_session_of_nvidias_wire_needs_a_key_and_its_secret_opens_the_socket(
    keys: Path, key: str
) -> None:
    sessions, path = "/v1/realtime/transcription_sessions", "/v1/realtime?intent=transcription"
    async with locked(keys) as server:
        refused = await token(server, "rvk_no", path=sessions)
        assert refused["status"] == 401
        assert "key" in refused["detail"]
        session = await token(server, key, "{}", path=sessions)
        assert session["status"] == 200
        assert await status_of(server, path) == 401
        url = server.addresses.websocket.replace("/v1/stream", path)
        secret = session["client_secret"]["value"]
        offers = [Subprotocol("realtime"), Subprotocol(f"realtime-token.{secret}")]
        async with connect(url, subprotocols=offers) as socket:
            assert json.loads(await socket.recv())["type"] == "conversation.created"
        forged = [Subprotocol("realtime"), Subprotocol("realtime-token.rvt_forged.x")]
        with pytest.raises(InvalidStatus) as caught:
            await connect(url, subprotocols=forged)
        assert caught.value.response.status_code == 401
