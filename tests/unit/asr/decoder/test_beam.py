"""The beam finds what trying every alignment finds, and says it however audio is cut."""

import itertools
import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr.checkpoint.spec import ModelSpec
from asr.decoder import native_search, search
from asr.decoder.beam import CtcBeamDecoder
from asr.decoder.boosting import FIRST_SHARE
from asr.decoder.counting import estimate
from asr.decoder.ctc import CtcDecoder
from asr.decoder.fusion import SURE_BLANK, Fusion
from asr.decoder.native_search import make_search
from asr.decoder.search import PATIENCE, PAUSE, TRIED, Beams, PlainSearch, Steps
from asr.interface import Biasing, Phrase, Token
from asr.tokenizer import Tokenizer

PIECES = ("▁a", "b", "c")
BLANK = len(PIECES)
SPEC = cast(ModelSpec, SimpleNamespace(ctc_prefix="head", blank=BLANK))
HEAD = {"head.weight": torch.eye(BLANK + 1)[..., None], "head.bias": torch.zeros(BLANK + 1)}
"""Encoder frames of these tests are the head's output."""
PHRASE = Biasing(phrases=(Phrase("abc", 3.0),))


def fusion_of() -> Fusion:
    return Fusion(Tokenizer(pieces=PIECES), slots=2, device=torch.device("cpu"))


def beam_of(fusion: Fusion, width: int = 40, *, is_native: bool = True) -> CtcBeamDecoder:
    search = make_search(fusion, width=width, blank=BLANK, is_native=is_native)
    return CtcBeamDecoder(HEAD, SPEC, fusion, slots=2, precision="fp32", search=search)


def hear(decoder: Any, frames: Tensor, cuts: list[int]) -> list[Token]:
    """Decode frames [T, V + 1] in slot 0, cut so."""
    tokens, at = list[Token](), 0
    for end in [*sorted(cuts), len(frames)]:
        part = frames[at:end]
        if len(part):
            numbers = torch.tensor([0]), torch.tensor([len(part)]), torch.tensor([at])
            tokens += decoder.step(part[None], *numbers)[0].decided
        at = max(at, end)
    return [*tokens, *decoder.flush(0)]


def best_of_all(frames: Tensor, gain_of: Any = lambda _: 0.0) -> tuple[tuple[int, ...], float]:
    """Try every alignment; return the best text and its lead over the next."""
    scores = torch.log_softmax(frames, -1).tolist()
    sums = dict[tuple[int, ...], float]()
    for path in itertools.product(range(BLANK + 1), repeat=len(scores)):
        text = tuple(label for label, _ in itertools.groupby(path) if label != BLANK)
        value = math.exp(sum(row[label] for row, label in zip(scores, path, strict=True)))
        sums[text] = sums.get(text, 0.0) + value
    ranked = sorted(((math.log(p) + gain_of(text), text) for text, p in sums.items()), reverse=True)
    return ranked[0][1], ranked[0][0] - ranked[1][0] if len(ranked) > 1 else math.inf


def frames_of(seed: int, length: int) -> Tensor:
    frames = torch.randn(length, BLANK + 1, generator=torch.Generator().manual_seed(seed)) * 1.5
    blank = torch.log_softmax(frames, -1)[:, -1].exp()
    return frames[blank < SURE_BLANK - 0.05]  # beyond it nothing is added, by design


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_a_wide_beam_finds_the_best_text(seed: int, length: int) -> None:
    frames = frames_of(seed, length)
    text, lead = best_of_all(frames)
    if lead > 1e-3:
        assert tuple(token.id for token in hear(beam_of(fusion_of()), frames, [])) == text


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_only_whole_phrases_count_for_the_best_text(seed: int, length: int) -> None:
    frames, worth = frames_of(seed, length), 3.0 * (2 + FIRST_SHARE)

    def gain(text: tuple[int, ...]) -> float:
        return worth * sum(text[i : i + 3] == (0, 1, 2) for i in range(len(text)))

    text, lead = best_of_all(frames, gain)
    fusion = fusion_of()
    decoder = beam_of(fusion)
    fusion.set(0, PHRASE)
    decoder.rebias(0)
    if lead > 1e-3:
        assert tuple(token.id for token in hear(decoder, frames, [])) == text


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 70), max_size=5))
def test_cuts_and_copies_do_not_change_what_is_said(seed: int, cuts: list[int]) -> None:
    frames = torch.randn(70, BLANK + 1, generator=torch.Generator().manual_seed(seed)) * 2
    whole = hear(beam_of(fusion_of(), 4), frames[:35], []) and hear(
        beam_of(fusion_of(), 4), frames, [35]
    )
    decoder = beam_of(fusion_of(), 4)
    assert hear(decoder, frames, sorted({*cuts, 35})) == whole
    assert [token.frame for token in whole] == sorted(token.frame for token in whole)


def decided_at(frames: Tensor, *, is_native: bool) -> list[int]:
    """Hear frame by frame; return when each token was decided, which is when it came."""
    decoder, came, told = beam_of(fusion_of(), 4, is_native=is_native), list[int](), list[int]()
    for at in range(len(frames)):
        numbers = torch.tensor([0]), torch.tensor([1]), torch.tensor([at])
        tokens = decoder.step(frames[None, at : at + 1], *numbers)[0].decided
        came += [at for _ in tokens]
        told += [token.decided for token in tokens]
    assert came == told
    return came


def undecided(rest: int) -> Tensor:
    """Two readings of the first frame that stay as likely as each other, and blanks."""
    frames = torch.full((1 + rest, BLANK + 1), -9.0)
    frames[:, BLANK] = 2.0
    frames[0] = torch.tensor([2.0, 2.01, -9.0, -9.0])
    return frames


@pytest.mark.parametrize("is_native", [True, False])
def test_a_pause_decides(*, is_native: bool) -> None:
    assert decided_at(undecided(12), is_native=is_native) == [PAUSE]


@pytest.mark.parametrize("is_native", [True, False])
@pytest.mark.parametrize("rest", [0, 12])
@pytest.mark.parametrize(
    ("ends", "said"), [([-9.0, -9.0, -9.0, 2.0], "ac"), ([-9.0, -9.0, 9.0, 0.0], "abc")]
)
def test_a_phrase_that_breaks_off_in_a_pause_gains_nothing(
    *, is_native: bool, rest: int, ends: list[float], said: str
) -> None:
    frames = torch.full((4 + rest, BLANK + 1), -9.0)
    frames[:, BLANK] = 2.0
    frames[0, 0], frames[1, 1], frames[1, 2] = 9.0, 2.0, 3.9
    frames[3] = torch.tensor(ends)
    fusion = fusion_of()
    decoder = beam_of(fusion, 8, is_native=is_native)
    fusion.set(0, PHRASE)
    decoder.rebias(0)
    tokens = hear(decoder, frames, [])
    assert "".join(PIECES[token.id].removeprefix("▁") for token in tokens) == said


@pytest.mark.parametrize("is_native", [True, False])
def test_in_running_speech_a_token_waits_no_longer_than_the_patience(*, is_native: bool) -> None:
    frames = undecided(PATIENCE + 3)
    frames[2::2] = torch.tensor([-9.0, -9.0, 9.0, -9.0])
    assert decided_at(frames, is_native=is_native)[0] == PATIENCE


@pytest.mark.parametrize("is_native", [True, False])
@pytest.mark.parametrize(("behind", "said"), [(8.0, "abc"), (12.0, "a")])
def test_a_phrase_that_has_begun_goes_on_with_an_unlikely_piece(
    *, is_native: bool, behind: float, said: str
) -> None:
    frames = torch.tensor([
        [5.0, -30.0, -30.0, 0.0],
        [-0.2, -behind, -30.0, 0.0],
        [-30.0, -30.0, -0.2, 0.0],
        [-30.0, -30.0, -30.0, 0.0],
    ])  # fmt: skip
    fusion = fusion_of()
    decoder = beam_of(fusion, 8, is_native=is_native)
    fusion.set(0, Biasing(phrases=(Phrase("abc", 8.0),)))
    decoder.rebias(0)
    tokens = hear(decoder, frames, [])
    assert "".join(PIECES[token.id].removeprefix("▁") for token in tokens) == said


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(0.5, 4),
    st.lists(st.integers(0, 50), max_size=3),
    st.sampled_from([1, 2, TRIED]),
)
def test_the_search_in_cpp_is_the_plain_one(
    seed: int, scale: float, cuts: list[int], tried: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for module in (search, native_search):
            patch.setattr(module, "TRIED", tried)
        searches_are_alike(seed, scale, cuts)


def searches_are_alike(seed: int, scale: float, cuts: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(50, BLANK + 1, generator=generator) * scale
    heard = []
    for is_native in (True, False):
        fusion = Fusion(
            Tokenizer(pieces=PIECES), slots=2, device=torch.device("cpu"),
            lm=estimate([[0, 2, 0, 2, 2], [1, 0, 0, 2]] * 30, BLANK, order=3), lm_weight=0.9,
        )  # fmt: skip
        decoder = beam_of(fusion, 6, is_native=is_native)
        fusion.set(0, PHRASE)
        decoder.rebias(0)
        rows, at = list[Any](), 0
        for end in [*sorted(cuts), len(frames)]:
            if end > at:
                numbers = torch.tensor([0]), torch.tensor([end - at]), torch.tensor([at])
                rows += decoder.step(frames[None, at:end], *numbers)
                at = end
        heard.append((rows, decoder.flush(0)))
    for ours, plain in zip(heard[0][0], heard[1][0], strict=True):
        assert_alike(ours.decided, plain.decided)
        assert_alike(ours.open, plain.open)
    assert_alike(heard[0][1], heard[1][1])


def test_silence_leaves_a_wide_vocabulary_as_it_was() -> None:
    """Where nothing is tried there are fewer hypotheses than room; the dead must not pile up."""
    pieces = tuple(map(chr, range(ord("a"), ord("a") + 200)))
    fusion = Fusion(Tokenizer(pieces=pieces), slots=1, device=torch.device("cpu"))
    beams, told = Beams.allocate(1, 24), torch.zeros(1, dtype=torch.long)
    beams.clear(0, len(pieces))
    frames = torch.full((1, 40, len(pieces) + 1), -20.0)
    frames[0, :, -1], frames[0, -6, 3] = 9.0, 30.0
    steps = Steps(torch.tensor([0]), torch.tensor([40]), torch.tensor([0]))
    search = PlainSearch(fusion, width=24, blank=len(pieces))
    (heard,) = search(beams, told, torch.log_softmax(frames, -1), steps)
    assert [token.id for token in heard.decided] == [3]


def assert_alike(ours: list[Token], plain: list[Token]) -> None:
    assert [(t.id, t.frame, t.decided) for t in ours] == [(t.id, t.frame, t.decided) for t in plain]
    for one, other in zip(ours, plain, strict=True):
        assert one.confidence == pytest.approx(other.confidence, abs=1e-5)


def test_a_row_goes_on_in_another_decoder() -> None:
    frames = torch.randn(60, BLANK + 1, generator=torch.Generator().manual_seed(3)) * 2
    fusions = [fusion_of(), fusion_of()]
    one, other = (beam_of(fusion, 4) for fusion in fusions)
    fusions[0].set(0, PHRASE)
    one.rebias(0)
    numbers = torch.tensor([0]), torch.tensor([30]), torch.tensor([0])
    one.step(frames[None, :30], *numbers)
    fusions[1].import_row(1, fusions[0].export_row(0))
    other.import_row(1, one.export_row(0))
    other.rebias(1)
    rest = [
        decoder.step(
            frames[None, 30:], torch.tensor([slot]), torch.tensor([30]), torch.tensor([30])
        )[0].decided
        + decoder.flush(slot)
        for decoder, slot in ((one, 0), (other, 1))
    ]
    assert rest[0] == rest[1] != []


@pytest.mark.parametrize("kind", ["greedy", "beam"])
def test_boosting_says_nothing_where_blank_is_near_certain(kind: str) -> None:
    fusion = fusion_of()
    decoder: Any = beam_of(fusion, 8)
    if kind == "greedy":
        decoder = CtcDecoder(HEAD, SPEC, fusion, slots=2, precision="fp32")
    fusion.set(0, Biasing(phrases=(Phrase("abc", 10.0), Phrase("a", 10.0))))
    decoder.rebias(0)
    silence = torch.zeros(7_500, BLANK + 1)  # ten minutes
    silence[:, BLANK] = math.log(SURE_BLANK / (1 - SURE_BLANK) * BLANK) + 0.01
    cut = list(range(0, len(silence), 2_000)) if kind == "greedy" else [50]
    assert hear(decoder, silence if kind == "greedy" else silence[:100], cut) == []


def test_a_piece_far_behind_the_best_one_is_not_boosted() -> None:
    fusion = fusion_of()
    decoder = CtcDecoder(HEAD, SPEC, fusion, slots=2, precision="fp32")
    fusion.set(0, Biasing(phrases=(Phrase("a", 10.0),)))
    assert [t.id for t in hear(decoder, torch.tensor([[2.0, 3.0, -9.0, -9.0]]), [])] == [0]
    decoder.clear(0)
    assert [t.id for t in hear(decoder, torch.tensor([[-4.0, 3.0, -9.0, -9.0]]), [])] == [1]
