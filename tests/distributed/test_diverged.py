"""DeepSpeed's steps that diverge end the training, in every ZeRO stage and precision."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.deepspeed

SESSION = """
import torch
from torch import nn
from rlhf.engine.base import Diverged, EngineConfig
from rlhf.engine.build import build_engine
from rlhf.engine.distributed import Rank
from rlhf.engine.optim import OptimConfig

class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 64))
    def forward(self, gradient):
        return (self.weight * gradient).sum()

def loss(module, gradient):
    return module(gradient.to(next(module.parameters()).dtype)), {}

for gradient in (torch.inf, 1e30):
    for precision in ("fp32", "bf16"):
        for stage in range(4):
            config = EngineConfig(kind="deepspeed", zero_stage=stage, precision=precision)
            engine = build_engine(Weighted(), config, OptimConfig(), Rank())
            engine.train_step([torch.ones(4, 64)], loss, 0.1)
            try:
                engine.train_step([torch.full((4, 64), gradient)], loss, 0.1)
            except Diverged as error:
                told = str(error).partition(";")[0].partition(" is ")[0]
                print("RESULT", gradient, precision, stage, told)
"""


def test_every_stage_tells_of_a_step_that_diverges() -> None:
    """By the loss; by the norm of the gradient, whose squares overflow, where DeepSpeed tells it.

    It has none at stage 0 in fp32, and at stage 3 one that does not overflow.
    """
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SESSION], capture_output=True, text=True, timeout=600
    )
    found = [line[7:] for line in ended.stdout.splitlines() if line.startswith("RESULT ")]
    step = "training diverged in optimizer step 2: the"
    assert found == [
        *(
            f"inf {precision} {stage} {step} loss"
            for precision in ("fp32", "bf16")
            for stage in range(4)
        ),
        *(f"1e+30 fp32 {stage} {step} gradient's norm" for stage in (1, 2)),
        *(f"1e+30 bf16 {stage} {step} gradient's norm" for stage in (0, 1, 2)),
    ], ended.stderr
