"""Greedy RNN-T over chunks with pooled prediction-network state.

Does: encoder frames -> tokens at their frame of emission, at most ``max_symbols`` a frame.
Does not know: CTC, text, endpoints (the state goes on over them, or casing would break).
Source: NeMo rnnt_label_looping.py; the joint runs over all remaining frames of a chunk at once, so
a round costs one joint and one LSTM step and there are as many rounds as tokens, not frames.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from asr.checkpoint.spec import ModelSpec
from asr.decoder.base import Heard, confidence
from asr.decoder.fixed import Rows, Said
from asr.decoder.fusion import Fusion
from asr.encoder.linear import Precision, make_linear
from asr.interface import Token

LSTM_PREFIX = "decoder.prediction.dec_rnn.lstm."
SPARE_ROUNDS = 3
"""Rounds of a fixed pass beyond one for each frame: rarely does a row need more."""


class _Lstm:
    """Steps of the prediction network: one label each, the first layer's input by table.

    A step reads its weights from memory and does little with them: half the weights, half the time.
    """

    def __init__(self, tensors: Mapping[str, Tensor], layers: int, precision: Precision) -> None:
        def weights(name: str) -> Tensor:
            return tensors[LSTM_PREFIX + name].float()

        embedding = tensors["decoder.prediction.embed.weight"].float()
        first = weights("weight_ih_l0"), weights("bias_ih_l0") + weights("bias_hh_l0")
        self._of_label_VG = F.linear(embedding, *first)
        self._from_state = [
            make_linear(weights(f"weight_hh_l{i}"), None, precision) for i in range(layers)
        ]
        self._from_below = [
            make_linear(
                weights(f"weight_ih_l{i}"),
                weights(f"bias_ih_l{i}") + weights(f"bias_hh_l{i}"),
                precision,
            )
            for i in range(1, layers)
        ]

    def __call__(self, labels_N: Tensor, h_LNP: Tensor, c_LNP: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states after the labels."""
        gates, states, cells = self._of_label_VG[labels_N], [], []
        for layer, from_state in enumerate(self._from_state):
            i, f, g, o = (gates + from_state(h_LNP[layer]).float()).chunk(4, -1)
            cells.append(f.sigmoid() * c_LNP[layer] + i.sigmoid() * g.tanh())
            states.append(o.sigmoid() * cells[-1].tanh())
            if layer < len(self._from_below):
                gates = self._from_below[layer](states[-1]).float()
        return torch.stack(states), torch.stack(cells)


class RnntDecoder:
    """Prediction network, joint, and their state by slot: h, c, projected prediction g."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        spec: ModelSpec,
        fusion: Fusion,
        *,
        slots: int,
        precision: Precision,
    ) -> None:
        self._blank, self._max_symbols = spec.blank, spec.max_symbols
        self._fusion = fusion
        self._lstm = _Lstm(tensors, spec.pred_layers, precision)
        device = tensors["decoder.prediction.embed.weight"].device

        def linear(name: str) -> tuple[Tensor, Tensor | None]:
            return tensors[f"{name}.weight"], tensors.get(f"{name}.bias")

        # Dropout decides whether the joint's output layer is element 1 or 2 of its Sequential.
        out = next(k for k in tensors if k.startswith("joint.joint_net.") and k.endswith(".weight"))
        self._encoder_side = make_linear(*linear("joint.enc"), precision)
        self._predictor_side = make_linear(*linear("joint.pred"), precision)
        self._out = make_linear(*linear(out.removesuffix(".weight")), precision)
        shape = (spec.pred_layers, slots + 1, spec.pred_hidden)
        self._h_LSP = torch.zeros(shape, device=device)
        self._c_LSP = torch.zeros(shape, device=device)
        self._g_SJ = torch.zeros(slots + 1, spec.joint_hidden, device=device)
        # The start symbol is the blank, whose embedding row is zero (padding_idx).
        start = torch.zeros(spec.pred_layers, 1, spec.pred_hidden, device=device)
        self._start = self._predict(torch.tensor([self._blank], device=device), start, start)
        for slot in range(slots + 1):
            self.clear(slot)

    def clear(self, slot: int) -> None:
        """Set a row to the start of a stream."""
        h, c, g = self._start
        self._h_LSP[:, slot], self._c_LSP[:, slot], self._g_SJ[slot] = h[:, 0], c[:, 0], g[0]

    def copy(self, source: int, target: int) -> None:
        """Copy a row."""
        for cache in (self._h_LSP, self._c_LSP):
            cache[:, target] = cache[:, source]
        self._g_SJ[target] = self._g_SJ[source]

    def rebias(self, slot: int) -> None:
        """Go on: the next frame asks anew what the row favours."""

    def agree(self, slot: int, copy: int) -> None:
        """Nothing is open."""

    def flush(self, slot: int) -> list[Token]:
        """Nothing is held back."""
        return []

    def export_row(self, slot: int) -> dict[str, Tensor]:
        """Copy a row out."""
        return {
            "rnnt_h": self._h_LSP[:, slot].clone().contiguous().cpu(),
            "rnnt_c": self._c_LSP[:, slot].clone().contiguous().cpu(),
            "rnnt_g": self._g_SJ[slot].clone().cpu(),
        }

    def import_row(self, slot: int, row: dict[str, Tensor]) -> None:
        """Put a row back."""
        self._h_LSP[:, slot].copy_(row["rnnt_h"])
        self._c_LSP[:, slot].copy_(row["rnnt_c"])
        self._g_SJ[slot].copy_(row["rnnt_g"])

    def step(
        self, x_BTD: Tensor, slots_B: Tensor, valid_B: Tensor, first_frame_B: Tensor
    ) -> list[Heard]:
        """Decode every valid frame of the batch."""
        encoded = self._encoder_side(x_BTD).float()
        steps = torch.arange(x_BTD.shape[1], device=x_BTD.device)
        at = torch.zeros_like(valid_B)  # the frame each row stands on
        symbols = torch.zeros_like(valid_B)  # already emitted on that frame
        rows = [Heard() for _ in x_BTD]
        active = torch.nonzero(valid_B > 0).squeeze(1)
        while len(active):
            g = self._g_SJ[slots_B[active]]
            logits = self._out(F.relu(encoded[active] + g[:, None])).float()
            label = self._labels(logits, slots_B[active])
            wanted = (steps >= at[active, None]) & (steps < valid_B[active, None])
            emits = wanted & (label != self._blank)
            has_token, frame = emits.max(-1)
            pick = torch.nonzero(has_token).squeeze(1)
            if not len(pick):
                break
            active, frame = active[pick], frame[pick]
            chosen = label[pick, frame]
            sure = confidence(logits[pick, frame], chosen)
            self._advance(chosen, slots_B[active])
            self._say(chosen, slots_B[active])
            symbols[active] = torch.where(frame == at[active], symbols[active], 0) + 1
            is_full = symbols[active] >= self._max_symbols
            at[active] = frame + is_full
            symbols[active] = symbols[active].masked_fill(is_full, 0)
            times = first_frame_B[active] + frame
            for row, token, time, score in zip(
                active.tolist(), chosen.tolist(), times.tolist(), sure.tolist(), strict=True
            ):
                rows[row].decided.append(Token(token, time, score))
        return rows

    def room(self, steps: int) -> int:
        """Most tokens of a row."""
        return steps * self._max_symbols

    def begin(self, x_BTD: Tensor, rows: Rows, said: Said) -> Tensor:
        """Return the encoder's side of the joint [B, T, J]."""
        for counter in (said.count_B, said.at_B, said.symbols_B):
            counter.zero_()
        return self._encoder_side(x_BTD).float()

    def go_on(self, prepared: Tensor, rows: Rows, said: Said) -> None:
        """Say a token a round, as ``step`` does, every row in every round."""
        steps = torch.arange(prepared.shape[1], device=prepared.device)
        for _ in range(len(steps) + SPARE_ROUNDS):
            self._round(prepared, rows, said, steps)
        said.left.copy_((said.at_B < rows.valid_B).sum())

    def _round(self, encoded_BTJ: Tensor, rows: Rows, said: Said, steps: Tensor) -> None:
        slots, end = rows.slots_B, len(steps)
        h, c, g = self._h_LSP[:, slots], self._c_LSP[:, slots], self._g_SJ[slots]
        logits = self._out(F.relu(encoded_BTJ + g[:, None])).float()
        label = logits.argmax(-1)
        wanted = (steps >= said.at_B[:, None]) & (steps < rows.valid_B[:, None])
        frame = torch.where(wanted & (label != self._blank), steps, end).amin(-1)
        has_token = frame < end
        inside = frame.clamp(max=end - 1)[:, None]
        chosen = label.gather(1, inside).squeeze(1)
        of_frame = inside[..., None].expand(-1, 1, logits.shape[-1])
        sure = confidence(logits.gather(1, of_frame).squeeze(1), chosen)
        new = self._predict(chosen, h, c)
        has = has_token[:, None]
        self._h_LSP[:, slots] = torch.where(has, new[0], h)
        self._c_LSP[:, slots] = torch.where(has, new[1], c)
        self._g_SJ[slots] = torch.where(has, new[2], g)
        said.say(has_token, chosen, rows.first_frame_B + frame, sure)
        symbols = torch.where(frame == said.at_B, said.symbols_B, 0) + 1
        is_full = symbols >= self._max_symbols
        said.symbols_B.copy_(symbols.masked_fill(is_full, 0))
        said.at_B.copy_(frame + (is_full & has_token))  # a row without a token is at its end

    def _labels(self, logits_NTV: Tensor, slots_N: Tensor) -> Tensor:
        """Return the best label of each frame, in the light of what the rows favour."""
        label = logits_NTV.argmax(-1)
        if (favoured := self._fusion.rows(slots_N)) is not None:
            hints = self._fusion.look(slots_N[favoured])
            label[favoured] = self._fusion.choose(logits_NTV[favoured], hints)
        return label

    def _say(self, tokens_N: Tensor, slots_N: Tensor) -> None:
        if (favoured := self._fusion.rows(slots_N)) is not None:
            slots = slots_N[favoured]
            self._fusion.advance(slots, tokens_N[favoured], self._fusion.look(slots))

    def _advance(self, tokens_N: Tensor, slots_N: Tensor) -> None:
        h, c, g = self._predict(tokens_N, self._h_LSP[:, slots_N], self._c_LSP[:, slots_N])
        self._h_LSP[:, slots_N], self._c_LSP[:, slots_N], self._g_SJ[slots_N] = h, c, g

    def _predict(self, tokens_N: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, c = self._lstm(tokens_N, h, c)
        return h, c, self._predictor_side(h[-1]).float()
