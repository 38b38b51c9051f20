"""`rlhf rounds`: RLHF-V1 … V5, each from new comparisons of the newest policies."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data.dataset import read_table
from data.errors import ConfigError, DataError, require_not_negative, require_positive
from data.manifest import open_manifest
from data.schemas import Prompt, Split
from policy.prompts import chat_format_of, check_same_tokenizer
from rlhf.actors.placement import Placement
from rlhf.cli.parsing import dump, parse
from rlhf.cli.quickstart import configs_directory
from rlhf.cli.rounds_comparisons import await_new, read_counts, take_in
from rlhf.cli.rounds_progress import show_progress, write_progress
from rlhf.cli.runs import session
from rlhf.cli.stages import is_finished, placed, placement_of, run_stages
from rlhf.run import FINISHED_FILE, Run, read_json, write_json

MAY_DIFFER = ("rounds", "workers")
"""Settings with which a run may go on that began with others. The number of comparisons is none of
them: it says which prompts a round takes, and none may come twice."""


@dataclass(frozen=True, kw_only=True)
class RoundsCommand:
    """Improve a chat model in rounds, each from comparisons of the newest policies.

    A round collects comparisons, trains both reward models on all comparisons so far, fine-tunes
    on the best samples of all rounds so far, in the last rounds goes on with PPO, and evaluates.
    """

    model: Path
    """Directory of the chat model to start from; reward models start from it in every round."""
    other_model: Path | None = None
    """Second variant of the first round's comparisons; the same model unless given. In later
    rounds the two newest policies are compared."""
    prompts: Path
    """Dataset of prompts: training split to learn from, test split to evaluate on."""
    out: Path = Path("runs/rounds")
    """Run directory; each round has its own in it. Started again, finished stages are kept."""
    rounds: int = 5
    """How many; a finished run goes on when there are to be more (the paper has V1 to V5)."""
    ppo_from: int = 5
    """From this round on, PPO follows rejection sampling (section 3.2: up to V4, it does not)."""
    comparisons: int = 5_000
    """Prompts of each split on which responses are compared in a round; where people compare, also
    the new comparisons to wait for (the paper's first weekly batch has 5,561)."""
    annotations: Path | None = None
    """Dataset of comparisons that the annotation app publishes. Every round writes pairs of answers
    for it and waits; without one, the built-in world's annotators compare."""
    configs: Path | None = None
    """Directory with collect, reward, rejection_sampling, ppo and evaluation.yaml, the settings of
    the stages; configs/tiny unless given."""
    seed: int = 0
    """Draws annotators, samples and models."""
    workers: int = 2
    """Data-parallel workers of every stage; with one, neither Ray nor DeepSpeed is used."""

    def __post_init__(self) -> None:
        require_positive(self, "rounds", "ppo_from", "comparisons", "workers")
        require_not_negative(self, "seed")

    @property
    def placement(self) -> Placement:
        """Of every stage that has workers."""
        return placement_of(self.workers)


COLLECT = (
    "collect --config {configs}/collect.yaml --model {newest} --other_model {before} "
    "--prompts {prompts} --num_prompts {num_prompts} --part {part} "
    "--names {names} --annotators_seed {seed} --judge.seed {seed} "
    "--judge.batch round-{round} --judged {judged}"
)
"""What is compared in a round."""
STAGES = {
    "reward": "reward train --config {configs}/reward.yaml --model {start} --data {comparisons} "
    "--train.seed {seed}",
    "rejection_sampling": "rejection-sampling --config {configs}/rejection_sampling.yaml "
    "--model {newest} --rewards {here}/reward --prompts {prompts} --pool {pool} "
    "--round v{round} --train.seed {round_seed}",
    "ppo": "ppo --config {configs}/ppo.yaml --model {here}/rejection_sampling/model "
    "--rewards {here}/reward --prompts {prompts} --train.seed {round_seed}",
    "evaluation": "evaluate {judge} --config {configs}/evaluation.yaml --rewards {here}/reward "
    "--prompts {prompts} --seed {seed}",
}
"""Directory in that of a round → the command that fills it from all comparisons so far."""


def main(argv: Sequence[str]) -> None:
    """Runs the rounds that are not finished; shows the progress after each."""
    config = parse(RoundsCommand, argv, prog="rlhf rounds")
    _check_inputs(config)
    settings = {key: v for key, v in dump(config).items() if key not in MAY_DIFFER}
    Run(config.out, "rounds", settings)  # never finished: there can always be one round more
    rounds = range(1, config.rounds + 1)
    fresh = [n for n in rounds if not is_finished(config.out / f"round_{n}")]
    for number in fresh:
        _run_round(config, number)
        show_progress(config.out)
    if not fresh:
        show_progress(config.out)


@dataclass(frozen=True)
class Policy:
    """A chat model of the run."""

    name: str
    round: int
    """That made it; 0 for the one that the run starts from."""
    model: Path


def policies(config: RoundsCommand, rounds: int) -> list[Policy]:
    """The chat model, and what each of so many rounds makes, in order."""
    found = [Policy("sft", 0, config.model)]
    for number in range(1, rounds + 1):
        directory = config.out / f"round_{number}"
        found.append(Policy(f"v{number}", number, directory / "rejection_sampling/model"))
        if number >= config.ppo_from:
            found.append(Policy(f"v{number}_ppo", number, directory / "ppo/model"))
    return found


def list_stages(config: RoundsCommand, number: int) -> dict[str, list[str]]:
    """Directory → the words of its command, once the round's comparisons are there."""
    stages = {}
    for name, command in STAGES.items():
        if name == "ppo" and number < config.ppo_from:
            continue
        words = _words(config, number, command)
        if name == "evaluation":
            for policy in policies(config, number):
                words += [f"--policies.{policy.name}", str(policy.model)]
        stages[f"round_{number}/{name}"] = words
    return stages


def _run_round(config: RoundsCommand, number: int) -> None:
    """From new comparisons to the policies that were made of them, judged."""
    directory, known = config.out / f"round_{number}", config.out / "comparisons"
    earlier = read_counts(config.out / f"round_{number - 1}").so_far if number > 1 else 0
    collect = {f"round_{number}/collect": _words(config, number, COLLECT)}
    stages = list_stages(config, number)
    if config.annotations is not None:
        run_stages(config.out, collect, config.placement)
        await_new(config.annotations, known, config.comparisons, earlier, directory)
    with session(config.placement):  # not while people work
        run_stages(config.out, collect, config.placement)
        source = config.annotations or directory / "collect/comparisons"
        counts = take_in(source, known, earlier, directory)
        run_stages(config.out, stages, config.placement)
    made_in = {policy.name: policy.round for policy in policies(config, number)}
    write_progress(config.out, number, made_in)
    done = [read_json(config.out / name / FINISHED_FILE) for name in (*collect, *stages)]
    seconds = sum(stage["seconds"] for stage in done)  # without those in which people compared
    write_json(directory / FINISHED_FILE, {"seconds": seconds, **asdict(counts)})


def _words(config: RoundsCommand, number: int, command: str) -> list[str]:
    """A command of a round, with the two newest policies that there are before it."""
    made = policies(config, number - 1)
    other = made[0] if config.other_model is None else Policy("other", 0, config.other_model)
    before, newest = [other, *made][-2:]
    values = {
        "configs": _configs(config),
        "start": config.model,
        "newest": newest.model,
        "before": before.model,
        "names": f"[{newest.name},{before.name}]",
        "judged": str(config.annotations is None).lower(),
        "judge": "gold" if _is_gold_known(config.prompts) else "scores",
        "prompts": config.prompts,
        "num_prompts": config.comparisons,
        "part": number - 1,
        "comparisons": config.out / "comparisons",
        "pool": config.out / "pool",
        "here": config.out / f"round_{number}",
        "round": number,
        "seed": config.seed,
        "round_seed": 1000 * config.seed + number,
    }
    return placed([word.format(**values) for word in command.split()], config.placement)


def _is_gold_known(prompts: Path) -> bool:
    """Whether the prompts to evaluate on are of the built-in world."""
    return read_table(prompts, Prompt, split="test", columns=["task"])["task"].null_count == 0


def _configs(config: RoundsCommand) -> Path:
    return configs_directory() if config.configs is None else config.configs


def _check_inputs(config: RoundsCommand) -> None:
    """What would otherwise come to light only in a later stage.

    Raises:
        ConfigError: a stage has no settings.
        DataError: no model, no prompts, or models with different tokenizers.
    """
    chat_format_of(config.model)
    if config.other_model is not None:
        check_same_tokenizer(config.model, config.other_model)
    manifest = open_manifest(config.prompts)
    needed: tuple[Split, ...] = ("train", "test")
    for split in needed:
        if manifest.num_rows(split) == 0:
            raise DataError(f"{str(config.prompts)!r} has no {split} split; a round needs both")
    if config.annotations is None and not _is_gold_known(config.prompts):
        raise ConfigError(
            f"nobody knows the truth about the prompts in {str(config.prompts)!r}, so people have "
            "to compare; name the dataset that the annotation app publishes (--annotations)"
        )
    for name in ("collect", *STAGES):
        path = _configs(config) / f"{name}.yaml"
        if not path.is_file():
            raise ConfigError(f"{str(path)!r} is missing; copy it from configs/tiny and change it")
