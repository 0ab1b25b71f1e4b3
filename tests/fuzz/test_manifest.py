"""Lines of manifests, whatever they hold: utterances, or one sentence that names the line."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asr.offline import ManifestError, Utterance, read_manifest, read_part

SAMPLES = Path(__file__).parents[2] / "samples"
FIELDS = ("audio_filepath", "text", "offset", "duration", "words")
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(SCALARS, lambda one: st.lists(one, max_size=3), max_leaves=6)
ROWS = st.dictionaries(st.sampled_from(FIELDS), VALUES) | VALUES


def read(content: bytes) -> list[Utterance] | None:
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        file.write(content)
        file.flush()
        try:
            return read_manifest(Path(file.name))
        except ManifestError as error:
            assert "\n" not in str(error)
            return None


@given(ROWS)
@example({"audio_filepath": "a", "text": None})
@example({"audio_filepath": "a", "text": "", "offset": float("inf")})
@example({"audio_filepath": "a", "text": "", "duration": float("nan")})
@example({"audio_filepath": "a", "text": "", "duration": 10**400})
@example({"audio_filepath": "a", "text": "", "words": [[10**400, 1]]})
@example({"audio_filepath": "a", "text": "", "words": [[float("nan"), 1]]})
def test_a_line_of_anything_is_an_utterance_or_refused(row: Any) -> None:
    for one in read(json.dumps(row).encode()) or ():
        assert isinstance(one.text, str)
        assert one.offset_s is None or 0 <= one.offset_s < float("inf")
        assert all(abs(start) < float("inf") for start in one.starts_s)


@given(st.binary(max_size=60))
def test_bytes_of_anything_are_refused(content: bytes) -> None:
    read(content)


@pytest.mark.parametrize(
    ("offset_s", "duration_s", "seconds"), [(0.5, 0.25, 0.25), (1.0, 99, 0.92)]
)
def test_a_part_of_a_file_is_read(offset_s: float, duration_s: float, seconds: float) -> None:
    part = read_part(SAMPLES / "02-timer.ogg", offset_s, duration_s)
    assert len(part) == pytest.approx(seconds * 16_000, abs=80)


def test_a_part_behind_the_end_is_said_to_be_so() -> None:
    with pytest.raises(ManifestError, match="it ends before 100 s"):
        read_part(SAMPLES / "02-timer.ogg", 100.0, 1.0)


@pytest.mark.parametrize("name", ["\ud800", "a\0b", ""])
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises(ManifestError, match="cannot read audio"):
        read_part(SAMPLES / name, None, 0.0)
