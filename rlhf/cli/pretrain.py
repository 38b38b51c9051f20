"""`rlhf pretrain`: a language model from a text corpus."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.texts import Documents, open_corpus
from data.tokenizer import Tokenizer
from policy.pretrain import PretrainConfig, pretrain
from rlhf.actors.placement import Placement
from rlhf.cli.parsing import parse
from rlhf.cli.runs import Restarts, begin, report_line, session
from rlhf.engine.base import EngineConfig
from rlhf.training_plots import LOSS_CURVE


@dataclass(frozen=True, kw_only=True)
class PretrainCommand:
    """Train a language model from scratch on a text corpus."""

    corpus: Path | tuple[Path, ...]
    """Text (.txt, .gz), Parquet with a column of text, a directory of these, or a dataset of
    dialogues; several as [one, another]."""
    tokenizer: Path
    """tokenizer.model, or the directory that holds it."""
    column: str = "text"
    """Of Parquet files that are no dataset of ours."""
    documents: Documents = "lines"
    """What of a text file is a document: each line, or the whole file."""
    out: Path = Path("runs/pretrain")
    """The run directory; the model goes to its model/."""
    train: PretrainConfig = PretrainConfig()
    """Model size, data order and schedule."""
    engine: EngineConfig = EngineConfig()
    """What runs the optimizer steps."""
    placement: Placement = Placement()
    """Where the workers run."""
    max_restarts: int = 0
    """How often new workers take over from the last checkpoint where some died or hung."""


def main(argv: Sequence[str]) -> None:
    """Trains the model, continues an interrupted run, or finds it finished."""
    config = parse(PretrainCommand, argv, prog="rlhf pretrain")
    corpus = open_corpus(config.corpus, column=config.column, documents=config.documents)
    Tokenizer.load(config.tokenizer)
    restarts = Restarts(config.max_restarts)
    run = begin("pretrain", config)
    if run is None:
        return

    def work() -> dict[str, float]:
        return pretrain(
            corpus,
            config.train,
            run,
            tokenizer=config.tokenizer,
            engine=config.engine,
            placement=config.placement,
        )

    with session(config.placement):
        figures = restarts.around(work, run)
    run.finish(**figures)
    report_line("pretrain", run, **figures, loss_curve=config.out / LOSS_CURVE)
