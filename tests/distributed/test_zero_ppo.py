"""Two ranks that share a policy, its reference and a critic out (ZeRO-3) answer as one process."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from policy.ppo_workers import CriticWorker, PolicyWorker, own_rows
from rlhf.actors.group import Seat
from rlhf.engine.base import EngineConfig
from rlhf.engine.distributed import Rank
from rlhf.engine.optim import OptimConfig
from rlhf.model.config import ModelConfig
from rlhf.model.init import init_language_model, scalar_model_from
from rlhf.model.weights import save_model
from rlhf.types import Experience
from tests import made_up
from tests.distributed.processes import in_processes

pytestmark = pytest.mark.deepspeed
SHAPE = ModelConfig(vocab_size=512, dim=256, num_layers=2, num_heads=4, num_kv_heads=4, ffn_dim=512)
"""ZeRO-3 shares its matrices out: each has more than 100,000 numbers but those of the attention."""
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
MICRO_BATCH = 2


def experience() -> Experience:
    """Five rows: rank 0 has three and needs two passes, rank 1 has two, which one would hold.

    Prompts are long, so that the last layer computes half of the positions. One row of rank 0 is
    short, so that it alone leaves padding out.
    """
    tokens = torch.randint(3, 512, (5, 64), generator=torch.Generator().manual_seed(0))
    rows = made_up.experience(tokens, 32)
    lengths = torch.tensor([36, 64, 64, 64, 64])
    real = torch.arange(64) < lengths[:, None]
    return rows.with_(lengths=lengths, response_mask=rows.response_mask & real)


def answers(directory: Path, engine: EngineConfig, rank: Rank) -> dict[str, Tensor]:
    """What a rank says of its rows."""
    seat = Seat(rank=rank, threads=1, device="cpu", timeout=300.0)
    optim, rows = OptimConfig(), experience()
    policy = PolicyWorker(seat, directory / "policy", directory / "first", engine, optim, 1.0)
    critic = CriticWorker(seat, directory / "critic", "helpfulness", engine, optim)
    return {
        "reference": policy.ref_logprobs(rows, MICRO_BATCH),
        "policy": policy.logprobs(rows, MICRO_BATCH),
        "values": critic.values(rows, MICRO_BATCH),
    }


def test_ranks_with_unequal_numbers_of_rows(tmp_path: Path) -> None:
    """Each pass gathers weights from both ranks, so both must make as many."""
    for seed, name in enumerate(("policy", "first")):
        save_model(init_language_model(SHAPE, seed), tmp_path / name, IDS)
    save_model(scalar_model_from(init_language_model(SHAPE, 2), 3), tmp_path / "critic", IDS)
    expected = answers(tmp_path, EngineConfig(kind="torch"), Rank())
    assert not torch.allclose(expected["reference"], expected["policy"])
    two = in_processes(tmp_path, 2, partial(answers, tmp_path, EngineConfig(zero_stage=3)))
    for rank, found in enumerate(two):
        own = own_rows(5, rank, 2)
        for name, values in found.items():
            assert_close(values, expected[name][own], rtol=0, atol=1e-5)
