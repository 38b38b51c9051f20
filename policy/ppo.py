"""PPO with a KL penalty (Llama 2, section 3.2.3).

    R(y | x) = R̃_c(y | x) − β KL(π ‖ π_0),      R̃_c = whiten(logit(R_c))

R_c is the raw score of the reward model that the rule chose (reward/combine.py); whitening is over
the batch, with the mean removed, and rewards are not whitened again. The KL is charged per token,
the score at the last token; advantages are GAE's.

Where we differ: a critic of its own (the paper does not say), started from the helpfulness model.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from data.chat_format import ChatFormat
from data.errors import ConfigError, require_not_negative, require_positive
from policy.health import ALARMS_FILE, health_figures, raised_alarms
from policy.ppo_math import (
    KlEstimator,
    adaptive_kl_coef,
    gae,
    kl_estimate,
    masked_whiten,
    shape_rewards,
)
from policy.ppo_metrics import batch_metrics, held_out_metrics
from policy.ppo_workers import CriticInit, CriticWorker, PolicyWorker, UpdateSpec, own_rows
from policy.prompts import PromptSet
from policy.samples import SAMPLES_FILE, read_samples, sample_records, write_samples
from reward.combine import whiten
from reward.score import Rewards, Scores
from rlhf.actors.group import WorkerGroup
from rlhf.actors.workers import share_out
from rlhf.engine.optim import OptimConfig, learning_rate
from rlhf.engine.weight_sync import check_versions
from rlhf.generation.sampling import SamplingConfig
from rlhf.metrics import read_metrics
from rlhf.run import KEEP_CHECKPOINTS, Run, console, progress, read_json, write_json
from rlhf.types import Experience, Rollout, merge_stats, stat_values


@dataclass(frozen=True, kw_only=True)
class PpoConfig:
    """One PPO run. Defaults follow Llama 2 section 3.2.3 unless a field says otherwise."""

    iterations: int = 300
    """Rounds of generate → score → update (the paper: 200 to 400)."""
    prompts_per_iteration: int = 512
    """Prompts sampled each iteration, over all workers."""
    minibatch_size: int = 64
    """Responses per optimizer step, over all workers."""
    micro_batch_size: int = 8
    """Responses per forward pass on one worker; memory, not results, depends on it."""
    epochs: int = 1
    """Passes over each batch; the paper takes one gradient step per mini-batch."""
    sampling: SamplingConfig = SamplingConfig(max_new_tokens=1024)
    """How responses are sampled; the temperature also divides the trainer's logits."""
    kl_coef: float = 0.01
    """β in reward units per nat; the paper: 0.01 for 7B and 13B, 0.005 for 34B and 70B."""
    kl_estimator: KlEstimator = "k1"
    """Per-token estimate of the KL that is charged."""
    kl_control: Literal["fixed", "adaptive"] = "fixed"
    """adaptive moves β towards kl_target (Ziegler et al. 2019)."""
    kl_target: float = 6.0
    """Nats per response that the adaptive controller aims at."""
    kl_horizon: int = 10_000
    """Responses over which the adaptive controller reacts."""
    clip_range: float = 0.2
    """ε of PPO eq. (7); the ratio is held in [1 − ε, 1 + ε]."""
    value_clip_range: float = 0.2
    """How far a value may move from its estimate at sampling time."""
    gamma: float = 1.0
    """γ, discount per token."""
    lam: float = 0.95
    """λ of generalized advantage estimation."""
    missing_eos_penalty: float = 1.0
    """Taken off the whitened score of a response that was cut off."""
    critic_init: CriticInit = "helpfulness"
    """zero_head keeps the helpfulness model's body and begins with values of 0; policy takes the
    starting policy's body, as every run without reward models does."""
    sample_every: int = 1
    """Iterations between those whose samples are kept."""
    eval_every: int = 0
    """Iterations between those after which the held-out prompts are answered; 0: never."""
    eval_prompts: int = 128
    """How many of them, at most."""
    patience: int = 0
    """Evaluations without a better held-out score until the run stops; the policy of the best one
    is kept. 0 runs all iterations and keeps the last policy."""
    checkpoint_every: int = 0
    """Iterations between checkpoints; 0 keeps none."""
    keep_checkpoints: int = KEEP_CHECKPOINTS
    """How many of the newest stay."""
    seed: int = 0
    """Draws prompts, samples and mini-batches."""
    optim: OptimConfig = OptimConfig(lr=1e-6, schedule="constant", warmup_ratio=0.0)
    """The policy's: constant 1e-6."""
    critic_optim: OptimConfig = OptimConfig(lr=5e-6, schedule="constant", warmup_ratio=0.0)
    """The critic's (not published)."""

    def __post_init__(self) -> None:
        require_positive(
            self, "iterations", "prompts_per_iteration", "minibatch_size", "micro_batch_size",
            "epochs", "clip_range", "value_clip_range", "kl_target", "kl_horizon", "sample_every",
            "keep_checkpoints", "eval_prompts",
        )  # fmt: skip
        require_not_negative(self, "kl_coef", "checkpoint_every", "eval_every", "patience", "seed")
        if self.patience and not self.eval_every:
            raise ConfigError(
                f"patience is {self.patience} and eval_every 0; early stopping needs evaluations: "
                "set eval_every, or leave patience at 0"
            )
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be in [0, 1]")
        if self.prompts_per_iteration % self.minibatch_size:
            raise ConfigError(
                f"prompts_per_iteration ({self.prompts_per_iteration}) must be a multiple of "
                f"minibatch_size ({self.minibatch_size}); try "
                f"{-(-self.prompts_per_iteration // self.minibatch_size) * self.minibatch_size}"
            )
        if self.sampling.temperature == 0:
            raise ConfigError("PPO samples; sampling.temperature must be above 0")
        self.sampling.require_all_tokens("PPO")
        if self.kl_control == "adaptive":
            self._require_steady_control()

    def _require_steady_control(self) -> None:
        """The controller multiplies β by 1 ± 0.2 n / horizon, which has to stay above 0."""
        if not self.kl_coef:
            raise ConfigError(
                "kl_coef is 0 and kl_control adaptive, which multiplies it: begin above 0, or "
                "leave kl_control fixed"
            )
        if self.kl_horizon < self.prompts_per_iteration:
            raise ConfigError(
                f"kl_horizon is {self.kl_horizon}; it must be at least prompts_per_iteration, "
                f"{self.prompts_per_iteration}, for β to change by a fifth of itself at most"
            )


@dataclass(frozen=True)
class Roles:
    """Who does what; each role has workers of its own."""

    policy: WorkerGroup[PolicyWorker]
    critic: WorkerGroup[CriticWorker]
    rewards: Rewards


def train_ppo(
    config: PpoConfig,
    roles: Roles,
    prompts: PromptSet,
    chat: ChatFormat,
    run: Run,
    held_out: PromptSet | None = None,
) -> dict[str, float]:
    """All iterations, or fewer with early stopping; the policy lands in the run directory.

    Args:
        held_out: prompts of the evaluations, which `eval_every` asks for.

    Returns:
        `tokens`: how many were sampled and learned from.
    """
    num_held_out = None if held_out is None else len(held_out)
    check_workers(config, roles.policy.size, roles.critic.size, num_held_out)
    first, kl_coef = _resume(config, roles, run)
    metrics = run.metrics(first)
    with (
        _kept_samples(run.directory / SAMPLES_FILE, first) as records,
        progress("ppo", config.iterations, done=first) as advance,
    ):
        for iteration in range(first, config.iterations):
            began = time.monotonic()
            batch = prompts.batch(iteration, config.prompts_per_iteration, seed=config.seed)
            seed = config.seed * 1_000_003 + iteration
            rollouts = _generate(config, roles, batch, chat, seed=seed, version=iteration)
            scores = roles.rewards.score(batch.rows, rollouts)
            experience = _experience(config, roles, rollouts, scores, chat, kl_coef)
            values = _update(config, roles, experience, iteration)
            values |= batch_metrics(
                experience, scores, kl_coef, seconds=time.monotonic() - began
            ) | health_figures(experience, scores.combined)
            if held_out is not None and _evaluation_due(config, iteration):
                values |= _evaluate(config, roles, held_out, chat, iteration + 1)
            metrics.log(iteration, values)
            _tell_alarms(run, chat)
            if iteration % config.sample_every == 0:
                records += sample_records(batch, rollouts, chat, scores, step=iteration)
            if config.patience and _evaluations_since_best(config, roles, run) >= config.patience:
                break
            kl_coef = _next_kl_coef(config, kl_coef, values["objective/kl"])
            due = config.checkpoint_every and (iteration + 1) % config.checkpoint_every == 0
            if due and iteration + 1 < config.iterations:
                write_samples(run.directory / SAMPLES_FILE, records)
                _save_checkpoint(config, roles, run, iteration + 1, kl_coef)
            advance(1, f"score {values['objective/scores']:.2f} KL {values['objective/kl']:.2f}")
    if not config.patience:
        roles.policy.broadcast(PolicyWorker.save_model, run.model)
    per_prompt = sum(line["response/tokens"] for line in read_metrics(run.directory))
    return {"tokens": round(per_prompt * config.prompts_per_iteration)}


@contextmanager
def _kept_samples(path: Path, first: int) -> Iterator[list[dict[str, Any]]]:
    """Records of the iterations before `first`, to be added to; on disk however the run ends."""
    records = [record for record in read_samples(path) if record["step"] < first]
    try:
        yield records
    finally:
        if records:
            write_samples(path, records)


def check_workers(config: PpoConfig, workers: int, critics: int, num_held_out: int | None) -> None:
    """Every worker of policy and critic needs rows of each mini-batch, the former of an evaluation.

    Raises:
        ConfigError: there are too many workers, or evaluations without held-out prompts.
    """
    if config.minibatch_size < (most := max(workers, critics)):
        raise ConfigError(
            f"minibatch_size is {config.minibatch_size}; it must be at least {most}, the number of "
            f"{'policy' if workers == most else 'critic'} workers"
        )
    if not config.eval_every:
        return
    if num_held_out is None:
        raise ConfigError(f"eval_every is {config.eval_every}; there are no held-out prompts")
    if min(config.eval_prompts, num_held_out) < workers:
        raise ConfigError(
            f"{min(config.eval_prompts, num_held_out)} held-out prompts for {workers} policy "
            "workers; each needs one: raise eval_prompts, give more prompts, or set eval_every "
            "to 0"
        )


def _generate(
    config: PpoConfig, roles: Roles, batch: PromptSet, chat: ChatFormat, *, seed: int, version: int
) -> list[Rollout]:
    requests = share_out(
        batch.ids,
        roles.policy.size,
        config.sampling,
        eos_id=chat.tokenizer.eos_id,
        seed=seed,
        policy_version=version,
    )
    parts = roles.policy.scatter(PolicyWorker.generate, requests)
    rollouts = [rollout for part in parts for rollout in part]
    check_versions(rollouts, version)
    return rollouts


def _evaluation_due(config: PpoConfig, iteration: int) -> bool:
    return (iteration + 1) % config.eval_every == 0 or iteration + 1 == config.iterations


def _evaluate(
    config: PpoConfig, roles: Roles, held_out: PromptSet, chat: ChatFormat, version: int
) -> dict[str, float]:
    """How the policy of this version answers held-out prompts, each time with the same noise."""
    batch = held_out.select(range(min(config.eval_prompts, len(held_out))))
    rollouts = _generate(config, roles, batch, chat, seed=config.seed, version=version)
    scores = roles.rewards.score(batch.rows, rollouts)
    rows = Experience.from_rollouts(rollouts, chat.tokenizer.pad_id)
    parts = roles.policy.broadcast(PolicyWorker.ref_logprobs, rows, config.micro_batch_size)
    return held_out_metrics(rows.with_(ref_logprobs=_gather(rows, parts)), scores)


def _evaluations_since_best(config: PpoConfig, roles: Roles, run: Run) -> int:
    """So many; keeps the policy where the newest is the best."""
    lines = read_metrics(run.directory)
    found = [line["eval/scores"] for line in lines if "eval/scores" in line]
    if "eval/scores" not in lines[-1]:
        return 0
    best = max(range(len(found)), key=lambda n: found[n])
    if best == len(found) - 1:
        roles.policy.broadcast(PolicyWorker.save_model, run.model)
    return len(found) - 1 - best


def _tell_alarms(run: Run, chat: ChatFormat) -> None:
    """New alarms on the terminal, all of them in the run directory."""
    lines = read_metrics(run.directory)

    def spell(token: int) -> str:
        return chat.tokenizer.decode([token])

    alarms = raised_alarms(lines, spell)
    for alarm in alarms:
        if alarm.step == lines[-1]["step"]:
            console.print(f"ALARM, {alarm}", highlight=False, markup=False, soft_wrap=True)
    write_json(run.directory / ALARMS_FILE, [asdict(alarm) for alarm in alarms])


def _next_kl_coef(config: PpoConfig, kl_coef: float, kl: float) -> float:
    """β of the next iteration."""
    if config.kl_control == "fixed":
        return kl_coef
    return adaptive_kl_coef(
        kl_coef,
        kl,
        target=config.kl_target,
        horizon=config.kl_horizon,
        num_samples=config.prompts_per_iteration,
    )


def _experience(
    config: PpoConfig,
    roles: Roles,
    rollouts: Sequence[Rollout],
    scores: Scores,
    chat: ChatFormat,
    kl_coef: float,
) -> Experience:
    """Rollouts with reference log-probabilities, values, rewards and advantages."""
    rows = Experience.from_rollouts(rollouts, chat.tokenizer.pad_id)
    size = config.micro_batch_size
    ref_logprobs = _gather(rows, roles.policy.broadcast(PolicyWorker.ref_logprobs, rows, size))
    values = _gather(rows, roles.critic.broadcast(CriticWorker.values, rows, size))
    shaped = whiten(scores.combined) - config.missing_eos_penalty * (~rows.ended).float()
    kl = kl_estimate(rows.logprobs, ref_logprobs, config.kl_estimator)
    rewards = shape_rewards(shaped, kl, rows.response_mask, kl_coef=kl_coef)
    estimate = gae(rewards, values, rows.response_mask, gamma=config.gamma, lam=config.lam)
    return rows.with_(
        ref_logprobs=ref_logprobs,
        values=values,
        scores=shaped,
        rewards=rewards,
        advantages=masked_whiten(estimate.advantages, rows.response_mask),
        returns=estimate.returns,
    )


def _gather(rows: Experience, parts: list[torch.Tensor]) -> torch.Tensor:
    """[B, T] from what each rank made of its own rows."""
    result = torch.zeros(rows.tokens.shape)
    for rank, part in enumerate(parts):
        result[own_rows(len(rows), rank, len(parts)), : part.shape[1]] = part
    return result


def _update(
    config: PpoConfig, roles: Roles, experience: Experience, iteration: int
) -> dict[str, float]:
    def spec(optim: OptimConfig, clip_range: float) -> UpdateSpec:
        return UpdateSpec(
            epochs=config.epochs,
            minibatch_size=config.minibatch_size,
            micro_batch_size=config.micro_batch_size,
            clip_range=clip_range,
            learning_rate=learning_rate(optim, iteration, config.iterations),
            temperature=config.sampling.temperature,
            seed=config.seed * 1_000_003 + iteration,
        )

    policy_spec = spec(config.optim, config.clip_range)
    critic_spec = spec(config.critic_optim, config.value_clip_range)
    stats = merge_stats(
        roles.policy.broadcast(PolicyWorker.update, experience, policy_spec)
        + roles.critic.broadcast(CriticWorker.update, experience, critic_spec)
    )
    return stat_values(stats)


def _save_checkpoint(
    config: PpoConfig, roles: Roles, run: Run, iteration: int, kl_coef: float
) -> None:
    def write(directory: Path) -> None:
        for name in ("policy", "critic"):
            (directory / name).mkdir()
        roles.policy.broadcast(PolicyWorker.save_checkpoint, directory / "policy")
        roles.critic.broadcast(CriticWorker.save_checkpoint, directory / "critic")
        write_json(directory / "ppo.json", {"kl_coef": kl_coef})

    run.checkpoint(iteration, write, config.keep_checkpoints)


def _resume(config: PpoConfig, roles: Roles, run: Run) -> tuple[int, float]:
    """The iteration to continue with, and β."""
    first, checkpoint = run.resume()
    if checkpoint is None:
        return 0, config.kl_coef
    roles.policy.broadcast(PolicyWorker.load_checkpoint, checkpoint / "policy", first)
    roles.critic.broadcast(CriticWorker.load_checkpoint, checkpoint / "critic")
    state: dict[str, Any] = read_json(checkpoint / "ppo.json")
    return first, state["kl_coef"]
