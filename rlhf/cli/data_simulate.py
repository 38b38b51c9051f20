"""`rlhf data simulate`: the built-in world on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import require_not_negative
from data.simulation.publish import WorldSize, write_world
from rlhf.actors.placement import Placement
from rlhf.cli.parsing import parse
from rlhf.cli.runs import begin, report_line


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """Write the built-in world: corpus, demonstrations, prompts, dialogues and instructions."""

    out: Path = Path("datasets/world")
    """Where the files go."""
    seed: int = 0
    """Another seed is another world, with other creatures, facts and people."""
    size: WorldSize = WorldSize()
    """How much of everything to write."""

    placement = Placement(ray=False)

    def __post_init__(self) -> None:
        require_not_negative(self, "seed")


def main(argv: Sequence[str]) -> None:
    """Writes the world, or finds it written."""
    config = parse(SimulateConfig, argv, prog="rlhf data simulate")
    run = begin("data simulate", config)
    if run is None:
        return
    write_world(config.out, config.size, config.seed)
    run.finish()
    report_line("data simulate", run, seed=config.seed)
