"""DeepSpeed's steps that diverge end the training, in every ZeRO stage and precision."""

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.deepspeed, pytest.mark.timeout(300)]

# DeepSpeed reports a norm that overflows in ways of its own: -1, infinity or none.
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

for precision in ("fp32", "bf16"):
    for stage in range(4):
        config = EngineConfig(kind="deepspeed", zero_stage=stage, precision=precision)
        engine = build_engine(Weighted(), config, OptimConfig(), Rank())
        engine.train_step([torch.ones(4, 64)], loss, 0.1)
        try:
            engine.train_step([torch.full((4, 64), torch.inf)], loss, 0.1)
        except Diverged as error:
            print("RESULT", precision, stage, str(error).partition(";")[0])
"""


def test_every_stage_tells_of_a_step_that_diverges() -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SESSION], capture_output=True, text=True, timeout=240
    )
    found = [line[7:] for line in ended.stdout.splitlines() if line.startswith("RESULT ")]
    told = "training diverged in optimizer step 2: the loss is -inf"
    cases = [(precision, stage) for precision in ("fp32", "bf16") for stage in range(4)]
    assert found == [f"{precision} {stage} {told}" for precision, stage in cases], ended.stderr
