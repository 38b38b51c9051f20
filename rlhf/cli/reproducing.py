"""What `rlhf reproduce reward` and `rlhf reproduce policy` share: seeds of the built-in world."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import ConfigError, require_positive
from rlhf.cli.quickstart import ON_THE_DRIVER
from rlhf.cli.quickstart import STAGES as QUICKSTART
from rlhf.cli.side_by_side import check_processes
from rlhf.cli.stages import placed, placement_of, run_stages

SHARED = ("world", "tokenizer", "pretrain", "sft", "variant")
"""Stages of the quickstart that all seeds share."""
IN_PROCESS = placement_of(1)
"""Of every stage: the models are too small to gain by Ray and DeepSpeed."""


@dataclass(frozen=True, kw_only=True)
class SeedsConfig:
    """Inherited by the commands' configs, as copies would drift apart."""

    seeds: int = 3
    """How many; the intervals are over them."""
    processes: int | None = None
    """Stages of the seeds that run at once, each on as many cores as the others and with about a
    gigabyte; None: one per core, at most 8 (macOS: one). Last digits depend on it."""

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise ConfigError(f"seeds is {self.seeds}; an interval over seeds needs 2 or more")
        if self.processes is not None:
            require_positive(self, "processes")
            check_processes(self.processes)


def run_shared_stages(out: Path, configs: Path) -> None:
    """Makes, one stage after the other on all cores, what all seeds begin with."""
    run_stages(out, shared_stages(out, configs), IN_PROCESS)


def shared_stages(out: Path, configs: Path) -> dict[str, list[str]]:
    """Directory → the words of its command, in order."""
    stages = {}
    for name in SHARED:
        words = [w.format(out=out, configs=configs, seed=0) for w in QUICKSTART[name].split()]
        stages[name] = words if name in ON_THE_DRIVER else in_process(words)
    return stages


def in_process(words: Sequence[str]) -> list[str]:
    """The command without Ray."""
    return placed(words, IN_PROCESS)
