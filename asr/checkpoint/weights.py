"""The tensors a model must have, and a digest of them.

Does: expected names and shapes of a spec, check a state dict against them, fingerprint.
Does not know: files, configs, engines. Names are NeMo's; biases inside layers may be absent.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from asr.checkpoint.frontend import FFT, WINDOW_SAMPLES, hann_window, mel_filterbank
from asr.checkpoint.spec import ModelSpec, UnreadableCheckpoint, UnsupportedModel

Shape = tuple[int, ...]
ANY = -1
"""A dimension the spec does not fix, such as the feed-forward width."""
WINDOW, FILTERBANK = "preprocessor.featurizer.window", "preprocessor.featurizer.fb"
JOINT_OUT = "joint.joint_net.2"
_PARTS = ("encoder.", "decoder.", "joint.", "ctc_decoder.", "prompt_kernel.")
"""What words depend on; a loss or a feature extractor may bring tensors that we do not need."""
_DIGEST_CHUNKS, _DIGEST_CHUNK_BYTES = 16, 256


def checked_tensors(spec: ModelSpec, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pick the tensors of ``spec`` out of ``stored``.

    One that is missing, mis-shaped, or would change the words and is not known, is refused.
    """
    found = {_canonical(name): tensor for name, tensor in stored.items()}
    found.setdefault(WINDOW, hann_window())
    found.setdefault(FILTERBANK, mel_filterbank(spec.mel_bins))
    optional = set(_layer_biases(spec))
    tensors, expected = {}, expected_shapes(spec)
    for name in found:
        if name.startswith(_PARTS) and name not in expected:
            raise UnsupportedModel(
                f"the weights hold {name[:120]}, which our engine does not know: without it the"
                " words would be others"
            )
    for name, shape in expected.items():
        tensor = found.get(name)
        if tensor is None:
            if name in optional:
                continue
            raise UnreadableCheckpoint(f"the weights lack {name}")
        _check(name, tensor, shape)
        tensors[name] = tensor.detach()
    _check_inner_widths(tensors)
    return tensors


def expected_shapes(spec: ModelSpec) -> dict[str, Shape]:
    """Every tensor the engine reads, in a fixed order; ``ANY`` marks a free dimension."""
    parts = [_front(spec), _layers(spec)]
    if spec.has_rnnt:
        parts.append(_transducer(spec))
    if spec.has_ctc:
        parts.append(_affine(spec.ctc_prefix, (spec.vocab_size + 1, spec.d_model, 1)))
    if spec.num_prompts:
        parts.append(_affine("prompt_kernel.0", (ANY, spec.d_model + spec.num_prompts)))
        parts.append(_affine("prompt_kernel.2", (spec.d_model, ANY)))
    return dict(item for part in parts for item in part)


def fingerprint(spec: ModelSpec, tensors: Mapping[str, Tensor]) -> str:
    """Digest of the spec and of names, shapes, types and samples of all tensors."""
    digest = hashlib.sha256(json.dumps(asdict(spec), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        data = tensor.reshape(-1).view(torch.uint8)
        step = max(_DIGEST_CHUNK_BYTES, len(data) // _DIGEST_CHUNKS)
        for start in range(0, len(data), step):
            digest.update(data[start : start + _DIGEST_CHUNK_BYTES].numpy().tobytes())
        digest.update(data[-_DIGEST_CHUNK_BYTES:].numpy().tobytes())
    return digest.hexdigest()


def _canonical(name: str) -> str:
    # Without dropout NeMo's joint has its output layer one element earlier.
    return name.replace("joint.joint_net.1.", f"{JOINT_OUT}.")


def _check(name: str, tensor: Tensor, shape: Shape) -> None:
    fits = tensor.dim() == len(shape) and all(
        want == have or (want == ANY and have)
        for want, have in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        wanted = "x".join("?" if want == ANY else str(want) for want in shape)
        have = "x".join(map(str, tensor.shape))
        raise UnreadableCheckpoint(f"{name} has shape {have}, not {wanted}")
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise UnreadableCheckpoint(f"{name} holds {tensor.dtype}, not 16- or 32-bit floats")
    # A view with stride 0 costs no bytes on disk and any number in memory.
    if not tensor.is_contiguous():
        raise UnreadableCheckpoint(f"{name} is not stored contiguously")
    if not all(map(torch.isfinite, tensor.aminmax())):
        raise UnreadableCheckpoint(f"{name} holds numbers that are not finite")


def _check_inner_widths(tensors: Mapping[str, Tensor]) -> None:
    """Refuse blocks whose second linear does not take what the first gives."""
    pairs = {
        ".linear1.weight": ".linear2.weight",
        "prompt_kernel.0.weight": "prompt_kernel.2.weight",
    }
    for name, tensor in tensors.items():
        for first, second in pairs.items():
            if name.endswith(first):
                other = name.removesuffix(first) + second
                if tensors[other].shape[1] != tensor.shape[0]:
                    raise UnreadableCheckpoint(f"{name} and {other} do not fit together")


def _affine(name: str, weight: Shape) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", weight
    yield f"{name}.bias", weight[:1]


def _front(spec: ModelSpec) -> Iterator[tuple[str, Shape]]:
    channels, pre = spec.subsampling_channels, "encoder.pre_encode"
    yield WINDOW, (WINDOW_SAMPLES,)
    yield FILTERBANK, (1, spec.mel_bins, FFT // 2 + 1)
    for index in (0, 2, 5):
        yield from _affine(f"{pre}.conv.{index}", (channels, 1, 3, 3))
    for index in (3, 6):
        yield from _affine(f"{pre}.conv.{index}", (channels, channels, 1, 1))
    yield from _affine(f"{pre}.out", (spec.d_model, channels * spec.subsampled_bins[3]))


def _projections(spec: ModelSpec) -> dict[str, Shape]:
    """Linear and convolution weights of one layer; their biases are optional."""
    width = spec.d_model
    shapes: dict[str, Shape] = {
        f"self_attn.linear_{part}": (width, width) for part in ("q", "k", "v", "out")
    }
    for block in ("feed_forward1", "feed_forward2"):
        shapes[f"{block}.linear1"] = (ANY, width)
        shapes[f"{block}.linear2"] = (width, ANY)
    shapes["conv.pointwise_conv1"] = (2 * width, width, 1)
    shapes["conv.depthwise_conv"] = (width, 1, spec.conv_kernel)
    shapes["conv.pointwise_conv2"] = (width, width, 1)
    return shapes


def _layer_biases(spec: ModelSpec) -> Iterator[str]:
    for layer in range(spec.layers):
        for name in _projections(spec):
            yield f"encoder.layers.{layer}.{name}.bias"


def _layers(spec: ModelSpec) -> Iterator[tuple[str, Shape]]:
    width = spec.d_model
    norms = ("norm_feed_forward1", "norm_self_att", "norm_conv", "norm_feed_forward2", "norm_out")
    for layer in range(spec.layers):
        pre = f"encoder.layers.{layer}"
        for name, shape in _projections(spec).items():
            yield from _affine(f"{pre}.{name}", shape)
        yield f"{pre}.self_attn.linear_pos.weight", (width, width)
        for bias in ("pos_bias_u", "pos_bias_v"):
            yield f"{pre}.self_attn.{bias}", (spec.heads, width // spec.heads)
        # NeMo names it batch_norm whatever conv_norm_type says.
        for norm in (*norms, "conv.batch_norm"):
            yield from _affine(f"{pre}.{norm}", (width,))


def _transducer(spec: ModelSpec) -> Iterator[tuple[str, Shape]]:
    outputs, hidden = spec.vocab_size + 1, spec.pred_hidden
    yield "decoder.prediction.embed.weight", (outputs, hidden)
    for layer in range(spec.pred_layers):
        for kind in ("ih", "hh"):
            name = f"decoder.prediction.dec_rnn.lstm.{{}}_{kind}_l{layer}"
            yield name.format("weight"), (4 * hidden, hidden)
            yield name.format("bias"), (4 * hidden,)
    yield from _affine("joint.pred", (spec.joint_hidden, hidden))
    yield from _affine("joint.enc", (spec.joint_hidden, spec.d_model))
    yield from _affine(JOINT_OUT, (outputs, spec.joint_hidden))
