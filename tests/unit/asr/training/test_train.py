import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from asr.training import batches, train
from asr.training.config import BadConfig, load
from asr.training.data import FRAME_S, TOKENIZER, Corpus, prepare
from asr.training.evaluate import DevResult, evaluate
from asr.training.export import read, save_folder, save_nemo
from asr.training.parallel import Group
from clients.__main__ import main

pytestmark = pytest.mark.model


def _ending_at(config: Path, steps: int) -> str:
    text = re.sub(r"steps = \d+", f"steps = {steps}", config.read_text(), count=1)
    config.write_text(text)
    return text


@pytest.fixture
def trained(tiny_config: Path, tmp_path: Path) -> Path:
    out = tmp_path / "run"
    assert train.run(tiny_config, out=out, resume=False) == 0
    return out


def trained_again(run: Path, out: Path) -> Path:
    """The prepared data of a run without its checkpoints."""
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("*.pt"))
    return out


def test_a_tiny_run_learns_tones_and_exports_what_an_engine_and_nemo_load(
    trained: Path, tmp_path: Path
) -> None:
    os.umask(umask := os.umask(0o022))
    rows = [json.loads(line) for line in (trained / train.LOG).read_text().splitlines()]
    assert rows[-1]["dev_wer"]["all"] < 40.0

    model = read(trained)
    assert model.hybrid
    save_folder(model, tmp_path / "export")
    stored = {p.name for p in (tmp_path / "export").iterdir()}
    assert stored == {"model.safetensors", "model_config.yaml", "tokenizer.model"}
    config = json.loads((tmp_path / "export" / "model_config.yaml").read_text())
    assert config["encoder"]["att_context_size"] == [[28, 6], [28, 0]]
    assert not any(name.startswith("sounds.") for name in model.weights)

    assert main(["models", "export", str(trained), str(tmp_path / "again")]) == 0
    for path in (tmp_path / "export").iterdir():
        assert path.stat().st_mode & 0o444 == 0o444 & ~umask, "a server of another user reads it"
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()

    save_nemo(model, tmp_path / "tiny.nemo")
    assert main(["models", "export", str(trained), str(tmp_path / "again.nemo")]) == 0
    assert main(["models", "inspect", str(tmp_path / "again.nemo")]) == 0
    with tarfile.open(tmp_path / "tiny.nemo") as tar:
        assert {"model_config.yaml", "model_weights.ckpt"} <= set(tar.getnames())


def test_clips_in_which_nobody_speaks_are_kept(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained / "index.jsonl").read_text().splitlines()]
    assert sum(not row["words"] for row in rows) == 2


def test_a_run_goes_on_from_its_checkpoint_and_does_not_overwrite_one_unasked(
    tiny_config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    _ending_at(tiny_config, 3)
    assert train.run(tiny_config, out=out, resume=False) == 0
    first = torch.load(out / train.LAST, weights_only=True)["progress"]
    assert train.run(tiny_config, out=out, resume=False) == 2
    _ending_at(tiny_config, 5)
    assert train.run(tiny_config, out=out, resume=True) == 0
    second = torch.load(out / train.LAST, weights_only=True)["progress"]
    assert (first["step"], second["step"]) == (3, 5)
    assert second["hours"] > first["hours"]


def test_a_run_ends_when_it_has_heard_its_hours(tiny_config: Path, tmp_path: Path) -> None:
    tiny_config.write_text(tiny_config.read_text() + "hours = 0.004\n")
    assert train.run(tiny_config, out=tmp_path / "run", resume=False) == 0
    state = torch.load(tmp_path / "run" / train.LAST, weights_only=True)["progress"]
    assert 0.004 <= state["hours"] < 0.008 and state["step"] < 150


def test_a_run_that_is_resumed_hears_the_rest_of_its_epoch(
    tiny_config: Path, tmp_path: Path
) -> None:
    config, out = load(tiny_config), tmp_path / "run"
    prepare(config.data, out, vocabulary=config.model.vocabulary)

    def starts(trainer: train.Trainer, steps: int) -> list[list[int]]:
        return [[clip.start for clip in trainer._next()] for _ in range(steps)]

    whole = train.Trainer(config, out)
    whole._next()
    epoch = len(whole._queue) + 1
    expected = starts(train.Trainer(config, out), 2 * epoch)
    for stop in (1, epoch - 1, epoch, epoch + 1):
        first = train.Trainer(config, out)
        heard = starts(first, stop)
        first._save()
        second = train.Trainer(config, out)
        assert heard + starts(second, 2 * epoch - stop) == expected
        (out / train.LAST).unlink()
    assert expected[:epoch] != expected[epoch:]


def begins_with_export(trained: Path, config: Path, old: str = "", new: str = "") -> None:
    """Export a run beside a config, which shall begin with it, and change a setting."""
    save_folder(read(trained), config.parent / "export")
    config.write_text(config.read_text().replace(old, new) + 'start = "export"\n')


def test_a_run_begins_with_an_exported_model(
    trained: Path, tiny_config: Path, tmp_path: Path
) -> None:
    begins_with_export(trained, tiny_config)
    begun = train.Trainer(load(tiny_config), trained_again(trained, tmp_path / "again"))
    kept = torch.load(trained / train.BEST, weights_only=True)
    assert torch.equal(begun.filters, kept["filters"])
    for name, value in kept["average"].items():
        if not name.startswith("sounds."):
            assert torch.equal(begun.model.state_dict()[name], value.to(torch.bfloat16).float())


def test_a_model_of_other_sizes_is_no_start(
    trained: Path, tiny_config: Path, tmp_path: Path
) -> None:
    begins_with_export(trained, tiny_config, "width = 32", "width = 48")
    with pytest.raises(BadConfig, match="export holds a network of other sizes"):
        train.Trainer(load(tiny_config), trained_again(trained, tmp_path / "again"))


def test_a_run_that_begins_with_a_model_writes_the_pieces_of_that_model(
    trained: Path, tiny_config: Path, tmp_path: Path
) -> None:
    begins_with_export(trained, tiny_config, "vocabulary = 12", "vocabulary = 10")
    config = load(tiny_config)
    prepare(config.data, tmp_path / "run", vocabulary=10, start=config.run.start)
    kept = (tmp_path / "export" / TOKENIZER).read_bytes()
    assert (tmp_path / "run" / TOKENIZER).read_bytes() == kept


def test_a_run_of_two_processes_writes_one_checkpoint(tiny_config: Path, tmp_path: Path) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    text = _ending_at(tiny_config, 2)
    tiny_config.write_text(text.replace("threads = 1", "threads = 1\nprocesses = 2"))
    assert train.run(tiny_config, out=tmp_path / "run", resume=False) == 0
    state = torch.load(tmp_path / "run" / train.LAST, weights_only=True)
    assert state["progress"]["step"] == 2


@dataclass(frozen=True)
class Witness(Group):
    """The leader of a run, and what the other processes know of its time."""

    known: list[float] = field(default_factory=lambda: [0.0])

    def told(self, value: float) -> float:
        self.known.append(value)
        return value


def test_processes_agree_on_rate_and_end_after_an_evaluation(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tiny_config.read_text().replace("minutes = 10\nsteps", "minutes = 0.5\nsteps", 1)
    tiny_config.write_text(text.replace("evaluate_minutes = 10", "evaluate_minutes = 0.1"))
    config, out, clock = load(tiny_config), tmp_path / "run", [0.0]
    prepare(config.data, out, vocabulary=config.model.vocabulary)
    trainer, steps = train.Trainer(config, out, witness := Witness()), list[float]()

    def step() -> None:
        steps.append(trainer.progress.spent_s)
        assert trainer.progress.spent_s == witness.known[-1]
        trainer.progress.step += 1
        clock[0] += 3.0

    def evaluate(*_: object) -> DevResult:
        clock[0] += 9.0
        return DevResult({"all": 50.0}, 0.0)

    monkeypatch.setattr("asr.training.train.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(train, "evaluate", evaluate)
    monkeypatch.setattr(trainer, "_step", step)
    trainer.fit()
    assert steps == [0.0, 3.0, 15.0, 27.0]
    assert witness.known[-1] == 39.0, "the others end when the first one does"


@pytest.mark.parametrize("speed", [0.5, 1.0, 1.25])
def test_frame_targets_lie_where_the_words_of_a_clip_at_its_speed_are(
    tiny_config: Path, tmp_path: Path, speed: float
) -> None:
    config, out = load(tiny_config), tmp_path / "run"
    prepare(config.data, out, vocabulary=config.model.vocabulary)
    corpus = Corpus(config.data, out)
    clip = next(c for c in corpus.train if c.times)
    assert clip.times is not None
    steps, late = 80, batches.LATE_S[False]
    pieces, sounds = batches.frame_targets(corpus, [clip], [speed], steps, 0)
    for targets, step_s, blank in (
        (pieces[0], FRAME_S, len(corpus.pieces)),
        (sounds[0], FRAME_S / 4, len(corpus.sounds.inventory)),
    ):
        for frame, target in enumerate(targets.tolist()):
            at = (frame * step_s - late) * speed
            inside = [a <= at <= b for a, b in clip.times]
            if all(abs(at - edge) > step_s for word in clip.times for edge in word):
                assert any(inside) == (target != blank), frame


def test_a_run_that_is_asked_to_stop_saves_first(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out, group = load(tiny_config), tmp_path / "run", Group()
    prepare(config.data, out, vocabulary=config.model.vocabulary)
    trainer = train.Trainer(config, out, group)
    step = trainer._step

    def stepped() -> None:
        step()
        if trainer.progress.step == 2:
            group.asked.set()

    monkeypatch.setattr(trainer, "_step", stepped)
    trainer.fit()
    assert torch.load(out / train.LAST, weights_only=True)["progress"]["step"] == 2
    assert not (out / train.BEST).exists(), "it is judged at its end"


def test_a_signal_stops_every_process_and_what_was_learned_is_kept(
    tiny_config: Path, tmp_path: Path
) -> None:
    """SIGTERM ended a run between two saves with all that it had learned since."""
    text = _ending_at(tiny_config, 100_000).replace("minutes = 10", "minutes = 100", 1)
    for processes, number in ((1, signal.SIGINT), (2, signal.SIGTERM)):
        out = tmp_path / f"run{processes}"
        tiny_config.write_text(text.replace("threads = 1", f"threads = 1\nprocesses = {processes}"))
        with subprocess.Popen(
            [sys.executable, "-m", "clients", "train", str(tiny_config), "--out", str(out)],
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        ) as run:  # fmt: skip
            assert run.stderr is not None
            for line in run.stderr:
                if " step 25 " in line:
                    break
            run.send_signal(number)
            said = run.stderr.read()
        assert run.returncode == 130
        assert "saved at step" in said
        assert "Traceback" not in said
        assert torch.load(out / train.LAST, weights_only=True)["progress"]["step"] >= 25


def test_a_full_disk_ends_no_run_and_leaves_the_checkpoint_before(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = _ending_at(tiny_config, 6)
    tiny_config.write_text(text.replace("save_minutes = 10", "save_minutes = 0"))
    config, out, full = load(tiny_config), tmp_path / "run", list[int]()
    prepare(config.data, out, vocabulary=config.model.vocabulary)
    trainer, write = train.Trainer(config, out), Path.write_bytes

    def write_some(path: Path, content: bytes) -> int:
        if 2 <= trainer.progress.step <= 4:
            state = torch.load(out / train.LAST, weights_only=True)
            full.append(state["progress"]["step"])
            write(path, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_some)
    trainer.fit()
    assert full == [1, 1, 1]
    assert torch.load(out / train.LAST, weights_only=True)["progress"]["step"] == 6
    assert not list(out.glob("*.tmp"))


def test_a_run_goes_on_with_its_own_network_only(tiny_config: Path, tmp_path: Path) -> None:
    out, text = tmp_path / "run", _ending_at(tiny_config, 1)
    assert train.run(tiny_config, out=out, resume=False) == 0
    for line, other, said in (
        ("layers = 2", "layers = 3", "has layers = 2"),
        ("vocabulary = 12", "vocabulary = 14", "tokenizer.model has 12 pieces"),
    ):
        tiny_config.write_text(text.replace(line, other))
        with pytest.raises(BadConfig, match=said):
            train.Trainer(load(tiny_config), out)
    tiny_config.write_text(text)
    lexicon = tmp_path / "lexicon.tsv"
    lexicon.write_text("low\tL\n")
    tiny_config.write_text(text.replace("[data]", '[data]\nlexicon = "lexicon.tsv"'))
    with pytest.raises(BadConfig, match="has other heads"):
        train.Trainer(load(tiny_config), out)
    tiny_config.write_text(text)
    (out / train.LAST).write_bytes((out / train.LAST).read_bytes()[:5_000])
    with pytest.raises(BadConfig, match="no whole checkpoint"):
        train.Trainer(load(tiny_config), out)


def test_the_best_weights_are_those_with_the_fewest_errors_on_the_same_clips(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All clips were harder than each n-th: the end of a run that had got better was not kept."""
    tiny_config.write_text(_ending_at(tiny_config, 2).replace("dev_every = 1", "dev_every = 2"))
    config, out = load(tiny_config), tmp_path / "run"
    prepare(config.data, out, vocabulary=config.model.vocabulary)
    trainer = train.Trainer(config, out)

    def evaluated(*given: Any) -> DevResult:
        return DevResult({"all": 90.0 if given[-1] == 1 else 50.0 - trainer.progress.step}, 0.0)

    monkeypatch.setattr(train, "evaluate", evaluated)
    trainer._evaluate(every=2)
    trainer.fit()
    assert torch.load(out / train.BEST, weights_only=True)["progress"]["step"] == 2
    rows = [json.loads(line) for line in (out / train.LOG).read_text().splitlines()]
    assert rows[-1]["dev_every"] == 1


def test_a_model_is_judged_where_it_is(tiny_config: Path, tmp_path: Path) -> None:
    """A model on a GPU was given the clips of the processor."""
    config, out = load(tiny_config), tmp_path / "run"
    prepare(config.data, out, vocabulary=config.model.vocabulary)
    trainer, seen = train.Trainer(config, out), list[str]()
    model = trainer.model.to("meta")

    def encoder(*given: Any) -> None:
        seen.extend(part.device.type for part in given[:2])
        raise StopIteration

    model.encoder.forward = encoder  # type: ignore[method-assign, assignment]
    with pytest.raises(StopIteration):
        evaluate(model, trainer.corpus, trainer.filters, 0)
    assert seen == ["meta", "meta"]


def test_a_device_that_is_not_there_is_told(tiny_config: Path, tmp_path: Path) -> None:
    tiny_config.write_text(tiny_config.read_text() + 'device = "abacus"\n')
    config, out = load(tiny_config), tmp_path / "run"
    prepare(config.data, out, vocabulary=config.model.vocabulary)
    with pytest.raises(BadConfig, match="device = 'abacus' is not here"):
        train.Trainer(config, out)


def test_noise_differs_between_processes_and_sittings(tiny_config: Path, tmp_path: Path) -> None:
    config, out = load(tiny_config), tmp_path / "run"
    prepare(config.data, out, vocabulary=config.model.vocabulary)
    weights, noise = list[torch.Tensor](), list[float]()

    def begin(rank: int = 0) -> train.Trainer:
        trainer = train.Trainer(config, out, Group(rank=rank))
        weights.append(trainer.model.joint.enc.weight.detach())
        noise.append(float(torch.randn(())))
        return trainer

    trainer = begin()
    begin(rank=1)
    trainer._step()
    trainer._save()
    begin()
    assert torch.equal(weights[0], weights[1])
    assert len(set(noise)) == 3


def test_two_views_of_each_clip_come_to_agree(tiny_config: Path, tmp_path: Path) -> None:
    text = _ending_at(tiny_config, 30).replace("from_hours = 0.25", "from_hours = 0\nwarp = 0.1")
    text = text.replace("from_hours = 0\n", "from_hours = 0\nrooms = 1.0\n")
    tiny_config.write_text(text.replace("[loss]", "[loss]\nagree = 0.2"))
    out = tmp_path / "run"
    assert train.run(tiny_config, out=out, resume=False) == 0
    apart = [
        row["losses"]["agree"]
        for row in map(json.loads, (out / train.LOG).read_text().splitlines())
        if "losses" in row
    ]
    assert apart
    assert all(0.0 < value < 5.0 for value in apart)


def test_a_process_whose_starter_is_gone_stops_and_writes_nothing(
    tiny_config: Path, tmp_path: Path
) -> None:
    config, out = load(tiny_config), tmp_path / "run"
    prepare(config.data, out, vocabulary=config.model.vocabulary)
    train.Trainer(config, out, Group(parent=-1)).fit()
    assert not (out / train.LAST).exists()


def test_a_setting_that_does_not_exist_is_named(tiny_config: Path) -> None:
    tiny_config.write_text(tiny_config.read_text() + "speed_of_light = 1\n")
    with pytest.raises(BadConfig, match="speed_of_light"):
        load(tiny_config)
