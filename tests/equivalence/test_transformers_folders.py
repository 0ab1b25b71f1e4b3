"""Folders that Transformers writes, read by our loader: the second, independent oracle.

The models have random weights; Transformers' own offline path says what should come out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr.checkpoint import UnsupportedModel, inspect, load_checkpoint
from asr.engine import Engine, EngineConfig
from asr.stream import subsampled
from tests.equivalence import models
from tests.equivalence.play import Player, Traffic, Utterance

transformers: Any = pytest.importorskip("transformers", minversion="5.20")
PIECES = 60
PLAIN, PROMPTED = "nemotron_asr_streaming", "nemotron3_5_asr"
LANGUAGE = "de-DE"


@dataclass(frozen=True, slots=True)
class Written:
    folder: Path
    model: Any
    processor: Any


def tokenizer_of(pieces: int) -> Any:
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers import models as kinds

    vocabulary = {"<unk>": 0, "▁": 1} | {f"{'▁' * (i % 3 == 0)}x{i}": i for i in range(2, pieces)}
    inner = Tokenizer(kinds.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    outer = transformers.ParakeetTokenizer(
        tokenizer_object=inner, unk_token="<unk>", pad_token="<unk>"
    )
    outer.add_special_tokens({"additional_special_tokens": ["<blank>"]})
    return outer


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Written]:
    """Let Transformers write a folder of the given model type."""
    from transformers.models.nemotron3_5_asr.processing_nemotron3_5_asr import (
        Nemotron3_5AsrProcessor,
    )

    def write(kind: str) -> Written:
        torch.manual_seed(1)
        encoder = {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 256,
            "num_mel_bins": 128,
            "attention_bias": False,
            "convolution_bias": False,
            "scale_input": kind == PLAIN,
            "sliding_window": 71 if kind == PLAIN else 57,
        }
        sizes = {"vocab_size": PIECES + 1, "blank_token_id": PIECES, "decoder_hidden_size": 96}
        config_class, model_class, processor_class = {
            PLAIN: (
                transformers.NemotronAsrStreamingConfig,
                transformers.NemotronAsrStreamingForRNNT,
                transformers.NemotronAsrStreamingProcessor,
            ),
            PROMPTED: (
                transformers.Nemotron3_5AsrConfig,
                transformers.Nemotron3_5AsrForRNNT,
                Nemotron3_5AsrProcessor,
            ),
        }[kind]
        model = model_class(config_class(encoder_config=encoder, **sizes)).eval()
        processor = processor_class(
            transformers.NemotronAsrStreamingFeatureExtractor(feature_size=128),
            tokenizer_of(PIECES),
            supported_num_lookahead_tokens=[13, 6, 1, 0] if kind == PLAIN else [13, 6, 3, 0],
        )
        tune(model, processor)
        folder = tmp_path_factory.mktemp(kind)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        return Written(folder, model, processor)

    return write


@torch.no_grad()
def encode(
    written_model: Any, processor: Any, samples: NDArray[np.float32], look_ahead: int
) -> tuple[Any, Tensor]:
    """Inputs of the model, and its encoder frames [frames, width] after the prompt."""
    more = {"language": LANGUAGE} if hasattr(written_model, "prompt_projector") else {}
    inputs = processor(samples, sampling_rate=16_000, **more)
    inputs["num_lookahead_tokens"] = look_ahead
    outputs = written_model.get_audio_features(**inputs)
    # The pooled output is projected already: the joint's view of the frames.
    return inputs, outputs.pooler_output[0]


@torch.no_grad()
def tune(model: Any, processor: Any) -> None:
    """Let history and frames matter, and the blank win on about 85 % of frames."""
    for name, parameter in model.named_parameters():
        if name.startswith("decoder."):
            parameter.normal_(std=0.1)
        elif name.startswith(("encoder_projector", "prompt_projector")):
            parameter.normal_(std=0.2)
        elif parameter.dim() > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
    model.decoder.embedding.weight[-1] = 0.0  # NeMo's padding row
    model.joint.head.weight.normal_(std=0.3)
    model.joint.head.bias.zero_()
    _, frames = encode(model, processor, models.audio(6, 3), 6)
    logits = model.joint.head(torch.relu(frames))
    model.joint.head.bias[:] = -logits.mean(0)
    best = (logits - logits.mean(0))[:, :-1].max(-1).values
    model.joint.head.weight[-1] = 0.0
    model.joint.head.bias[-1] = best.quantile(0.85)


@torch.no_grad()
def truth_of(written_one: Written, said: Utterance) -> tuple[list[int], Tensor]:
    model = written_one.model
    inputs, frames = encode(model, written_one.processor, said.samples, said.look_ahead)
    most = 20 * frames.shape[0]
    sequences = model.generate(
        **inputs, decoder_start_token_id=PIECES, pad_token_id=0, max_new_tokens=most
    ).sequences
    return [token for token in sequences[0].tolist() if token != PIECES], frames


@pytest.mark.parametrize("kind", [PLAIN, PROMPTED])
def test_a_folder_streams_to_the_words_transformers_gives_offline(
    written: Callable[[str], Written], kind: str
) -> None:
    one = written(kind)
    checkpoint = load_checkpoint(one.folder)
    language = LANGUAGE if kind == PROMPTED else None
    said = [
        Utterance(models.audio(2.0 + i / 7, 40 + i), look_ahead, language)
        for i, look_ahead in enumerate(checkpoint.spec.look_aheads * 2)
    ]
    engine = Engine(checkpoint, EngineConfig(slots=6, precision="fp32"))
    heard = Player(engine, said, Traffic(seed=8)).play()
    projector = one.model.encoder_projector
    total = 0
    for stream in heard:
        tokens, frames = truth_of(one, said[stream.utterance])
        frames = frames[: stream.frames]  # Transformers keeps a masked one at the end
        with torch.inference_mode():
            ours = projector(stream.rows)
        mel_frames = len(said[stream.utterance].samples) // 160
        assert len(ours) == len(frames) == subsampled(mel_frames)[2]
        assert float((ours - frames).abs().max()) <= 1e-4
        assert [token.id for token in stream.tokens] == tokens
        total += len(tokens)
    assert total > 20


def test_pieces_and_prompts_come_from_the_folder(written: Callable[[str], Written]) -> None:
    checkpoint = load_checkpoint(written(PROMPTED).folder)
    assert checkpoint.tokenizer.pieces[:4] == ("<unk>", "▁", "x2", "▁x3")
    assert checkpoint.spec.prompts["auto"] == 101
    assert checkpoint.spec.left_context == 56
    assert checkpoint.spec.look_aheads == (13, 6, 3, 0)


def test_the_front_end_is_nemos_to_the_bit(written: Callable[[str], Written]) -> None:
    librosa = pytest.importorskip("librosa")
    for bins in (80, 128):
        from asr.checkpoint.frontend import mel_filterbank

        theirs = librosa.filters.mel(sr=16_000, n_fft=512, n_mels=bins, fmin=0, fmax=None)
        assert torch.equal(mel_filterbank(bins)[0], torch.from_numpy(theirs))


def test_offline_parakeets_are_refused(written: Callable[[str], Written], tmp_path: Path) -> None:
    source = written(PLAIN).folder
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(source / name)
    (tmp_path / "config.json").write_text('{"model_type": "parakeet_ctc"}')
    with pytest.raises(UnsupportedModel, match="whole utterance"):
        inspect(tmp_path)
