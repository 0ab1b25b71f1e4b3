"""Hugging Face Transformers' streaming FastConformers -> our spec and NeMo's tensor names.

Does: map ``config.json``, ``processor_config.json`` and state-dict keys (Transformers 5.23).
Does not know: files, engines; imports no Transformers.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from asr.checkpoint.config import Config
from asr.checkpoint.nemo_config import DEFAULT_MAX_SYMBOLS, check_prompts, split_look_aheads
from asr.checkpoint.spec import ModelSpec, UnsupportedModel
from asr.checkpoint.weights import JOINT_OUT

STREAMING_TYPES = ("nemotron_asr_streaming", "nemotron3_5_asr")
PROMPTED_TYPE = "nemotron3_5_asr"
OFFLINE_TYPES = ("parakeet_ctc", "parakeet_rnnt", "parakeet_tdt", "parakeet")

_RENAMES = (
    (r"^encoder\.subsampling\.conv_in\.", "encoder.pre_encode.conv.0."),
    (r"^encoder\.subsampling\.layers\.0\.depthwise_conv\.", "encoder.pre_encode.conv.2."),
    (r"^encoder\.subsampling\.layers\.0\.pointwise_conv\.", "encoder.pre_encode.conv.3."),
    (r"^encoder\.subsampling\.layers\.1\.depthwise_conv\.", "encoder.pre_encode.conv.5."),
    (r"^encoder\.subsampling\.layers\.1\.pointwise_conv\.", "encoder.pre_encode.conv.6."),
    (r"^encoder\.subsampling\.linear\.", "encoder.pre_encode.out."),
    (r"\.self_attn\.([qkv])_proj\.", r".self_attn.linear_\1."),
    (r"\.self_attn\.o_proj\.", ".self_attn.linear_out."),
    (r"\.self_attn\.relative_k_proj\.", ".self_attn.linear_pos."),
    (r"\.self_attn\.bias_([uv])$", r".self_attn.pos_bias_\1"),
    (r"\.conv\.norm\.", ".conv.batch_norm."),
    (r"^decoder\.embedding\.", "decoder.prediction.embed."),
    (r"^decoder\.lstm\.", "decoder.prediction.dec_rnn.lstm."),
    (r"^decoder\.decoder_projector\.", "joint.pred."),
    (r"^encoder_projector\.", "joint.enc."),
    (r"^joint\.head\.", f"{JOINT_OUT}."),
    (r"^prompt_projector\.linear_1\.", "prompt_kernel.0."),
    (r"^prompt_projector\.linear_2\.", "prompt_kernel.2."),
)


def nemo_names(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a Transformers state dict to NeMo's names."""
    renamed = {}
    for name, tensor in stored.items():
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def spec_from_transformers(model: Mapping[str, Any], processor: Mapping[str, Any]) -> ModelSpec:
    """Check ``config.json`` and ``processor_config.json`` and take the dimensions from them."""
    kind = _check_type(model)
    config, processing = Config(model), Config(processor)
    _check_form(config, processing)
    left, usable, dropped = split_look_aheads(_contexts(config, processing))
    blank, outputs = config.get("blank_token_id"), config.count("vocab_size", most=1 << 18)
    if blank != outputs - 1:
        raise UnsupportedModel(f"the blank is id {blank}, not the last of {outputs}")
    hidden = config.count("decoder_hidden_size", 640)
    number = config.count("num_prompts", 128) if kind == PROMPTED_TYPE else 0
    return ModelSpec(
        mel_bins=config.count("encoder_config.num_mel_bins", 80, most=512),
        d_model=config.count("encoder_config.hidden_size"),
        layers=config.count("encoder_config.num_hidden_layers", most=256),
        heads=config.count("encoder_config.num_attention_heads", most=256),
        conv_kernel=config.count("encoder_config.conv_kernel_size", 9, most=255),
        subsampling_channels=config.count("encoder_config.subsampling_conv_channels", 256),
        left_context=left,
        look_aheads=usable,
        xscaling=config.flag("encoder_config.scale_input", default=True),
        pred_hidden=hidden,
        pred_layers=config.count("num_decoder_layers", 2, most=16),
        joint_hidden=hidden,
        vocab_size=outputs - 1,
        max_symbols=config.count("max_symbols_per_step", DEFAULT_MAX_SYMBOLS, most=1000),
        has_rnnt=True,
        has_ctc=False,
        prompts=check_prompts(processing.mapping("prompt_dictionary"), number) if number else {},
        num_prompts=number,
        dropped_look_aheads=dropped,
    )


def _check_type(model: Mapping[str, Any]) -> str:
    kind = str(model.get("model_type"))[:60]
    if kind.startswith(OFFLINE_TYPES):
        raise UnsupportedModel(f"{kind} attends to the whole utterance, so it cannot stream")
    if kind not in STREAMING_TYPES:
        raise UnsupportedModel(f"model type {kind} is not one our engine knows")
    return kind


def _check_form(config: Config, processing: Config) -> None:
    needed = {
        "hidden_act": "relu",
        "encoder_config.hidden_act": "silu",
        "encoder_config.subsampling_factor": 8,
        "encoder_config.subsampling_conv_kernel_size": 3,
        "encoder_config.subsampling_conv_stride": 2,
    }
    features = {
        "feature_extractor.sampling_rate": 16_000,
        "feature_extractor.hop_length": 160,
        "feature_extractor.win_length": 400,
        "feature_extractor.n_fft": 512,
        "feature_extractor.preemphasis": 0.97,
        "feature_extractor.mel_filters_dtype": "float32",
    }
    for source, wanted in ((config, needed), (processing, features)):
        for path, value in wanted.items():
            have = source.get(path, value)
            if have != value:
                raise UnsupportedModel(f"{path} is {str(have)[:40]}, not {value}")


def _contexts(config: Config, processing: Config) -> list[tuple[int, int]]:
    left = config.count("encoder_config.sliding_window") - 1
    default = processing.get(
        "default_num_lookahead_tokens",
        config.get("encoder_config.default_num_lookahead_tokens"),
    )
    listed = processing.sequence("supported_num_lookahead_tokens") or [default]
    if any(type(right) is not int for right in listed):
        raise UnsupportedModel("supported_num_lookahead_tokens are not whole numbers")
    ordered = sorted(listed, key=lambda right: right != default)  # stable: default first
    return [(left, right) for right in ordered]
