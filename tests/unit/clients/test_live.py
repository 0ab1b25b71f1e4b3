"""Sources through a real server with a scripted engine: captions, measurements, interruption."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest

from asr.scripted import ScriptedEngine, silence, utter
from clients.audiofile import BadAudioFile, to_s16
from clients.live import Heard, Session, stream_file, stream_live
from server.app import running
from server.config import ServerConfig
from server.wire.messages import AudioFormat
from server.worker.thread import ThreadWorker

RATE = 16_000
AUDIO = AudioFormat(encoding="pcm_s16le", rate=RATE)
pytestmark = pytest.mark.io


class Seen:
    """Captions as a list."""

    def __init__(self) -> None:
        self.partials, self.finals = list[str](), list[tuple[str, str]]()

    def partial(self, name: str, text: str) -> None:
        self.partials.append(text)

    def final(self, name: str, text: str) -> None:
        self.finals.append((name, text))


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[str]:
    config = ServerConfig(port=0, backend="scripted", workers=1, slots=4, drain_s=0.1)
    async with running(
        config, launch=lambda _: ThreadWorker(lambda: ScriptedEngine(slots=4))
    ) as up:
        await up.manager.ready()
        yield up.addresses.websocket


def packets(text: str) -> tuple[list[bytes], int]:
    sound = np.concatenate([utter(text), silence(700)])
    step = RATE * 80 // 1000
    return [to_s16(sound[i : i + step]) for i in range(0, len(sound), step)], len(sound)


async def endless(text: str, spoken: asyncio.Event) -> AsyncIterator[bytes]:
    for packet in packets(text)[0]:
        yield packet
    spoken.set()
    await asyncio.Event().wait()


async def test_a_file_is_heard_measured_and_shown() -> None:
    sent, total = packets("turn on the light")
    captions = Seen()
    async with server() as url:
        session = Session(url=url, audio=AUDIO, latency="low", names=("kitchen",))
        heard = await stream_file(sent, total, session, captions)
    assert heard.error == ""
    assert heard.text() == "turn on the light"
    assert ("kitchen", "turn on the light") in captions.finals
    assert len(heard.lags_s) == pytest.approx(total / 2_560, abs=2)
    assert heard.finalize_delay_s is not None
    assert heard.first_words_s is not None


async def test_an_interrupted_microphone_is_flushed_not_cut() -> None:
    until, heard = asyncio.Event(), Heard()
    async with server() as url:
        source = endless("open the door please", until)
        session = Session(url=url, audio=AUDIO, latency="low")
        await stream_live(source, session, Seen(), heard=heard, until=until)
    assert heard.text() == "open the door please"


async def test_no_server_is_an_error_of_the_sample_not_of_the_program() -> None:
    sent, total = packets("yes")
    session = Session(url="ws://127.0.0.1:9/v1/stream", audio=AUDIO)
    heard = await stream_file(sent, total, session, Seen())
    assert heard.error.startswith("connection_lost")


async def test_a_source_that_fails_half_way_is_not_silent() -> None:
    def broken() -> Iterator[bytes]:
        yield packets("yes")[0][0]
        raise OSError("the disk is gone")

    async with server() as url:
        with pytest.raises(OSError, match="disk"):
            await stream_file(broken(), RATE, Session(url=url, audio=AUDIO), Seen())


async def test_the_last_words_of_a_recording_that_breaks_off_become_final() -> None:
    async def broken() -> AsyncIterator[bytes]:
        for packet in packets("open the door")[0][:-8]:  # no silence in which the turn would end
            yield packet
        raise BadAudioFile("x.flac: cannot be read on")

    heard = Heard()
    async with server() as url:
        session = Session(url=url, audio=AUDIO, latency="low")
        with pytest.raises(BadAudioFile, match="cannot be read on"):
            await stream_live(broken(), session, Seen(), heard=heard, until=asyncio.Event())
    assert heard.text() == "open the door"
