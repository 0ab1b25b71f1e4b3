"""Foreign wires over real sockets, with a scripted engine: the same words, no slot left behind."""

import asyncio
import base64
import contextlib
import io
import json
from typing import Any

import msgspec
import numpy as np
import pytest
import soundfile
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from asr.scripted import silence, utter
from server.app import Running
from server.wire import protobuf as pb
from server.wire.wyoming import Event, Reader, encode
from tests.io.serving import all_slots_free, pcm, serving, talk, transcript

pytestmark = pytest.mark.io

FIRST, SECOND = "turn on the light please", "good day"
SAID = np.concatenate([utter(FIRST), silence(880), utter(SECOND), silence(880)])
PCM = pcm(SAID)
LISTEN = "/v1/listen?encoding=linear16&sample_rate=16000"
PACKET = 3_200
CHUNKED = "Transfer-Encoding: chunked"
RIVA = "nvidia.riva.asr.RivaSpeechRecognition"


def pieces(data: bytes = PCM, size: int = PACKET) -> list[bytes]:
    return [data[begin : begin + size] for begin in range(0, len(data), size)]


def url(server: Running, path: str, *, port: int | None = None) -> str:
    return f"ws://{server.addresses.host}:{port or server.addresses.port}{path}"


async def rest(socket: Any) -> list[Any]:
    found = list[Any]()
    try:
        while True:
            text = await socket.recv()
            found.append(json.loads(text) if text.startswith("{") else text)
    except ConnectionClosed:
        return found


async def listen(server: Running, data: bytes = PCM, *, path: str = LISTEN) -> str:
    async with connect(url(server, path)) as socket:
        for piece in pieces(data):
            await socket.send(piece)
        await socket.send('{"type":"CloseStream"}')
        answers = await rest(socket)
        assert (answers[-1]["type"], socket.close_code) == ("Metadata", 1000)
    texts = [
        a["channel"]["alternatives"][0]["transcript"] for a in answers if a["type"] == "Results"
    ]
    return " ".join(texts)


async def post(server: Running, head: str, body: bytes = b"") -> tuple[int, bytes]:
    """Send a request byte for byte; return status and body."""
    head_raw, answer = await exchange(server, head, body)
    return int(head_raw.split()[1]), answer


async def headers_of(server: Running, head: str, body: bytes = b"") -> dict[str, str]:
    """Send a request; return the headers of its answer, their names in lower case."""
    head_raw, _ = await exchange(server, head, body)
    lines = [line.partition(": ") for line in head_raw.decode().split("\r\n")[1:]]
    return {name.lower(): value for name, _, value in lines}


async def exchange(server: Running, head: str, body: bytes) -> tuple[bytes, bytes]:
    host, port = server.addresses.host, server.addresses.port
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
    raw = await reader.read()
    writer.close()
    head_raw, _, answer = raw.partition(b"\r\n\r\n")
    return head_raw, answer


def wav(samples: Any = SAID) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="WAV", subtype="PCM_16")
    return file.getvalue()


def form(**fields: bytes) -> bytes:
    body = b""
    for name, data in fields.items():
        body += f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
        body += data + b"\r\n"
    return body + b"--x--\r\n"


FORM = "POST /v1/audio/transcriptions HTTP/1.1\nHost: here\nContent-Type: multipart/form-data; boundary=x"  # noqa: E501


async def test_deepgram_says_what_the_native_wire_says_and_leaves_no_slot() -> None:
    async with serving() as server:
        native = transcript(await talk(server, PCM))
        assert await listen(server) == native == f"{FIRST} {SECOND}"
        await all_slots_free(server)


async def test_a_streamed_wav_says_its_format_itself() -> None:
    async with serving() as server:
        assert await listen(server, wav(), path="/v1/listen") == f"{FIRST} {SECOND}"


async def test_a_whole_file_sent_at_once_is_held_back_not_refused() -> None:
    words = "one two three four five six seven eight nine ten"
    data = pcm(np.concatenate([utter(words), silence(2_000)]))
    async with serving(limits={"window_ms": 1_000}) as server:
        assert await listen(server, data) == words


async def test_each_finalize_is_answered_also_when_nothing_is_open() -> None:
    finalize = '{"type":"Finalize"}'
    async with serving() as server, connect(url(server, LISTEN)) as socket:
        await socket.send(finalize)  # before any audio
        answers = [json.loads(await socket.recv())]
        await socket.send(PCM)
        while sum(answer["speech_final"] for answer in answers) < 3:
            answers.append(json.loads(await socket.recv()))
        for _ in range(2):  # behind the server's own end of speech, and again
            await socket.send(finalize)
            answers.append(json.loads(await socket.recv()))
        texts = [a["channel"]["alternatives"][0]["transcript"] for a in answers]
        assert [a["from_finalize"] for a in answers] == [True, False, False, True, True]
        assert texts == ["", FIRST, SECOND, "", ""]


@pytest.mark.parametrize(
    ("path", "offers"),
    [
        (LISTEN, ["token", "key"]),
        (LISTEN, ["bearer", "key"]),
        ("/v1/realtime?intent=transcription", ["realtime", "openai-insecure-api-key.key"]),
    ],
)
async def test_a_browser_gets_its_subprotocol_back_and_not_its_key(
    path: str, offers: list[str]
) -> None:
    async with serving() as server:
        names = [Subprotocol(offer) for offer in offers]
        async with connect(url(server, path), subprotocols=names) as socket:
            assert socket.subprotocol == offers[0]


async def test_a_client_that_vanishes_leaves_no_slot() -> None:
    async with serving() as server:
        socket = await connect(url(server, LISTEN))
        for piece in pieces():
            await socket.send(piece)
        socket.transport.abort()
        await all_slots_free(server)
        await socket.wait_closed()


async def test_bad_input_ends_that_client_only_and_leaves_no_slot() -> None:
    async with serving() as server, connect(url(server, LISTEN)) as other:
        async with connect(url(server, LISTEN)) as socket:
            await socket.send(PCM[:PACKET])
            await socket.send("not json")
            assert await rest(socket) == []
            assert socket.close_code == 1008
        await other.send(PCM)
        await other.send('{"type":"CloseStream"}')
        assert (await rest(other))[-1]["type"] == "Metadata"
        await all_slots_free(server)


async def test_no_room_is_503_before_the_handshake_and_a_bad_query_400() -> None:
    async with serving(slots=2) as server, connect(url(server, LISTEN)) as first:
        await first.send(PCM)
        await first.recv()
        for path, status in ((LISTEN, 503), ("/v2/listen?encoding=linear16", 503)):
            with pytest.raises(InvalidStatus) as refused:
                await connect(url(server, path))
            assert refused.value.response.status_code == status
    async with serving() as server:
        with pytest.raises(InvalidStatus) as refused:
            await connect(url(server, "/v1/listen?encoding=opus"))
        assert refused.value.response.status_code == 400
        with pytest.raises(InvalidStatus) as refused:
            await connect(url(server, LISTEN), origin="https://elsewhere.example")  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403


async def test_flux_numbers_its_turns() -> None:
    async with serving(look_ahead=1) as server:
        path = "/v2/listen?encoding=linear16&sample_rate=16000&eager_eot_threshold=0.4"
        async with connect(url(server, path)) as socket:
            for piece in pieces():
                await socket.send(piece)
            await socket.send('{"type":"CloseStream"}')
            answers = await rest(socket)
    assert [answer["sequence_id"] for answer in answers] == list(range(len(answers)))
    ends = [answer for answer in answers if answer.get("event") == "EndOfTurn"]
    assert [end["transcript"] for end in ends] == [FIRST, SECOND]
    assert [end["turn_index"] for end in ends] == [0, 1]


async def test_realtime_items_hold_the_words_and_large_events_pass() -> None:
    async with serving() as server, connect(url(server, "/v1/realtime?model=m")) as socket:
        assert json.loads(await socket.recv())["type"] == "session.created"
        wish = {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16_000}}}}
        await socket.send(json.dumps({"type": "session.update", "session": wish}))
        audio = base64.b64encode(PCM + bytes(1_600_000)).decode()
        await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
        texts = list[str]()
        while len(texts) < 2:
            event = json.loads(await socket.recv())
            if event["type"].endswith("completed"):
                texts.append(event["transcript"])
        assert texts == [FIRST, SECOND]


async def test_a_posted_file_is_transcribed_in_the_form_asked_for() -> None:
    body = form(file=wav(), response_format=b"text")
    async with serving() as server:
        length = f"{FORM}\nContent-Length: {len(body)}"
        assert await post(server, length, body) == (200, f"{FIRST} {SECOND}\n".encode())
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces(body, 7_000))
        chunked = f"{FORM}\n{CHUNKED}"
        assert (await post(server, chunked, chunks + b"0\r\n\r\n"))[0] == 200
        await all_slots_free(server)


async def test_a_posted_file_may_be_longer_than_what_waits_for_a_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.talk.MAX_BACKLOG_BYTES", len(PCM) // 2)
    async with serving() as server:
        head = f"POST {LISTEN} HTTP/1.1\nHost: here\nContent-Length: {len(PCM)}"
        status, answer = await post(server, head, PCM)
        assert status == 200
        channel = json.loads(answer)["results"]["channels"][0]
        assert channel["alternatives"][0]["transcript"] == f"{FIRST} {SECOND}"


async def test_a_file_that_is_too_large_is_refused_by_the_name_of_the_option() -> None:
    body = bytes((1 << 20) + 1)
    async with serving(file_mb=1) as server:
        chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        for size, sent in ((f"Content-Length: {len(body)}", b""), (CHUNKED, chunks[: 1 << 16])):
            status, answer = await post(server, f"POST {LISTEN} HTTP/1.1\n{size}", sent)
            said = "a file has 1 MiB at most here (rivulet serve --file-mb)"
            assert (status, json.loads(answer)["err_msg"]) == (413, said)
        asking = f"{FORM}\nContent-Length: {len(body)}\nExpect: 100-continue"
        assert (await post(server, asking))[0] == 413  # before it is sent
        whole = f"POST {LISTEN} HTTP/1.1\nContent-Length: {1 << 20}"
        assert (await post(server, whole, body[1:]))[0] == 200


async def test_deepgram_takes_a_posted_file_raw_or_contained() -> None:
    async with serving() as server:
        for path, body in (("/v1/listen", wav()), (LISTEN, PCM)):
            head = f"POST {path} HTTP/1.1\nHost: here\nContent-Length: {len(body)}"
            status, answer = await post(server, head, body)
            channel = json.loads(answer)["results"]["channels"][0]
            assert (status, channel["alternatives"][0]["transcript"]) == (200, f"{FIRST} {SECOND}")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (f"{FORM}\nContent-Length: 3", 400),
        (f"{FORM}\nContent-Length: many", 400),
        (f"{FORM}\nContent-Length: 99999999999", 413),
        (f"{FORM}\nTransfer-Encoding: gzip", 400),
        (f"{FORM}\nOrigin: https://elsewhere.example\nContent-Length: 3", 403),
        ("POST /nowhere HTTP/1.1\nHost: here\nContent-Length: 3", 405),
        ("DELETE / HTTP/1.1\nHost: here", 405),
        ("POST / HTTP/1.1\nbroken", 400),
        ("POST /x HTTP/1.1\nA: " + "b" * 40_000, 431),
    ],
)
async def test_a_bad_request_is_answered(head: str, status: int) -> None:
    async with serving() as server:
        assert (await post(server, head, b"abc"))[0] == status


async def test_the_loaded_model_is_found_by_its_name_and_no_other() -> None:
    async with serving() as server:
        _, listed = await post(server, "GET /v1/models/ HTTP/1.1\nHost: here")
        (model,) = json.loads(listed)["data"]
        for name, expected in ((model["id"], 200), (f"{model['id']}/", 200), ("whisper-1", 404)):
            status, answer = await post(server, f"GET /v1/models/{name} HTTP/1.1\nHost: here")
            assert status == expected
            assert json.loads(answer) == model or json.loads(answer)["error"]["param"] == "model"


async def test_a_slash_behind_the_path_of_a_post_is_nothing() -> None:
    async with serving() as server:
        for path, size in (
            ("/v1/listen/", len(wav())),
            ("/v1/realtime/transcription_sessions/", 2),
        ):
            head = f"POST {path} HTTP/1.1\nHost: here\nContent-Length: {size}"
            status, _ = await post(server, head, wav()[:size])
            assert status == 200, path


@pytest.mark.parametrize("origins", [("https://shop.example",), ()])
async def test_a_page_reads_answers_if_its_origin_may_connect(origins: tuple[str, ...]) -> None:
    page = "https://shop.example"
    preflight = (
        f"OPTIONS /v1/audio/transcriptions HTTP/1.1\nHost: here\nOrigin: {page}\n"
        "Access-Control-Request-Method: POST\n"
        "Access-Control-Request-Headers: authorization,x-stainless-os"
    )
    body = form(file=wav(), stream=b"true")
    async with serving(origins=origins) as server:
        asked = await headers_of(server, preflight)
        models = await headers_of(server, f"GET /v1/models HTTP/1.1\nHost: here\nOrigin: {page}")
        posted = f"{FORM}\nOrigin: {page}\nContent-Length: {len(body)}"
        heard = await headers_of(server, posted, body)
        broken = await headers_of(server, f"{FORM}\nOrigin: {page}\nContent-Length: 3", b"abc")
        nobody = await headers_of(server, f"{FORM}\nContent-Length: {len(body)}", body)
    allowed = [found.get("access-control-allow-origin") for found in (asked, models, heard, broken)]
    assert allowed == [page if origins else None] * 4
    listed = "authorization,x-stainless-os" if origins else None
    assert asked.get("access-control-allow-headers") == listed
    assert not any(name.startswith("access-control") for name in nobody)


async def test_a_client_that_only_ended_its_request_is_answered() -> None:
    body = form(file=wav(), response_format=b"text")
    async with serving() as server:
        host, port = server.addresses.host, server.addresses.port
        reader, writer = await asyncio.open_connection(host, port)
        head = f"{FORM}\nContent-Length: {len(body)}\n\n".replace("\n", "\r\n")
        writer.write(head.encode() + body)
        writer.write_eof()
        assert (await reader.read()).endswith(f"{FIRST} {SECOND}\n".encode())
        writer.close()


async def test_half_a_request_is_forgotten_with_its_connection() -> None:
    async with serving() as server:
        for part in (b"PO", b"POST /v1/listen HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"):
            _, writer = await asyncio.open_connection(server.addresses.host, server.addresses.port)
            writer.write(part)
            await writer.drain()
            writer.close()
        assert await listen(server) == f"{FIRST} {SECOND}"


async def test_own_ports_speak_their_wires() -> None:
    ports: dict[str, Any] = {"wyoming_port": 0, "vosk_port": 0, "sherpa_port": 0}
    async with serving(**ports) as server:
        of = server.gateway.ports.port_of
        assert await ask_vosk(server, of("vosk")) == f"{FIRST} {SECOND}"
        assert await ask_sherpa(server, of("sherpa")) == [FIRST, SECOND]
        assert await ask_wyoming(server, of("wyoming")) == f"{FIRST} {SECOND}"
        await all_slots_free(server)


async def test_whoever_leaves_a_stream_of_bytes_is_gone() -> None:
    async with serving(wyoming_port=0) as server:
        port = server.gateway.ports.port_of("wyoming")
        for said in (b"", b'{"type":"describe"}\n'):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            writer.write_eof()
            assert (await reader.read()).startswith(b'{"type":"info"' if said else b"")
            writer.close()
        assert len(server.gateway._dropins) == 0


async def ask_vosk(server: Running, port: int) -> str:
    results = list[dict[str, Any]]()
    async with connect(url(server, "/", port=port)) as socket:
        await socket.send('{"config":{"sample_rate":16000.0}}')
        for piece in pieces(size=8_000):
            await socket.send(piece)
            results.append(json.loads(await socket.recv()))
        await socket.send('{"eof" : 1}')
        results += await rest(socket)
    return " ".join(result["text"] for result in results if result.get("text"))


async def ask_sherpa(server: Running, port: int) -> list[str]:
    async with connect(url(server, "/", port=port)) as socket:
        for piece in pieces(SAID.astype("<f4").tobytes(), 32_000):
            await socket.send(piece)
        await socket.send("Done")
        answers = await rest(socket)
    assert answers.pop() == "Done!"
    return [answer["text"] for answer in answers if answer["is_final"]]


async def ask_wyoming(server: Running, port: int, *, channels: int = 1) -> str:
    reader, writer = await asyncio.open_connection(server.addresses.host, port)
    shape = {"rate": 16_000, "width": 2, "channels": channels}
    writer.write(encode(Event("audio-start", shape)))
    for piece in pieces(pcm(np.repeat(SAID, channels))):
        writer.write(encode(Event("audio-chunk", shape, piece)))
    writer.write(encode(Event("audio-stop")))
    heard, events = Reader(), list[Event]()
    while not any(event.type == "transcript" for event in events):
        events += heard.push(await reader.read(4_096))
    writer.close()
    return str(events[-1].data["text"])


async def test_a_stereo_microphone_says_everything_once() -> None:
    async with serving(wyoming_port=0) as server:
        port = server.gateway.ports.port_of("wyoming")
        assert await ask_wyoming(server, port, channels=2) == await ask_wyoming(server, port)


@pytest.mark.parametrize(("query", "times"), [("", 1), ("&multichannel=true", 2)])
async def test_deepgram_hears_channels_apart_where_it_is_asked_to(query: str, times: int) -> None:
    path, stereo = f"{LISTEN}&channels=2{query}", pcm(np.repeat(SAID, 2))
    async with serving() as server:
        told = await listen(server, stereo, path=path)
        head = f"POST {path} HTTP/1.1\nHost: here\nContent-Length: {len(stereo)}"
        _, answer = await post(server, head, stereo)
    assert [told.count(FIRST), told.count(SECOND)] == [times] * 2
    channels = json.loads(answer)["results"]["channels"]
    texts = [channel["alternatives"][0]["transcript"] for channel in channels]
    assert texts == [f"{FIRST} {SECOND}"] * times


async def test_files_over_grpc_wait_for_their_turn_with_those_that_are_posted() -> None:
    grpc = pytest.importorskip("grpc")
    async with serving(grpc_port=0) as server, contextlib.AsyncExitStack() as heard:
        hearing = server.gateway._dropins.hearing
        while not hearing.locked():  # as many files as may be are being heard
            await heard.enter_async_context(hearing)
        where = f"127.0.0.1:{server.gateway.ports.port_of('grpc')}"
        async with grpc.aio.insecure_channel(where) as channel:
            call = channel.unary_unary(f"/{RIVA}/Recognize")(b"")
            waiting = asyncio.ensure_future(call.code())
            while not hearing._waiters:  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert not waiting.done()
            await heard.aclose()
            assert await waiting is grpc.StatusCode.INVALID_ARGUMENT


async def test_over_grpc_it_tells_what_model_it_has() -> None:
    grpc = pytest.importorskip("grpc")
    async with serving(grpc_port=0, file_mb=4_096) as server:  # more than a message may have
        where = f"127.0.0.1:{server.gateway.ports.port_of('grpc')}"
        async with grpc.aio.insecure_channel(where) as channel:
            method = f"/{RIVA}/GetRivaSpeechRecognitionConfig"
            told = pb.Fields(await channel.unary_unary(method)(b""))
            assert [one.text(1) for one in told.messages(1)] == ["scripted"] * 2
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary(method)(b"\xff")
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_grpc_client_that_often_asks_whether_we_are_there_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grpc_port = pytest.importorskip("server.grpc_port")
    monkeypatch.setattr(grpc_port, "SHORTEST_PING_MS", 0)  # nobody waits here
    settings, ping = (0, 4), (8, 6)
    ack, goaway = (6, 1), 7
    async with serving(grpc_port=0) as server:
        port = server.gateway.ports.port_of("grpc")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        def write(kind: tuple[int, int]) -> None:
            length, number = kind
            writer.write(bytes([0, 0, length, number, 0, 0, 0, 0, 0]) + bytes(length))

        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        write(settings)
        answered = 0
        write(ping)
        while answered < 10:
            head = await reader.readexactly(9)
            body = await reader.readexactly(int.from_bytes(head[:3]))
            assert head[3] != goaway, body
            if (head[3], head[4]) == ack:
                answered += 1
                write(ping)
        writer.close()


async def test_a_port_that_is_taken_stops_the_start() -> None:
    async with serving() as server:
        with pytest.raises(Exception, match="cannot listen"):
            async with serving(vosk_port=server.addresses.port):
                pass


async def test_kyutai_answers_a_marker_however_much_silence_floods_in_behind_it() -> None:
    quiet = {"type": "Audio", "pcm": [0.0] * 24_000}
    sound = {"type": "Audio", "pcm": [0.1, -0.1] * 12_000}
    async with serving(limits={"window_ms": 3_000}) as server:
        async with connect(url(server, "/api/asr-streaming")) as socket:
            for message in (quiet, sound, {"type": "Marker", "id": 5}, *[quiet] * 35):
                await socket.send(msgspec.msgpack.encode(message))
            answers = list[Any]()
            while not answers or answers[-1]["type"] != "Marker":
                answers.append(msgspec.msgpack.decode(bytes(await socket.recv(decode=False))))
        await all_slots_free(server)
    steps = [answer["step_idx"] for answer in answers if answer["type"] == "Step"]
    assert answers[0] == {"type": "Ready"}
    assert answers[-1]["id"] == 5
    assert steps == list(range(len(steps)))
    assert len(steps) <= 25  # two seconds: none of the flood


async def test_nvidia_is_told_from_openai_by_the_token_of_its_session() -> None:
    head = "POST /v1/realtime/transcription_sessions HTTP/1.1\nHost: here\nContent-Length: 2"
    async with serving() as server:
        status, answer = await post(server, head, b"{}")
        session = json.loads(answer)
        token = session["client_secret"]["value"]
        offers = [Subprotocol("realtime"), Subprotocol(f"realtime-token.{token}")]
        path = "/v1/realtime?intent=transcription"
        async with connect(url(server, path), subprotocols=offers) as socket:
            assert socket.subprotocol == "realtime"
            assert json.loads(await socket.recv())["type"] == "conversation.created"
            update = {"type": "transcription_session.update", "session": session}
            await socket.send(json.dumps(update))
            for piece in pieces():
                audio = base64.b64encode(piece).decode()
                append = {"type": "input_audio_buffer.append", "audio": audio}
                await socket.send(json.dumps(append))
                await socket.send('{"type":"input_audio_buffer.commit"}')
            await socket.send('{"type":"input_audio_buffer.done"}')
            answers = await rest(socket)
        await all_slots_free(server)
    assert status == 200
    assert answers[-1]["is_last_result"]
    assert answers[-1]["transcript"] == f"{FIRST} {SECOND}"
