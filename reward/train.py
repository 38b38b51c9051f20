"""Training one reward model on comparisons (Llama 2, section 3.2.2).

    L = −log σ( r(x, y_c) − r(x, y_r) − m(strength) )  +  λ · BCE( σ(r), safe? )

The first term on every comparison; the second on responses with a safety label, for the safety
model. Smoothed labels, weights by strength and centred scores are options. The model starts from a
chat checkpoint whose next-token head gives way to a scalar head; the score is read at the last
token of the response, its EOS.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.chat_format import ChatFormat
from data.errors import ConfigError, require_not_negative, require_positive
from data.mixing import epoch_order
from data.packing import pack_and_locate
from data.schemas import Comparison, Message
from data.tokenizer import Tokenizer
from reward.combine import SAFETY_THRESHOLD, to_probability
from reward.losses import (
    Margin,
    centring_loss,
    pair_margin,
    pair_weight,
    ranking_loss,
    safety_loss,
)
from rlhf.engine.optim import OptimConfig
from rlhf.model.config import ModelConfig
from rlhf.model.heads import ScalarModel
from rlhf.model.init import init_language_model, scalar_model_from
from rlhf.model.weights import load_language_model, save_model
from rlhf.training import NUM_TOKENS, LoopConfig, device_of, on_device
from rlhf.types import Mean, Stats

MIN_ROW_LENGTH = 192
"""Short comparisons share rows at least this long."""
VALIDATED = {
    "validation/loss": "loss",
    "validation/accuracies": "rewards/accuracies",
    "validation/margins": "rewards/margins",
    "validation/unsafe_recall": "unsafe/recall",
    "validation/unsafe_rule_recall": "unsafe/rule_recall",
    "validation/unsafe_rule_precision": "unsafe/rule_precision",
}
"""Metrics of validation, and the statistics of the loss that they repeat."""


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """One reward model. Defaults follow Llama 2 section 3.2.2 unless a field says otherwise."""

    margin: Margin = "large"
    """m by strength (Table 27); Table 28 finds large best on clear preferences."""
    safety_coef: float = 1.0
    """λ, weight of the auxiliary safety loss (not published); only labelled responses feel it."""
    label_smoothing: float = 0.0
    """ε: the share of comparisons held to be judged the wrong way round; 0 in the paper."""
    centring_coef: float = 0.0
    """Weight of the squared sum of a comparison's scores; 0 in the paper, TRL suggests 0.01."""
    batch_pairs: int = 512
    """Comparisons per optimizer step over all workers."""
    micro_batch_tokens: int = 16_384
    """Tokens per forward pass on one worker, padding included, of comparisons of similar length;
    memory and speed, not results, depend on it. A longer comparison passes alone."""
    micro_batch_pairs: int = 0
    """Comparisons per forward pass instead, of any length; 0 leaves it to the tokens."""
    max_length: int = 4096
    """Longest dialogue in tokens; of longer ones the end is kept."""
    epochs: float = 1.0
    """Passes over the comparisons; the paper saw over-fitting with more."""
    seed: int = 0
    """Draws the head and the order of the comparisons."""
    optim: OptimConfig = OptimConfig(lr=1e-5)
    """Cosine to 10 %, warm-up 3 % and at least 5 steps."""
    loop: LoopConfig = LoopConfig()
    """Logging, validation, checkpoints."""

    def __post_init__(self) -> None:
        require_not_negative(self, "safety_coef", "centring_coef", "micro_batch_pairs", "seed")
        require_positive(self, "batch_pairs", "micro_batch_tokens", "max_length", "epochs")
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(
                f"label_smoothing is {self.label_smoothing}; it must be at least 0 and below 0.5"
            )


@dataclass(frozen=True, kw_only=True)
class EncodedPair:
    """A comparison as the model sees it."""

    prompt: list[int]
    """What the two responses share; computed once for both."""
    chosen: list[int]
    """Response ids, EOS included."""
    rejected: list[int]
    margin: float
    weight: float = 1.0
    """Factor of the ranking loss."""
    safe: tuple[bool, bool] | None
    """Whether chosen and rejected are safe; None without a label."""

    def __len__(self) -> int:
        """Tokens of a forward pass."""
        return len(self.prompt) + len(self.chosen) + len(self.rejected)


@dataclass(frozen=True)
class RewardBatch:
    """Packed comparisons. R rows, T tokens, P pairs; responses: the P chosen, then the P rejected.

    A comparison is one document: prompt (branch 0), chosen (1), rejected (2).
    """

    tokens: Tensor
    """[R, T]."""
    documents: Tensor
    """[R, T]."""
    branches: Tensor
    """[R, T]."""
    last: Tensor
    """[2P, 2] row and column where each response's score is read."""
    margin: Tensor
    """[P]."""
    weight: Tensor
    """[P]."""
    is_safe: Tensor
    """[2P]."""
    has_label: Tensor
    """[2P]."""
    num_global_pairs: int
    num_global_labels: int


@dataclass(frozen=True, kw_only=True)
class RewardTask:
    """A `TrainTask` over comparisons."""

    start: Path | ModelConfig
    """A causal language model to start from, or the shape of a fresh one."""
    tokenizer: Path
    train: list[EncodedPair]
    validation: list[EncodedPair]
    config: RewardConfig

    @property
    def num_steps(self) -> int:
        """Optimizer steps, at least one."""
        return max(1, round(len(self.train) * self.config.epochs / self.config.batch_pairs))

    def build(self) -> nn.Module:
        """The language model with a fresh scalar head."""
        seed = self.config.seed
        if isinstance(self.start, ModelConfig):
            return scalar_model_from(init_language_model(self.start, seed), seed)
        return scalar_model_from(load_language_model(self.start), seed)

    def micro_batches(self, step: int, rank: int, world_size: int) -> list[RewardBatch]:
        """This rank's part of the step's batch; see `_parts`."""
        batch = [self.train[i] for i in self._pairs_of_step(step)]
        counts = (len(batch), 2 * sum(pair.safe is not None for pair in batch))
        parts = self._parts(batch, rank, world_size)
        return [self._pack(pairs, counts, length) for pairs, length in parts]

    def loss(self, module: nn.Module, batch: RewardBatch) -> tuple[Tensor, Stats]:
        """Share of the global loss; see the module's docstring."""
        batch = on_device(batch, device_of(module))
        scores = scores_at(batch.last, module, batch.tokens, batch.documents, batch.branches)
        chosen, rejected = scores.chunk(2)
        smoothing, centring = self.config.label_smoothing, self.config.centring_coef
        losses = ranking_loss(chosen, rejected, batch.margin, label_smoothing=smoothing)
        ranking = (batch.weight * losses).sum()
        total = ranking / batch.num_global_pairs
        if centring:
            off_centre = centring_loss(chosen, rejected).sum()
            total = total + centring * off_centre / batch.num_global_pairs
        num_labels = int(batch.has_label.sum())
        safety = safety_loss(scores, batch.is_safe, batch.has_label).sum()
        if batch.num_global_labels:
            total = total + self.config.safety_coef * safety / batch.num_global_labels
        pairs = len(chosen)
        with torch.no_grad():
            stats = {
                "loss": Mean(float(ranking), pairs),
                "loss/safety": Mean(float(safety), num_labels),
                "rewards/chosen": Mean(float(chosen.sum()), pairs),
                "rewards/rejected": Mean(float(rejected.sum()), pairs),
                "rewards/margins": Mean(float((chosen - rejected).sum()), pairs),
                "rewards/accuracies": Mean(float((chosen > rejected).sum()), pairs),
                **unsafe_stats(scores, batch.is_safe, batch.has_label),
                NUM_TOKENS: Mean(int((batch.documents >= 0).sum()), 0),
            }
        return total, stats

    def evaluate(self, module: nn.Module, rank: int, world_size: int) -> Stats:
        """Loss, accuracy, and the unsafe responses found, on the validation comparisons."""
        parts: list[Stats] = [
            self.loss(module, self._pack(pairs, (1, 1), length))[1]
            for pairs, length in self._parts(self.validation, rank, world_size)
        ]
        return {
            name: Mean(sum(p[of].total for p in parts), sum(p[of].count for p in parts))
            for name, of in VALIDATED.items()
        }

    def save(self, module: nn.Module, weights: dict[str, Tensor], directory: Path) -> None:
        """A Hugging Face sequence-classification directory with the tokenizer."""
        assert isinstance(module, ScalarModel)
        tokenizer = Tokenizer.load(self.tokenizer)
        save_model(
            module,
            directory,
            tokenizer.special_ids,
            weights=weights,
            save_tokenizer=tokenizer.save,
        )

    def _pairs_of_step(self, step: int) -> list[int]:
        size = self.config.batch_pairs
        positions = range(step * size, (step + 1) * size)
        count = len(self.train)
        orders = {
            epoch: epoch_order(count, seed=self.config.seed, epoch=epoch)
            for epoch in {p // count for p in positions}
        }
        return [int(orders[p // count][p % count]) for p in positions]

    def _parts(
        self, batch: Sequence[EncodedPair], rank: int, world_size: int
    ) -> list[tuple[list[EncodedPair], int]]:
        """Micro-batches of a rank, each with its row length; as many on every rank."""
        size = self.config.micro_batch_pairs
        if size:
            num_parts = -(-len(batch) // (world_size * size))
            own = batch[rank::world_size]
            return [(list(own[part::num_parts]), self._row_length) for part in range(num_parts)]
        parts = token_bounded(batch, self.config.micro_batch_tokens)
        parts += [[] for _ in range(-len(parts) % world_size)]
        return [(part, max(map(len, part), default=1)) for part in parts[rank::world_size]]

    def _pack(
        self, pairs: Sequence[EncodedPair], num_global: tuple[int, int], length: int
    ) -> RewardBatch:
        joined = [p.prompt + p.chosen + p.rejected for p in pairs]
        rows, ends = pack_and_locate(joined, None, length=length, pad_id=0)
        branches = np.zeros(rows.tokens.shape, dtype=np.int32)
        last = np.concatenate([ends, ends])
        for index, (pair, (row, end)) in enumerate(zip(pairs, ends, strict=True)):
            middle = end + 1 - len(pair.rejected)
            branches[row, middle : end + 1] = 2
            branches[row, middle - len(pair.chosen) : middle] = 1
            last[index, 1] = middle - 1
        labels = [p.safe for p in pairs]
        safe = [label is not None and label[side] for side in (0, 1) for label in labels]
        return RewardBatch(
            tokens=torch.from_numpy(rows.tokens.astype(np.int64)),
            documents=torch.from_numpy(rows.documents),
            branches=torch.from_numpy(branches),
            last=torch.from_numpy(last),
            margin=torch.tensor([p.margin for p in pairs]),
            weight=torch.tensor([p.weight for p in pairs]),
            is_safe=torch.tensor(safe, dtype=torch.bool),
            has_label=torch.tensor([label is not None for label in labels] * 2, dtype=torch.bool),
            num_global_pairs=num_global[0],
            num_global_labels=num_global[1],
        )

    @cached_property
    def _row_length(self) -> int:
        """Room for the longest comparison."""
        return max([MIN_ROW_LENGTH, *map(len, self.train + self.validation)])


def token_bounded(pairs: Sequence[EncodedPair], most: int) -> list[list[EncodedPair]]:
    """Comparisons in order of length, as many at a time as fit into `most` tokens when padded.

    Neighbours in length waste little padding, and attention costs no more than their own length
    squared. A comparison longer than `most` is alone.
    """
    parts: list[list[EncodedPair]] = []
    for pair in sorted(pairs, key=len, reverse=True):
        # Descending, so the first of a part is its longest.
        if parts and len(parts[-1][0]) * (len(parts[-1]) + 1) <= most:
            parts[-1].append(pair)
        else:
            parts.append([pair])
    return parts


def unsafe_stats(scores: Tensor, is_safe: Tensor, has_label: Tensor) -> Stats:
    """How many unsafe responses the scores give away (Llama 2, Table 29).

    `unsafe/recall` is the paper's: unsafe responses with σ(r) < ½, a negative score. The others are
    of the reward rule's threshold on σ(r).

    Args:
        scores: [N] r.
        is_safe: [N].
        has_label: [N]; responses without a label do not count.
    """
    unsafe = has_label & ~is_safe
    flagged = has_label & (to_probability(scores) < SAFETY_THRESHOLD)
    found, num_unsafe = int((unsafe & flagged).sum()), int(unsafe.sum())
    return {
        "unsafe/recall": Mean(int((unsafe & (scores < 0)).sum()), num_unsafe),
        "unsafe/rule_recall": Mean(found, num_unsafe),
        "unsafe/rule_precision": Mean(found, int(flagged.sum())),
    }


def scores_at(
    last: Tensor,
    model: nn.Module,
    tokens: Tensor,
    documents: Tensor | None = None,
    branches: Tensor | None = None,
) -> Tensor:
    """[N] scores at the rows and columns [N, 2] of a batch; see `ScalarModel` for the others."""
    places = last[:, 0], last[:, 1]
    wanted = torch.zeros_like(tokens, dtype=torch.bool)
    wanted[places] = True
    return model(tokens, documents, branches, wanted)[places]


def encode_pairs(
    comparisons: Sequence[Comparison], tokenizer: Tokenizer, config: RewardConfig
) -> list[EncodedPair]:
    """Comparisons as ids; dialogues that are too long keep their end."""
    chat = ChatFormat(tokenizer)
    pairs = []
    for comparison in comparisons:
        prompt = chat.encode_prompt(comparison.prompt)
        chosen, rejected = (
            chat.encode_dialogue((*comparison.prompt, *response)).ids[len(prompt) :]
            for response in (comparison.chosen, comparison.rejected)
        )
        pairs.append(
            _cut(
                EncodedPair(
                    prompt=prompt,
                    chosen=chosen,
                    rejected=rejected,
                    margin=pair_margin(config.margin, comparison.strength),
                    weight=pair_weight(config.margin, comparison.strength),
                    safe=safe_sides(comparison),
                ),
                config.max_length,
            )
        )
    return pairs


def encode_scored(
    chat: ChatFormat, prompt: Sequence[Message], response: Sequence[Message], max_length: int
) -> list[int]:
    """A dialogue as the reward models read it, at most so many tokens of its end."""
    return chat.encode_dialogue((*prompt, *response)).ids[-max_length:]


def _cut(pair: EncodedPair, max_length: int) -> EncodedPair:
    """Keeps the end of the prompt, and of a response that alone is too long."""
    chosen, rejected = pair.chosen[-max_length:], pair.rejected[-max_length:]
    room = max_length - max(len(chosen), len(rejected))
    prompt = pair.prompt[-room:] if room else []
    return replace(pair, prompt=prompt, chosen=chosen, rejected=rejected)


def safe_sides(comparison: Comparison) -> tuple[bool, bool] | None:
    """Whether the chosen and the rejected response are safe."""
    match comparison.safety_label:
        case "both_safe":
            return True, True
        case "chosen_safe_only":
            return True, False
        case "both_unsafe":
            return False, False
        case None:
            return None


def reward_extras(scores: Sequence[float], reference: str) -> dict[str, Any]:
    """Keys of a reward model's config.json: its scores on the reference set, and what that was."""
    return {
        "score_mean": float(np.mean(scores)),
        "score_std": float(np.std(scores)),
        "score_reference": reference,
    }
