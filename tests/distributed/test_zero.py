"""Two gloo ranks under DeepSpeed are one process, in every ZeRO stage."""

from typing import Any

import pytest
from torch.testing import assert_close

from rlhf.types import stat_values
from tests.distributed.two_ranks import STEPS, alone, joined, play

pytestmark = pytest.mark.deepspeed
STAGES = [0, 1, 2, 3]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[int, Any]]:
    """All stages in the same two processes, whose start takes longest."""
    return play(tmp_path_factory.mktemp("zero"), STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_are_one_process(ranks: list[dict[int, Any]], stage: int) -> None:
    expected_stats, expected = alone()
    first, second = (rank[stage] for rank in ranks)
    assert_close(first["weights"], expected, atol=1e-5, rtol=0)
    assert second["weights"] == {}  # rank 0 alone receives them
    stats = joined([first["stats"], second["stats"]])
    assert len(stats) == STEPS
    for ours, theirs in zip(stats, expected_stats, strict=True):
        values = stat_values(theirs)
        if stage == 0:  # DeepSpeed does not tell the norm then
            del values["grad_norm"]
        assert stat_values(ours) == pytest.approx(values, rel=1e-4)


def test_the_norm_was_clipped() -> None:
    """So the ranks' agreement includes the clipping of a global norm."""
    stats, _ = alone()
    assert min(step["grad_norm"].total for step in stats) > 0.5


@pytest.mark.parametrize("stage", STAGES)
def test_every_rank_can_copy_the_whole_weights(ranks: list[dict[int, Any]], stage: int) -> None:
    for rank in ranks:
        assert_close(rank[stage]["copy"], ranks[0][stage]["weights"], atol=0, rtol=0)
    assert ranks[0][stage]["sharded"] is (stage == 3)


@pytest.mark.parametrize("stage", STAGES)
def test_resumed_is_uninterrupted_bit_for_bit(ranks: list[dict[int, Any]], stage: int) -> None:
    first = ranks[0][stage]
    assert_close(first["resumed"], first["weights"], atol=0, rtol=0)
