"""A tiny model in every form a loader reads, with random weights and no NeMo."""

import io
import json
import tarfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from asr.checkpoint.spec import ModelSpec
from asr.checkpoint.weights import expected_shapes

FEED_FORWARD = 24


@pytest.fixture
def config() -> dict[str, Any]:
    """NeMo's config of the tiny hybrid model."""
    return {
        "target": "nemo.collections.asr.models.x.EncDecHybridRNNTCTCBPEModel",
        "model_defaults": {"enc_hidden": 16, "pred_hidden": 12, "joint_hidden": 20},
        "tokenizer": {"type": "bpe", "model_path": "nemo:0123_tokenizer.model"},
        "preprocessor": {
            "sample_rate": 16_000,
            "normalize": "NA",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": 80,
            "n_fft": 512,
        },
        "encoder": {
            "n_layers": 2,
            "d_model": "${model_defaults.enc_hidden}",
            "n_heads": 4,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 8,
            "causal_downsampling": True,
            "self_attention_model": "rel_pos",
            "att_context_size": [[70, 13], [70, 6], [70, 1], [70, 0]],
            "att_context_style": "chunked_limited",
            "conv_kernel_size": 9,
            "conv_norm_type": "layer_norm",
            "conv_context_size": "causal",
        },
        "decoder": {
            "prednet": {"pred_hidden": "${model_defaults.pred_hidden}", "pred_rnn_layers": 1}
        },
        "joint": {
            "jointnet": {"joint_hidden": "${model_defaults.joint_hidden}", "activation": "relu"}
        },
        "decoding": {"greedy": {"max_symbols": 7}},
    }


@pytest.fixture
def spec() -> ModelSpec:
    """What the loader should make of ``config``."""
    return ModelSpec(
        mel_bins=80,
        d_model=16,
        layers=2,
        heads=4,
        conv_kernel=9,
        subsampling_channels=8,
        left_context=70,
        look_aheads=(13, 6, 1, 0),
        xscaling=True,
        pred_hidden=12,
        pred_layers=1,
        joint_hidden=20,
        vocab_size=40,
        max_symbols=7,
        has_rnnt=True,
        has_ctc=True,
    )


@pytest.fixture(scope="session")
def proto() -> bytes:
    """A SentencePiece model of 40 pieces."""
    model = io.BytesIO()
    sentences = ["the quick brown fox jumps over the lazy dog", "pack my box with five dozen jugs"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences * 20),
        model_writer=model,
        vocab_size=40,
        model_type="bpe",
        minloglevel=2,
        bos_id=-1,
        eos_id=-1,
    )
    return model.getvalue()


def random_weights(spec: ModelSpec) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.randn(
            [FEED_FORWARD if size < 0 else size for size in shape], generator=generator
        )
        for name, shape in expected_shapes(spec).items()
    }


@pytest.fixture
def weights(spec: ModelSpec) -> dict[str, Tensor]:
    """Random weights of every tensor."""
    return random_weights(spec)


@pytest.fixture
def write_nemo(
    tmp_path: Path, config: dict[str, Any], weights: dict[str, Tensor], proto: bytes
) -> Callable[..., Path]:
    """Write a ``.nemo`` of the fixtures as they stand, with changes to the config."""

    def write(changes: dict[str, Any] | None = None, *, mode: str = "w") -> Path:
        path = tmp_path / "tiny.nemo"
        buffer = io.BytesIO()
        torch.save(weights, buffer)
        members = {
            "./model_config.yaml": yaml.safe_dump(changed(config, changes or {})).encode(),
            "./model_weights.ckpt": buffer.getvalue(),
            "./0123_tokenizer.model": proto,
        }
        with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    return write


@pytest.fixture
def write_folder(
    tmp_path: Path, config: dict[str, Any], weights: dict[str, Tensor], proto: bytes
) -> Callable[..., Path]:
    """Write the same model as a folder, in shards if asked."""

    def write(*, shards: int = 1) -> Path:
        folder = tmp_path / "tiny"
        folder.mkdir()
        (folder / "model_config.yaml").write_text(json.dumps(config))
        (folder / "0123_tokenizer.model").write_bytes(proto)
        names = list(weights)
        if shards == 1:
            save_file(weights, folder / "model.safetensors")
            return folder
        index = dict[str, str]()
        for shard in range(shards):
            file = f"model-{shard}.safetensors"
            part = {name: weights[name] for name in names[shard::shards]}
            save_file(part, folder / file)
            index |= dict.fromkeys(part, file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
        return folder

    return write


def changed(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``config`` with values at dotted paths; None takes the key away."""
    config = deepcopy(config)
    for path, value in changes.items():
        *parents, key = path.split(".")
        inner = config
        for parent in parents:
            inner = inner.setdefault(parent, {})
        if value is None:
            inner.pop(key, None)
        else:
            inner[key] = value
    return config
