"""Books become sentences; those that held-out speech was read from do not."""

import json
from pathlib import Path

from asr.training.texts import body, held_out, is_english, sentences, usable

BOOK = """Title
*** START OF THE PROJECT GUTENBERG EBOOK ***
CHAPTER I.

“Well, Mr. Brown—the café's master—didn’t come,” said she; he was
the one that had to wait for it in the rain. It cost 5 shillings. [Note: a pun]

End of the Project Gutenberg EBook
licence and so on
"""
READ = "the one that had to wait for it in the rain"


def manifest(folder: Path, text: str) -> list[Path]:
    path = folder / "manifest.jsonl"
    path.write_text(json.dumps({"text": text}) + "\n")
    return [path]


def test_sentences_are_spelled_as_transcripts_are() -> None:
    assert list(sentences(body(BOOK))) == [
        "well mister brown",
        "the cafe's master",
        "didn't come said she",
        "he was the one that had to wait for it in the rain",
    ]


def test_a_book_that_held_out_speech_was_read_from_is_left_out_as_a_whole(tmp_path: Path) -> None:
    assert usable(BOOK, set())
    assert usable(BOOK, held_out(manifest(tmp_path, READ))) == []


def test_a_sentence_shared_by_chance_is_left_out_alone(tmp_path: Path) -> None:
    held = held_out(manifest(tmp_path, "didn't come said she"))
    assert usable(BOOK, held) == [
        "well mister brown",
        "the cafe's master",
        "he was the one that had to wait for it in the rain",
    ]


def test_held_out_speech_is_found_however_its_transcript_is_spelled(tmp_path: Path) -> None:
    held = held_out(manifest(tmp_path, "‘Didn’t come,’ said she"))
    held |= held_out(manifest(tmp_path, "The café's master—Mr. Brown"))
    assert "didn't come said she" not in usable(BOOK, held)
    assert ("the", "cafe's", "master", "mister", "brown") in held


def test_other_languages_are_left_out() -> None:
    assert is_english(["he was the one that had to wait for it"])
    assert not is_english(["er war derjenige der im regen darauf warten musste"])
