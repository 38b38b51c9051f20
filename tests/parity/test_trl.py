"""Our losses and scores beside those of TRL 1.16 on the same weights and tokens.

TRL has no PPO any more (its last one is in 1.12); its GRPO has the same clipped surrogate and the
k3 estimate of the KL, and its trainers of reward models and of fine-tuning are compared whole.
"""

import random
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from data.packing import pack
from policy.language_task import LanguageTask
from policy.ppo_math import clipped_policy_loss, kl_estimate, masked_mean
from reward.score import ScoreWorker, score_with
from reward.train import EncodedPair, RewardConfig, RewardTask
from rlhf.actors.group import LocalGroup
from rlhf.actors.placement import Placement
from rlhf.model.weights import load_language_model, load_scalar_model
from tests.reward.tiny import VOCAB_SIZE, tiny_tokenizer, write_language_model, write_reward_model

# The imports of these libraries warn about themselves.
pytestmark = pytest.mark.filterwarnings("ignore")
PAD = tiny_tokenizer().pad_id


def draw_ids(rng: random.Random, most: int) -> list[int]:
    """Random ids without the padding, which TRL must be able to tell apart."""
    return [rng.randrange(PAD + 1, VOCAB_SIZE) for _ in range(rng.randint(1, most))]


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reward_model(tmp_path_factory.mktemp("reward") / "model")


def trainer_state(model: Any, **arguments: Any) -> Any:
    """What a trainer's `compute_loss` reads besides its inputs."""
    alone = SimpleNamespace(
        gather_for_metrics=lambda x: x, gather=lambda x: x, reduce=lambda x, reduction: x
    )
    return SimpleNamespace(
        model=model,
        args=SimpleNamespace(**arguments),
        accelerator=alone,
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )


@pytest.mark.parametrize("micro_batch_tokens", [1, 200, 16_384])
@pytest.mark.parametrize("centring", [None, 0.01])
@pytest.mark.parametrize("with_margin", [True, False])
def test_reward_loss_and_gradient(
    reward_model: Path, with_margin: bool, centring: float | None, micro_batch_tokens: int
) -> None:
    from transformers import LlamaForSequenceClassification
    from trl import RewardTrainer
    from trl.trainer.reward_trainer import DataCollatorForPreference

    rng = random.Random(0)
    pairs = [
        EncodedPair(
            prompt=draw_ids(rng, 30),
            chosen=draw_ids(rng, 12),
            rejected=draw_ids(rng, 12),
            margin=rng.choice((0.0, 1 / 3, 1.0, 3.0)) if with_margin else 0.0,
            safe=None,
        )
        for _ in range(9)
    ]
    examples = [
        {"chosen_ids": p.prompt + p.chosen, "rejected_ids": p.prompt + p.rejected}
        | ({"margin": p.margin} if with_margin else {})
        for p in pairs
    ]
    theirs: Any = LlamaForSequenceClassification.from_pretrained(reward_model)
    inputs = DataCollatorForPreference(pad_token_id=PAD)(examples)
    state = trainer_state(theirs.eval(), center_rewards_coefficient=centring)
    expected = RewardTrainer.compute_loss(state, theirs, inputs)

    task = RewardTask(
        start=reward_model,
        tokenizer=reward_model,
        train=pairs,
        validation=[],
        config=RewardConfig(
            batch_pairs=9, micro_batch_tokens=micro_batch_tokens, centring_coef=centring or 0.0
        ),
    )
    ours = load_scalar_model(reward_model)
    parts = [task.loss(ours, batch) for batch in task.micro_batches(0, 0, 1)]
    assert len(parts) in {1: [9], 200: range(2, 9), 16_384: [1]}[micro_batch_tokens]
    assert_close(torch.stack([loss for loss, _ in parts]).sum(), expected, rtol=0, atol=1e-5)
    right = sum(stats["rewards/accuracies"].total for _, stats in parts)
    assert right / 9 == pytest.approx(state._metrics["eval"]["accuracy"][0])

    expected.backward()
    for loss, _ in parts:
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    assert gradients.keys() == {n for n, p in ours.named_parameters() if p.grad is not None}
    for name, parameter in ours.named_parameters():
        assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-6)


def test_scores_are_trls_rewards(reward_model: Path) -> None:
    from transformers import LlamaForSequenceClassification
    from trl.experimental.utils import get_reward

    rng = random.Random(1)
    sequences = [[1, *draw_ids(rng, 40)] for _ in range(7)]
    longest = max(len(ids) for ids in sequences) + 1
    padded = torch.tensor([ids + [PAD] * (longest - len(ids)) for ids in sequences])
    theirs = LlamaForSequenceClassification.from_pretrained(reward_model).eval()  # type: ignore[attr-defined]
    with torch.no_grad():
        _, expected, _ = get_reward(theirs, padded, PAD, context_length=1)
    group = LocalGroup(ScoreWorker, Placement(ray=False), reward_model)
    assert_close(torch.tensor(score_with(group, sequences)), expected, rtol=0, atol=1e-5)


def test_fine_tuning_loss(chat_model: Path) -> None:
    from transformers import LlamaForCausalLM
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    rng = random.Random(2)
    dialogues = [(draw_ids(rng, 12), draw_ids(rng, 12)) for _ in range(8)]
    ids = [prompt + answer for prompt, answer in dialogues]
    masks = [[False] * len(p) + [True] * len(a) for p, a in dialogues]
    collator = DataCollatorForLanguageModeling(pad_token_id=PAD)
    examples = [
        {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}
        for prompt, answer in dialogues
    ]
    theirs: Any = LlamaForCausalLM.from_pretrained(chat_model)
    with torch.no_grad():
        expected = theirs.eval()(**collator(examples)).loss
    rows = pack(ids, masks, length=32, pad_id=PAD)
    task = LanguageTask(
        start=chat_model,
        tokenizer=chat_model,
        train=rows,
        validation=rows,
        batch_rows=len(rows),
        micro_batch_rows=len(rows),
        num_steps=1,
        seed=0,
    )
    (batch,) = task.micro_batches(0, 0, 1)
    assert batch.tokens.shape[0] < 8  # packed here, padded there
    loss, _ = task.loss(load_language_model(chat_model), batch)
    assert_close(loss, expected, rtol=0, atol=1e-5)


def test_log_probabilities_and_entropy(chat_model: Path) -> None:
    from transformers import LlamaForCausalLM
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, VOCAB_SIZE, (4, 20), generator=generator)
    mask = torch.rand(4, 20, generator=generator) < 0.5
    mask[:, 0] = False
    theirs: Any = LlamaForCausalLM.from_pretrained(chat_model)
    with torch.no_grad():
        logits = theirs.eval()(tokens).logits[:, :-1] / 0.7
        ours = load_language_model(chat_model)(tokens, mask, temperature=0.7, with_entropy=True)
    logprobs = torch.nn.functional.pad(selective_log_softmax(logits, tokens[:, 1:]), (1, 0))
    entropy = torch.nn.functional.pad(entropy_from_logits(logits), (1, 0))
    assert_close(ours.logprobs, logprobs * mask, rtol=0, atol=1e-5)
    assert_close(ours.entropy, entropy * mask, rtol=0, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_clipped_surrogate_and_k3(beta: float) -> None:
    from trl import GRPOTrainer

    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    old, reference, advantages = noise(6, 9) - 3, noise(6, 9) - 3, noise(6, 9)
    current = (old + 0.4 * noise(6, 9)).requires_grad_()
    mask = torch.rand(6, 9, generator=generator) < 0.7
    state = trainer_state(SimpleNamespace(training=False), delta=None, use_bias_correction_kl=False)
    vars(state).update(
        beta=beta,
        epsilon_low=0.2,
        epsilon_high=0.2,
        loss_type="bnpo",  # the mean over the tokens of the batch, as ours
        importance_sampling_level="token",
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        _get_per_token_logps_and_entropies=lambda *_, **__: (current, torch.zeros(6, 9), None),
    )
    inputs = {
        "prompt_ids": torch.zeros(6, 1, dtype=torch.long),
        "prompt_mask": torch.ones(6, 1, dtype=torch.long),
        "completion_ids": torch.zeros(6, 9, dtype=torch.long),
        "completion_mask": mask.long(),
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
    }
    expected = GRPOTrainer._compute_loss(state, None, inputs)
    (expected_gradient,) = torch.autograd.grad(expected, current)

    surrogate = clipped_policy_loss((current - old).exp(), advantages, clip_range=0.2)
    loss = masked_mean(surrogate.loss + beta * kl_estimate(current, reference, "k3"), mask)
    assert_close(loss, expected)
    assert_close(torch.autograd.grad(loss, current)[0], expected_gradient)
    clipped = masked_mean(surrogate.clipped, mask)
    assert 0.1 < float(clipped.detach()) < 0.9
    assert float(clipped) == pytest.approx(state._metrics["eval"]["clip_ratio/region_mean"][0])
