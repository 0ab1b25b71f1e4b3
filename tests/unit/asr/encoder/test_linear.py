"""Products on processors that are not this one."""

import os
import subprocess
import sys

ELSEWHERE = """
import torch
from asr.encoder.linear import make_linear

torch.manual_seed(0)
x = torch.randn(3, 5, 64).bfloat16()
for outputs, activation in ((7, "none"), (8_000, "swish")):
    weight, bias = torch.randn(outputs, 64), torch.randn(outputs)
    ours = make_linear(weight, bias, "bf16", activation)(x)
    exact = x.double() @ weight.bfloat16().double().T + bias.bfloat16().double()
    exact = torch.nn.functional.silu(exact) if activation == "swish" else exact
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.double(), exact, rtol=2**-7, atol=1e-2)
"""


def test_a_processor_below_avx512_and_no_compiler_multiply_bf16() -> None:
    """oneDNN has no such product there, and refuses."""
    lacks = {"ONEDNN_MAX_CPU_ISA": "AVX2", "CXX": "/bin/false"}
    command = [sys.executable, "-c", ELSEWHERE]
    done = subprocess.run(command, env=os.environ | lacks, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
