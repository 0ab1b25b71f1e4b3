"""Transcripts become words in the model's letters, or their clips stay away."""

import json
import random
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sentencepiece")
from asr.offline import ManifestError
from asr.training.config import BadConfig, DataConfig, Source
from asr.training.data import INDEX, PCM, TOKENIZER, Corpus, EpochPlan, prepare, spelled


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("HE WASN'T THERE", "he wasn't there"),
        ("It’s a well-known café", "it's a well known cafe"),
        ("“Yes”—she said…no", "yes she said no"),
        ("one\ttwo\u00a0three,four", "one two three four"),
        ("rock 'n' roll - ' -", "rock 'n' roll"),
        ("  ", ""),
    ],
)
def test_a_transcript_is_spelled_in_the_models_letters(text: str, words: str) -> None:
    assert spelled(text) == words.split()


@pytest.mark.parametrize("text", ["i have 3 cats", "½ a cup", "5 % off", "привет", "große", "..."])
def test_a_transcript_that_can_be_read_in_many_ways_is_none(text: str) -> None:
    assert spelled(text) is None


def test_a_clip_is_taken_at_any_rate_and_what_cannot_be_used_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soundfile = pytest.importorskip("soundfile")
    tone = np.sin(np.arange(16_000) / 10.0) * 0.3
    soundfile.write(tmp_path / "plain.wav", tone, 16_000, subtype="PCM_16")
    soundfile.write(tmp_path / "fast.wav", np.stack([tone, tone], 1), 32_000, subtype="PCM_16")
    (tmp_path / "broken.ogg").write_bytes(b"OggS and nothing else")
    texts = {"plain.wav": "low", "fast.wav": "mid", "broken.ogg": "high", "none.wav": "7 %"}
    manifest = tmp_path / "clips.jsonl"
    rows = ({"audio_filepath": name, "text": text} for name, text in texts.items())
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _prepared(manifest, tmp_path)
    lines = (tmp_path / "run" / INDEX).read_text().splitlines()
    index = [json.loads(line) for line in lines]
    assert [(row["words"], row["length"]) for row in index] == [(["low"], 16_000), (["mid"], 8_000)]
    pcm = np.fromfile(tmp_path / "run" / PCM, np.int16)
    assert np.array_equal(pcm[:16_000], soundfile.read(tmp_path / "plain.wav", dtype="int16")[0])
    assert "1 of 4 clips cannot be read as audio: left out, the first is line 3" in caplog.text
    assert "1 of 4 clips have text" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "7",
        '{"text": "low"}',
        '{"text": 7, "audio_filepath": "a.wav"}',
        '{"text": "a", "audio_filepath": "a.wav", "offset": "soon"}',
        '{"text": "a", "shard": "no.tar", "member": "a"}',
        '{"text": "a", "shard": "some.tar", "member": "folder"}',
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, line: str) -> None:
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text(line + "\n")
    with pytest.raises(ManifestError, match="line 1"):
        _prepared(manifest, tmp_path)


def _prepared(manifest: Path, folder: Path) -> list[dict[str, Any]]:
    """The index of a run that begins with a model, so that nothing is counted for pieces."""
    for name in ("tokenizer.model", "model.safetensors"):
        (folder / name).write_bytes(b"")
    config = DataConfig(sources=(Source(manifest=manifest),))
    prepare(config, folder / "run", vocabulary=8, start=folder)
    lines = (folder / "run" / INDEX).read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def long_file(tmp_path: Path) -> Path:
    """Two seconds, each with samples of its own."""
    soundfile = pytest.importorskip("soundfile")
    samples = np.repeat([0.25, -0.5], 16_000)
    soundfile.write(tmp_path / "long.wav", samples, 16_000, subtype="PCM_16")
    return tmp_path


def test_a_line_with_an_offset_is_that_part_of_its_file(long_file: Path) -> None:
    """Each clip of a recording had the whole recording as its audio."""
    rows = [
        {"audio_filepath": "long.wav", "text": "a", "offset": 1.0, "duration": 0.5},
        {"audio_filepath": "long.wav", "text": "b", "offset": 0.5, "duration": None},
        {"audio_filepath": "long.wav", "text": "c", "offset": None, "duration": 0.1},
        {"audio_filepath": "long.wav", "text": "d", "offset": 9.0, "duration": 1.0},
    ]
    manifest = long_file / "clips.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    index = _prepared(manifest, long_file)
    assert [row["length"] for row in index] == [8_000, 24_000, 32_000]
    pcm = np.fromfile(long_file / "run" / PCM, np.int16)
    assert set(pcm[:8_000]) == {-16_384}


def test_a_manifest_from_any_editor_is_read(long_file: Path) -> None:
    line = json.dumps({"audio_filepath": "long.wav", "text": "one\u2028two"}, ensure_ascii=False)
    manifest = long_file / "clips.jsonl"
    manifest.write_bytes(f"\ufeff{line}\r\n\r\n{line}".encode())
    assert [row["words"] for row in _prepared(manifest, long_file)] == [["one", "two"]] * 2


def test_what_is_missing_is_said_before_anything_is_decoded(long_file: Path) -> None:
    manifest = long_file / "clips.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": "long.wav", "text": "a"}) + "\n")
    sources = (Source(manifest=manifest),)
    for config, start in (
        (DataConfig(sources=(*sources, Source(manifest=long_file / "no.jsonl"))), None),
        (DataConfig(sources=sources, lexicon=long_file / "no.tsv"), None),
        (DataConfig(sources=sources, texts=(long_file / "no.txt",)), None),
        (DataConfig(sources=sources), long_file / "nowhere"),
    ):
        with pytest.raises(BadConfig, match="is not there"):
            prepare(config, long_file / "run", vocabulary=8, start=start)
        assert not (long_file / "run").exists()


def test_a_wrong_vocabulary_is_told_and_costs_no_second_decoding(long_file: Path) -> None:
    manifest, out = long_file / "clips.jsonl", long_file / "run"
    manifest.write_text(json.dumps({"audio_filepath": "long.wav", "text": "abc cab bac"}) + "\n")
    texts = long_file / "more.txt"
    texts.write_text("plain text abc\n")
    config = DataConfig(sources=(Source(manifest=manifest),), texts=(texts,))
    for size in (3, 9_000):
        with pytest.raises(BadConfig, match=f"vocabulary = {size} does not fit"):
            prepare(config, out, vocabulary=size)
    (long_file / "long.wav").unlink()
    prepare(config, out, vocabulary=16)
    assert {path.name for path in out.iterdir()} == {INDEX, PCM, TOKENIZER}


def test_a_config_that_names_other_data_than_was_prepared_is_told(
    long_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = long_file / "clips.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": "long.wav", "text": "a"}) + "\n")
    _prepared(manifest, long_file)
    assert not caplog.text
    other = DataConfig(sources=(Source(manifest=manifest, weight=0.5),))
    prepare(other, long_file / "run", vocabulary=8)
    assert "clips (train, weight 0.5) is only in the config" in caplog.text
    assert "clips (train, weight 1) is only in what was prepared" in caplog.text


def test_an_epoch_has_clips_where_none_has_word_times_or_is_short(long_file: Path) -> None:
    """The defaults ended a run of such clips with a traceback at its first step."""
    manifest = long_file / "clips.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": "long.wav", "text": "abc cab"}) + "\n")
    sources = Source(manifest=manifest, weight=1e-9), Source(manifest=manifest, split="dev")
    config = DataConfig(sources=sources)
    prepare(config, long_file / "run", vocabulary=6)
    corpus = Corpus(config, long_file / "run")
    for plan in (EpochPlan(20.0, True), EpochPlan(1.5, False), EpochPlan(20.0, False)):
        assert [len(batch) for batch in corpus.epoch(plan, random.Random(1))] == [1]


def test_a_run_without_a_clip_that_fits_is_told_why(long_file: Path) -> None:
    manifest = long_file / "clips.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": "long.wav", "text": "abc cab"}) + "\n")
    dev = Source(manifest=manifest, split="dev")
    sources = Source(manifest=manifest), dev
    config = DataConfig(sources=sources, longest_s=1.5)
    prepare(config, long_file / "run", vocabulary=6)
    with pytest.raises(BadConfig, match="no clip to train on; 1 are shorter"):
        Corpus(config, long_file / "run")
