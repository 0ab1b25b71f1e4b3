"""Transcripts become words in the model's letters, or their clips stay away."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sentencepiece")
from asr.offline import ManifestError
from asr.training.config import DataConfig, Source
from asr.training.data import INDEX, PCM, prepare, spelled


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
    model = tmp_path / "model"
    model.mkdir()
    (model / "tokenizer.model").write_bytes(b"")
    prepare(
        DataConfig(sources=(Source(manifest=manifest),)),
        tmp_path / "run",
        vocabulary=8,
        start=model,
    )
    lines = (tmp_path / "run" / INDEX).read_text().splitlines()
    index = [json.loads(line) for line in lines]
    assert [(row["words"], row["length"]) for row in index] == [(["low"], 16_000), (["mid"], 8_000)]
    pcm = np.fromfile(tmp_path / "run" / PCM, np.int16)
    assert np.array_equal(pcm[:16_000], soundfile.read(tmp_path / "plain.wav", dtype="int16")[0])
    assert "1 of 4 clips cannot be decoded" in caplog.text
    assert "1 of 4 clips have text" in caplog.text


@pytest.mark.parametrize(
    "line", ["not json", "7", '{"text": "low"}', '{"text": "a", "shard": "no.tar", "member": "a"}']
)
def test_a_line_that_is_none_is_named(tmp_path: Path, line: str) -> None:
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text(line + "\n")
    config = DataConfig(sources=(Source(manifest=manifest),))
    with pytest.raises(ManifestError, match="line 1"):
        prepare(config, tmp_path / "run", vocabulary=8, start=tmp_path)
