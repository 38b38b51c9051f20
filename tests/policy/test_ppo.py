"""The loop of PPO: it learns, it stays near the reference, and it says what it did."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import policy.ppo_workers
from data.errors import ConfigError
from policy.ppo import PpoConfig, Roles, train_ppo
from policy.ppo_workers import CriticWorker, PolicyWorker
from policy.samples import read_samples
from reward.combine import combine_scores
from reward.score import RewardModels, ScoreWorker
from rlhf.actors.group import LocalGroup, Seat
from rlhf.engine.distributed import Rank
from rlhf.engine.torch_engine import TorchEngine
from rlhf.generation.sampling import SamplingConfig
from rlhf.metrics import read_metrics
from rlhf.model.weights import load_language_model
from tests.policy.in_process import HERE, Ppo, StartPpo, constant
from tests.reward.tiny import TORCH, tiny_chat, write_reward_model

LIKED = set(range(300, 330))


def likes_some_tokens(ids: list[int]) -> float:
    """How many of the four sampled tokens are among the liked ones."""
    return float(sum(token in LIKED for token in ids[-4:]))


def sum_of_ids(ids: list[int]) -> float:
    return float(sum(ids) % 11)


def metrics(ppo: Ppo) -> list[dict[str, Any]]:
    return read_metrics(ppo.run.directory)


def learn(start_ppo: StartPpo, name: str, kl_coef: float) -> list[dict[str, Any]]:
    ppo = start_ppo(
        name,
        likes_some_tokens,
        iterations=20,
        epochs=2,
        minibatch_size=8,
        kl_coef=kl_coef,
        sampling=SamplingConfig(max_new_tokens=4),
        optim=constant(1e-2),
        critic_optim=constant(1e-2),
    )
    ppo.train()
    return metrics(ppo)


def test_it_learns_what_the_score_likes_and_beta_holds_it_back(start_ppo: StartPpo) -> None:
    free, held = (learn(start_ppo, f"run-{beta}", beta) for beta in (0.0, 1.0))
    scores = [line["objective/scores"] for line in free]
    # A random policy likes 30 of 352 tokens: 0.34 of four are liked; in the end nearly all are.
    assert scores[0] < 1.0 and min(scores[-3:]) > 3.5
    assert held[-1]["objective/scores"] < 2.0
    kls = [sum(line["objective/kl"] for line in lines[-3:]) / 3 for lines in (free, held)]
    assert kls[0] > 10.0 and kls[1] < 0.5 * kls[0]


def test_the_policy_on_disk_is_the_one_that_learned(start_ppo: StartPpo, chat_model: Path) -> None:
    ppo = start_ppo("run", sum_of_ids, iterations=2)
    ppo.train()
    saved, start = load_language_model(ppo.run.model), load_language_model(chat_model)
    rows = ppo.policy.arguments("update")[0][0]
    (current,) = ppo.policy.broadcast(PolicyWorker.logprobs, rows, 16)
    with torch.no_grad():
        found = saved(rows.tokens, rows.response_mask, temperature=1.0).logprobs
        before = start(rows.tokens, rows.response_mask, temperature=1.0).logprobs
    assert_close(found, current)
    assert not torch.allclose(before, current, atol=1e-3)
    tokenizer = "tokenizer.model"
    assert (ppo.run.model / tokenizer).read_bytes() == (chat_model / tokenizer).read_bytes()


def test_what_a_run_says_about_itself(start_ppo: StartPpo) -> None:
    ppo = start_ppo("run", sum_of_ids, iterations=3, sample_every=2, kl_coef=0.3)
    figures = ppo.train()
    lines, updates = metrics(ppo), ppo.policy.arguments("update")
    assert [line["step"] for line in lines] == [0, 1, 2]
    for line, (rows, _), sequences in zip(lines, updates, ppo.scorer.seen, strict=True):
        scores = torch.tensor([sum_of_ids(ids) for ids in sequences])
        kl = ((rows.logprobs - rows.ref_logprobs) * rows.response_mask).sum(dim=1)
        white = (scores - scores.mean()) / scores.std(correction=0)
        cut_off = 1 - float(rows.ended.float().mean())
        expected = {
            "objective/scores": float(scores.mean()),
            "objective/kl": float(kl.mean()),
            "objective/kl_coef": 0.3,
            "objective/non_score_reward": float(-0.3 * kl.mean()),
            # whitened scores add up to 0: what is left is the KL and the missing ends
            "objective/rlhf_reward": float((white - 0.3 * kl).mean()) - cut_off,
            "objective/entropy": float(-(rows.logprobs * rows.response_mask).sum(dim=1).mean()),
            "val/num_eos_tokens": float(rows.ended.sum()),
            "response/tokens": float(rows.response_mask.sum()) / 16,
        }
        assert {name: line[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    sampled = sum(int(rows.response_mask.sum()) for rows, _ in updates)
    assert figures == {"tokens": pytest.approx(sampled)}

    samples = read_samples(ppo.run.directory / "samples.parquet")
    assert [sample["step"] for sample in samples] == [0] * 16 + [2] * 16
    rows, ids = updates[2][0], [prompt.prompt_id for prompt in ppo.prompts.batch(2, 16, seed=0).ids]
    for number, sample in enumerate(samples[16:]):
        mask = rows.response_mask[number]
        text = tiny_chat().decode_response(rows.tokens[number, mask].tolist())
        assert (sample["prompt_id"], sample["response"]) == (ids[number], text)
        assert sample["policy_version"] == 2
        assert sample["logprob"] == pytest.approx(float(rows.logprobs[number].sum()), abs=1e-4)
        assert sample["combined_score"] == sum_of_ids(ppo.scorer.seen[2][number])


def test_advantages_are_whitened_and_returns_are_not(start_ppo: StartPpo) -> None:
    ppo = start_ppo("run", sum_of_ids, gamma=1.0, lam=1.0, kl_coef=0.2)
    ppo.train()
    ((rows, _),) = ppo.policy.arguments("update")
    mask = rows.response_mask
    marked = rows.advantages[mask]
    assert abs(float(marked.mean())) < 1e-5
    assert float(marked.var(correction=0)) == pytest.approx(1.0, abs=1e-4)
    # λ = 1: the return of a token is what is still to come, whatever the critic thinks
    future = rows.rewards.flip(1).cumsum(1).flip(1)
    assert_close(rows.returns, future * mask, rtol=0, atol=1e-5)
    assert (rows.values[mask] != 0).all()
    assert ppo.critic.arguments("update")[0][0] is rows


def test_a_critic_with_a_zero_head_starts_from_nothing(start_ppo: StartPpo) -> None:
    ppo = start_ppo("run", sum_of_ids, critic_init="zero_head")
    ppo.train()
    ((rows, _),) = ppo.policy.arguments("update")
    assert (rows.values == 0).all()


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_kl_that_is_charged(start_ppo: StartPpo, estimator: str) -> None:
    ppo = start_ppo("run", sum_of_ids, iterations=2, kl_coef=0.5, kl_estimator=estimator)
    ppo.train()
    rows = ppo.policy.arguments("update")[1][0]
    d = (rows.logprobs - rows.ref_logprobs)[rows.response_mask]
    per_token = {"k1": d, "k2": d**2 / 2, "k3": (-d).exp() - 1 + d}[estimator]
    charged = rows.scores.sum() - rows.rewards.sum()
    assert float(charged) == pytest.approx(0.5 * float(per_token.sum()), rel=1e-3)
    assert float(per_token.abs().sum()) > 0.1


def test_both_reward_models_score(start_ppo: StartPpo, tmp_path: Path) -> None:
    models = [write_reward_model(tmp_path / name, seed=n) for n, name in enumerate("hs")]
    helpfulness, safety = (LocalGroup(ScoreWorker, HERE, model) for model in models)
    ppo = start_ppo("run", sum_of_ids)
    rewards = RewardModels(helpfulness, safety, threshold=0.5)
    roles: Any = Roles(ppo.policy, ppo.critic, rewards)  # type: ignore[arg-type]
    train_ppo(ppo.config, roles, ppo.prompts, tiny_chat(), ppo.run)
    samples = read_samples(ppo.run.directory / "samples.parquet")
    columns = {
        name: torch.tensor([sample[f"{name}_score"] for sample in samples])
        for name in ("safety", "helpfulness", "combined")
    }
    tags = torch.tensor([sample["domain"] == "safety" for sample in samples])
    assert int(tags.sum()) == 4
    expected = combine_scores(columns["safety"], columns["helpfulness"], tags, 0.5)
    assert torch.equal(columns["combined"], expected)
    (line,) = metrics(ppo)
    for name in ("safety", "helpfulness"):
        assert line[f"objective/scores_{name}"] == pytest.approx(float(columns[name].mean()))


class Ranks:
    """Several ranks of a role, called one after the other; their gradients never meet."""

    def __init__(self, worker: Any, size: int, *args: Any) -> None:
        self.size = size
        self.workers = [
            worker(
                Seat(rank=Rank(index=n, world_size=size), threads=1, device="cpu", timeout=1), *args
            )
            for n in range(size)
        ]

    def broadcast(self, method: Any, *args: Any) -> list[Any]:
        return [method(worker, *args) for worker in self.workers]

    def scatter(self, method: Any, shards: list[Any]) -> list[Any]:
        return [method(w, shard) for w, shard in zip(self.workers, shards, strict=True)]


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_share_the_work_and_change_nothing(
    start_ppo: StartPpo,
    chat_model: Path,
    critic_model: Path,
    size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    still = {"optim": constant(0.0), "critic_optim": constant(0.0), "minibatch_size": 8}
    alone = start_ppo("alone", sum_of_ids, **still)
    alone.train()
    monkeypatch.setattr(Seat, "take", lambda seat: torch.device("cpu"))
    monkeypatch.setattr(
        policy.ppo_workers,
        "build_engine",
        lambda module, engine, optim, rank, device: TorchEngine(module, optim),
    )
    shared = start_ppo("shared", sum_of_ids, **still)
    optim = shared.config.optim
    roles: Any = Roles(
        Ranks(PolicyWorker, size, chat_model, chat_model, TORCH, optim, 1.0),  # type: ignore[arg-type]
        Ranks(CriticWorker, size, critic_model, "helpfulness", TORCH, optim),  # type: ignore[arg-type]
        shared.scorer,  # type: ignore[arg-type]
    )
    train_ppo(shared.config, roles, shared.prompts, tiny_chat(), shared.run)
    assert shared.scorer.seen == alone.scorer.seen  # the same samples in the same order
    own = ("seconds", "tokens_per_second", "step", "policy/grad_norm", "critic/grad_norm")
    expected, found = (
        {name: value for name, value in metrics(p)[0].items() if name not in own}
        for p in (alone, shared)
    )
    assert found == pytest.approx(expected, abs=1e-5)


def test_more_ranks_than_rows_in_a_minibatch(start_ppo: StartPpo) -> None:
    ppo = start_ppo("run", sum_of_ids, minibatch_size=2)
    for workers in (ppo.policy, ppo.critic):
        workers.size = 3
        name = "policy" if workers is ppo.policy else "critic"
        reason = f"minibatch_size is 2; it must be at least 3, the number of {name} workers"
        with pytest.raises(ConfigError, match=reason):
            ppo.train()
        workers.size = 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"prompts_per_iteration": 100, "minibatch_size": 64},
            r"prompts_per_iteration \(100\) must be a multiple of minibatch_size \(64\); try 128",
        ),
        ({"kl_coef": -0.1}, "kl_coef is -0.1; it must be 0 or more"),
        ({"seed": -1}, "seed is -1; it must be 0 or more"),
        ({"checkpoint_every": -1}, "checkpoint_every is -1; it must be 0 or more"),
        ({"gamma": 1.5}, r"gamma is 1.5; it must be in \[0, 1\]"),
        ({"lam": -0.5}, r"lam is -0.5; it must be in \[0, 1\]"),
        ({"epochs": 0}, "epochs is 0; it must be above 0"),
        ({"sampling": SamplingConfig(temperature=0.0)}, "temperature must be above 0"),
        ({"sampling": SamplingConfig(top_k=5)}, "sampling.top_k is 5; PPO needs .* leave it at 0"),
        ({"sampling": SamplingConfig(top_p=0.9)}, "sampling.top_p is 0.9; .* leave it at 1"),
        ({"sampling": SamplingConfig(min_new_tokens=2)}, "min_new_tokens is 2; .* leave it at 0"),
        ({"kl_control": "adaptive", "kl_coef": 0.0}, "kl_coef is 0 and kl_control adaptive"),
        (
            {"kl_control": "adaptive", "kl_horizon": 511},
            "kl_horizon is 511; it must be at least prompts_per_iteration, 512",
        ),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PpoConfig(**changes)


def test_defaults_are_the_papers() -> None:
    # Llama 2, section 3.2.3: batch 512, mini-batch 64, one step each, clip 0.2, β 0.01 for 7B,
    # AdamW 0.9, 0.95, 1e-5, decay 0.1, clipping 1.0, constant 1e-6
    config = PpoConfig()
    assert (config.prompts_per_iteration, config.minibatch_size, config.epochs) == (512, 64, 1)
    assert (config.clip_range, config.kl_coef) == (0.2, 0.01)
    optim = config.optim
    assert (optim.betas, optim.eps, optim.weight_decay) == ((0.9, 0.95), 1e-5, 0.1)
    assert (optim.clip_norm, optim.lr, optim.schedule) == (1.0, 1e-6, "constant")


def test_every_iteration_has_its_own_randomness_and_both_roles_their_settings(
    start_ppo: StartPpo,
) -> None:
    ppo = start_ppo(
        "run",
        sum_of_ids,
        iterations=3,
        seed=2,
        epochs=2,
        minibatch_size=8,
        critic_optim=constant(5e-3),
        clip_range=0.1,
        value_clip_range=0.4,
    )
    ppo.train()
    requests = [shards[0] for (shards,) in ppo.policy.arguments("generate")]
    assert len({request.seed for request in requests}) == 3
    for name, group, rate, clip in (
        ("policy", ppo.policy, 1e-3, 0.1),
        ("critic", ppo.critic, 5e-3, 0.4),
    ):
        specs = [spec for _, spec in group.arguments("update")]
        assert len({spec.seed for spec in specs}) == 3, name
        assert {(s.learning_rate, s.clip_range, s.epochs, s.minibatch_size) for s in specs} == {
            (rate, clip, 2, 8)
        }


def test_samples_of_a_run_that_dies_are_there_to_read(start_ppo: StartPpo) -> None:
    def rule(ids: list[int]) -> float:
        if len(ppo.scorer.seen) > 2:
            raise KeyboardInterrupt
        return sum_of_ids(ids)

    ppo = start_ppo("run", rule, iterations=5)
    with pytest.raises(KeyboardInterrupt):
        ppo.train()
    kept = read_samples(ppo.run.directory / "samples.parquet")
    assert [sample["step"] for sample in kept] == [n for n in range(2) for _ in range(16)]


def test_a_run_that_dies_in_a_checkpoint_repeats_no_sample(
    start_ppo: StartPpo, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The samples of the fourth iteration are on disk before the checkpoint after it is.
    settings = {"iterations": 5, "checkpoint_every": 2}
    ppo = start_ppo("run", sum_of_ids, **settings)
    save, calls = TorchEngine.save, []

    def dies_the_second_time(engine: TorchEngine, directory: Path) -> None:
        calls.append(directory)
        if len(calls) == 4:  # the critic's part of the second checkpoint
            raise KeyboardInterrupt
        save(engine, directory)

    with monkeypatch.context() as patch:
        patch.setattr(TorchEngine, "save", dies_the_second_time)
        with pytest.raises(KeyboardInterrupt):
            ppo.train()
    path = ppo.run.directory / "samples.parquet"
    assert max(sample["step"] for sample in read_samples(path)) == 3
    start_ppo("run", sum_of_ids, **settings).train()
    assert [sample["step"] for sample in read_samples(path)] == [
        n for n in range(5) for _ in range(16)
    ]
    assert [line["step"] for line in metrics(ppo)] == [0, 1, 2, 3, 4]
