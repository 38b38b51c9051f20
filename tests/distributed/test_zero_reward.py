"""Two ranks train a reward model, its batches bounded by tokens, as one process does."""

import pytest
from torch.testing import assert_close

from rlhf.engine.base import EngineConfig
from rlhf.engine.distributed import Rank
from rlhf.training import NUM_TOKENS
from rlhf.types import merge_stats, stat_values
from tests.distributed.reward_ranks import STEPS, Found, play, task, work

pytestmark = pytest.mark.deepspeed
STAGES = [0, 1, 2, 3]


@pytest.fixture(scope="module")
def one() -> Found:
    return work(EngineConfig(kind="torch"), Rank())


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Found]]:
    """All stages in the same two processes, whose start takes longest."""
    configs = {str(s): EngineConfig(kind="deepspeed", zero_stage=s) for s in STAGES}
    return play(tmp_path_factory.mktemp("reward"), configs)


def test_a_rank_has_nothing_in_some_micro_batch() -> None:
    counts = [[len(b.margin) for b in task().micro_batches(0, rank, 2)] for rank in (0, 1)]
    assert len(counts[0]) == len(counts[1]) > 1
    assert counts[1][-1] == 0 and sum(map(sum, counts)) == 7


@pytest.mark.parametrize("stage", STAGES)
def test_two_workers_are_one(one: Found, two: list[dict[str, Found]], stage: int) -> None:
    ranks = [rank[str(stage)] for rank in two]
    assert_close(ranks[0].weights, one.weights, rtol=0, atol=1e-5)
    steps = [merge_stats(parts) for parts in zip(*(rank.stats for rank in ranks), strict=True)]
    assert len(steps) == STEPS
    for ours, theirs in zip(steps, one.stats, strict=True):
        expected = stat_values(theirs)
        if stage == 0:  # DeepSpeed does not tell the norm then
            del expected["grad_norm"]
        assert stat_values(ours) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert ours[NUM_TOKENS].total == theirs[NUM_TOKENS].total
    validated = merge_stats(rank.validated for rank in ranks)
    assert stat_values(validated) == pytest.approx(stat_values(one.validated), rel=1e-4, abs=1e-6)
