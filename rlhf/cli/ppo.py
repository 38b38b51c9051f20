"""`rlhf ppo`: PPO with a KL penalty against reward models, or against a function."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data.dataset import read_rows
from data.errors import require_positive
from data.schemas import Prompt
from policy.ppo import PpoConfig, Roles, check_workers, train_ppo
from policy.ppo_plan import Placements, plan_ppo
from policy.ppo_workers import CriticInit, CriticWorker, PolicyWorker
from policy.prompts import PromptSet, chat_format_of, check_room, check_same_tokenizer
from policy.scored_samples import OpenRewards
from reward.score import model_directory
from rlhf.actors.group import start_workers
from rlhf.actors.placement import OtherPlacement, Placement
from rlhf.cli.parsing import parse
from rlhf.cli.ppo_plan import models_of, print_plan
from rlhf.cli.rewarding import RewardChoice, opener
from rlhf.cli.runs import Restarts, begin, report_line, session
from rlhf.engine.base import EngineConfig
from rlhf.engine.build import check_engine
from rlhf.metrics import read_metrics


@dataclass(frozen=True, kw_only=True)
class PpoCommand(RewardChoice):
    """Train a policy with PPO and a KL penalty."""

    model: Path
    """Directory of the policy to start from."""
    reference: Path | None = None
    """Directory of π_0, from which the KL is measured; the starting policy unless given."""
    prompts: Path
    """Dataset of prompts: the training split, and the validation split for evaluations."""
    out: Path = Path("runs/ppo")
    """The run directory; the policy goes to its model/."""
    train: PpoConfig = PpoConfig()
    """The algorithm."""
    engine: EngineConfig = EngineConfig()
    """What runs the optimizer steps of policy and critic; reward models take its precision."""
    placement: Placement = Placement()
    """Workers of the policy, which also sample and hold the reference."""
    critic_placement: OtherPlacement = OtherPlacement()
    """Workers of the critic; what is not given is as for the policy."""
    reward_placement: Placement = Placement()
    """Workers of each reward model."""
    max_restarts: int = 0
    """How often new workers take over from the last checkpoint where some died or hung."""
    plan: bool = False
    """Print the memory that each role needs, and stop; a published size, such as 7b, will do for
    model and rewards then."""
    gpu_memory: float = 80.0
    """GiB of a GPU, for the plan."""

    @property
    def placements(self) -> Placements:
        """Of all roles."""
        critic = self.critic_placement.beside(self.placement)
        return Placements(self.placement, critic, self.reward_placement)


def main(argv: Sequence[str]) -> None:
    """Trains the policy, continues an interrupted run, or finds it finished."""
    config = parse(PpoCommand, argv, prog="rlhf ppo")
    if config.plan:
        _plan(config)
        return
    chat = chat_format_of(config.model)
    prompts = PromptSet.encode(read_rows(config.prompts, Prompt, "train"), chat)
    placement, dtype = config.reward_placement, config.engine.dtype
    rewards = opener(config, config.model, chat, placement, prompts, dtype)
    check_same_tokenizer(config.model, config.reference or config.model)
    check_room(prompts, config.model)
    held_out = None
    if config.train.eval_every:
        held_out = PromptSet.encode(read_rows(config.prompts, Prompt, "validation"), chat)
        check_room(held_out, config.model)
    num_held_out = None if held_out is None else len(held_out)
    placements = config.placements
    check_workers(config.train, placements.policy.workers, placements.critic.workers, num_held_out)
    restarts = Restarts(config.max_restarts)
    run = begin("ppo", config)
    if run is None:
        return

    def work() -> dict[str, float]:
        with _roles(config, rewards) as roles:
            return train_ppo(config.train, roles, prompts, chat, run, held_out)

    used = placements[:2] if config.rewards is None else placements
    with session(next((placement for placement in used if placement.ray), config.placement)):
        figures = restarts.around(work, run)
    run.finish(**figures)
    last = read_metrics(run.directory)[-1]
    scored = {"last_score": last["objective/scores"], "KL": last["objective/kl"]}
    report_line("ppo", run, **figures, **scored)


def _plan(config: PpoCommand) -> None:
    """Needs no Ray, no GPU and no weights."""
    require_positive(config, "gpu_memory")
    engine, placements = config.engine, config.placements
    policies, critics = placements.policy.workers, placements.critic.workers
    for workers in (policies, critics):
        check_engine(engine, workers)
    check_workers(config.train, policies, critics, config.train.eval_prompts)
    critic, _ = _critic_start(config)
    models = models_of(config.model, config.reference or config.model, critic, config.rewards)
    plans = plan_ppo(models, config.train, engine, placements)
    print_plan(plans, engine, config.gpu_memory)


@contextmanager
def _roles(config: PpoCommand, open_rewards: OpenRewards) -> Iterator[Roles]:
    """All workers, for the length of a block."""
    train, engine = config.train, config.engine
    critic_model, critic_init = _critic_start(config)
    with (
        start_workers(
            PolicyWorker,
            config.placement,
            config.model,
            config.reference or config.model,
            engine,
            train.optim,
            train.sampling.temperature,
            name="policy",
        ) as policy,
        start_workers(
            CriticWorker,
            config.placements.critic,
            critic_model,
            critic_init,
            engine,
            train.critic_optim,
            name="critic",
        ) as critic,
        open_rewards() as rewards,
    ):
        yield Roles(policy, critic, rewards)


def _critic_start(config: PpoCommand) -> tuple[Path, CriticInit]:
    """A model directory, and what is made of it."""
    if config.rewards is None or config.train.critic_init == "policy":
        return config.model, "policy"
    return model_directory(config.rewards, "helpfulness"), config.train.critic_init
