import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.training import losses
from asr.training.losses import Labels

BATCH, FRAMES, LABELS, PIECES, SIZE = 3, 5, 3, 6, 8


def _case() -> tuple[Tensor, Tensor, nn.Linear, Tensor, Labels]:
    torch.manual_seed(0)
    encoded = torch.randn(BATCH, FRAMES, SIZE, requires_grad=True)
    predicted = torch.randn(BATCH, LABELS + 1, SIZE, requires_grad=True)
    out = nn.Linear(SIZE, PIECES + 1)
    labels = Labels(torch.randint(0, PIECES, (BATCH, LABELS)), torch.tensor([3, 2, 0]))
    return encoded, predicted, out, torch.tensor([5, 3, 1]), labels


def _all_paths(
    encoded: Tensor, predicted: Tensor, out: nn.Linear, frames: Tensor, labels: Labels
) -> Tensor:
    logp = out(F.relu(encoded[:, :, None] + predicted[:, None])).log_softmax(-1)
    totals = []
    for b, (n, u) in enumerate(zip(frames.tolist(), labels.lengths.tolist(), strict=True)):
        paths = []
        for places in itertools.combinations_with_replacement(range(n), u):
            score, k = torch.zeros(()), 0
            for t in range(n):
                while k < u and places[k] == t:
                    score = score + logp[b, t, k, labels.ids[b, k]]
                    k += 1
                score = score + logp[b, t, k, PIECES]
            paths.append(score)
        totals.append(-torch.stack(paths).logsumexp(0))
    return torch.stack(totals)


def test_transducer_loss_and_gradients_are_those_of_the_sum_over_all_paths() -> None:
    encoded, predicted, out, frames, labels = _case()
    inputs = [encoded, predicted, out.weight, out.bias]
    wanted = _all_paths(encoded, predicted, out, frames, labels)
    got = losses.rnnt_each(encoded, predicted, out, frames, labels)
    assert torch.allclose(got, wanted, atol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(got.sum(), inputs),
        torch.autograd.grad(wanted.sum(), inputs),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_frames_and_labels_beyond_an_utterance_do_not_change_its_transducer_loss() -> None:
    encoded, predicted, out, frames, labels = _case()
    before = losses.rnnt_each(encoded, predicted, out, frames, labels)[1].item()
    with torch.no_grad():
        encoded[1, 3:] = 9.0
        predicted[1, 3:] = -9.0
    after = losses.rnnt_each(encoded, predicted, out, frames, labels)[1].item()
    assert before == pytest.approx(after, abs=1e-6)


def test_the_joint_in_slices_gives_the_loss_of_the_joint_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = _case()
    whole = losses.rnnt_each(*case)
    monkeypatch.setattr(losses, "SLICE", 2)
    assert torch.allclose(losses.rnnt_each(*case), whole, atol=1e-6)


def test_ctc_is_near_zero_when_the_logits_spell_the_labels() -> None:
    path = torch.tensor([0, 3, 1, 1, 3, 2])
    logits = F.one_hot(path, 4)[None].float() * 30
    labels = Labels(torch.tensor([[0, 1, 2]]), torch.tensor([3]))
    assert float(losses.ctc(logits, torch.tensor([6]), labels)) < 1e-3


def test_a_batch_in_which_nobody_speaks_is_drawn_to_say_nothing() -> None:
    logits = torch.zeros(2, 5, PIECES + 1, requires_grad=True)
    labels = Labels(torch.zeros(2, 0, dtype=torch.long), torch.tensor([0, 0]))
    loss = losses.ctc(logits, torch.tensor([5, 3]), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad[..., -1].sum() < 0


def test_frames_without_a_target_do_not_count() -> None:
    logits = torch.randn(1, 3, 4)
    some = torch.tensor([[1, -100, 3]])
    changed = logits.clone()
    changed[0, 1] += 5.0
    before, after = (losses.frame_cross_entropy(x, some) for x in (logits, changed))
    assert float(before) == pytest.approx(float(after))
    nothing = torch.full((1, 3), -100)
    assert float(losses.frame_cross_entropy(logits, nothing)) == 0.0


def test_two_views_that_say_the_same_agree_and_each_is_drawn_to_the_other() -> None:
    torch.manual_seed(0)
    labels = Labels(torch.zeros(2, 1, dtype=torch.long), torch.tensor([1, 1]))
    frames = torch.tensor([4, 2, 4, 2])
    view = torch.randn(2, 4, PIECES + 1)
    assert losses.agreement(view.repeat(2, 1, 1), frames, labels).item() == pytest.approx(0.0)

    logits = torch.randn(4, 4, PIECES + 1, requires_grad=True)
    before = losses.agreement(logits, frames, labels)
    (gradient,) = torch.autograd.grad(before, logits)
    assert torch.all(gradient[[1, 3], 2:] == 0.0)  # beyond the clip's end
    assert torch.all(gradient[:, :2].abs().sum((1, 2)) > 0.0)
    assert losses.agreement(logits - 0.1 * gradient, frames, labels) < before
