"""Language prompt after the encoder: a one-hot beside each frame, then a two-layer kernel.

Does: encoder frames + prompt ids -> conditioned frames; streams of any language share a batch.
Does not know: which language an id means.
Source: NeMo EncDecRNNTBPEModelWithPrompt; concatenating a one-hot equals adding one weight column.
"""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from asr.checkpoint.spec import ModelSpec
from asr.encoder.linear import Precision, make_linear


class PromptKernel:
    """Linear, ReLU, Linear over [frame; one-hot]."""

    def __init__(
        self, tensors: Mapping[str, Tensor], spec: ModelSpec, precision: Precision
    ) -> None:
        weight = tensors["prompt_kernel.0.weight"]
        self._frames = make_linear(
            weight[:, : spec.d_model], tensors["prompt_kernel.0.bias"], precision
        )
        self._columns_PH = weight[:, spec.d_model :].float().T.contiguous()
        self._out = make_linear(
            tensors["prompt_kernel.2.weight"], tensors["prompt_kernel.2.bias"], precision
        )

    def __call__(self, x_BTD: Tensor, prompts_B: Tensor) -> Tensor:
        """Return [B, T, D]."""
        columns = self._columns_PH[prompts_B][:, None]
        return self._out(F.relu(self._frames(x_BTD).float() + columns)).float()
