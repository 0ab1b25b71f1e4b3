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
from clients.demo import SAMPLES
from clients.load.material import material

BLANK_SHARE = 0.83
"""Of all decisions of a real RNN-T, about this share are blanks."""
PROMPTS = {"en-US": 0, "es-US": 3, "fr-FR": 8, "de-DE": 9, "auto": 101}
LOGIT_SPREAD, HISTORY_SPREAD = 1.0, 0.5
ATTENTION_SHARE = 0.3
HISTORY = 16
"""Labels in a history."""
HOLD, DRIVE = 4.0, 6.0
"""How firmly a side waits for its turn, in standard deviations; what one weighs in a logit."""
MARK = 3.0
"""Weight of a label's side in its embedding: the network must not mistake it."""
PASSED_ON = 8.0
"""Times the random weights from one layer of the prediction network to the next."""
SWING, SETTLE = 2, 13
"""Frames: speech changes within the first, a second is the other."""
TUNED_S, START_S = 16.0, 1.2
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


def speech(seconds: float, seed: int) -> Samples:
    """The samples of this repository, strung together."""
    voices = material(SAMPLES, "speech", seconds, seed=seed).staying
    return np.frombuffer(voices[0].pcm, "<i2").astype(np.float32) / np.float32(32768)


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
        model.prompt_kernel[0].weight[:, shape.width :].mul_(0.03)


@torch.no_grad()
def tune(model: Any, shape: Shape) -> None:
    """Make it speak at an even pace, from the first second on, in any context.

    Random logits would speak in bursts: where one piece wins, others win after it. So the pieces
    have two sides that take turns: a quick direction of the frames says whose turn it may be, and
    the last piece said forbids its own side. Which piece of a side wins stays random.
    """
    count = 2 * len(PROMPTS) if shape.is_prompted else 8
    parts = _frames(model, shape, count=count)
    starts = _frames(model, shape, count=2 * count, cut_s=START_S)
    encoded = torch.cat(parts)
    joint, out = model.joint, model.joint.joint_net[2]
    side = torch.ones(shape.pieces)
    side[1::2] = -1
    after, sides = _histories(model, side)
    _spread(joint.enc, encoded, 1.0)
    _spread(joint.pred, after, HISTORY_SPREAD)
    hidden = torch.relu(joint.enc(encoded)[::8, None] + joint.pred(after[: 128 * HISTORY])).flatten(
        0, 1
    )
    _spread(out, hidden, LOGIT_SPREAD)
    if ctc_head(model) is not None:
        _spread(ctc_head(model).decoder_layers[0], encoded, LOGIT_SPREAD)
    quick, said = _quick(parts, starts), _regressed(after, sides)
    for unit, sign in enumerate((1, -1)):
        _set_row(joint.enc, unit, quick, sign)
        _set_row(joint.pred, unit, said, -sign * HOLD)
        out.weight[:, unit] = 0
        out.weight[:-1, unit][side == sign] = DRIVE
    out.weight[-1] = 0  # the chance of a blank is the same everywhere

    lengths = torch.tensor([len(part) for part in parts])
    padded = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True).transpose(1, 2)

    def blank_share(value: float) -> float:
        out.bias[-1] = value
        said = model.decoding.rnnt_decoder_predictions_tensor(
            padded, lengths, return_hypotheses=True
        )
        return len(encoded) / (len(encoded) + sum(len(one.y_sequence) for one in said))

    _bisect(blank_share, HOLD * DRIVE, 2 * HOLD * DRIVE)


def _frames(model: Any, shape: Shape, *, count: int, cut_s: float = 0) -> list[Tensor]:
    """Encode made-up audio and speech at every look-ahead, or cuts from anywhere in them."""
    prompts = list(PROMPTS.values()) if shape.is_prompted else [None]
    model.joint.joint_net[2].bias[-1] = 1e4  # blanks only: quick, and only the frames are wanted
    parts = []
    for number in range(count):
        samples = (speech if number % 2 else audio)(TUNED_S, 901 + number // 4)
        if cut_s:
            begin = 16_000 * (TUNED_S - cut_s) * number / count
            samples = samples[int(begin) : int(begin + 16_000 * cut_s)]
        look_ahead = shape.look_aheads[number // 2 % len(shape.look_aheads)]
        prompt = prompts[number % len(prompts)]
        parts.append(offline(model, samples, look_ahead, prompt=prompt).encoded)
    return parts


def _histories(model: Any, side: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the prediction network makes of random labels, and the side of the last one.

    Nothing said counts as the last side, or the other would never begin.
    """
    embedding = model.decoder.prediction["embed"].weight
    generator = torch.Generator().manual_seed(1)
    mark = MARK * torch.randn(embedding.shape[1], generator=generator)
    embedding[: len(side)] += side[:, None] * mark
    lstm = model.decoder.prediction["dec_rnn"].lstm
    for layer in range(1, lstm.num_layers):  # or the last label is lost between layers
        getattr(lstm, f"weight_ih_l{layer}").mul_(PASSED_ON)
    # Two layers need some labels to settle: brief histories count as much as longer ones.
    lengths = [HISTORY] if lstm.num_layers == 1 else [HISTORY, 1, 2, 3]
    after, sides = [], []
    for length in lengths:
        said = torch.randint(len(side), (128 * HISTORY // length, length), generator=generator)
        states, _ = model.decoder.predict(said, None, add_sos=False, batch_size=len(said))
        after.append(states.flatten(0, 1))
        sides.append(side[said.flatten()])
    start, _ = model.decoder.predict(None, None, add_sos=False, batch_size=128)
    after.append(start.flatten(0, 1))
    return torch.cat(after), torch.cat([*sides, -torch.ones(128)])


def _quick(parts: list[Tensor], starts: list[Tensor]) -> tuple[Tensor, float]:
    """Return the direction that swings from frame to frame and least drifts or depends on context.

    Weight and bias: mean 0, standard deviation 1, at the start of a stream about the same.
    """
    encoded, first = torch.cat(parts), torch.cat(starts)
    mean = encoded.mean(0)
    later = torch.cat([part[len(part) // 2 :] for part in parts]) - mean
    swing = _second_moment(torch.cat([part[SWING:] - part[:-SWING] for part in parts]))
    drift = _second_moment(torch.cat([part.unfold(0, SETTLE, 1).mean(-1) - mean for part in parts]))
    drift += 0.03 * swing.trace() / len(swing) * torch.eye(len(swing))
    best = mean
    for share in (0, *torch.logspace(-4, 0, 13)):  # the least that calms the start
        slow = drift + share * _second_moment(first - mean)
        root = torch.linalg.inv(torch.linalg.cholesky(slow))
        best = torch.linalg.eigh(root @ swing @ root.T).eigenvectors[:, -1] @ root
        if ((first - mean) @ best).std() <= (later @ best).std():  # left alone it is three times
            break
    best /= (encoded @ best).std()
    return best, float(-(mean @ best))


def _second_moment(rows: Tensor) -> Tensor:
    return rows.T @ rows / len(rows)


def _regressed(inputs: Tensor, wanted: Tensor) -> tuple[Tensor, float]:
    """Return the weight and bias that give ``wanted``."""
    mean = inputs.mean(0)
    inputs = inputs - mean
    square = inputs.T @ inputs
    square += 1e-4 * square.trace() / len(square) * torch.eye(len(square))
    weight = torch.linalg.solve(square, inputs.T @ wanted)
    return weight, float(wanted.mean() - mean @ weight)


def _set_row(layer: Any, row: int, line: tuple[Tensor, float], scale: float) -> None:
    layer.weight[row], layer.bias[row] = line[0] * scale, line[1] * scale


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
