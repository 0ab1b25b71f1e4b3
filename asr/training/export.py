"""A trained run -> files an engine and NeMo load.

Does: averaged weights in 16 bits with NeMo's names, a NeMo-shaped config, a ``.nemo`` archive.
Does not know: training, engines. Heads that only training uses stay behind, and so does an
untrained transducer.

The config is written as JSON, which is YAML too.
"""

import io
import json
import pickle
import re
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from asr.training.config import BadConfig, ModelConfig
from asr.training.data import TOKENIZER
from asr.training.features import window
from asr.training.model import MELS, Model

_COLLECTION = "nemo.collections.asr"
_TRANSDUCER = ("decoder.", "joint.")
_WHILE_TRAINING = ("sounds.", "taught.")
FILTERS, WINDOW = "preprocessor.featurizer.fb", "preprocessor.featurizer.window"
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)")
_BRANCH_ENDS = (
    "feed_forward1.linear2.", "self_attn.linear_out.", "conv.pointwise_conv2.",
    "feed_forward2.linear2.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trained:
    """What an export is made of."""

    model: ModelConfig
    weights: dict[str, Tensor]
    pieces: tuple[str, ...]
    hybrid: bool
    tokenizer: Path
    progress: dict[str, float]


def read(run: Path, checkpoint: str = "best.pt") -> Trained:
    """Averaged weights of a run, its tokenizer, and which heads were trained. Raises BadConfig."""
    if not (run / checkpoint).is_file():
        raise BadConfig(f"{run} holds no {checkpoint}: it is no run of training, or has none yet")
    state = load_state(run / checkpoint)
    hybrid = "rnnt" in state["losses"]
    weights = _renamed(state["average"], hybrid=hybrid)
    weights[FILTERS], weights[WINDOW] = state["filters"][None].contiguous(), window()
    processor = sentencepiece.SentencePieceProcessor(model_file=str(run / TOKENIZER))
    pieces = tuple(processor.id_to_piece(i) for i in range(len(processor)))
    model = ModelConfig(**state["config"])
    return Trained(model, weights, pieces, hybrid, run / TOKENIZER, state["progress"])


def load_state(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint of a run. Raises BadConfig."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise BadConfig(f"{path} is no whole checkpoint: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Return what an error of torch's says, without its lists."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(lines[:2])[:200] if lines else type(error).__name__


def begin_with(model: Model, folder: Path) -> Tensor:
    """Load what an exported folder has into a model; heads it lacks stay. Returns its filters.

    A model of another depth begins with a part of the folder's layers, or with more (`of_depth`).
    """
    stored = load_file(folder / "model.safetensors")
    names = {
        name.replace("decoder.decoder_layers", "ctc_decoder.decoder_layers")
        if name.startswith("decoder.decoder_layers")
        else name: value.float()
        for name, value in stored.items()
        if name not in (FILTERS, WINDOW)
    }
    names = of_depth(names, model.config.layers)
    try:
        unknown = model.load_state_dict(names, strict=False).unexpected_keys
    except RuntimeError as sizes:
        raise BadConfig(f"{folder} holds a network of other sizes: {first_line(sizes)}") from sizes
    if unknown:
        raise BadConfig(f"{folder} holds another network: it has {unknown[0]}")
    return stored[FILTERS][0]


def of_depth(weights: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Give an encoder another number of layers, spread evenly; the first and the last stay.

    Fewer: the others are left out, and training has to close the gaps. More: some are followed by
    a copy that changes nothing until it is trained, its branches ending in zeros (as in
    Net2DeeperNet, Chen et al. 2016; the norm that ends a layer moves to the copy's end).
    """
    parts = dict[int, dict[str, Tensor]]()
    for name, value in weights.items():
        if found := _LAYER.fullmatch(name):
            parts.setdefault(int(found[1]), {})[found[2]] = value
    gaps = max(1, layers - 1)
    chosen = [round(i * (len(parts) - 1) / gaps) for i in range(layers)]
    made = {name: value for name, value in weights.items() if not _LAYER.fullmatch(name)}
    for at, of in enumerate(chosen):
        layer = dict(parts[of])
        if of in chosen[:at]:
            layer |= {k: v * 0 for k, v in layer.items() if k.startswith(_BRANCH_ENDS)}
        if of in chosen[at + 1 :]:
            layer["norm_out.weight"] = torch.ones_like(layer["norm_out.weight"])
            layer["norm_out.bias"] = torch.zeros_like(layer["norm_out.bias"])
        made |= {f"encoder.layers.{at}.{part}": value for part, value in layer.items()}
    return made


def _renamed(average: dict[str, Tensor], *, hybrid: bool) -> dict[str, Tensor]:
    kept = {k: v.contiguous() for k, v in average.items() if not k.startswith(_WHILE_TRAINING)}
    if hybrid:
        return kept
    alone = {k: v for k, v in kept.items() if not k.startswith(_TRANSDUCER)}
    return {k.replace("ctc_decoder.", "decoder."): v for k, v in alone.items()}


def save_folder(trained: Trained, folder: Path) -> None:
    """model.safetensors (bf16, features in fp32), model_config.yaml and tokenizer.model."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value if name in (FILTERS, WINDOW) else value.to(torch.bfloat16)
        for name, value in trained.weights.items()
    }
    config = nemo_config(trained)
    config["tokenizer"] = {"type": "bpe", "model_path": "nemo:tokenizer.model"}
    # In bytes: the file is then as readable as any, where save_file makes one for its owner alone.
    (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    text = json.dumps(config, indent=1, ensure_ascii=False) + "\n"
    (folder / "model_config.yaml").write_text(text, encoding="utf-8")
    shutil.copyfile(trained.tokenizer, folder / "tokenizer.model")


def save_nemo(trained: Trained, path: Path) -> None:
    """Write a ``.nemo`` that NeMo 3.0.0 restores; weights rounded to bf16 as in the folder."""
    config = nemo_config(trained)
    config["tokenizer"] = {
        "dir": None,
        "type": "bpe",
        "model_path": "nemo:tokenizer.model",
        "vocab_path": "nemo:vocab.txt",
        "spe_tokenizer_vocab": "nemo:tokenizer.vocab",
    }
    weights = {
        name: value if name in (FILTERS, WINDOW) else value.to(torch.bfloat16).float()
        for name, value in trained.weights.items()
    }
    packed = io.BytesIO()
    torch.save(weights, packed)
    listing = "\n".join(trained.pieces) + "\n"
    with tarfile.open(path, "w:") as tar:
        _add(tar, "model_config.yaml", json.dumps(config, ensure_ascii=False).encode())
        _add(tar, "model_weights.ckpt", packed.getvalue())
        _add(tar, "tokenizer.model", trained.tokenizer.read_bytes())
        _add(tar, "vocab.txt", listing.encode())
        _add(tar, "tokenizer.vocab", listing.replace("\n", "\t0\n").encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def nemo_config(trained: Trained) -> dict[str, Any]:
    """Say what NeMo must know to build the model, tokenizer left out."""
    model, labels = trained.model, list(trained.pieces)
    config: dict[str, Any] = {
        "sample_rate": 16_000,
        "preprocessor": _preprocessor(),
        "encoder": _encoder(model),
        "nemo_version": "3.0.0",
    }
    ctc = {
        "_target_": f"{_COLLECTION}.modules.ConvASRDecoder",
        "feat_in": model.width,
        "num_classes": len(labels),
        "vocabulary": labels,
    }
    greedy = {"strategy": "greedy_batch"}
    if not trained.hybrid:
        target = f"{_COLLECTION}.models.ctc_bpe_models.EncDecCTCModelBPE"
        return config | {"target": target, "decoder": ctc, "decoding": greedy}
    target = f"{_COLLECTION}.models.hybrid_rnnt_ctc_bpe_models.EncDecHybridRNNTCTCBPEModel"
    return config | _transducer(model, labels) | {
        "target": target,
        "aux_ctc": {"ctc_loss_weight": 0.3, "use_cer": False, "ctc_reduction": "mean_batch",
                    "decoder": ctc, "decoding": greedy},
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}},
    }  # fmt: skip


def _preprocessor() -> dict[str, Any]:
    return {
        "_target_": f"{_COLLECTION}.modules.AudioToMelSpectrogramPreprocessor",
        "sample_rate": 16_000, "normalize": "NA", "window_size": 0.025, "window_stride": 0.01,
        "window": "hann", "features": MELS, "n_fft": 512, "log": True, "frame_splicing": 1,
        "dither": 0.0, "pad_to": 0,
    }  # fmt: skip


def _encoder(model: ModelConfig) -> dict[str, Any]:
    return {
        "_target_": f"{_COLLECTION}.modules.ConformerEncoder",
        "feat_in": MELS, "feat_out": -1, "n_layers": model.layers, "d_model": model.width,
        "use_bias": True, "subsampling": "dw_striding", "subsampling_factor": 8,
        "subsampling_conv_channels": model.channels, "causal_downsampling": True,
        "ff_expansion_factor": 4, "self_attention_model": "rel_pos", "n_heads": model.heads,
        "att_context_size": [[model.left, ahead] for ahead in model.look_aheads],
        "att_context_style": "chunked_limited", "xscaling": False, "untie_biases": True,
        "pos_emb_max_len": 5_000, "conv_kernel_size": model.kernel,
        "conv_norm_type": "layer_norm", "conv_context_size": "causal",
        "dropout": 0.1, "dropout_pre_encoder": 0.1, "dropout_emb": 0.0, "dropout_att": 0.1,
    }  # fmt: skip


def _transducer(model: ModelConfig, labels: list[str]) -> dict[str, Any]:
    sizes = {"enc_hidden": model.width, "pred_hidden": model.predictor}
    return {
        "model_defaults": {**sizes, "joint_hidden": model.joint},
        "decoder": {
            "_target_": f"{_COLLECTION}.modules.RNNTDecoder",
            "normalization_mode": None, "random_state_sampling": False, "blank_as_pad": True,
            "vocab_size": len(labels),
            "prednet": {"pred_hidden": model.predictor, "pred_rnn_layers": 1,
                        "t_max": None, "dropout": 0.2},
        },
        "joint": {
            "_target_": f"{_COLLECTION}.modules.RNNTJoint",
            "log_softmax": None, "preserve_memory": False, "fuse_loss_wer": False,
            "num_classes": len(labels), "vocabulary": labels,
            "jointnet": {"joint_hidden": model.joint, "activation": "relu", "dropout": 0.2,
                         "encoder_hidden": model.width, "pred_hidden": model.predictor},
        },
        "loss": {"loss_name": "default"},
    }  # fmt: skip
