"""A meeting of four people in the browser, with the embedded model: read by all, paid for once."""

import asyncio
from pathlib import Path

import pytest

from tests.clients.meeting import FORMATS, is_whole, meet
from tests.clients.rig import NoEnvironment

SAID = {"Ann": ["yes", "thank", "you"], "Ben": ["no"]}


@pytest.mark.slow
@pytest.mark.io
@pytest.mark.model
def test_readers_of_a_meeting_get_every_word_and_cost_the_engine_nothing(tmp_path: Path) -> None:
    try:
        held = asyncio.run(meet(tmp_path, viewers=20, seconds=12.0))
    except NoEnvironment as reason:
        pytest.skip(str(reason))
    assert held["words"] > 0
    assert held["read_by_all"]
    assert held["files_whole"]
    assert set(held["files"]) == set(FORMATS)
    assert held["same_words_as_native"] == held["participants"] == 4
    without, with_readers = held["engine"]["frames"]
    assert without == with_readers
    assert held["complaints"] == 0


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("txt", "Ann: yes\nBen: no\nAnn: thank you\n"),
        ("srt", "1\n00:00:01,000 --> 00:00:02,000\nAnn: yes thank\nyou\n\n2\n.. --> ..\nBen: no\n"),
        ("vtt", "WEBVTT\n\n.. --> ..\n<v Ann>yes thank you\n\n.. --> ..\n<v Ben>no\n"),
        ("md", "# M\n\nAnn, Ben. 0:02.\n\n**00:00:01 Ann**: yes thank you\n\n"
         "**00:00:02 Ben** *(while Ann spoke)*: no\n"),
    ],
)  # fmt: skip
def test_a_file_is_whole_when_every_word_and_every_name_is_in_it(form: str, text: str) -> None:
    assert is_whole(form, text, SAID)
    assert not is_whole(form, text.replace("thank", ""), SAID)
    assert not is_whole(form, text.replace("Ben", "Bob"), SAID)
