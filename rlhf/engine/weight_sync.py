"""Weights on their way from a trainer to a sampler: versioned, and checked on both sides.

The trainer sums the bits of what it sends, the sampler the bits of what it holds afterwards; a
sampler asked for another version than the one it holds refuses.
"""

import zlib
from collections.abc import Iterable
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import UserError
from rlhf.engine.base import TrainEngine
from rlhf.types import Rollout

M = TypeVar("M", bound=nn.Module)

CHUNK = 2**16
"""Words of 4 bytes that are summed at once: their products, half a MiB, stay in the cache."""
WORD = 4
MASK = 2**64 - 1
MULTIPLIER = 0x9E3779B97F4A7C15
"""Odd, so that what was summed before a chunk is never lost (2⁶⁴ over the golden ratio)."""


class WeightSyncError(UserError):
    """A sampler holds other weights than the trainer's, or other ones than were asked for."""


def checksum(tensor: Tensor) -> int:
    """64 bits over the raw bits of a tensor, their order, its shape and its type.

    Word i of a chunk counts 2 i + 1 times, modulo 2⁶⁴. Bit b of it then moves the chunk's sum by
    2ᵇ (2 i + 1), which no other bit does: one bit that changes is always noticed, and so are two
    of a chunk; of different chunks few pairs of top bits are not.
    """
    total = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
    if len(raw) % WORD:
        raw = F.pad(raw, (0, -len(raw) % WORD))
    words = raw.view(torch.int32)
    factors = 2 * torch.arange(min(CHUNK, len(words)), device=words.device) + 1
    for chunk in words.split(CHUNK):
        total = (total * MULTIPLIER + int((chunk * factors[: len(chunk)]).sum())) & MASK
    return total


def checksums(module: nn.Module) -> dict[str, int]:
    """The checksum of every parameter, by name."""
    return {name: checksum(parameter) for name, parameter in module.named_parameters()}


class SamplerWeights(Generic[M]):
    """What a sampler samples from: the trainer's own module, or a whole copy of sharded weights."""

    def __init__(self, module: M) -> None:
        self._module, self._version = module, 0

    def sync(self, engine: TrainEngine, version: int) -> None:
        """Takes the trainer's weights over. Every rank calls.

        Raises:
            WeightSyncError: something else arrived than was sent.
        """
        if engine.sharded:
            sent, received = engine.copy_weights_to(self._module), checksums(self._module)
            wrong = [
                name
                for name in sent.keys() | received.keys()
                if sent.get(name) != received.get(name)
            ]
            if wrong:
                raise WeightSyncError(
                    f"{len(wrong)} of {len(sent)} weights of version {version} arrived at the "
                    f"sampler with other bits, {min(wrong)} among them; suspect the memory or the "
                    "network of that machine"
                )
        self._version = version

    def at(self, version: int) -> M:
        """The module, where it holds that version.

        Raises:
            WeightSyncError: it holds another.
        """
        if version != self._version:
            raise WeightSyncError(
                f"the sampler holds weights of version {self._version} and is asked for version "
                f"{version}; sync it after every update"
            )
        return self._module


def check_versions(rollouts: Iterable[Rollout], version: int) -> None:
    """Nothing may be learned as if it were of a policy that it is not of.

    Raises:
        WeightSyncError: a rollout was sampled from another version.
    """
    others = {rollout.policy_version for rollout in rollouts} - {version}
    if others:
        raise WeightSyncError(
            f"rollouts of version {min(others)} came where the policy is of version {version}; "
            "sample them anew"
        )
