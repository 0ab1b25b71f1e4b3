"""A wrong line of a run's file is named in a sentence, before anything is decoded."""

from pathlib import Path

import pytest

from asr.training.config import BadConfig, load

CONFIG = """\
[data]
texts = []
[[data.sources]]
manifest = "clips.jsonl"
[[data.sources]]
manifest = "dev.jsonl"
split = "dev"
[model]
width = 32
heads = 2
[run]
minutes = 1
"""


@pytest.mark.parametrize(
    ("line", "wrong", "said"),
    [
        ("minutes = 1", 'minutes = "1"', "minutes = '1' is no float"),
        ("minutes = 1", "minutes = 0", "minutes must be more than 0"),
        ("minutes = 1", "minutes = 1\nprocesses = 1.5", "processes = 1.5 is no int"),
        ("minutes = 1", "minutes = 1\nsteps = true", "steps = True is no int"),
        ("heads = 2", "heads = 3", "no multiple of heads"),
        ("heads = 2", "heads = 2\nlook_aheads = []", "look_aheads names at least one"),
        ("heads = 2", 'heads = 2\nlook_aheads = ["6"]', "look_aheads"),
        ('split = "dev"', 'split = "validation"', "one of train, synthetic, dev"),
        ('split = "dev"', "", "one source must be dev"),
        ('manifest = "clips.jsonl"', "weight = 1.0", "a source has no manifest"),
        ("texts = []", 'texts = "a.txt"', "list of files"),
        ("[data]", "minutes = 3\n[data]", "minutes stands in no section"),
        ("[run]", "[runs]", "unknown sections: runs"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, wrong: str, said: str) -> None:
    assert CONFIG.count(line) == 1
    (tmp_path / "run.toml").write_text(CONFIG.replace(line, wrong))
    with pytest.raises(BadConfig, match=said):
        load(tmp_path / "run.toml")


def test_a_right_one_is_read(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(CONFIG)
    config = load(tmp_path / "run.toml")
    assert [s.manifest.name for s in config.data.sources] == ["clips.jsonl", "dev.jsonl"]
    assert config.run.minutes == 1
