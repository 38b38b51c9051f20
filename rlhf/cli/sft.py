"""`rlhf sft`: supervised fine-tuning on demonstrations."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.dataset import read_rows
from data.schemas import Demonstration
from policy.prompts import chat_format_of
from policy.sft import SftConfig, fine_tune
from rlhf.actors.placement import Placement
from rlhf.cli.parsing import parse
from rlhf.cli.runs import Restarts, begin, report_line, session
from rlhf.engine.base import EngineConfig


@dataclass(frozen=True, kw_only=True)
class SftCommand:
    """Fine-tune a language model on demonstrations, learning the answers only."""

    model: Path
    """Directory of the model to start from."""
    data: Path
    """Dataset of demonstrations, with a training and a validation split."""
    out: Path = Path("runs/sft")
    """The run directory; the model goes to its model/."""
    train: SftConfig = SftConfig()
    """Packing, passes and schedule."""
    engine: EngineConfig = EngineConfig()
    """What runs the optimizer steps."""
    placement: Placement = Placement()
    """Where the workers run."""
    max_restarts: int = 0
    """How often new workers take over from the last checkpoint where some died or hung."""


def main(argv: Sequence[str]) -> None:
    """Trains the model, continues an interrupted run, or finds it finished."""
    config = parse(SftCommand, argv, prog="rlhf sft")
    chat_format_of(config.model)
    demonstrations = read_rows(config.data, Demonstration, "train")
    validation = read_rows(config.data, Demonstration, "validation")
    restarts = Restarts(config.max_restarts)
    run = begin("sft", config)
    if run is None:
        return

    def work() -> dict[str, float]:
        return fine_tune(
            demonstrations,
            validation,
            config.train,
            run,
            model=config.model,
            engine=config.engine,
            placement=config.placement,
        )

    with session(config.placement):
        figures = restarts.around(work, run)
    run.finish(**figures)
    report_line("sft", run, **figures)
