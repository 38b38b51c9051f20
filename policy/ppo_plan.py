"""Memory of a PPO run before it runs, by role, worker and phase: `rlhf ppo --plan`.

Arithmetic alone: the shapes of the models, the settings, and what rlhf/model, rlhf/engine,
rlhf/generation and policy/ppo_workers.py keep. Sequences are as long as the context, prompts as
long as leaves a response its `max_new_tokens`. Counted are tensors; what CUDA, NCCL and the gaps
between tensors take is left room for (`RESERVE`). Activations are those of a GPU, whose RMSNorm and
attention keep only their inputs and a few numbers per row.

Symbols: P numbers of a model, N workers, b bytes of a weight (4 in fp32, 2 in bf16), d width, k
width of all keys, f width of the feed-forward.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch

from policy.ppo import PpoConfig
from reward.score import TOKENS_PER_PASS
from rlhf.actors.placement import Placement
from rlhf.engine import deepspeed_engine
from rlhf.engine.base import EngineConfig
from rlhf.generation.generator import DEFAULT_SLOTS
from rlhf.model.config import ModelConfig
from rlhf.model.documents import NEARLY_ALL
from rlhf.model.heads import LanguageModel, ScalarModel
from rlhf.model.kv_cache import BLOCK
from rlhf.model.logprobs import CHUNK_ROWS

FP32 = 4
MOMENTS = 2 * FP32
GIB = 2**30
RESERVE = 0.1
"""Share of a GPU for the CUDA context, NCCL's buffers and gaps between tensors."""

# DeepSpeed's defaults, which rlhf/engine/deepspeed_engine.py leaves as they are
LEAST_SHARED = 100_000
"""ZeRO-3 leaves parameters with fewer numbers whole on every rank."""
MOST_GATHERED = 1_000_000_000
"""Numbers that ZeRO-3 keeps gathered at a time, and updates at a time."""
FETCHED_AT_ONCE = 50_000_000
"""Numbers that ZeRO-3 gathers by one message, which are there twice until it is taken apart."""
REDUCED_AT_ONCE = 500_000_000
"""Gradients that are added up over ranks at a time where they are not shared out."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """Bytes that one worker uses, by what for."""

    parameters: int = 0
    gradients: int = 0
    optimizer: int = 0
    """Master weights and both moments."""
    activations: int = 0
    kv_cache: int = 0
    buffers: int = 0
    """For gathering weights and adding up gradients; the sampler's joined projections."""

    def __add__(self, other: "Use") -> "Use":
        return Use(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Use)})

    @property
    def total(self) -> int:
        """All of it."""
        return sum(vars(self).values())


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """One worker of a role; all workers of a role are alike."""

    role: str
    placement: Placement
    held: dict[str, Use]
    """What stays, by part of the worker."""
    phases: dict[str, Use]
    """All that is there at the height of each phase, what stays included."""
    host: int
    """Bytes of the host's memory that it takes while it loads, and for what is offloaded."""

    @property
    def peak(self) -> str:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: self.phases[phase].total)

    @property
    def per_gpu(self) -> int:
        """Bytes on one GPU, which several workers share where each reserves a part of it."""
        share = self.placement.gpus_per_worker
        return self.phases[self.peak].total * (int(1 / share) if 0 < share < 1 else 1)


@dataclass(frozen=True, kw_only=True)
class PpoModels:
    """Shapes of all models of a run."""

    policy: ModelConfig
    reference: ModelConfig
    critic: ModelConfig
    scorers: Mapping[str, ModelConfig]
    """By domain; none where a function gives the rewards."""


class Placements(NamedTuple):
    """Of the roles."""

    policy: Placement
    critic: Placement
    scorers: Placement


def plan_ppo(
    models: PpoModels, train: PpoConfig, engine: EngineConfig, placements: Placements
) -> list[WorkerPlan]:
    """A plan for each role: policy, critic, and a scorer per reward model."""
    scorers = [
        _scorer(f"{domain} scorer", config, engine.dtype.itemsize, placements.scorers)
        for domain, config in models.scorers.items()
    ]
    policy = _policy(models.policy, models.reference, train, engine, placements.policy)
    return [policy, _critic(models.critic, train, engine, placements.critic), *scorers]


def _policy(
    config: ModelConfig,
    reference: ModelConfig,
    train: PpoConfig,
    engine: EngineConfig,
    placement: Placement,
) -> WorkerPlan:
    """Trainer, sampler and reference of one rank; they work one after another."""
    b, numbers = engine.dtype.itemsize, count_numbers(LanguageModel, config)
    trainer = trainer_memory(numbers, engine, placement.workers)
    frozen, gathered = count_numbers(LanguageModel, reference), 0
    held = {
        "trainer": trainer.held,
        "sampler": Use(parameters=b * numbers.all if trainer.shares_weights else 0),
        "reference": Use(parameters=b * frozen.all),
    }
    if trainer.shares_weights:
        held["reference"] = Use(parameters=b * _own_numbers(frozen, placement.workers))
        gathered = _gathered(frozen, b)
    stays = sum(held.values(), Use())
    starting = held["reference"] + trainer.starting
    own_rows = min(train.micro_batch_size, -(-train.prompts_per_iteration // placement.workers))
    return WorkerPlan(
        role="policy",
        placement=placement,
        held=held,
        phases={
            "starting": max(starting, stays, key=lambda use: use.total),
            "sampling": stays + sampling_memory(config, train, placement.workers, b),
            "reference": stays + Use(buffers=gathered)
            + Use(activations=max(forward_activations(reference, b, own_rows * config.context),
                                  _head_activations(reference, train, own_rows, b))),
            "updating": stays + trainer.updating
            + Use(activations=_updating_activations(config, train, engine, placement.workers)),
        },
        host=FP32 * numbers.all + trainer.host,
    )  # fmt: skip


def _critic(
    config: ModelConfig, train: PpoConfig, engine: EngineConfig, placement: Placement
) -> WorkerPlan:
    b, numbers = engine.dtype.itemsize, count_numbers(ScalarModel, config)
    trainer = trainer_memory(numbers, engine, placement.workers)
    own_rows = min(train.micro_batch_size, -(-train.prompts_per_iteration // placement.workers))
    rows = update_rows(train, placement.workers)
    kept, height = _block_activations(config, train, engine)
    learning = rows * config.context * (kept + height)
    learning += FP32 * config.dim * rows * config.context  # its head computes in float32
    return WorkerPlan(
        role="critic",
        placement=placement,
        held={"trainer": trainer.held},
        phases={
            "starting": trainer.starting,
            "values": trainer.held + Use(buffers=trainer.gathered)
            + Use(activations=forward_activations(config, b, own_rows * config.context)),
            "updating": trainer.held + trainer.updating + Use(activations=learning),
        },
        host=FP32 * numbers.all + trainer.host,
    )  # fmt: skip


def _scorer(role: str, config: ModelConfig, b: int, placement: Placement) -> WorkerPlan:
    """Whole on every worker; its head computes in float32."""
    count = count_numbers(ScalarModel, config).all
    held = Use(parameters=b * count)
    tokens = max(TOKENS_PER_PASS, config.context)
    scoring = held + Use(activations=forward_activations(config, b, tokens))
    return WorkerPlan(
        role=role,
        placement=placement,
        held={"model": held},
        phases={"scoring": scoring},
        host=FP32 * count,
    )


class Numbers(NamedTuple):
    """Of a model's parameters."""

    all: int
    whole: int
    """Those in parameters that ZeRO-3 leaves whole."""
    largest: int
    """Those of the largest parameter."""


def count_numbers(model: type[LanguageModel] | type[ScalarModel], config: ModelConfig) -> Numbers:
    """From the shapes alone: nothing is allocated."""
    with torch.device("meta"):
        sizes = [parameter.numel() for parameter in model(config).parameters()]
    return Numbers(sum(sizes), sum(n for n in sizes if n < LEAST_SHARED), max(sizes))


@dataclass(frozen=True, kw_only=True)
class TrainerMemory:
    """A model with its optimizer on one rank."""

    held: Use
    updating: Use
    """On top of that during an update, activations aside."""
    starting: Use
    """All that is there at the height of the start."""
    shares_weights: bool
    """Whether each rank has only a part of the weights: ZeRO-3."""
    gathered: int = 0
    """Bytes of weights that ZeRO-3 gathers for a forward pass."""
    host: int = 0


def trainer_memory(numbers: Numbers, engine: EngineConfig, workers: int) -> TrainerMemory:
    """What rlhf/engine keeps of a model of which every rank has loaded the whole in float32.

    Plain torch and ZeRO stage 0 keep everything on every rank. In bf16, masters begin as the exact
    float32 weights, which under DeepSpeed stay beside the shards until the end of the start: on the
    device, but for ZeRO-3, which takes one layer at a time there. What offloading moves is read
    from DeepSpeed's code, not measured: a CPU is its own host.
    """
    shards, shares_weights = engine.needs_deepspeed(workers), engine.shares_weights(workers)
    held, updating, gathered = _by_stage(numbers, engine, workers if shards else 1, shards)
    host = 0
    if engine.offload_optimizer:
        gradients = held.gradients + updating.gradients
        leaving = gradients if engine.zero_stage > 1 else 0  # stage 1 keeps them where they arise
        host = held.optimizer + leaving
        held = Use(parameters=held.parameters, buffers=held.buffers)
        updating = Use(gradients=gradients - leaving, buffers=updating.buffers)
    loaded = Use(parameters=FP32 * numbers.all)
    heights = [loaded, held]
    if shares_weights:
        heights = [held + Use(parameters=engine.dtype.itemsize * numbers.largest)]
    elif engine.precision == "bf16" and shards:
        first_step = updating if engine.zero_stage == 0 else Use()  # DeepSpeed takes one, of zeros
        rounded = Use(parameters=engine.dtype.itemsize * numbers.all)
        heights = [loaded + rounded, loaded + held + first_step]
    elif engine.precision == "bf16":
        heights = [loaded + loaded, held]  # the masters are copies
    return TrainerMemory(
        held=held,
        updating=updating,
        starting=max(heights, key=lambda use: use.total),
        shares_weights=shares_weights,
        gathered=gathered,
        host=host,
    )


def _by_stage(
    numbers: Numbers, engine: EngineConfig, workers: int, shards: bool
) -> tuple[Use, Use, int]:
    """What is held, what an update adds, and the bytes that are gathered for a forward pass."""
    b, count = engine.dtype.itemsize, numbers.all
    share = -(-count // workers)
    at_once = min(count, REDUCED_AT_ONCE)
    bucket = FP32 * deepspeed_engine.BUCKET
    # float32 copies of the gradients of a bucket, or of one parameter that is larger than that
    sent = 2 * FP32 * max(min(deepspeed_engine.BUCKET, count), numbers.largest)
    weights = Use(parameters=b * count)
    whole, shared = (Use(optimizer=(FP32 + MOMENTS) * n) for n in (count, share))
    match engine.zero_stage if shards else None, engine.precision:
        case None | 0, "fp32":  # no masters: the optimizer updates the weights
            held = weights + Use(optimizer=MOMENTS * count)
            updating = Use(gradients=FP32 * count, buffers=shards * FP32 * at_once)
        case None, _:  # gradients in bf16, and those of the masters
            held, updating = weights + whole, Use(gradients=(b + FP32) * count)
        case 0, _:
            held, reduced = weights + whole, (b + FP32) * at_once
            updating = Use(gradients=b * count, buffers=max(reduced, FP32 * count))
        case 1, "fp32":  # all gradients, and those of the own share once more
            held = weights + shared
            updating = Use(gradients=FP32 * (count + share), buffers=bucket + sent)
        case 1, _:
            held = weights + shared + Use(gradients=FP32 * count)
            updating = Use(gradients=b * count, buffers=FP32 * at_once)
        case 2, precision:
            copies = 2 if precision == "fp32" else 1
            held = weights + shared
            updating = Use(gradients=copies * FP32 * share, buffers=bucket + sent)
        case _:
            own = Use(parameters=b * _own_numbers(numbers, workers))
            held = own + shared + Use(gradients=FP32 * share, buffers=bucket)
            gathered = _gathered(numbers, b)
            step = FP32 * min(share, MOST_GATHERED)  # the share's gradients once more
            return held, Use(buffers=max(gathered + sent, step)), gathered
    return held, updating, 0


def _own_numbers(numbers: Numbers, workers: int) -> int:
    """Of a model's weights, those that ZeRO-3 keeps on a rank."""
    return numbers.whole + -(-(numbers.all - numbers.whole) // workers)


def _gathered(numbers: Numbers, b: int) -> int:
    """Bytes of weights that ZeRO-3 gathers for a forward pass."""
    large = numbers.all - numbers.whole
    return b * (min(large, MOST_GATHERED) + min(large, FETCHED_AT_ONCE))


def sampling_memory(config: ModelConfig, train: PpoConfig, workers: int, b: int) -> Use:
    """On top of the weights while responses are sampled."""
    prompts = -(-train.prompts_per_iteration // workers)
    if train.eval_every:
        prompts = max(prompts, -(-train.eval_prompts // workers))
    slots = min(DEFAULT_SLOTS, prompts)
    d, k, f = config.dim, config.num_kv_heads * config.head_dim, config.ffn_dim
    capacity = -(-config.context // BLOCK) * BLOCK
    longest = max(1, config.context - train.sampling.max_new_tokens)
    # Prompts are read all at once. Of the layer before, its projections, rotated queries and keys
    # (in float32 first) and the outcome of attention are still there when a layer begins.
    rotated = b * (d + k)
    before = b * (d + 2 * k) + rotated + b * d
    attention = before + b * (2 * d + 2 * k) + FP32 * (d + k) + (rotated if b < FP32 else 0)
    feed_forward = before + b * (3 * d + 2 * f)
    tables = 2 * FP32 * config.head_dim
    drawing = (b + 4 * FP32) * slots * config.vocab_size  # logits, and what is made of them
    return Use(
        kv_cache=2 * config.num_layers * slots * k * capacity * b,
        activations=(max(attention, feed_forward) + tables) * slots * longest + drawing,
        buffers=config.num_layers * (d + 2 * k) * d * b,  # joined projections of every layer
    )


def forward_activations(config: ModelConfig, b: int, tokens: int) -> int:
    """Bytes at the height of a pass without gradients: three vectors of each width in a block."""
    attention = b * 4 * config.dim + FP32 * config.dim
    tables = 2 * FP32 * config.head_dim
    return tokens * (tables + max(attention, 3 * b * (config.dim + config.ffn_dim)))


def _block_activations(
    config: ModelConfig, train: PpoConfig, engine: EngineConfig
) -> tuple[int, int]:
    """Bytes per token that stay until the backward pass, and that its first block adds to them."""
    b, d, f = engine.dtype.itemsize, config.dim, config.ffn_dim
    k = config.num_kv_heads * config.head_dim
    # normed, queries, keys, values, outcome; the norm's and every head's float32 number
    attention = b * (3 * d + 2 * k) + FP32 * (1 + config.num_heads)
    # first sum, normed; gate before and after its curve, up, their product; the norm's number
    behind = b * (2 * d + 4 * f) + FP32
    inputs = config.num_layers * b * d + 2 * FP32 * config.head_dim
    backward = b * (2 * f + 2 * d)  # gradients of what the feed-forward multiplies, and of x
    if engine.recompute_activations:
        return inputs, attention + behind + backward
    # the last block computes what is behind its attention for responses only
    prompt = config.context - train.sampling.max_new_tokens
    unread = prompt * behind // config.context if prompt > (1 - NEARLY_ALL) * config.context else 0
    return inputs + config.num_layers * (attention + behind) - unread, backward


def _updating_activations(
    config: ModelConfig, train: PpoConfig, engine: EngineConfig, workers: int
) -> int:
    """The policy's: the head and the first block of the backward pass are not there at once."""
    rows = update_rows(train, workers)
    tokens = rows * config.context
    kept, height = _block_activations(config, train, engine)
    head = _head_activations(config, train, rows, engine.dtype.itemsize)
    return tokens * kept + max(tokens * height, head)


def _head_activations(config: ModelConfig, train: PpoConfig, rows: int, b: int) -> int:
    """Of the log-probabilities of responses; on a GPU their logits are made a chunk at a time."""
    positions = rows * min(train.sampling.max_new_tokens, config.context)
    vectors = b * config.dim * (2 * rows * config.context + positions)
    gradient = (FP32 + b) * config.vocab_size * config.dim  # added up in float32
    return vectors + gradient + 4 * FP32 * min(CHUNK_ROWS, positions) * config.vocab_size


def update_rows(train: PpoConfig, workers: int) -> int:
    """Responses of the largest micro-batch of a rank, as `own_minibatches` deals them."""
    dealt = -(-train.minibatch_size // workers)
    parts = -(-train.minibatch_size // (workers * train.micro_batch_size))
    return -(-dealt // max(1, min(parts, train.minibatch_size // workers)))
