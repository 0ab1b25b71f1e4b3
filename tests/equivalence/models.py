"""Random-weight NeMo models of published shapes, tuned so that tokens depend on frames and history.

Does: build, tune and save them as ``.nemo``; synthetic audio in which every frame differs.
Does not know: our engine.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr.reference import ctc_head, offline

BLANK_SHARE = 0.85
"""Of all decisions of a real RNN-T, about this share are blanks."""
PROMPTS = {"en-US": 0, "es-US": 3, "fr-FR": 8, "de-DE": 9, "auto": 101}
LOGIT_SPREAD, HISTORY_SPREAD = 2.0, 0.5
ATTENTION_SHARE = 0.3
SETTLED, HISTORY = 75, 16
"""Frames until the left context is full; labels in a history."""
Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One published architecture."""

    name: str
    layers: int
    width: int
    heads: int
    pieces: int
    mels: int = 80
    left: int = 70
    look_aheads: tuple[int, ...] = (13, 6, 1, 0)
    has_ctc: bool = True
    pred_layers: int = 1
    use_bias: bool = True
    xscaling: bool = True
    is_prompted: bool = False
    turn_pieces: tuple[str, ...] = ()


SMALL = Shape(name="small", layers=4, width=128, heads=4, pieces=128)
SMALL_PROMPTED = Shape(
    name="small-prompted",
    layers=3,
    width=128,
    heads=4,
    pieces=128,
    mels=128,
    left=56,
    look_aheads=(13, 6, 3, 0),
    has_ctc=False,
    pred_layers=2,
    use_bias=False,
    xscaling=False,
    is_prompted=True,
)
SMALL_EOU = Shape(
    name="small-eou",
    layers=2,
    width=128,
    heads=4,
    pieces=128,
    mels=128,
    look_aheads=(1,),
    has_ctc=False,
    xscaling=False,
    turn_pieces=("<EOU>", "<EOB>"),
)
HYBRID = Shape(name="hybrid-114m", layers=17, width=512, heads=8, pieces=1024)
RNNT_600M = Shape(
    name="rnnt-600m",
    layers=24,
    width=1024,
    heads=8,
    pieces=1024,
    mels=128,
    has_ctc=False,
    pred_layers=2,
    use_bias=False,
    xscaling=False,
)
EOU = Shape(
    name="eou-120m",
    layers=17,
    width=512,
    heads=8,
    pieces=1026,
    mels=128,
    look_aheads=(1,),
    has_ctc=False,
    xscaling=False,
    turn_pieces=("<EOU>", "<EOB>"),
)
PROMPTED = Shape(
    name="prompted-600m",
    layers=24,
    width=1024,
    heads=8,
    pieces=2048,
    mels=128,
    left=56,
    look_aheads=(13, 6, 3, 0),
    has_ctc=False,
    pred_layers=2,
    use_bias=False,
    xscaling=False,
    is_prompted=True,
)


def audio(seconds: float, seed: int) -> Samples:
    """Noise bursts and gliding tones with syllable-like loudness."""
    random, count = np.random.default_rng(seed), int(seconds * 16_000)
    at = np.arange(count) / 16_000
    loud_at, pitch_at = np.arange(0, seconds + 0.2, 0.12), np.arange(0, seconds + 0.3, 0.2)
    loud = np.interp(at, loud_at, random.random(len(loud_at)) ** 3)
    pitch = np.interp(at, pitch_at, 90 + 2500 * random.random(len(pitch_at)))
    tone = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / 16_000)
    return (loud * (tone + 0.1 * random.standard_normal(count))).astype(np.float32)


def build(shape: Shape, folder: Path) -> Any:
    """Return a NeMo model of the shape with random, tuned weights."""
    from nemo.collections.asr import models
    from nemo.collections.asr.models.rnnt_bpe_models_prompt import EncDecRNNTBPEModelWithPrompt
    from nemo.utils import logging
    from omegaconf import OmegaConf

    logging.setLevel(logging.ERROR)
    kind = models.EncDecHybridRNNTCTCBPEModel if shape.has_ctc else models.EncDecRNNTBPEModel
    if shape.is_prompted:
        kind = EncDecRNNTBPEModelWithPrompt
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = kind(cfg=OmegaConf.create(nemo_config(shape, folder))).eval()
    _enliven(model, shape)
    return model


def save(model: Any, path: Path) -> Path:
    """Write the ``.nemo`` as NeMo does."""
    model.save_to(str(path))
    return path


def nemo_config(shape: Shape, folder: Path) -> dict[str, Any]:
    """Config of a cache-aware FastConformer like NVIDIA's examples."""
    target = "nemo.collections.asr.modules"
    config: dict[str, Any] = {
        "sample_rate": 16_000,
        "compute_eval_loss": False,
        "log_prediction": False,
        "skip_nan_grad": False,
        "model_defaults": {"enc_hidden": shape.width, "pred_hidden": 640, "joint_hidden": 640},
        "tokenizer": {"dir": str(tokenizer_folder(shape, folder)), "type": "bpe"},
        "preprocessor": {
            "_target_": f"{target}.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16_000,
            "normalize": "NA",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": shape.mels,
            "n_fft": 512,
            "frame_splicing": 1,
            "dither": 1e-5,
            "pad_to": 0,
        },
        "encoder": _encoder_config(shape, target),
        "decoder": {
            "_target_": f"{target}.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {
                "pred_hidden": "${model_defaults.pred_hidden}",
                "pred_rnn_layers": shape.pred_layers,
                "t_max": None,
                "dropout": 0.2,
            },
        },
        "joint": {
            "_target_": f"{target}.RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            "fuse_loss_wer": False,
            "fused_batch_size": 4,
            "jointnet": {
                "joint_hidden": "${model_defaults.joint_hidden}",
                "activation": "relu",
                "dropout": 0.2,
            },
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}},
        "loss": {
            "loss_name": "default",
            "warprnnt_numba_kwargs": {"fastemit_lambda": 0.0, "clamp": -1.0},
        },
        "optim": {"name": "adamw", "lr": 1e-3},
    }
    if shape.has_ctc:
        config["aux_ctc"] = {
            "ctc_loss_weight": 0.3,
            "use_cer": False,
            "ctc_reduction": "mean_batch",
            "decoder": {
                "_target_": f"{target}.ConvASRDecoder",
                "feat_in": None,
                "num_classes": -1,
                "vocabulary": [],
            },
            "decoding": {"strategy": "greedy"},
        }
    if shape.is_prompted:
        config["model_defaults"] |= {
            "initialize_prompt_feature": True,
            "num_prompts": 128,
            "prompt_dictionary": dict(PROMPTS),
        }
    return config


def _encoder_config(shape: Shape, target: str) -> dict[str, Any]:
    return {
        "_target_": f"{target}.ConformerEncoder",
        "feat_in": shape.mels,
        "feat_out": -1,
        "n_layers": shape.layers,
        "d_model": "${model_defaults.enc_hidden}",
        "use_bias": shape.use_bias,
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "subsampling_conv_channels": 256,
        "causal_downsampling": True,
        "ff_expansion_factor": 4,
        "self_attention_model": "rel_pos",
        "n_heads": shape.heads,
        "att_context_size": [[shape.left, right] for right in shape.look_aheads],
        "att_context_style": "chunked_limited",
        "xscaling": shape.xscaling,
        "untie_biases": True,
        "pos_emb_max_len": 5000,
        "conv_kernel_size": 9,
        "conv_norm_type": "layer_norm",
        "conv_context_size": "causal",
        "dropout": 0.1,
        "dropout_pre_encoder": 0.1,
        "dropout_emb": 0.0,
        "dropout_att": 0.1,
    }


def tokenizer_folder(shape: Shape, folder: Path) -> Path:
    """Train a SentencePiece BPE on invented words; turn pieces are user-defined symbols."""
    random = np.random.default_rng(1)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    words = ["".join(random.choice(letters, random.integers(2, 9))) for _ in range(6000)]
    text = folder / "text.txt"
    text.write_text("\n".join(" ".join(random.choice(words, 12)) for _ in range(3000)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=shape.pieces,
        model_type="bpe",
        minloglevel=2,
        bos_id=-1,
        eos_id=-1,
        user_defined_symbols=list(shape.turn_pieces),
    )
    listed = (folder / "tokenizer.vocab").read_text().splitlines()
    pieces = [line.split("\t")[0] for line in listed if not line.startswith("<unk>")]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    return folder


@torch.no_grad()
def _enliven(model: Any, shape: Shape) -> None:
    """Give every parameter a say: no zero biases, frames and history move the argmax."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        scale = 0.1 if "pos_bias" in name or "norm" in name else 0.02 * name.endswith("bias")
        if scale:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
        if name.endswith("self_attn.linear_out.weight"):  # or frames drift with what they see
            parameter.mul_(ATTENTION_SHARE)
    if not shape.xscaling:  # or constant parts outweigh what was said
        model.encoder.pre_encode.out.weight.mul_(shape.width**0.5)
    if shape.is_prompted:  # frames must weigh more than the prompt, or languages differ in rate
        model.prompt_kernel[0].weight[:, : shape.width].mul_(4.0)
        model.prompt_kernel[0].weight[:, shape.width :].mul_(0.1)


@torch.no_grad()
def tune(model: Any, shape: Shape) -> None:
    """Give all pieces an even chance, and blanks the share they have in a trained model."""
    prompts = list(PROMPTS.values()) if shape.is_prompted else [None]
    out, joint = model.joint.joint_net[2], model.joint
    out.bias[-1] = 1e4  # nothing but blanks: quick, and only the encoder's frames are wanted
    parts = [
        offline(model, audio(10, 901 + i), look_ahead, prompt=prompts[i % len(prompts)]).encoded
        for i, look_ahead in enumerate(shape.look_aheads * (8 // len(shape.look_aheads)))
    ]
    # A random encoder drifts while its context fills: tuned on that, it says nothing after it.
    parts = [part[SETTLED:] for part in parts]
    encoded = torch.cat(parts)
    said = torch.randint(shape.pieces, (8, HISTORY), generator=torch.Generator().manual_seed(1))
    after, _ = model.decoder.predict(said, None, add_sos=False, batch_size=len(said))
    after = after.flatten(0, 1)
    _spread(joint.enc, encoded, 1.0)
    _spread(joint.pred, after, HISTORY_SPREAD)
    hidden = torch.relu(joint.enc(encoded)[:, None] + joint.pred(after)).flatten(0, 1)
    _spread(out, hidden, LOGIT_SPREAD)
    if ctc_head(model) is not None:
        _spread(ctc_head(model).decoder_layers[0], encoded, LOGIT_SPREAD)

    def blank_share(value: float) -> float:
        out.bias[-1] = value
        decode = model.decoding.rnnt_decoder_predictions_tensor
        tokens = 0
        for part in parts:
            lengths = torch.tensor([len(part)])
            tokens += len(decode(part.T[None], lengths, return_hypotheses=True)[0].y_sequence)
        return len(encoded) / (len(encoded) + tokens)

    _bisect(blank_share, 0.0, 20.0)


def _spread(layer: Any, inputs: Tensor, spread: float) -> None:
    """Centre and scale each output over ``inputs``, or two or three pieces would always win."""
    outputs = inputs @ layer.weight.flatten(1).T
    scale = spread / outputs.std(0).clamp_min(1e-3)
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
    layer.bias.copy_(-outputs.mean(0) * scale)


def _bisect(share: Callable[[float], float], low: float, high: float) -> None:
    for _ in range(7):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) < BLANK_SHARE else (low, middle)
