"""A tiny random checkpoint of every kind, built without NeMo."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from asr.checkpoint.spec import Checkpoint, ModelSpec
from asr.interface import Samples
from asr.tokenizer import Tokenizer

VOCABULARY = 12
# Two OpenMP threads collapse on a busy machine, and an engine runs with one anyway.
torch.set_num_threads(1)
CheckpointMaker = Callable[..., Checkpoint]


def _encoder_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    d, ch = spec.d_model, spec.subsampling_channels
    pre, shapes = "encoder.pre_encode.", dict[str, tuple[int, ...]]()
    weight: tuple[int, ...]
    for index, weight in ((0, (ch, 1, 3, 3)), (2, (ch, 1, 3, 3)), (3, (ch, ch, 1, 1))):
        shapes |= {f"{pre}conv.{index}.weight": weight, f"{pre}conv.{index}.bias": (ch,)}
    shapes |= {f"{pre}conv.5.weight": (ch, 1, 3, 3), f"{pre}conv.5.bias": (ch,)}
    shapes |= {f"{pre}conv.6.weight": (ch, ch, 1, 1), f"{pre}conv.6.bias": (ch,)}
    shapes |= {f"{pre}out.weight": (d, ch * spec.subsampled_bins[3]), f"{pre}out.bias": (d,)}
    for layer in range(spec.layers):
        p = f"encoder.layers.{layer}."
        for norm in ("feed_forward1", "self_att", "conv", "feed_forward2", "out"):
            shapes |= {f"{p}norm_{norm}.weight": (d,), f"{p}norm_{norm}.bias": (d,)}
        shapes |= {f"{p}conv.batch_norm.weight": (d,), f"{p}conv.batch_norm.bias": (d,)}
        for ff in ("feed_forward1", "feed_forward2"):
            shapes |= {f"{p}{ff}.linear1.weight": (4 * d, d), f"{p}{ff}.linear1.bias": (4 * d,)}
            shapes |= {f"{p}{ff}.linear2.weight": (d, 4 * d), f"{p}{ff}.linear2.bias": (d,)}
        for part in ("q", "k", "v", "out"):
            name = f"{p}self_attn.linear_{part}"
            shapes |= {f"{name}.weight": (d, d), f"{name}.bias": (d,)}
        shapes |= {f"{p}self_attn.linear_pos.weight": (d, d)}
        for bias in ("u", "v"):
            shapes[f"{p}self_attn.pos_bias_{bias}"] = (spec.heads, d // spec.heads)
        for name, weight in (
            ("pointwise_conv1", (2 * d, d, 1)),
            ("depthwise_conv", (d, 1, spec.conv_kernel)),
            ("pointwise_conv2", (d, d, 1)),
        ):
            shapes |= {f"{p}conv.{name}.weight": weight, f"{p}conv.{name}.bias": (weight[0],)}
    return shapes


def _head_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    v, d, shapes = spec.vocab_size + 1, spec.d_model, dict[str, tuple[int, ...]]()
    if spec.has_ctc:
        shapes |= {f"{spec.ctc_prefix}.weight": (v, d, 1), f"{spec.ctc_prefix}.bias": (v,)}
    if spec.has_rnnt:
        p, j = spec.pred_hidden, spec.joint_hidden
        shapes |= {"decoder.prediction.embed.weight": (v, p)}
        for layer in range(spec.pred_layers):
            lstm = "decoder.prediction.dec_rnn.lstm."
            shapes |= {f"{lstm}weight_ih_l{layer}": (4 * p, p), f"{lstm}bias_ih_l{layer}": (4 * p,)}
            shapes |= {f"{lstm}weight_hh_l{layer}": (4 * p, p), f"{lstm}bias_hh_l{layer}": (4 * p,)}
        shapes |= {"joint.enc.weight": (j, d), "joint.enc.bias": (j,)}
        shapes |= {"joint.pred.weight": (j, p), "joint.pred.bias": (j,)}
        shapes |= {"joint.joint_net.2.weight": (v, j), "joint.joint_net.2.bias": (v,)}
    if spec.num_prompts:
        shapes |= {"prompt_kernel.0.weight": (2 * d, d + spec.num_prompts)}
        shapes |= {"prompt_kernel.0.bias": (2 * d,), "prompt_kernel.2.weight": (d, 2 * d)}
        shapes |= {"prompt_kernel.2.bias": (d,)}
    return shapes


def _random_tensors(spec: ModelSpec) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(5)
    tensors = {}
    for name, shape in (_encoder_shapes(spec) | _head_shapes(spec)).items():
        fan_in = max(1, int(np.prod(shape[1:])))
        scale = 0.1 if len(shape) == 1 else 1.5 / fan_in**0.5
        tensors[name] = torch.randn(shape, generator=g) * scale
        if "norm" in name and name.endswith("weight"):
            tensors[name] += 1.0
    if spec.has_rnnt:
        tensors["decoder.prediction.embed.weight"][spec.blank] = 0.0
        tensors["joint.joint_net.2.weight"] *= 3.0
    window = torch.hann_window(400, periodic=False)
    filterbank = torch.rand(1, spec.mel_bins, 257, generator=g) / 257
    return tensors | {
        "preprocessor.featurizer.window": window,
        "preprocessor.featurizer.fb": filterbank,
    }


@pytest.fixture(scope="session")
def make_checkpoint() -> CheckpointMaker:
    """Return a maker of tiny checkpoints; keywords change the spec."""

    def make(**changes: object) -> Checkpoint:
        dims: dict[str, object] = {
            "mel_bins": 16,
            "d_model": 16,
            "layers": 2,
            "heads": 2,
            "conv_kernel": 9,
            "subsampling_channels": 4,
            "left_context": 14,
            "look_aheads": (6, 1, 0),
            "xscaling": False,
            "pred_hidden": 8,
            "pred_layers": 1,
            "joint_hidden": 8,
            "vocab_size": VOCABULARY,
            "max_symbols": 3,
            "has_rnnt": True,
            "has_ctc": True,
        }
        spec = ModelSpec(**(dims | changes))  # type: ignore[arg-type]
        pieces = tuple("\u2581" + chr(97 + i) if i % 2 else chr(97 + i) for i in range(VOCABULARY))
        return Checkpoint(
            name="tiny",
            spec=spec,
            tensors=_random_tensors(spec),
            tokenizer=Tokenizer(pieces),
            fingerprint="tiny",
        )

    return make


@pytest.fixture(scope="session")
def babble() -> Callable[[float, int], Samples]:
    """Return a maker of audio in which every frame differs: (seconds, seed) -> samples."""

    def make(seconds: float, seed: int) -> Samples:
        random, n = np.random.default_rng(seed), int(seconds * 16000)
        knots = np.linspace(0, n, max(2, int(seconds * 8)))
        level = np.interp(np.arange(n), knots, random.random(len(knots)) ** 3)
        return (level * random.standard_normal(n)).astype(np.float32)

    return make
