"""A chain of commands, each in its own directory: `rlhf quickstart`, `rounds`, `reproduce …`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from data.manifest import MANIFEST
from rlhf.actors.placement import Placement
from rlhf.cli.main import run_command
from rlhf.cli.runs import session
from rlhf.run import FINISHED_FILE, console


def run_stages(
    out: Path,
    stages: Mapping[str, Sequence[str]],
    placement: Placement,
    after_each: Callable[[], object] = lambda: None,
) -> None:
    """Runs, in order and in one Ray, the stages that are not finished.

    Args:
        out: where the directory of each stage goes.
        stages: directory → the words of the command that fills it, but for its --out.
        placement: of every stage that has workers.
        after_each: called after every stage that ran, interrupted ones too.
    """
    with session(placement):
        for number, (name, words) in enumerate(stages.items(), start=1):
            if is_finished(out / name):
                continue
            console.rule(f"[{number}/{len(stages)}] {name}", align="left")
            try:
                run_command([*words, "--out", str(out / name)])
            finally:
                after_each()


def is_finished(directory: Path) -> bool:
    """Whether a run is finished, or a dataset published there."""
    return any((directory / name).exists() for name in (FINISHED_FILE, MANIFEST))


def placement_of(workers: int) -> Placement:
    """One worker needs no Ray."""
    return Placement(workers=workers, ray=workers > 1)


def placed(words: Sequence[str], placement: Placement) -> list[str]:
    """The command with its placement, and PPO with that of its reward models."""
    ray = str(placement.ray).lower()
    options = ["--placement.workers", str(placement.workers), "--placement.ray", ray]
    if words[0] == "ppo":
        options += ["--reward_placement.ray", ray]
    return [*words, *options]
