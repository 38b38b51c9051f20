"""`rlhf ghost-attention`: make a standing instruction hold for a whole dialogue."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data.chat_format import ChatFormat
from data.dataset import publish, read_rows
from data.instructions import read_instructions
from data.manifest import MANIFEST
from data.schemas import Demonstration, Prompt
from policy.ghost_attention import (
    GhostAttentionConfig,
    Instructed,
    Sampler,
    converse,
    ghost_demonstrations,
    pair_up,
    user_messages,
)
from policy.prompts import PromptSet, chat_format_of, check_room, context_of
from policy.rejection_sampling import demonstrations_from, finished, those_that_fit
from policy.sft import fine_tune, longest_dialogue
from rlhf.actors.group import start_workers
from rlhf.actors.placement import Placement
from rlhf.actors.workers import GenerateWorker, generate_with
from rlhf.cli.parsing import parse
from rlhf.cli.runs import Restarts, begin, report_line, session
from rlhf.engine.base import EngineConfig
from rlhf.generation.sampling import SamplingConfig
from rlhf.run import console


@dataclass(frozen=True, kw_only=True)
class GhostAttentionCommand:
    """Fine-tune a policy so that an instruction of the first turn holds for the whole dialogue."""

    model: Path
    """Directory of the policy to start from."""
    dialogues: Path
    """Dataset of prompts of several turns; their user messages are asked one after the other."""
    instructions: Path
    """JSON lines with `instruction`."""
    prompts: Path
    """Dataset of plain prompts, answered by the policy and mixed in."""
    out: Path = Path("runs/ghost_attention")
    """The run directory; the model goes to its model/, the dialogues it learned to dialogues/."""
    train: GhostAttentionConfig = GhostAttentionConfig()
    """Sampling and fine-tuning."""
    engine: EngineConfig = EngineConfig()
    """What runs the optimizer steps."""
    placement: Placement = Placement()
    """Where samplers and trainers run, one after the other."""
    max_restarts: int = 0
    """How often new workers take over from the last checkpoint where some died or hung."""


def main(argv: Sequence[str]) -> None:
    """Samples and fine-tunes, continues an interrupted run, or finds it finished."""
    config = parse(GhostAttentionCommand, argv, prog="rlhf ghost-attention")
    chat = chat_format_of(config.model)
    conversations, plain = _read(config, chat)
    restarts = Restarts(config.max_restarts)
    run = begin("ghost-attention", config)
    if run is None:
        return
    dialogues = run.directory / "dialogues"

    def work() -> tuple[int, dict[str, float]]:
        if not (dialogues / MANIFEST).is_file():
            rows = _sample(config, conversations, plain, chat)
            publish(dialogues, rows, Demonstration, split="train", key="ghost-attention")
        most = longest_dialogue(config.train.fine_tune, config.model)
        demonstrations = those_that_fit(read_rows(dialogues, Demonstration, "train"), chat, most)
        figures = fine_tune(
            demonstrations,
            (),
            config.train.fine_tune,
            run,
            model=config.model,
            engine=config.engine,
            placement=config.placement,
            name="ghost attention",
        )
        return len(demonstrations), figures

    with session(config.placement):
        num_dialogues, figures = restarts.around(work, run)
    run.finish(**figures)
    report_line("ghost-attention", run, dialogues=num_dialogues, **figures)


@contextmanager
def sampler_of(
    model: Path, chat: ChatFormat, sampling: SamplingConfig, placement: Placement
) -> Iterator[Sampler]:
    """A model that answers prompts, for the length of a block."""
    with start_workers(GenerateWorker, placement, model, name="generator") as workers:
        yield lambda prompts, seed: generate_with(
            workers, prompts, sampling, eos_id=chat.tokenizer.eos_id, seed=seed
        )


def _read(config: GhostAttentionCommand, chat: ChatFormat) -> tuple[list[Instructed], PromptSet]:
    """Dialogues with an instruction each, and the plain prompts to mix in."""
    train = config.train
    dialogues = [user_messages(row) for row in read_rows(config.dialogues, Prompt, "train")]
    instructions = read_instructions(config.instructions)
    conversations = pair_up(dialogues, instructions, train.num_dialogues, seed=train.seed)
    plain = PromptSet.encode(read_rows(config.prompts, Prompt, "train"), chat)
    plain = plain.batch(0, min(train.replay_prompts, len(plain)), seed=train.seed)
    check_room(plain, config.model)
    return conversations, plain


def _sample(
    config: GhostAttentionCommand,
    conversations: Sequence[Instructed],
    plain: PromptSet,
    chat: ChatFormat,
) -> list[Demonstration]:
    """Dialogues under an instruction, and plain prompts, all answered by the policy."""
    train, context = config.train, context_of(config.model)
    replayed = []
    with (
        console.status(f"sampling {len(conversations)} dialogues"),
        sampler_of(config.model, chat, train.sampling, config.placement) as sample,
    ):
        answers = converse(
            conversations, sample, chat, everywhere=True, context=context, seed=train.seed
        )
        if len(plain):
            rollouts = sample(plain.ids, train.seed)
            places = finished(rollouts, range(len(rollouts)))
            replayed = demonstrations_from(plain, rollouts, places, chat)
    return ghost_demonstrations(conversations, answers) + replayed
