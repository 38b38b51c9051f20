"""`rlhf evaluate recall`: how long policies remember a standing instruction."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from data.dataset import read_rows
from data.errors import ConfigError, require_not_negative, require_positive
from data.instructions import read_instructions
from data.schemas import Prompt
from policy.evaluation.recall import TURNS, check_markers, recall_by_turn
from policy.ghost_attention import converse, pair_up, user_messages
from policy.prompts import chat_format_of, context_of
from rlhf.actors.placement import Placement
from rlhf.cli.ghost_attention import sampler_of
from rlhf.cli.parsing import parse
from rlhf.cli.runs import begin, report_line, session
from rlhf.generation.sampling import SamplingConfig
from rlhf.run import console, write_json


@dataclass(frozen=True, kw_only=True)
class EvaluateRecallCommand:
    """Measure how often answers of later turns obey an instruction given in the first one."""

    policies: dict[str, Path]
    """Name → model directory."""
    dialogues: Path
    """Dataset of prompts of several turns; the test split is used."""
    instructions: Path
    """JSON lines with `instruction` and `marker`, the word that shows obedience."""
    out: Path = Path("runs/evaluate_recall")
    """The run directory; the figures go to its recall.json."""
    num_dialogues: int = 200
    """Dialogues per policy."""
    sampling: SamplingConfig = SamplingConfig()
    """How answers are sampled."""
    seed: int = 0
    """Draws dialogues, instructions and samples."""
    placement: Placement = Placement()
    """Where the samplers run."""

    def __post_init__(self) -> None:
        require_positive(self, "num_dialogues")
        require_not_negative(self, "seed")
        if not self.policies:
            raise ConfigError("policies is empty; name one at least, as in '{sft: runs/sft/model}'")


def main(argv: Sequence[str]) -> None:
    """Measures and prints, or finds it done."""
    config = parse(EvaluateRecallCommand, argv, prog="rlhf evaluate recall")
    dialogues = [user_messages(row) for row in read_rows(config.dialogues, Prompt, "test")]
    instructions = read_instructions(config.instructions)
    check_markers(instructions)
    conversations = pair_up(dialogues, instructions, config.num_dialogues, seed=config.seed)
    chats = {name: chat_format_of(model) for name, model in config.policies.items()}
    run = begin("evaluate recall", config)
    if run is None:
        return
    found: dict[str, dict[str, Any]] = {}
    num_tokens = 0
    with session(config.placement):
        for name, model in config.policies.items():
            chat = chats[name]
            with (
                console.status(f"talking to {name}"),
                sampler_of(model, chat, config.sampling, config.placement) as sample,
            ):
                answers = converse(
                    conversations,
                    sample,
                    chat,
                    everywhere=False,
                    context=context_of(model),
                    seed=config.seed,
                )
            num_tokens += sum(len(chat.tokenizer.encode(a)) + 1 for said in answers for a in said)
            found[name] = {
                str(turn): asdict(recall)
                for turn, recall in recall_by_turn(conversations, answers).items()
            }
    write_json(run.directory / "recall.json", found)
    console.print(recall_view(found))
    run.finish(tokens=num_tokens)
    report_line("evaluate recall", run, dialogues=len(conversations))


def recall_view(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    """Recall by policy and turn (Llama 2, Table 30)."""
    view = Table(title="Recall of a standing instruction, % [95 % interval]")
    view.add_column("policy")
    reached = {turn for by_turn in found.values() for turn in by_turn}
    turns = [turn for turn in map(str, TURNS) if turn in reached]
    for turn in turns:
        view.add_column(f"turn {turn}", justify="right")
    for name, by_turn in found.items():
        view.add_row(name, *(_percent(by_turn.get(turn)) for turn in turns))
    return view


def _percent(recall: Mapping[str, float] | None) -> str:
    if recall is None:
        return "-"
    return f"{100 * recall['value']:.0f} [{100 * recall['low']:.0f}, {100 * recall['high']:.0f}]"
