"""Changes made to training audio and features: what each may and may not do."""

import random

import torch

from asr.training.augment import in_a_room, warp_bands

RATE = 16_000


def test_a_room_moves_nothing_in_time_and_dies_away_behind_a_click() -> None:
    torch.manual_seed(0)
    click = torch.zeros(RATE)
    click[1_000] = 1.0
    heard = in_a_room(click, random.Random(1))
    assert len(heard) == len(click)
    assert heard[:1_000].abs().max() < 1e-5
    assert heard[1_000].item() > heard[1_001:].abs().max().item()
    early, late = heard[1_001:2_600], heard[-1_600:]
    assert early.norm() > 100 * late.norm()


def test_another_vocal_tract_moves_a_formant_along_the_bands_and_not_in_time() -> None:
    mel = torch.zeros(40, 10, 80)
    mel[:, 3:5, 40] = 1.0
    warp_bands(mel, 0.2, random.Random(0))
    where = mel[:, 3].argmax(-1)
    assert mel[:, :3].abs().max() == 0.0
    assert mel[:, 5:].abs().max() == 0.0
    assert where.min() >= 32
    assert where.max() <= 48
    assert len(set(where.tolist())) > 5
