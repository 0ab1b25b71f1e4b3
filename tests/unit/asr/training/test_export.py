import pytest
import torch
from torch import Tensor

from asr.training.config import ModelConfig
from asr.training.export import of_depth
from asr.training.model import Model


def _model(layers: int) -> Model:
    return Model(
        ModelConfig(width=32, layers=layers, heads=2, channels=8, left=28, vocabulary=11), 5
    ).eval()


def _trained(layers: int) -> dict[str, Tensor]:
    """Weights of which none is at its start, norms and biases too."""
    torch.manual_seed(0)
    return {k: v + 0.3 * torch.randn_like(v) for k, v in _model(layers).state_dict().items()}


def _layers(weights: dict[str, Tensor]) -> list[Tensor]:
    return [v for k, v in weights.items() if k.endswith("self_attn.linear_q.weight")]


@pytest.mark.parametrize("layers", [4, 5, 11])
def test_a_deeper_encoder_says_the_same_at_its_start(layers: int) -> None:
    weights, mel, frames = _trained(3), 4 * torch.randn(1, 200, 80), torch.tensor([200])
    small, deep = _model(3), _model(layers)
    small.load_state_dict(weights)
    deep.load_state_dict(of_depth(weights, layers))
    with torch.inference_mode():
        one, other = (m.encoder(mel, frames, 6).final for m in (small, deep))
    assert torch.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize(("layers", "kept"), [(1, [0]), (2, [0, 5]), (4, [0, 2, 3, 5])])
def test_a_shallower_encoder_keeps_layers_spread_evenly(layers: int, kept: list[int]) -> None:
    weights = _trained(6)
    fewer = of_depth(weights, layers)
    _model(layers).load_state_dict(fewer)
    before = _layers(weights)
    for layer, of in zip(_layers(fewer), kept, strict=True):
        assert torch.equal(layer, before[of])


def test_the_same_depth_changes_nothing() -> None:
    weights = _trained(3)
    same = of_depth(weights, 3)
    assert same.keys() == weights.keys()
    assert all(torch.equal(same[k], v) for k, v in weights.items())
