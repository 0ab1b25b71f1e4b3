import pytest
import torch

from asr.training.config import ModelConfig
from asr.training.model import Model, chunk_mask

CONFIG = ModelConfig(width=32, layers=2, heads=2, channels=8, left=28, vocabulary=11)


@pytest.mark.parametrize("look_ahead", [13, 6, 1, 0])
def test_a_frame_sees_its_chunk_and_whole_chunks_of_left_context(look_ahead: int) -> None:
    left, size = 28, look_ahead + 1
    seen = chunk_mask(90, left, look_ahead, torch.device("cpu"))
    for frame in (0, 31, 89):
        first = frame // size * size
        wanted = range(max(0, first - left // size * size), min(90, first + size))
        assert seen[frame].nonzero().flatten().tolist() == list(wanted)


@pytest.mark.parametrize("look_ahead", [6, 0])
def test_what_comes_after_the_look_ahead_does_not_change_a_frame(look_ahead: int) -> None:
    torch.manual_seed(0)
    model, frames = Model(CONFIG, 5).eval(), torch.tensor([400])
    mel = torch.randn(1, 400, 80)
    later = mel.clone()
    kept = 3 * (look_ahead + 1)
    later[:, 8 * (kept - 1) + 1 :] += 3.0
    with torch.inference_mode():
        one, other = (model.encoder(x, frames, look_ahead).final[:, :kept] for x in (mel, later))
    assert torch.equal(one, other)


def test_padding_does_not_change_an_utterance() -> None:
    torch.manual_seed(0)
    model = Model(CONFIG, 5).eval()
    mel = torch.randn(2, 300, 80)
    alone = mel[:1, :203]
    with torch.inference_mode():
        batched = model.encoder(mel, torch.tensor([203, 300]), 6)
        single = model.encoder(alone, torch.tensor([203]), 6)
    count = int(single.frames[0])
    assert batched.frames.tolist() == [count, 300 // 8 + 2]
    assert torch.allclose(batched.final[0, :count], single.final[0, :count], atol=1e-5)


def test_features_vary_more_over_time_than_their_constant_at_the_start() -> None:
    torch.manual_seed(0)
    subsampling = Model(CONFIG, 5).encoder.pre_encode
    with torch.inference_mode():
        out, _ = subsampling(4 * torch.randn(1, 800, 80), torch.tensor([800]))
    assert float(out.std(1).mean()) > 0.5 * float(out.mean(1).abs().mean())


def test_the_predictor_sees_nothing_before_the_first_label() -> None:
    model = Model(CONFIG, 5).eval()
    with torch.inference_mode():
        one, other = (model.decoder(torch.tensor([[label, 3]])) for label in (1, 2))
    assert torch.equal(one[:, 0], other[:, 0])
    assert not torch.equal(one[:, 1], other[:, 1])
