"""Wires whose clients append what they are told: never a word that is taken back, none left out."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.wire import messages as native
from server.wire.adapter import Frame
from server.wire.kyutai import KyutaiServer
from server.wire.nvidia_realtime import NvidiaServer
from server.wire.openai_files import TranscriptionFile
from server.wire.openai_realtime import RealtimeServer
from server.wire.rest import Recording
from server.wire.wyoming import Event, Reader, WyomingServer, encode
from tests.unit.server.wire.foreign import Table, final, hello, partial, ready, turn

PCM = b"\1\0" * 40
APPEND = {"type": "input_audio_buffer.append", "audio": base64.b64encode(PCM).decode()}
SHAPE = {"rate": 16_000, "width": 2, "channels": 1}
RECORDING = Recording(
    native.AudioFormat(encoding="pcm_s16le", rate=16_000), PCM, {"stream": ("true",)}
)


@dataclass(frozen=True)
class Wire:
    """How a client of the wire begins, and what it makes of a frame."""

    begin: Callable[[], Table]
    added: Callable[[Frame], str]


def realtime() -> Table:
    played = Table(RealtimeServer(hello()))
    played.hear(APPEND)
    return played


def nvidia() -> Table:
    played = Table(NvidiaServer(hello()))
    played.hear(APPEND)
    return played


def wyoming() -> Table:
    played = Table(WyomingServer(hello()))
    played.hear(encode(Event("audio-start", SHAPE)))
    return played


def kyutai() -> Table:
    played = Table(KyutaiServer(hello()))
    played.hear(msgspec.msgpack.encode({"type": "Audio", "pcm": [0.5]}))
    return played


def file() -> Table:
    return Table(TranscriptionFile(hello(), RECORDING))


def delta(frame: Frame) -> str:
    message = json.loads(frame)
    return " " + message["delta"] if message["type"].endswith(".delta") else ""


def chunk(frame: Frame) -> str:
    assert isinstance(frame, bytes)
    events = Reader().push(frame)
    return "".join(" " + e.data["text"] for e in events if e.type == "transcript-chunk")


def word(frame: Frame) -> str:
    assert isinstance(frame, bytes)
    message = msgspec.msgpack.decode(frame)
    return " " + message["text"] if message["type"] == "Word" else ""


def event(frame: Frame) -> str:
    text = frame.decode() if isinstance(frame, bytes) else frame
    if "data: {" not in text:
        return ""
    message = json.loads(text.partition("data: ")[2].partition("\r\n\r\n")[0].partition("\n\n")[0])
    return " " + message["delta"] if message["type"].endswith(".delta") else ""


WIRES = {
    "openai realtime": Wire(realtime, delta),
    "nvidia realtime": Wire(nvidia, delta),
    "wyoming": Wire(wyoming, chunk),
    "kyutai": Wire(kyutai, word),
    "openai file": Wire(file, event),
}
words = st.lists(st.sampled_from(["a", "bc", "def"]), min_size=1, max_size=5)


@pytest.mark.parametrize("name", WIRES)
@given(segments=st.lists(words, min_size=1, max_size=3), data=st.data())
@settings(deadline=None, max_examples=50)
def test_what_was_told_is_what_was_said(
    name: str, segments: list[list[str]], data: st.DataObject
) -> None:
    wire = WIRES[name]
    played, told = wire.begin(), ""
    played.tell(ready())
    for number, segment in enumerate(segments):
        played.tell(turn("start", number=number))
        for count in range(data.draw(st.integers(0, len(segment))) + 1):
            tail = " ".join(data.draw(st.lists(st.sampled_from(["x", "y"]), max_size=2)))
            told = _tell(played, wire, told, partial(" ".join(segment[:count]), tail, id=number))
            assert not {"x", "y"} & set(told.split())
        spelled = segment[:]
        if data.draw(st.booleans()):
            spelled[0] = spelled[0].title()
        told = _tell(played, wire, told, final(" ".join(spelled), id=number))
        said = [w for each in segments[: number + 1] for w in each]
        assert [w.lower() for w in told.split()] == said
        played.tell(turn("end", number=number))


def _tell(played: Table, wire: Wire, told: str, message: native.ServerMessage) -> str:
    before = len(played.frames)
    played.tell(message)
    return told + "".join(map(wire.added, played.frames[before:]))
