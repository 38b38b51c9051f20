"""Weights from trainer to sampler: a flipped bit is noticed, a wrong version refused."""

import zlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlhf.engine import weight_sync
from rlhf.engine.base import EngineConfig
from rlhf.engine.build import build_engine
from rlhf.engine.distributed import Rank
from rlhf.engine.optim import OptimConfig
from rlhf.engine.weight_sync import (
    SamplerWeights,
    WeightSyncError,
    check_versions,
    checksum,
    checksums,
)
from rlhf.types import Rollout
from tests.tiny_models import small_language_model


def test_the_checksum_by_hand() -> None:
    # Words of 4 bytes: 5 + 2¹⁶ · 6 and 7, which is half a word and filled up with zeros:
    #   seed · K + 1 · (5 + 2¹⁶ · 6) + 3 · 7 modulo 2⁶⁴, with the seed from type and shape
    seed = zlib.crc32(b"torch.int16 (3,)")
    words = torch.tensor([5, 6, 7], dtype=torch.int16)
    assert checksum(words) == (seed * 0x9E3779B97F4A7C15 + 5 + 2**16 * 6 + 21) % 2**64


def test_chunks_are_summed_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_sync, "CHUNK", 2)
    k = 0x9E3779B97F4A7C15
    seed = zlib.crc32(b"torch.int32 (3,)")
    #   (seed · K + 1 · 5 + 3 · 7) · K + 1 · 11
    expected = ((seed * k + 26) * k + 11) % 2**64
    assert checksum(torch.tensor([5, 7, 11], dtype=torch.int32)) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_flipped_bit_is_noticed(dtype: torch.dtype) -> None:
    weight = torch.randn(3, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    raw = weight.view(-1).view(torch.uint8)  # shares the memory
    before, found = checksum(weight), set()
    for byte in range(len(raw)):
        for bit in range(8):
            raw[byte] ^= 1 << bit
            found.add(checksum(weight))
            raw[byte] ^= 1 << bit
    assert before not in found
    assert len(found) == 8 * len(raw)
    assert checksum(weight) == before


def test_order_shape_and_type_count() -> None:
    row = torch.arange(12.0)
    swapped = row.clone()
    swapped[1], swapped[3] = -row[1], -row[3]  # the top bits of two words
    others = [
        swapped,
        row.flip(0),
        row.roll(1),
        row.view(3, 4),
        row.view(4, 3),
        row.to(torch.float64),
    ]
    zeros = [torch.zeros(n) for n in range(4)]
    found = [checksum(tensor) for tensor in [row, *others, *zeros]]
    assert len(set(found)) == len(found)
    spread = torch.arange(24.0).view(12, 2)[:, 0]  # every second place of its memory
    assert checksum(spread) == checksum(spread.clone())


class Sharded:
    """Stands in for a trainer whose ranks hold parts: sends its module's weights, if it likes."""

    sharded = True

    def __init__(self, module: nn.Module, flip: str = "") -> None:
        self.module, self.flip = module, flip

    def copy_weights_to(self, target: nn.Module) -> dict[str, int]:
        with torch.no_grad():
            for name, weight in target.named_parameters():
                weight.copy_(self.module.get_parameter(name))
                if name == self.flip:
                    flip_last_bit(weight)
        return checksums(self.module)


def flip_last_bit(weight: Tensor) -> None:
    weight.view(-1).view(torch.int32)[-1] ^= 1


def synced(trainer: Any) -> SamplerWeights[Any]:
    weights: SamplerWeights[Any] = SamplerWeights(small_language_model(seed=1))
    weights.sync(trainer, 1)
    return weights


def test_a_sampler_holds_what_the_trainer_sent() -> None:
    trained = small_language_model(seed=0)
    assert checksums(synced(Sharded(trained)).at(1)) == checksums(trained)


def test_another_bit_on_the_way_is_an_error() -> None:
    trainer = Sharded(small_language_model(seed=0), flip="model.norm.weight")
    reason = r"^1 of \d+ weights of version 1 arrived .* other bits, model.norm.weight among them"
    with pytest.raises(WeightSyncError, match=reason):
        synced(trainer)


@pytest.mark.parametrize("version", [0, 2])
def test_another_version_is_refused(version: int) -> None:
    weights = synced(Sharded(small_language_model()))
    reason = f"^the sampler holds weights of version 1 and is asked for version {version}; sync it"
    with pytest.raises(WeightSyncError, match=reason):
        weights.at(version)


def test_a_trainer_that_samples_itself_has_nothing_to_send() -> None:
    module = small_language_model()
    engine = build_engine(module, EngineConfig(kind="torch"), OptimConfig(), Rank())
    weights = SamplerWeights(module)
    weights.sync(engine, 1)
    assert weights.at(1) is module


def test_rollouts_of_another_policy_are_refused() -> None:
    def rollout(version: int) -> Rollout:
        return Rollout(
            prompt_id="p",
            prompt_ids=[1],
            response_ids=[2],
            response_logprobs=[-0.5],
            finish_reason="eos",
            policy_version=version,
        )

    check_versions([rollout(3), rollout(3)], 3)
    with pytest.raises(WeightSyncError, match=r"^rollouts of version 2 came where the policy is"):
        check_versions([rollout(3), rollout(2)], 3)
