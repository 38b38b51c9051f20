"""Supervised training of any module: the loop, and the worker that takes the steps.

A task says what is trained on what; pretraining, fine-tuning and reward models are tasks. Workers
hold the engine and take many steps per call, so Ray is not crossed for every step.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from data.errors import ConfigError, require_positive
from rlhf.actors.group import Seat, WorkerGroup, start_workers
from rlhf.actors.placement import Placement
from rlhf.actors.workers import GenerationRequest, respond
from rlhf.engine.base import EngineConfig
from rlhf.engine.build import build_engine
from rlhf.engine.optim import OptimConfig, learning_rate
from rlhf.engine.weight_sync import SamplerWeights
from rlhf.metrics import read_metrics
from rlhf.model.heads import LanguageModel
from rlhf.run import KEEP_CHECKPOINTS, Run, progress
from rlhf.types import Mean, Rollout, Stats, merge_stats, stat_values

D = TypeVar("D")
NUM_TOKENS = "tokens"
"""Statistic of a pure total: real tokens trained on, with count 0 because no mean is wanted."""


class TrainTask(Protocol):
    """What is trained on what. Travels to the workers, so it holds plain data and paths."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        ...

    def build(self) -> nn.Module:
        """The module with its initial weights."""
        ...

    def micro_batches(self, step: int, rank: int, world_size: int) -> Sequence[Any]:
        """This rank's part of the batch of a step; as many micro-batches on every rank."""
        ...

    def loss(self, module: nn.Module, batch: Any) -> tuple[Tensor, Stats]:
        """See rlhf.engine.base.LossFn. The batch comes on the CPU; see `on_device`."""
        ...

    def evaluate(self, module: nn.Module, rank: int, world_size: int) -> Stats:
        """This rank's part of the validation statistics."""
        ...

    def save(self, module: nn.Module, weights: dict[str, Tensor], directory: Path) -> None:
        """Writes the model directory."""
        ...


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What happens besides the steps."""

    log_every: int = 10
    """Steps between lines of metrics."""
    evaluate_every: int = 0
    """Steps between validations; 0 validates at the end only."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0 keeps none."""
    keep_checkpoints: int = KEEP_CHECKPOINTS
    """How many of the newest stay."""

    def __post_init__(self) -> None:
        require_positive(self, "log_every", "keep_checkpoints")
        for name in ("evaluate_every", "checkpoint_every"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 (off) or more")


class TrainWorker:
    """One rank of a training run. A plain class; rlhf/actors makes it an actor."""

    def __init__(
        self, seat: Seat, task: TrainTask, engine: EngineConfig, optim: OptimConfig
    ) -> None:
        self._device = seat.take()
        torch.manual_seed(0)
        self._task, self._optim, self._dtype = task, optim, engine.dtype
        self._rank, self._world_size = seat.rank.index, seat.rank.world_size
        self._module = task.build()
        self._engine = build_engine(self._module, engine, optim, seat.rank, self._device)

    def train(self, first: int, last: int) -> Stats:
        """Steps first ≤ step < last; returns their statistics added up."""
        parts = []
        for step in range(first, last):
            batches = self._task.micro_batches(step, self._rank, self._world_size)
            rate = learning_rate(self._optim, step, self._task.num_steps)
            parts.append(self._engine.train_step(batches, self._task.loss, rate))
        return merge_stats(parts)

    def evaluate(self) -> Stats:
        """Validation statistics of this rank's part."""
        with torch.no_grad():
            return self._task.evaluate(self._engine.module, self._rank, self._world_size)

    def generate(self, request: GenerationRequest) -> list[Rollout]:
        """One response per prompt of a language model, as it is now; every rank calls."""
        module = self._module
        if self._engine.sharded:  # a whole copy for the length of this call
            whole = SamplerWeights(self._task.build().to(self._device, self._dtype))
            whole.sync(self._engine, request.policy_version)
            module = whole.at(request.policy_version)
        assert isinstance(module, LanguageModel)
        return respond(module, request)

    def save_checkpoint(self, directory: Path) -> None:
        """Engine state; every rank calls."""
        self._engine.save(directory)

    def load_checkpoint(self, directory: Path) -> None:
        """Restores engine state; every rank calls."""
        self._engine.load(directory)

    def save_model(self, directory: Path) -> None:
        """The model directory; every rank calls, rank 0 writes."""
        weights = self._engine.gather_weights()
        if self._rank == 0:
            module = getattr(self._engine.module, "module", self._engine.module)
            self._task.save(module, weights, directory)


Watch = Callable[[WorkerGroup[TrainWorker], int], None]
"""What else looks at the model at each validation: gets the workers and the steps done."""


def device_of(module: nn.Module) -> torch.device:
    """Where the weights of a module are."""
    return next(module.parameters()).device


def on_device(batch: D, device: torch.device) -> D:
    """A dataclass with its tensors on a device; other fields stay what they are."""
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
    moved = {name: tensor.to(device) for name, tensor in tensors.items()}
    return replace(batch, **moved)  # type: ignore[type-var]


def train(
    task: TrainTask,
    run: Run,
    *,
    optim: OptimConfig,
    engine: EngineConfig,
    loop: LoopConfig,
    placement: Placement,
    name: str,
    watch: Watch | None = None,
) -> dict[str, float]:
    """Trains a task to its end in a run directory.

    Metrics per line are means over the steps since the last line, but for `tokens`, their sum.
    `watch` is called after each validation.

    Returns:
        The final validation metrics, and `tokens`: how many the training took in.
    """
    first, checkpoint = run.resume()
    with start_workers(TrainWorker, placement, task, engine, optim, name=name) as workers:
        if checkpoint is not None:
            workers.broadcast(TrainWorker.load_checkpoint, checkpoint)
        final = _steps(workers, task, run, optim, loop, first, name, watch)
        workers.broadcast(TrainWorker.save_model, run.model)
    return final


def _steps(
    workers: WorkerGroup[TrainWorker],
    task: TrainTask,
    run: Run,
    optim: OptimConfig,
    loop: LoopConfig,
    first: int,
    name: str,
    watch: Watch | None,
) -> dict[str, float]:
    metrics = run.metrics(first + 1)  # lines are numbered by the steps done, so `first` is one
    step = first
    evaluated: dict[str, float] = {}
    with progress(name, task.num_steps, done=first) as advance:
        while step < task.num_steps:
            stop = _next_stop(step, task.num_steps, loop)
            began = time.monotonic()
            stats = merge_stats(workers.broadcast(TrainWorker.train, step, stop))
            seconds = time.monotonic() - began
            values = stat_values(stats)
            tokens = stats.get(NUM_TOKENS, Mean(0, 0)).total
            values[NUM_TOKENS] = tokens
            values["tokens_per_second"] = tokens / seconds
            values["learning_rate"] = learning_rate(optim, stop - 1, task.num_steps)
            if stop == task.num_steps or (loop.evaluate_every and stop % loop.evaluate_every == 0):
                evaluated = stat_values(merge_stats(workers.broadcast(TrainWorker.evaluate)))
                values |= evaluated
                if watch is not None:
                    watch(workers, stop)
            metrics.log(stop, values)
            advance(stop - step, f"loss {values.get('loss', float('nan')):.3f}")
            step = stop
            if (
                loop.checkpoint_every
                and step % loop.checkpoint_every == 0
                and step < task.num_steps
            ):
                run.checkpoint(
                    step,
                    lambda directory: workers.broadcast(TrainWorker.save_checkpoint, directory),
                    loop.keep_checkpoints,
                )
    num_tokens = sum(line[NUM_TOKENS] for line in read_metrics(run.directory))
    return evaluated | {"tokens": num_tokens}


def _next_stop(step: int, num_steps: int, loop: LoopConfig) -> int:
    """The next step at which something besides training is due."""
    intervals = [loop.log_every, loop.evaluate_every, loop.checkpoint_every]
    return min([num_steps] + [(step // every + 1) * every for every in intervals if every])
