"""Hostile and damaged checkpoints are refused in one sentence; nothing runs, nothing is written."""

import gzip
import io
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr.checkpoint import CheckpointError, UnreadableCheckpoint, load_checkpoint
from asr.checkpoint.config import Config
from asr.checkpoint.pieces import pieces_from_tokenizer_json

Members = list[tuple[str, bytes]]
REASONS = [HealthCheck.function_scoped_fixture]


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self._target), "w")


def write_tar(path: Path, members: Members) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.fixture
def whole() -> Members:
    """A .nemo whose parts are right in form."""
    config = b"target: x.EncDecRNNTBPEModel\ntokenizer: {type: bpe, model_path: 'nemo:t.model'}\n"
    weights = saved({"joint.joint_net.2.weight": torch.zeros(5, 4)})
    return [("./model_config.yaml", config), ("./model_weights.ckpt", weights), ("t.model", b"x")]


def refused(path: Path) -> str:
    before = sorted(path.parent.iterdir())
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert sorted(path.parent.iterdir()) == before
    message = str(caught.value)
    assert message and "\n" not in message and len(message) < 300
    return message


def test_code_in_the_weights_is_refused_and_does_not_run(tmp_path: Path, whole: Members) -> None:
    target = tmp_path / "pwned"
    whole[1] = ("model_weights.ckpt", saved({"w": Bomb(target)}))
    message = refused(write_tar(tmp_path / "m.nemo", whole))
    assert "code" in message and not target.exists()


def test_a_bare_pickle_as_weights_is_refused_and_does_not_run(
    tmp_path: Path, whole: Members
) -> None:
    target = tmp_path / "pwned"
    whole[1] = ("model_weights.ckpt", pickle.dumps(Bomb(target)))
    assert "damaged" in refused(write_tar(tmp_path / "m.nemo", whole))
    assert not target.exists()


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "..\\evil"])
def test_members_that_point_outside_are_refused(tmp_path: Path, whole: Members, name: str) -> None:
    assert "outside" in refused(write_tar(tmp_path / "m.nemo", [(name, b"x"), *whole]))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_special_members_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "m.nemo"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("model_config.yaml")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    assert "link" in refused(path)


def test_two_members_of_one_name_are_refused(tmp_path: Path, whole: Members) -> None:
    twice = [*whole, ("model_config.yaml", b"a: 1")]
    assert "two members" in refused(write_tar(tmp_path / "m.nemo", twice))


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_member_is_named(tmp_path: Path, whole: Members, missing: int) -> None:
    del whole[missing]
    said = refused(write_tar(tmp_path / "m.nemo", whole))
    assert ("model_config.yaml", "model_weights.ckpt", "tokenizer")[missing] in said


def test_a_header_that_claims_a_huge_member_is_refused_before_reading(tmp_path: Path) -> None:
    info = tarfile.TarInfo("model_config.yaml")
    info.size = 1 << 40
    path = tmp_path / "m.nemo"
    path.write_bytes(info.tobuf() + b"\0" * 10_240)
    assert "larger" in refused(path)


def test_a_gzip_bomb_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x.bin")
    info.size = 60 << 20
    path = tmp_path / "m.nemo"
    with gzip.open(path, "wb") as out:
        out.write(info.tobuf())
        for _ in range(60):
            out.write(b"\0" * (1 << 20))
    # The bound on unpacking met it; unbounded, it would lack a member.
    assert "not a whole" in refused(path)


def test_compressed_weights_are_refused(tmp_path: Path, whole: Members) -> None:
    squeezed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(whole[1][1])) as source,
        zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    whole[1] = (whole[1][0], squeezed.getvalue())
    assert "compressed" in refused(write_tar(tmp_path / "m.nemo", whole))


def test_weights_that_are_no_dict_of_tensors_are_refused(tmp_path: Path, whole: Members) -> None:
    odd = [torch.eye(3).to_sparse(), torch.empty(3, device="meta")]
    values = [[torch.zeros(1)], {"a": 1}, {1: torch.zeros(1)}, torch.zeros(1)]
    for value in (*values, *({"a": tensor} for tensor in odd)):
        whole[1] = (whole[1][0], saved(value))
        assert "plain dict" in refused(write_tar(tmp_path / "m.nemo", whole))


@pytest.mark.parametrize(
    "text",
    [
        b"!!python/object/apply:os.system ['true']",
        b"[" * 100_000,
        b"{a: " * 100_000,
        b"- " * 100_000,
        b"[1, 2]",
        b"\xff\xfe\x00",
        b"a: [",
        b"&a [*a]",
        b"? " * 5_000,
    ],
)
def test_hostile_yaml_is_refused(text: bytes) -> None:
    with pytest.raises(UnreadableCheckpoint):
        Config.parse(text).count("encoder.d_model")


@pytest.mark.parametrize("number", [b".inf", b"-.inf", b".nan", b"1.5", b"0", b"true"])
def test_a_number_that_counts_nothing_is_refused(number: bytes) -> None:
    with pytest.raises(UnreadableCheckpoint):
        Config.parse(b"encoder: {d_model: " + number + b"}").count("encoder.d_model")


@pytest.mark.parametrize("number", ["[]", "{}", "null", '"x"', "1.5"])
def test_a_vocabulary_without_numbers_is_refused(number: str) -> None:
    with pytest.raises(UnreadableCheckpoint):
        pieces_from_tokenizer_json(f'{{"model": {{"vocab": {{"a": {number}}}}}}}'.encode(), 1)


def test_an_alias_bomb_costs_nothing() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
    config = Config.parse("\n".join(levels).encode())
    assert config.sequence("a0")[0] == "x"


def test_references_that_loop_are_refused() -> None:
    config = Config.parse(b"a: ${b}\nb: ${a}\nc: {d: '${c}'}")
    for path in ("a", "c.d.d"):
        with pytest.raises(UnreadableCheckpoint):
            config.number(path)


@settings(max_examples=60, deadline=None, suppress_health_check=REASONS)
@given(cut=st.floats(0, 0.999), flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255))))
def test_damage_anywhere_is_refused_or_harmless(
    tmp_path: Path, whole: Members, cut: float, flips: list[tuple[float, int]]
) -> None:
    path = write_tar(tmp_path / "m.nemo", whole)
    data = bytearray(path.read_bytes())
    for where, value in flips:
        data[int(where * len(data))] = value
    path.write_bytes(data[: int((1 - cut) * len(data))])
    refused(path)  # the model in it is too small to load, damaged or not


@settings(max_examples=60, deadline=None, suppress_health_check=REASONS)
@given(data=st.binary(max_size=4096))
def test_any_bytes_are_refused_in_every_form(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.nemo"
    path.write_bytes(data)
    refused(path)
    path.write_bytes(gzip.compress(data))
    refused(path)
    for config in ("config.json", "model_config.yaml"):
        folder = tmp_path / config.replace(".", "-")
        folder.mkdir(exist_ok=True)
        (folder / config).write_bytes(data)
        (folder / "model.safetensors").write_bytes(data)
        refused(folder)


@pytest.mark.parametrize("source", ["no-such-model", "../x/y", "a/b/c", "", "missing.nemo"])
def test_a_name_of_nothing_is_refused_without_network(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError):
        load_checkpoint(source)
