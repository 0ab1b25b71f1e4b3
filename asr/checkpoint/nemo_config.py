"""NeMo's model config -> ModelSpec, or the reason why the model cannot stream exactly.

Does: read dimensions, refuse what would make streaming differ from offline.
Does not know: tensors, archives, engines.
Reasons and sources: NeMo 3.0.0 conformer_encoder.py, features.py; "not exact" was measured there.
"""

from collections.abc import Mapping
from typing import Any

from asr.checkpoint.config import Config
from asr.checkpoint.spec import ModelSpec, UnsupportedModel

DEFAULT_MAX_SYMBOLS = 10
"""NeMo's own default of ``decoding.greedy.max_symbols``."""

RNNT, HYBRID, CTC = (True, False), (True, True), (False, True)
MODEL_HEADS = {
    "EncDecRNNTBPEModel": RNNT,
    "EncDecRNNTBPEEOUModel": RNNT,
    "EncDecRNNTBPEModelWithPrompt": RNNT,
    "EncDecHybridRNNTCTCBPEModel": HYBRID,
    "EncDecHybridRNNTCTCBPEEOUModel": HYBRID,
    "EncDecHybridRNNTCTCBPEModelWithPrompt": HYBRID,
    "EncDecCTCModelBPE": CTC,
}
"""NeMo class -> (has an RNN-T head, has a CTC head)."""

_CLASSES = {
    "preprocessor": ("AudioToMelSpectrogramPreprocessor",),
    "encoder": ("ConformerEncoder", "ConformerEncoderAdapter"),
    "decoder": ("RNNTDecoder",),
    "joint": ("RNNTJoint", "SampledRNNTJoint"),
}
"""NeMo's classes of the parts we know; the last two of an RNN-T head."""
_OFF_BY_NULL = (
    "preprocessor.preemph",
    "preprocessor.log",
    "encoder.untie_biases",
    "encoder.xscaling",
)
"""What NeMo leaves out where its config says null, and does where it says nothing."""


def spec_from_nemo(config: Config, *, vocab_size: int) -> ModelSpec:
    """Check a NeMo config and take the dimensions from it."""
    has_rnnt, has_ctc = _heads(config)
    # First what tells an offline model, the commonest mistake, and what to take in its place.
    left, usable, dropped = split_look_aheads(_contexts(config))
    _check_classes(config, has_rnnt=has_rnnt)
    _check_front_end(config)
    _check_encoder(config)
    if has_rnnt:
        _check_transducer(config)
    prompts, num_prompts = _prompts(config)
    d_model, heads = config.count("encoder.d_model"), config.count("encoder.n_heads", most=256)
    if d_model % heads:
        raise UnsupportedModel(f"d_model {d_model} is not a multiple of {heads} heads")
    return ModelSpec(
        mel_bins=config.count("preprocessor.features", most=512),
        d_model=d_model,
        layers=config.count("encoder.n_layers", most=256),
        heads=heads,
        conv_kernel=config.count("encoder.conv_kernel_size", 31, most=255),
        subsampling_channels=_subsampling_channels(config, d_model),
        left_context=left,
        look_aheads=usable,
        xscaling=config.flag("encoder.xscaling", default=True),
        pred_hidden=config.count("decoder.prednet.pred_hidden") if has_rnnt else 0,
        pred_layers=config.count("decoder.prednet.pred_rnn_layers", 1, most=16) if has_rnnt else 0,
        joint_hidden=config.count("joint.jointnet.joint_hidden") if has_rnnt else 0,
        vocab_size=vocab_size,
        max_symbols=_max_symbols(config),
        has_rnnt=has_rnnt,
        has_ctc=has_ctc,
        prompts=prompts,
        num_prompts=num_prompts,
        dropped_look_aheads=dropped,
    )


def split_look_aheads(
    contexts: list[tuple[int, int]],
) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """[left, right] attention contexts -> left, exact look-aheads, inexact ones.

    Offline, chunk c sees whole chunks c - left // chunk .. c; a stream sees ``left`` frames: the
    two agree only when the chunk divides ``left``.
    """
    if any(left < 0 or right < 0 for left, right in contexts):
        raise UnsupportedModel(
            "the model attends to the whole utterance (attention context -1), so it cannot stream:"
            " take a cache-aware one, whose name mostly says streaming"
        )
    left = contexts[0][0]
    if not 1 <= left <= 1 << 12:
        raise UnsupportedModel(f"left attention context {left} is not within 1..4096 frames")
    rights = [right for other, right in contexts if other == left]
    usable = tuple(dict.fromkeys(right for right in rights if left % (right + 1) == 0))
    dropped = tuple(right for _, right in contexts if right not in usable)
    if not usable:
        raise UnsupportedModel(
            f"no look-ahead streams exactly: left context {left} is no multiple of look-ahead + 1"
            f" for {', '.join(map(str, rights))}"
        )
    return left, usable, dropped


def _heads(config: Config) -> tuple[bool, bool]:
    name = config.text("target").rsplit(".", 1)[-1]
    if name not in MODEL_HEADS:
        raise UnsupportedModel(f"model class {name or '(none)'} is not one our engine knows")
    return MODEL_HEADS[name]


def _contexts(config: Config) -> list[tuple[int, int]]:
    listed = config.sequence("encoder.att_context_size") or [-1, -1]
    pairs = listed if isinstance(listed[0], list) else [listed]
    whole = all(
        isinstance(pair, list) and len(pair) == 2 and all(type(n) is int for n in pair)
        for pair in pairs
    )
    if not whole:
        raise UnsupportedModel("att_context_size is not a list of [left, right] frames")
    return [(pair[0], pair[1]) for pair in pairs]


def _expect(config: Config, wanted: Mapping[str, tuple[Any, Any]], reason: str) -> None:
    """Refuse when a key differs; ``wanted`` maps a path to (needed value, NeMo's default)."""
    for path, (needed, default) in wanted.items():
        value = config.get(path, default)
        if value != needed:
            shown = str(value)[:40]
            raise UnsupportedModel(f"{path} is {shown}, not {needed}: {reason}")


def _check_classes(config: Config, *, has_rnnt: bool) -> None:
    for part in _CLASSES if has_rnnt else ("preprocessor", "encoder"):
        name = config.text(f"{part}._target_", _CLASSES[part][0]).rsplit(".", 1)[-1]
        if name not in _CLASSES[part]:
            raise UnsupportedModel(
                f"the {part} is a {name[:60]}, our engine knows {_CLASSES[part][0]} only"
            )
    for path in _OFF_BY_NULL:
        if config.is_null(path):
            raise UnsupportedModel(f"{path} is null: our engine does not leave it out")


def _subsampling_channels(config: Config, d_model: int) -> int:
    path = "encoder.subsampling_conv_channels"
    return d_model if config.get(path, -1) == -1 else config.count(path)


def _check_front_end(config: Config) -> None:
    normalize = config.get("preprocessor.normalize", "per_feature")
    if normalize not in ("NA", "", "None") and not config.is_null("preprocessor.normalize"):
        shown = normalize if isinstance(normalize, str) else "fixed"
        raise UnsupportedModel(
            f"features are normalised ({shown[:40]}), which needs the whole utterance or statistics"
            " we do not apply"
        )
    _expect(
        config,
        {
            "preprocessor.sample_rate": (16_000, 16_000),
            "preprocessor.window_size": (0.025, 0.02),
            "preprocessor.window_stride": (0.01, 0.01),
            "preprocessor.window": ("hann", "hann"),
            "preprocessor.n_fft": (512, 512),
            "preprocessor.preemph": (0.97, 0.97),
            "preprocessor.log": (True, True),
            "preprocessor.log_zero_guard_type": ("add", "add"),
            "preprocessor.log_zero_guard_value": (2**-24, 2**-24),
            "preprocessor.mag_power": (2.0, 2.0),
            "preprocessor.frame_splicing": (1, 1),
            "preprocessor.exact_pad": (False, False),
        },
        "our features would differ",
    )


def _check_encoder(config: Config) -> None:
    kernel = config.count("encoder.conv_kernel_size", 31, most=255)
    if config.get("encoder.conv_context_size") not in ("causal", [kernel - 1, 0]):
        raise UnsupportedModel("the encoder's convolutions look ahead, so it cannot stream exactly")
    _expect(
        config,
        {
            "encoder.att_context_style": ("chunked_limited", "regular"),
            "encoder.subsampling": ("dw_striding", "striding"),
            "encoder.subsampling_factor": (8, 4),
            "encoder.causal_downsampling": (True, False),
            "encoder.self_attention_model": ("rel_pos", "rel_pos"),
            "encoder.conv_norm_type": ("layer_norm", "batch_norm"),
            "encoder.untie_biases": (True, True),
            "encoder.feat_out": (-1, -1),
            "encoder.reduction": ("", ""),
        },
        "our engine streams only this form exactly",
    )


def _check_transducer(config: Config) -> None:
    _expect(
        config,
        {
            "decoder.blank_as_pad": (True, True),
            "decoder.normalization_mode": ("", ""),
            "joint.jointnet.activation": ("relu", "relu"),
            "joint.num_extra_outputs": (0, 0),
        },
        "our decoder does not know this form",
    )


def _max_symbols(config: Config) -> int:
    per_step = config.get("decoding.greedy.max_symbols_per_step", DEFAULT_MAX_SYMBOLS)
    value = config.get("decoding.greedy.max_symbols", per_step)
    if type(value) is not int or not 1 <= value <= 1000:
        raise UnsupportedModel("decoding.greedy.max_symbols is not within 1..1000")
    return value


def _prompts(config: Config) -> tuple[dict[str, int], int]:
    if not config.flag("model_defaults.initialize_prompt_feature", default=False):
        return {}, 0
    number = config.count("num_prompts", config.count("model_defaults.num_prompts", 128))
    return check_prompts(config.mapping("model_defaults.prompt_dictionary"), number), number


def check_prompts(listed: Mapping[Any, Any], number: int) -> dict[str, int]:
    """Prompt names with ids below ``number``; anything else is refused."""
    for name, prompt in listed.items():
        if not isinstance(name, str) or type(prompt) is not int or not 0 <= prompt < number:
            raise UnsupportedModel(f"prompt_dictionary holds an id outside 0..{number - 1}")
    return dict(listed)
