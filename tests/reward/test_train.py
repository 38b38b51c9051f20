"""The task behind a reward model: its batches, its loss, and that it learns."""

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid
from torch.testing import assert_close

from data.errors import ConfigError
from data.schemas import Comparison, Message
from reward.losses import Margin
from reward.score import ScoreWorker, score_with
from reward.train import (
    EncodedPair,
    RewardConfig,
    RewardTask,
    encode_pairs,
    encode_scored,
    reward_extras,
    safe_sides,
    unsafe_stats,
)
from rlhf.actors.group import LocalGroup
from rlhf.actors.placement import Placement
from rlhf.engine.optim import OptimConfig
from rlhf.model.weights import read_hf_config
from rlhf.run import Run
from rlhf.training import LoopConfig, train
from rlhf.types import merge_stats, stat_values
from tests.reward.tiny import (
    TORCH,
    VOCAB_SIZE,
    tiny_chat,
    tiny_shape,
    tiny_tokenizer,
    write_language_model,
)

Make = Callable[..., Comparison]
NOWHERE = Path("no-tokenizer-is-needed")
LABELS = (None, (True, True), (True, False), (False, False))


def draw_pairs(count: int, *, seed: int = 0) -> list[EncodedPair]:
    """Random ids, lengths, margins and labels."""
    rng = random.Random(seed)

    def ids(most: int) -> list[int]:
        return [rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, most))]

    return [
        EncodedPair(
            prompt=ids(30),
            chosen=ids(20),
            rejected=ids(20),
            margin=rng.choice((0.0, 1 / 3, 1.0, 3.0)),
            safe=LABELS[number % 4],
        )
        for number in range(count)
    ]


def task_of(
    pairs: list[EncodedPair], validation: Sequence[EncodedPair] = (), **config: Any
) -> RewardTask:
    return RewardTask(
        start=tiny_shape(),
        tokenizer=NOWHERE,
        train=pairs,
        validation=list(validation),
        config=RewardConfig(**({"batch_pairs": len(pairs), "micro_batch_pairs": 16} | config)),
    )


def total_loss(task: RewardTask, module: nn.Module, world_size: int = 1) -> torch.Tensor:
    """The loss of step 0, summed over micro-batches and ranks as an engine would."""
    batches = [b for rank in range(world_size) for b in task.micro_batches(0, rank, world_size)]
    shares = [task.loss(module, batch)[0] for batch in batches]
    return torch.stack(shares).sum()


def gradients(task: RewardTask, module: nn.Module, world_size: int = 1) -> dict[str, torch.Tensor]:
    module.zero_grad()
    total_loss(task, module, world_size).backward()  # type: ignore[no-untyped-call]
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def plain_score(module: nn.Module, ids: list[int]) -> torch.Tensor:
    """One sequence, no packing, no padding."""
    return module(torch.tensor([ids]))[0, -1]


def test_packed_comparisons_are_plain_sequences() -> None:
    pairs = draw_pairs(9)
    task = task_of(pairs, safety_coef=0.7)
    module = task.build()
    (batch,) = task.micro_batches(0, 0, 1)
    assert batch.tokens.shape[0] < 9  # several comparisons share a row
    order = task._pairs_of_step(0)
    scores = torch.stack(
        [plain_score(module, pairs[i].prompt + pairs[i].chosen) for i in order]
        + [plain_score(module, pairs[i].prompt + pairs[i].rejected) for i in order]
    )
    packed = module(batch.tokens, batch.documents, batch.branches)
    assert_close(packed[batch.last[:, 0], batch.last[:, 1]], scores, rtol=0, atol=1e-5)

    chosen, rejected = scores.chunk(2)
    margin = torch.tensor([pairs[i].margin for i in order])
    ranking = -logsigmoid(chosen - rejected - margin).mean()
    labelled = [
        (scores[side * 9 + place], float(safe[side]))
        for side in (0, 1)
        for place, safe in enumerate(pairs[i].safe for i in order)
        if safe is not None
    ]
    assert len(labelled) == 12  # pairs 0, 4 and 8 of 9 have no label
    logits, safe = torch.stack([s for s, _ in labelled]), torch.tensor([s for _, s in labelled])
    expected = ranking + 0.7 * binary_cross_entropy_with_logits(logits, safe)
    assert_close(task.loss(module, batch)[0], expected, rtol=0, atol=1e-5)


def test_metrics_of_a_batch() -> None:
    task = task_of(draw_pairs(9))
    module = task.build()
    (batch,) = task.micro_batches(0, 0, 1)
    with torch.no_grad():
        scores = module(batch.tokens, batch.documents, batch.branches)[
            batch.last[:, 0], batch.last[:, 1]
        ]
        values = stat_values(task.loss(module, batch)[1])
    chosen, rejected = scores.chunk(2)
    assert values["rewards/chosen"] == pytest.approx(float(chosen.mean()), abs=1e-6)
    assert values["rewards/rejected"] == pytest.approx(float(rejected.mean()), abs=1e-6)
    assert values["rewards/margins"] == pytest.approx(float((chosen - rejected).mean()), abs=1e-6)
    assert values["rewards/accuracies"] == pytest.approx(int((chosen > rejected).sum()) / 9)


def test_without_labels_only_the_ranking_counts() -> None:
    pairs = [dataclasses.replace(pair, safe=None) for pair in draw_pairs(5)]
    module = task_of(pairs).build()
    with_coef, without = (task_of(pairs, safety_coef=c) for c in (5.0, 0.0))
    assert_close(total_loss(with_coef, module), total_loss(without, module), rtol=0, atol=0)


@pytest.mark.parametrize("micro_batch_pairs", [1, 2, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_micro_batches_and_ranks_change_nothing(world_size: int, micro_batch_pairs: int) -> None:
    pairs = draw_pairs(7)  # a multiple of neither
    whole = task_of(pairs, micro_batch_pairs=7)
    parts = task_of(pairs, micro_batch_pairs=micro_batch_pairs)
    counts = {len(parts.micro_batches(0, rank, world_size)) for rank in range(world_size)}
    assert len(counts) == 1  # the ranks step together
    module = whole.build()
    expected, found = gradients(whole, module), gradients(parts, module, world_size)
    assert set(expected) == set(found)
    for name in expected:
        assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("world_size", [2, 3])
def test_validation_is_the_same_on_any_number_of_ranks(world_size: int) -> None:
    # 4 comparisons, 1 at a time: of three ranks the first has two, the others end with nothing.
    task = task_of(draw_pairs(3), draw_pairs(4, seed=1), micro_batch_pairs=1)
    module = task.build()
    with torch.no_grad():
        alone = stat_values(task.evaluate(module, 0, 1))
        ranks = [task.evaluate(module, rank, world_size) for rank in range(world_size)]
        chosen, rejected = (
            torch.stack([plain_score(module, p.prompt + getattr(p, s)) for p in task.validation])
            for s in ("chosen", "rejected")
        )
    assert stat_values(merge_stats(ranks)) == pytest.approx(alone, abs=1e-6)
    flags = [
        (float(score), unsafe)
        for scores, side in ((chosen, 0), (rejected, 1))
        for score, unsafe in zip(
            scores, (p.safe is not None and not p.safe[side] for p in task.validation), strict=True
        )
    ]
    caught = sum(unsafe and score < 0 for score, unsafe in flags)
    assert alone["validation/unsafe_recall"] == caught / sum(unsafe for _, unsafe in flags)
    assert alone["validation/accuracies"] == float((chosen > rejected).float().mean())
    margin = torch.tensor([p.margin for p in task.validation])
    expected = float(-logsigmoid(chosen - rejected - margin).mean())
    assert alone["validation/loss"] == pytest.approx(expected, abs=1e-5)
    assert stat_values(task_of(draw_pairs(3)).evaluate(module, 0, 1)) == {}


def test_an_epoch_sees_every_comparison_once() -> None:
    task = task_of(draw_pairs(12), batch_pairs=4, epochs=2.0)
    assert task.num_steps == 6
    epochs = [[i for s in range(3) for i in task._pairs_of_step(e * 3 + s)] for e in (0, 1)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert task_of(draw_pairs(3), batch_pairs=512).num_steps == 1


def test_a_batch_may_span_epochs() -> None:
    task = task_of(draw_pairs(3), batch_pairs=5)
    assert Counter(Counter(task._pairs_of_step(0)).values()) == {2: 2, 1: 1}  # 3 + 2 of 3


def test_encoding(make_comparison: Make) -> None:
    chat, eos = tiny_chat(), tiny_tokenizer().eos_id
    row = make_comparison(
        1,
        prompt=(Message("user", "a"), Message("assistant", "b"), Message("user", "c")),
        strength="better",
        safety_label="chosen_safe_only",
    )
    (pair,) = encode_pairs([row], tiny_tokenizer(), RewardConfig(margin="large"))
    assert pair.prompt == chat.encode_prompt(row.prompt)
    assert pair.chosen == [*tiny_tokenizer().encode("good answer 1"), eos]
    assert pair.rejected == [*tiny_tokenizer().encode("bad answer 1"), eos]
    assert (pair.margin, pair.safe) == (2.0, (True, False))
    assert encode_scored(chat, row.prompt, row.chosen, 4096) == pair.prompt + pair.chosen


def test_margins_follow_strength_and_config(make_comparison: Make) -> None:
    rows = [make_comparison(0, strength="significantly_better"), make_comparison(1, strength=None)]
    expected: dict[Margin, list[tuple[float, float]]] = {  # (margin, weight) of both
        "none": [(0, 1), (0, 1)],
        "small": [(1, 1), (0, 1)],
        "large": [(3, 1), (0, 1)],
        "scaled": [(0, 3), (0, 1)],
    }
    for margin, values in expected.items():
        pairs = encode_pairs(rows, tiny_tokenizer(), RewardConfig(margin=margin))
        assert [(pair.margin, pair.weight) for pair in pairs] == values


def test_safe_sides(make_comparison: Make) -> None:
    labels = ("both_safe", "chosen_safe_only", "both_unsafe", None)
    found = [safe_sides(make_comparison(0, safety_label=label)) for label in labels]
    assert found == [(True, True), (True, False), (False, False), None]


def test_long_dialogues_keep_the_end_and_the_response(make_comparison: Make) -> None:
    row = make_comparison(
        1,
        prompt=(Message("user", "x" * 50),),
        chosen=(Message("assistant", "y" * 6),),
        rejected=(Message("assistant", "z" * 9),),
    )
    full, cut = (
        encode_pairs([row], tiny_tokenizer(), RewardConfig(max_length=length))[0]
        for length in (4096, 40)
    )
    assert (cut.chosen, cut.rejected) == (full.chosen, full.rejected)
    room = 40 - len(full.rejected)  # the longer one decides, as the prompt is shared
    assert cut.prompt == full.prompt[-room:]
    assert len(cut.prompt + cut.rejected) == 40

    (tight,) = encode_pairs([row], tiny_tokenizer(), RewardConfig(max_length=5))
    assert tight.prompt == []
    assert (tight.chosen, tight.rejected) == (full.chosen[-5:], full.rejected[-5:])
    module = task_of([tight]).build()  # a comparison without a prompt is still two sequences
    (batch,) = task_of([tight]).micro_batches(0, 0, 1)
    values = module(batch.tokens, batch.documents, batch.branches)
    expected = torch.stack([plain_score(module, ids) for ids in (tight.chosen, tight.rejected)])
    assert_close(values[batch.last[:, 0], batch.last[:, 1]], expected, rtol=0, atol=1e-5)

    dialogue = tiny_chat().encode_dialogue((*row.prompt, *row.chosen)).ids
    assert encode_scored(tiny_chat(), row.prompt, row.chosen, 20) == dialogue[-20:]


class OnMeta(nn.Module):
    """Weights on another device; tells where its inputs are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, device="meta"))

    def forward(self, *inputs: Tensor) -> None:
        raise LookupError({tensor.device.type for tensor in inputs})


def test_batches_follow_the_module() -> None:
    task = task_of(draw_pairs(3), draw_pairs(4, seed=1))
    with pytest.raises(LookupError, match=r"^{'meta'}$"):
        task.loss(OnMeta(), task.micro_batches(0, 0, 1)[0])
    with pytest.raises(LookupError, match=r"^{'meta'}$"):
        task.evaluate(OnMeta(), 0, 1)


def test_config_errors() -> None:
    with pytest.raises(ConfigError, match=r"safety_coef is -1\.0; it must be 0 or more"):
        RewardConfig(safety_coef=-1.0)
    with pytest.raises(ConfigError, match="seed is -1; it must be 0 or more"):
        RewardConfig(seed=-1)
    with pytest.raises(ConfigError, match="micro_batch_tokens is 0; it must be above 0"):
        RewardConfig(micro_batch_tokens=0)
    with pytest.raises(ConfigError, match=r"label_smoothing is 0\.5; it must be at least 0 and"):
        RewardConfig(label_smoothing=0.5)


def test_a_preference_is_learned(tmp_path: Path, make_comparison: Make) -> None:
    """People here prefer the polite answer; everything else about the two is drawn alike."""
    rng = random.Random(0)

    def draw(number: int) -> Comparison:
        polite, rude = (
            f"{rng.choice('abcdef')} {word} {rng.choice('abcdef')}" for word in ("please", "now")
        )
        return make_comparison(
            number,
            prompt=(Message("user", rng.choice("abcdef")),),
            chosen=(Message("assistant", polite),),
            rejected=(Message("assistant", rude),),
            strength="significantly_better",
        )

    rows = [draw(number) for number in range(160)]
    config = RewardConfig(
        margin="small",
        batch_pairs=16,
        epochs=3.0,
        optim=OptimConfig(lr=3e-3, eps=1e-8, warmup_min_steps=2),
        loop=LoopConfig(log_every=10),
    )
    pairs = encode_pairs(rows, tiny_tokenizer(), config)
    model = write_language_model(tmp_path / "chat")
    run = Run(tmp_path / "run", "reward train", {})
    task = RewardTask(
        start=model, tokenizer=model, train=pairs[:128], validation=pairs[128:], config=config
    )
    here = Placement(ray=False)
    figures = train(
        task,
        run,
        optim=config.optim,
        engine=TORCH,
        loop=config.loop,
        placement=here,
        name="reward",
    )
    assert figures["validation/accuracies"] == 1.0
    assert figures["validation/margins"] > 1.0  # the margin that was asked for

    # What is on disk prefers the same, as a sequence classifier with a tokenizer beside it.
    raw = read_hf_config(run.model)
    assert (raw["architectures"], raw["num_labels"]) == (["LlamaForSequenceClassification"], 1)
    assert (run.model / "tokenizer.model").read_bytes() == (model / "tokenizer.model").read_bytes()
    group = LocalGroup(ScoreWorker, here, run.model)
    chosen, rejected = (
        np.array(score_with(group, [p.prompt + getattr(p, side) for p in pairs[128:]]))
        for side in ("chosen", "rejected")
    )
    assert (chosen > rejected).all()


def test_t08_scores_are_standardised_by_what_the_model_stores() -> None:
    scores = np.random.default_rng(0).normal(3.0, 2.5, 1000)
    stored = reward_extras(list(scores), "a set")
    white = (scores - stored["score_mean"]) / stored["score_std"]
    assert abs(white.mean()) < 1e-12 and white.std() == pytest.approx(1.0)
    # by hand: mean (1 + 2 + 6) / 3 = 3, variance (4 + 1 + 9) / 3 = 14/3
    assert reward_extras([1.0, 2.0, 6.0], "a set") == {
        "score_mean": 3.0,
        "score_std": pytest.approx((14 / 3) ** 0.5),
        "score_reference": "a set",
    }


def test_unsafe_responses_found_by_hand() -> None:
    # σ(−3) = 0.047 and σ(−2) = 0.119 are below 0.15, σ(−1) = 0.269 is below ½ only
    scores = torch.tensor([-3.0, -2.0, -1.0, 1.0, -2.0, -9.0])
    is_safe = torch.tensor([False, True, False, False, False, False])
    has_label = torch.tensor([True, True, True, True, True, False])
    found = unsafe_stats(scores, is_safe, has_label)
    # unsafe with a label: −3, −1, 1, −2; below ½: −3, −1, −2; below 0.15: −3, −2, and −2 is safe
    assert found["unsafe/recall"] == (3, 4)
    assert found["unsafe/rule_recall"] == (2, 4)
    assert found["unsafe/rule_precision"] == (2, 3)
    nothing = unsafe_stats(scores, is_safe, torch.zeros(6, dtype=torch.bool))
    assert stat_values(nothing) == {}
