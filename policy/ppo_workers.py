"""The roles of PPO that train: plain classes that know tensors, not text and not Ray.

One policy worker holds trainer, sampler and reference of its data-parallel rank. Per-token losses
are sums divided by the token count of the global mini-batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

import torch
from torch import Tensor, nn

from data.tokenizer import Tokenizer
from policy.ppo_math import clipped_policy_loss, clipped_value_loss
from rlhf.actors.group import Seat
from rlhf.actors.workers import GenerationRequest, respond
from rlhf.engine.base import EngineConfig
from rlhf.engine.build import build_engine, build_frozen
from rlhf.engine.optim import OptimConfig
from rlhf.engine.weight_sync import SamplerWeights
from rlhf.model.documents import without_padding
from rlhf.model.heads import ScalarModel
from rlhf.model.init import init_scalar_head, scalar_model_from
from rlhf.model.logprobs import align_values, predicting
from rlhf.model.weights import load_language_model, load_scalar_model, save_model
from rlhf.training import on_device
from rlhf.types import Experience, Mean, Rollout, Stats, merge_stats

CriticInit = Literal["helpfulness", "zero_head", "policy"]


@dataclass(frozen=True, kw_only=True)
class UpdateSpec:
    """How one batch of experience becomes optimizer steps."""

    epochs: int
    minibatch_size: int
    """Sequences per optimizer step over all ranks."""
    micro_batch_size: int
    """Sequences per forward pass on one rank."""
    clip_range: float
    learning_rate: float
    temperature: float
    seed: int


@dataclass(frozen=True)
class MicroBatch:
    """Rows for one forward pass, with the token count that losses are divided by."""

    rows: Experience
    num_global_tokens: int


class PolicyWorker:
    """One rank of the policy: samples, computes reference log-probabilities, takes PPO steps."""

    def __init__(
        self,
        seat: Seat,
        model: Path,
        reference: Path,
        engine: EngineConfig,
        optim: OptimConfig,
        temperature: float,
    ) -> None:
        self._device = seat.take()
        self._rank, self._world_size = seat.rank.index, seat.rank.world_size
        self._model_directory, self._temperature = model, temperature
        # in the policy's precision, so that their KL begins at 0
        initial = load_language_model(reference)
        self._reference = build_frozen(initial, engine, seat.rank, self._device)
        self._module = load_language_model(model)
        self._engine = build_engine(self._module, engine, optim, seat.rank, self._device)
        if self._engine.sharded:  # the sampler then needs a whole copy, gathered once per iteration
            self._module = load_language_model(model).to(self._device, engine.dtype).eval()
        self._sampler = SamplerWeights(self._module)
        self._version = 0

    def generate(self, request: GenerationRequest) -> list[Rollout]:
        """One response per prompt from the weights of the version that is asked for."""
        return respond(self._sampler.at(request.policy_version), request)

    @torch.no_grad()
    def ref_logprobs(self, rows: Experience, micro_batch_size: int) -> Tensor:
        """[B, T] log π_0 of this rank's part, rows rank, rank + world_size and so on."""
        return self._logprobs(self._reference, rows, micro_batch_size)

    @torch.no_grad()
    def logprobs(self, rows: Experience, micro_batch_size: int) -> Tensor:
        """[B, T] log π of this rank's part under the trainer, to compare with the sampler's."""
        return self._logprobs(self._engine.module, rows, micro_batch_size)

    def update(self, rows: Experience, spec: UpdateSpec) -> Stats:
        """All epochs and mini-batches over the experience."""

        def loss(module: nn.Module, batch: MicroBatch) -> tuple[Tensor, Stats]:
            return policy_loss(module, batch, spec)

        parts: list[Stats] = []
        for batches in own_minibatches(rows, spec, self._rank, self._world_size):
            batches = [
                MicroBatch(on_device(b.rows, self._device), b.num_global_tokens) for b in batches
            ]
            stats = self._engine.train_step(batches, loss, spec.learning_rate)
            if parts:  # only before the first step trainer and sampler are the same policy
                del stats["health/probability_gap"]
            parts.append(stats)
        self._version += 1
        self._sampler.sync(self._engine, self._version)
        return _renamed(merge_stats(parts), "policy")

    def save_checkpoint(self, directory: Path) -> None:
        """Engine state; every rank calls."""
        self._engine.save(directory)

    def load_checkpoint(self, directory: Path, version: int) -> None:
        """Restores engine state; every rank calls."""
        self._engine.load(directory)
        self._version = version
        self._sampler.sync(self._engine, version)

    def save_model(self, directory: Path) -> None:
        """The model directory; every rank calls, rank 0 writes."""
        weights = self._engine.gather_weights()
        if self._rank == 0:
            tokenizer = Tokenizer.load(self._model_directory)
            save_model(
                self._module,
                directory,
                tokenizer.special_ids,
                weights=weights,
                save_tokenizer=tokenizer.save,
            )

    def _logprobs(self, module: nn.Module, rows: Experience, size: int) -> Tensor:
        own = on_device(
            rows.select(own_rows(len(rows), self._rank, self._world_size)), self._device
        )
        result = torch.zeros(own.tokens.shape)
        for part in by_length(own.lengths, num_parts(len(rows), self._world_size, size)):
            batch = own.select(part)
            out = module(
                batch.tokens,
                batch.response_mask,
                documents_of(batch),
                temperature=self._temperature,
            )
            result[part, : batch.tokens.shape[1]] = out.logprobs.cpu()
        return result


class CriticWorker:
    """One rank of the critic: estimates values and learns from returns."""

    def __init__(
        self, seat: Seat, model: Path, init: CriticInit, engine: EngineConfig, optim: OptimConfig
    ) -> None:
        self._device = seat.take()
        self._rank, self._world_size = seat.rank.index, seat.rank.world_size
        self._engine = build_engine(
            critic_from(model, init), engine, optim, seat.rank, self._device
        )

    @torch.no_grad()
    def values(self, rows: Experience, micro_batch_size: int) -> Tensor:
        """[B, T] V_old of this rank's part, rows rank, rank + world_size and so on."""
        own = on_device(
            rows.select(own_rows(len(rows), self._rank, self._world_size)), self._device
        )
        result = torch.zeros(own.tokens.shape)
        passes = num_parts(len(rows), self._world_size, micro_batch_size)
        for part in by_length(own.lengths, passes):
            batch = own.select(part)
            values = _values(self._engine.module, batch)
            result[part, : batch.tokens.shape[1]] = values.cpu()
        return result

    def update(self, rows: Experience, spec: UpdateSpec) -> Stats:
        """All epochs and mini-batches over the experience."""

        def loss(module: nn.Module, batch: MicroBatch) -> tuple[Tensor, Stats]:
            return value_loss(module, batch, spec.clip_range)

        parts = []
        for batches in own_minibatches(rows, spec, self._rank, self._world_size):
            batches = [
                MicroBatch(on_device(b.rows, self._device), b.num_global_tokens) for b in batches
            ]
            parts.append(self._engine.train_step(batches, loss, spec.learning_rate))
        return _renamed(merge_stats(parts), "critic")

    def save_checkpoint(self, directory: Path) -> None:
        """Engine state; every rank calls."""
        self._engine.save(directory)

    def load_checkpoint(self, directory: Path) -> None:
        """Restores engine state; every rank calls."""
        self._engine.load(directory)


def critic_from(directory: Path, init: CriticInit) -> ScalarModel:
    """What the critic starts as.

    Args:
        directory: of a reward model, or for "policy" of a language model.
        init: the reward model as it is, or either one's body with values of 0.
    """
    match init:
        case "helpfulness":
            return load_scalar_model(directory)
        case "zero_head":
            model = load_scalar_model(directory)
            init_scalar_head(model.score, None)
            return model
        case "policy":
            return scalar_model_from(load_language_model(directory), None)
    assert_never(init)


def policy_loss(module: nn.Module, batch: MicroBatch, spec: UpdateSpec) -> tuple[Tensor, Stats]:
    """Share of the clipped surrogate over the global mini-batch, and what it looked like."""
    rows = batch.rows
    assert rows.advantages is not None
    mask = rows.response_mask
    out = module(
        rows.tokens, mask, documents_of(rows), temperature=spec.temperature, with_entropy=True
    )
    log_ratio = torch.where(mask, out.logprobs - rows.logprobs, 0.0)
    ratio = log_ratio.exp()
    surrogate = clipped_policy_loss(ratio, rows.advantages, clip_range=spec.clip_range)
    total = (surrogate.loss * mask).sum()
    count = int(mask.sum())
    with torch.no_grad():
        gap = torch.where(mask, out.logprobs.exp() - rows.logprobs.exp(), 0.0).abs()
        stats = {
            "health/probability_gap": Mean(float(gap.sum()), count),
            "loss/policy_avg": Mean(float(total), count),
            "policy/approxkl_avg": Mean(float((0.5 * log_ratio**2).sum()), count),
            "policy/clipfrac_avg": Mean(float((surrogate.clipped * mask).sum()), count),
            "policy/entropy_avg": Mean(float(out.entropy.sum()), count),
            "val/ratio": Mean(float((ratio * mask).sum()), count),
            "val/ratio_var": Mean(float(((ratio - 1) ** 2 * mask).sum()), count),
        }
    return total / batch.num_global_tokens, stats


def value_loss(module: nn.Module, batch: MicroBatch, clip_range: float) -> tuple[Tensor, Stats]:
    """Share of the clipped value loss over the global mini-batch."""
    rows = batch.rows
    assert rows.values is not None and rows.returns is not None
    mask = rows.response_mask
    values = _values(module, rows)
    error = clipped_value_loss(values, rows.values, rows.returns, clip_range=clip_range)
    total = (error.loss * mask).sum()
    count = int(mask.sum())
    stats = {
        "loss/value_avg": Mean(float(total.detach()), count),
        "val/clipfrac_avg": Mean(float((error.clipped * mask).sum()), count),
    }
    return total / batch.num_global_tokens, stats


def _values(module: nn.Module, rows: Experience) -> Tensor:
    """[B, T] what a critic expects before each token of the responses; 0 elsewhere."""
    mask = rows.response_mask
    values = module(rows.tokens, documents_of(rows), wanted=predicting(mask))
    return torch.where(mask, align_values(values), 0.0)


def documents_of(rows: Experience) -> Tensor | None:
    """What a model is told about padding; see `without_padding`."""
    return without_padding(rows.lengths, rows.tokens.shape[1])


def own_rows(num_rows: int, rank: int, world_size: int) -> Tensor:
    """Rows rank, rank + world_size, …: what a rank works on outside of updates."""
    return torch.arange(rank, num_rows, world_size)


def own_minibatches(
    rows: Experience, spec: UpdateSpec, rank: int, world_size: int
) -> Iterator[list[MicroBatch]]:
    """This rank's micro-batches of every mini-batch.

    The shuffle is that of the whole batch, so the mini-batches are the same for any number of
    ranks; within one, rows are dealt by length, so that ranks carry equal loads.
    """
    generator = torch.Generator().manual_seed(spec.seed)
    for _ in range(spec.epochs):
        order = torch.randperm(len(rows), generator=generator)
        for chosen in order.split(spec.minibatch_size):
            num_tokens = int(rows.response_mask[chosen].sum())
            dealt = chosen[rows.lengths[chosen].argsort(descending=True, stable=True)]
            passes = num_parts(len(chosen), world_size, spec.micro_batch_size)
            parts = dealt[rank::world_size].tensor_split(passes)
            yield [MicroBatch(rows.select(part), num_tokens) for part in parts]


def num_parts(num_rows: int, world_size: int, size: int) -> int:
    """Forward passes of each rank over its rows, at most so many at a time.

    As many on every rank: after each, gradients are summed over ranks, and during each, ZeRO-3
    gathers weights. None is empty: a rank with a row less than the others sets the number.
    """
    return min(-(-num_rows // (world_size * size)), num_rows // world_size)


def by_length(lengths: Tensor, parts: int) -> Iterator[Tensor]:
    """Row numbers in so many parts, neighbours in length: little padding."""
    yield from lengths.cpu().argsort(stable=True).tensor_split(parts)


def _renamed(stats: Stats, role: str) -> Stats:
    """The engine's grad_norm under the role's name."""
    return {(f"{role}/{n}" if n == "grad_norm" else n): mean for n, mean in stats.items()}
