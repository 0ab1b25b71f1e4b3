"""Texts for a language model: read by name, whatever the locale."""

import gzip
from pathlib import Path

import pytest

from asr.decoder.counting import TextError, encode_lines, read_lines
from asr.tokenizer import Tokenizer


def test_lines_come_of_plain_and_packed_text(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.txt", tmp_path / "b.txt.gz"
    plain.write_bytes("größer\n\n  als\n".encode())
    packed.write_bytes(gzip.compress(b"both"))
    assert list(read_lines([plain, packed])) == ["größer", "als", "both"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.gz", gzip.compress(b"one sentence " * 40)[:30]),
        ("torn.gz", gzip.compress(b"one sentence " * 40)[:12] + b"\xff" * 20),
        ("text.gz", b"not packed at all"),
        ("latin.txt", "größer".encode("latin-1")),
    ],
)
def test_a_text_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TextError, match=name):
        list(read_lines([path]))


def test_a_checkpoint_that_cannot_spell_says_what_to_take() -> None:
    with pytest.raises(TextError, match=r"\.nemo"):
        encode_lines(["ab"], Tokenizer(pieces=("▁ab",)))
