"""Kyutai's wire: words that are never taken back, steps, markers."""

import struct
from typing import Any

import msgspec
import pytest

from server.wire import messages as native
from server.wire.kyutai import STEP, KyutaiServer
from tests.unit.server.wire.foreign import (
    DONE,
    Table,
    fatal,
    final,
    hello,
    partial,
    ready,
    turn,
)

SOUND = {"type": "Audio", "pcm": [0.5, -0.25]}
SILENCE = {"type": "Audio", "pcm": [0.0] * STEP}


def pack(message: dict[str, Any]) -> bytes:
    return msgspec.msgpack.encode(message)


def table(*messages: dict[str, Any]) -> Table:
    played = Table(KyutaiServer(hello()))
    played.hear(*map(pack, messages))
    return played


def said(played: Table, *kinds: str) -> list[dict[str, Any]]:
    found = [msgspec.msgpack.decode(f) for f in played.frames if isinstance(f, bytes)]
    return [message for message in found if not kinds or message["type"] in kinds]


def test_it_greets_and_hands_floats_on_as_they_are() -> None:
    played = table(SOUND)
    assert said(played) == [{"type": "Ready"}]
    assert played.start.audio == native.AudioFormat(encoding="pcm_f32le", rate=24_000)
    assert played.start.partials == "stable"
    assert played.audio == struct.pack("<2f", 0.5, -0.25)


def test_only_words_that_will_not_change_are_said_and_each_once() -> None:
    played = table(SOUND)
    played.tell(ready(), partial("", "turn"), partial("turn", "of", rev=2))
    assert [m["text"] for m in said(played, "Word")] == ["turn"]
    played.tell(partial("turn on", "the", rev=3), final("Turn on the light"), final("yes", id=1))
    assert [m["text"] for m in said(played, "Word")] == ["turn", "on", "the", "light", "yes"]
    assert [m["type"] for m in said(played)][1:3] == ["Word", "EndWord"]


def test_words_of_a_final_have_the_times_of_the_model() -> None:
    played = table(SOUND)
    played.tell(ready(), final("yes sir", at_ms=400))
    assert [m["start_time"] for m in said(played, "Word")] == [0.4, 0.5]
    assert [m["stop_time"] for m in said(played, "EndWord")] == [0.48, 0.58]


def test_words_never_overlap_whatever_their_guessed_times_were() -> None:
    played = table(SOUND)
    played.tell(ready(), partial("turn on", "the"), final("turn on the light"))
    starts = [m["start_time"] for m in said(played, "Word")]
    stops = [m["stop_time"] for m in said(played, "EndWord")]
    assert starts[:2] == [0.0, 0.133]  # two of three words in 400 ms
    times = [time for pair in zip(starts, stops, strict=True) for time in pair]
    assert times == sorted(times)


def test_each_decoded_step_is_said_once_with_whether_somebody_speaks() -> None:
    played = table(SOUND)
    played.tell(ready(), native.Ack(at=3 * STEP, done=STEP, durable=0), turn("start"))
    played.tell(native.Ack(at=3 * STEP, done=3 * STEP - 1, durable=0), turn("eager_end"))
    played.tell(native.Ack(at=3 * STEP, done=3 * STEP, durable=0))
    steps = said(played, "Step")
    assert [step["step_idx"] for step in steps] == [0, 1, 2]
    assert [step["prs"] for step in steps] == [[1.0] * 4, [0.0] * 4, [1.0] * 4]
    assert [step["buffered_pcm"] for step in steps] == [2 * STEP, STEP, 0]


def test_a_marker_is_answered_when_all_before_it_is_said() -> None:
    played = table(SOUND, {"type": "Marker", "id": 7}, {"type": "Marker", "id": 8})
    assert said(played, "Marker") == []
    played.tell(ready(), final("yes", cause="finalize"), native.Finalized(at=2))
    assert said(played, "Word", "Marker")[-1] == {"type": "Marker", "id": 7}
    played.tell(native.Finalized(at=2))
    assert [m["id"] for m in said(played, "Marker")] == [7, 8]


def test_a_marker_before_any_audio_is_answered_at_once() -> None:
    assert said(table({"type": "Marker", "id": 1}), "Marker") == [{"type": "Marker", "id": 1}]


def test_one_marker_too_many_is_an_error_and_the_rest_are_answered() -> None:
    played = table(SOUND, {"type": "Marker", "id": 7}, {"type": "Marker", "id": 8})
    played.tell(ready(), native.Error(code="rate_limited", message="because", fatal=False))
    played.tell(native.Finalized(at=2), native.Finalized(at=2))
    assert [m["id"] for m in said(played, "Marker")] == [7]
    assert len(said(played, "Error")) == 1
    assert played.adapter.ending is None


def test_silence_behind_a_marker_is_counted_and_not_heard() -> None:
    played = table(SOUND, {"type": "Marker", "id": 7}, *[SILENCE] * 35)
    assert played.audio == struct.pack("<2f", 0.5, -0.25)
    played.hear(pack(SOUND), pack(SILENCE))
    assert played.kinds() == ["start", "audio", "finalize", "gap", "audio"]
    gap = next(request for request in played.asked if isinstance(request, native.ClientGap))
    assert gap.samples == 35 * STEP
    assert len(played.audio) == 4 * (2 + 2 + STEP)


def test_a_microphone_that_is_muted_behind_a_marker_is_not_idle() -> None:
    played = table(SOUND, {"type": "Marker", "id": 7}, *[SILENCE] * 300)
    assert played.kinds() == ["start", "audio", "finalize"]
    played.tell(ready(), native.Finalized(at=2))
    played.hear(*[pack(SILENCE)] * 126)
    gaps = [request for request in played.asked if isinstance(request, native.ClientGap)]
    assert [gap.samples for gap in gaps] == [301 * STEP, 125 * STEP]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        pack({"type": "Audio", "pcm": "loud"}),
        pack({"type": "Audio", "pcm": [1e300]}),
        pack({"type": "OggOpus", "data": b"OggS"}),
        pack({"type": "Dance"}),
    ],
)
def test_what_cannot_be_taken_is_an_error_and_the_end(data: bytes) -> None:
    played = table()
    played.hear(data)
    assert len(said(played, "Error")) == 1
    assert played.adapter.ending is not None


def test_a_full_server_says_so() -> None:
    played = table(SOUND)
    played.tell(fatal("over_capacity"))
    assert said(played, "Error") == [{"type": "Error", "message": "because"}]
    assert played.adapter.ending == (1013, "because")


def test_a_client_that_hangs_up_ends_its_session() -> None:
    played = table(SOUND, {"type": "Init"}, {"type": "Ping"})
    played.hear("text is skipped")
    played.hang_up()
    played.tell(ready(), DONE)
    assert played.kinds()[-1] == "stop"
    assert played.adapter.ending == (1000, "")
