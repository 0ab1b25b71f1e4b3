"""Other clients: ``python drive_others.py NAME HOST FILE RATE`` prints one JSON line."""

import asyncio
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any

PACKET_BYTES = 3_200


def pieces(data: bytes) -> list[bytes]:
    return [data[begin : begin + PACKET_BYTES] for begin in range(0, len(data), PACKET_BYTES)]


def wyoming(host: str, path: str, rate: int) -> tuple[str, int]:
    from wyoming.asr import Transcribe, Transcript, TranscriptChunk
    from wyoming.audio import AudioChunk, AudioStart, AudioStop
    from wyoming.client import AsyncTcpClient
    from wyoming.info import Describe, Info

    async def run() -> tuple[str, int]:
        name, port = host.split(":")
        async with AsyncTcpClient(name, int(port)) as client:
            await client.write_event(Describe().event())
            info = Info.from_event(await client.read_event())
            assert info.asr[0].models[0].languages
        async with AsyncTcpClient(name, int(port)) as client:
            form = {"rate": rate, "width": 2, "channels": 1}
            await client.write_event(Transcribe(language="en").event())
            await client.write_event(AudioStart(**form).event())
            for piece in pieces(Path(path).read_bytes()):
                await client.write_event(AudioChunk(audio=piece, **form).event())
            await client.write_event(AudioStop().event())
            chunks, count = "", 1
            while True:
                event = await client.read_event()
                assert event is not None and event.type != "error", event
                count += 1
                if TranscriptChunk.is_type(event.type):
                    chunks += TranscriptChunk.from_event(event).text
                if Transcript.is_type(event.type):
                    text = Transcript.from_event(event).text
                    assert chunks == text
                    return text, count

    return asyncio.run(run())


def vosk(host: str, path: str, rate: int) -> tuple[str, int]:
    from vosk.transcriber.transcriber import Transcriber  # what `vosk-transcriber --server` runs

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.txt"
        options = {"server": f"ws://{host}", "output": str(out), "output_type": "txt", "tasks": 1}
        transcriber = Transcriber.__new__(Transcriber)  # its __init__ loads a model of its own
        transcriber.args, transcriber.queue = SimpleNamespace(**options), Queue()
        asyncio.run(transcriber.process_task_list_server([(Path(path), out)]))
        return " ".join(out.read_text().split()), 0


def sherpa(host: str, path: str, rate: int) -> tuple[str, int]:
    client = Path(sys.executable).with_name("sherpa-onnx-online-websocket-client")
    name, port = host.split(":")
    where = [f"--server-ip={name}", f"--server-port={port}"]
    command = [client, *where, "--seconds-per-message=0.05", path]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    heard = [json.loads(line[line.index("{") :]) for line in told.splitlines() if "{" in line]
    return " ".join(result["text"] for result in heard if result["is_final"]), len(heard)


def riva(host: str, path: str, rate: int, *, is_file: bool = False) -> tuple[str, int]:
    import riva.client as riva_client

    service = riva_client.ASRService(riva_client.Auth(uri=host))
    wanted = riva_client.proto.riva_asr_pb2.RivaSpeechRecognitionConfigRequest()
    offered = service.stub.GetRivaSpeechRecognitionConfig(wanted).model_config
    assert "offline" in [model.parameters["type"] for model in offered if model.model_name]
    config = riva_client.RecognitionConfig(
        encoding=riva_client.AudioEncoding.LINEAR_PCM,
        sample_rate_hertz=rate,
        language_code="en-US",
        max_alternatives=1,
        audio_channel_count=1,
        enable_word_time_offsets=True,
    )
    data = Path(path).read_bytes()
    if is_file:
        answer = service.offline_recognize(data, config)
        return "".join(r.alternatives[0].transcript for r in answer.results).strip(), 1
    streaming = riva_client.StreamingRecognitionConfig(config=config, interim_results=True)
    text, count = "", 0
    for response in service.streaming_response_generator(pieces(data), streaming):
        count += 1
        for result in response.results:
            if result.is_final:
                text += result.alternatives[0].transcript
    return text.strip(), count


def assemblyai(host: str, path: str, rate: int) -> tuple[str, int]:
    from assemblyai.streaming.v3 import (
        StreamingClient,
        StreamingClientOptions,
        StreamingEvents,
        StreamingParameters,
    )

    turns, events, errors = dict[int, str](), list[Any](), list[Any]()
    options = {"api_host": f"ws://{host}", "api_key": "key", "terminate_timeout": 60}
    client = StreamingClient(StreamingClientOptions(**options))

    def heard(_: object, event: Any) -> None:
        events.append(event)
        if getattr(event, "end_of_turn", False):
            turns[event.turn_order] = event.transcript

    for kind in (StreamingEvents.Begin, StreamingEvents.Turn, StreamingEvents.Termination):
        client.on(kind, heard)
    client.on(StreamingEvents.Error, lambda _, error: errors.append(error))
    client.connect(
        StreamingParameters(sample_rate=rate, speech_model="universal-streaming-english")
    )
    client.stream(iter(pieces(Path(path).read_bytes())))
    client.disconnect(terminate=True)
    assert not errors, errors
    return " ".join(turns[number] for number in sorted(turns)), len(events)


def speechmatics(host: str, path: str, rate: int) -> tuple[str, int]:
    from speechmatics.rt import (
        AsyncClient,
        AudioEncoding,
        AudioFormat,
        ServerMessageType,
        TranscriptionConfig,
    )

    async def run() -> tuple[str, int]:
        text, count = "", 0
        async with AsyncClient(api_key="key", url=f"ws://{host}/v2") as client:

            def heard(message: dict[str, Any]) -> None:
                nonlocal text, count
                count += 1
                if message["message"] == "AddTranscript":
                    text += message["metadata"]["transcript"]

            for kind in ServerMessageType:
                client.on(kind, heard)
            form = AudioFormat(
                encoding=AudioEncoding.PCM_S16LE, sample_rate=rate, chunk_size=PACKET_BYTES
            )
            config = TranscriptionConfig(language="en", enable_partials=True, max_delay=1.0)
            await client.start_session(transcription_config=config, audio_format=form)
            for piece in pieces(Path(path).read_bytes()):
                await client.send_audio(piece)
            await client.stop_session()
        return text.strip(), count

    return asyncio.run(run())


def nvidia(host: str, path: str, rate: int) -> tuple[str, int]:
    from riva.client.realtime import RealtimeClientASR

    options: dict[str, Any] = dict.fromkeys(
        ("ssl_client_cert", "ssl_client_key", "ssl_root_cert", "mint_api_key", "model_name")
    )
    options |= dict.fromkeys(("start_history", "stop_history", "stop_history_eou"), -1)
    options |= dict.fromkeys(("start_threshold", "stop_threshold", "stop_threshold_eou"), -1.0)
    options |= {
        "server": host,
        "endpoint": "/v1/realtime",
        "query_params": "intent=transcription",
        "use_ssl": False,
        "language_code": "en-US",
        "sample_rate_hz": rate,
        "num_channels": 1,
        "word_time_offsets": True,
    }
    client = RealtimeClientASR(SimpleNamespace(**options))

    async def run() -> None:
        await client.connect()
        sending = asyncio.create_task(client.send_audio_chunks(pieces(Path(path).read_bytes())))
        await client.receive_responses()
        await sending
        await client.disconnect()

    asyncio.run(run())
    return client.final_transcript, 0


def kyutai(host: str, path: str, rate: int) -> tuple[str, int]:
    """Written from the published messages: their client is a script, not a package."""
    import array

    import msgpack
    from websockets.asyncio.client import connect

    samples = array.array("h", Path(path).read_bytes())
    frames = [samples[at : at + 1_920] for at in range(0, len(samples), 1_920)]

    async def run() -> tuple[str, int]:
        words, count = list[str](), 0
        async with connect(f"ws://{host}/api/asr-streaming") as socket:

            async def send(message: dict[str, Any]) -> None:
                await socket.send(msgpack.packb(message, use_single_float=True))

            for frame in frames:
                await send({"type": "Audio", "pcm": [sample / 32_768 for sample in frame]})
            await send({"type": "Marker", "id": 0})
            for _ in range(5):
                await send({"type": "Audio", "pcm": [0.0] * 24_000})
            async for data in socket:
                message, count = msgpack.unpackb(data), count + 1
                if message["type"] == "Word":
                    words.append(message["text"])
                elif message["type"] == "Marker":
                    break
        return " ".join(words), count

    return asyncio.run(run())


RUNS = {
    "wyoming": (wyoming, "wyoming"),
    "vosk": (vosk, "vosk"),
    "sherpa": (sherpa, "sherpa-onnx-bin"),
    "riva": (riva, "nvidia-riva-client"),
    "riva-file": (lambda *a: riva(*a, is_file=True), "nvidia-riva-client"),
    "assemblyai": (assemblyai, "assemblyai"),
    "speechmatics": (speechmatics, "speechmatics-rt"),
    "nvidia": (nvidia, "nvidia-riva-client"),
    "nvidia-file": (nvidia, "nvidia-riva-client"),
    "kyutai": (kyutai, "msgpack"),
}
name, where, path, rate = sys.argv[1:]
run, package = RUNS[name]
text, messages = run(where, path, int(rate))
client = "our own, from Kyutai's messages" if name == "kyutai" else f"{package} {version(package)}"
print(json.dumps({"text": text, "messages": messages, "client": client}))
