"""Fine-tuning on real dialogues against a plain loop of transformers and torch: tokens per second.

    python benchmarks/training.py --json runs/bench/training.json

One process, float32, the same random model, dialogues, optimizer and threads; an optimizer step
includes the making of its batches. Tokens are those of the dialogues, padding never counts.

- `padded`: the peer gets dialogues in random order, 8 at a time, padded to the longest of them.
- `packed`: the peer gets our packed rows, its attention held within documents by a 4D mask. The
  share of the limit is the time of the matrix products and of the attention of our steps, repeated
  on their own with as many rows, over the time of the whole steps.

The dialogues are the chosen ones of HH, read from $RLHF_SHARED_DATA or from shared/data beside the
checkout; those of more than 1024 tokens are left out.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from benchmarks.measure import IGNORED, Row, interleaved, report, shared_data
from data.chat_format import ChatFormat, EncodedDialogue
from data.counting import WordCounter
from data.importers.hh_rlhf import read_files
from data.packing import pack
from data.tokenizer import train_tokenizer
from policy.language_task import LanguageTask
from rlhf.engine.optim import OptimConfig, build_adamw
from rlhf.engine.torch_engine import TorchEngine
from rlhf.model.attention import attend
from rlhf.model.config import ModelConfig
from rlhf.model.documents import Layout
from rlhf.model.init import init_language_model
from rlhf.model.linear import linear
from rlhf.model.weights import save_model

THREADS = 2
SHAPE = ModelConfig(
    vocab_size=4096, dim=384, num_layers=6, num_heads=6, num_kv_heads=6, ffn_dim=1024, context=1024
)
ROW_LENGTH, BATCH_ROWS, MICRO_BATCH_ROWS, PEER_BATCH = 1024, 8, 4, 8
OPTIM = OptimConfig(lr=1e-4)


def encoded_dialogues(directory: Path) -> list[EncodedDialogue]:
    """Chosen dialogues of HH; the directory receives the model that both sides start from."""
    shared = shared_data()
    files = read_files([shared / "hh-rlhf" / "helpful-base.test.jsonl.gz"], WordCounter())
    dialogues = [(*row.prompt, *row.chosen) for file in files for row in file.rows]
    texts = [message.content for dialogue in dialogues for message in dialogue]
    tokenizer = train_tokenizer(texts, SHAPE.vocab_size)
    save_model(init_language_model(SHAPE, 0), directory, tokenizer.special_ids)
    tokenizer.save(directory)
    chat = ChatFormat(tokenizer)
    encoded = [chat.encode_dialogue(dialogue) for dialogue in dialogues]
    return [dialogue for dialogue in encoded if len(dialogue.ids) <= ROW_LENGTH]


def packed_task(dialogues: list[EncodedDialogue], directory: Path) -> LanguageTask:
    """As `rlhf sft` makes it."""
    ids, masks = [d.ids for d in dialogues], [d.loss_mask for d in dialogues]
    return LanguageTask(
        start=directory,
        tokenizer=directory,
        train=pack(ids, masks, length=ROW_LENGTH, pad_id=0),
        validation=pack([], None, length=ROW_LENGTH, pad_id=0),
        batch_rows=BATCH_ROWS,
        micro_batch_rows=MICRO_BATCH_ROWS,
        num_steps=1,
        seed=0,
    )


def ours(task: LanguageTask, steps: int) -> Callable[[], object]:
    """Optimizer steps as a worker of `rlhf sft` takes them."""
    engine = TorchEngine(task.build(), OPTIM)

    def run() -> None:
        for step in range(steps):
            engine.train_step(task.micro_batches(step, 0, 1), task.loss, OPTIM.lr)

    return run


def peer(directory: Path, steps: list[Callable[[], list[dict[str, Any]]]]) -> Callable[[], object]:
    """A plain loop: for each step, its micro-batches as arguments of the model."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    optimizer = build_adamw(list(model.parameters()), OPTIM)

    def run() -> None:
        for make_batches in steps:
            batches = make_batches()
            num_learned = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)
            for batch in batches:
                model(**batch, num_items_in_batch=num_learned, use_cache=False).loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), OPTIM.clip_norm)
            optimizer.step()
            optimizer.zero_grad()

    return run


def shuffled_steps(
    dialogues: list[EncodedDialogue], per_step: int, steps: int
) -> list[list[EncodedDialogue]]:
    """Dialogues in random order, as many per step as a step of packed rows holds."""
    order = np.random.default_rng(0).permutation(len(dialogues))
    parts = (order[step * per_step : (step + 1) * per_step] for step in range(steps))
    return [[dialogues[index] for index in part] for part in parts]


def padded_batches(dialogues: list[EncodedDialogue]) -> list[dict[str, Any]]:
    """The usual collator: micro-batches padded to their longest dialogue."""
    batches = []
    for start in range(0, len(dialogues), PEER_BATCH):
        part = dialogues[start : start + PEER_BATCH]
        ids = [torch.tensor(d.ids) for d in part]
        masks = [torch.tensor(d.loss_mask) for d in part]
        labels = [i.masked_fill(~m, IGNORED) for i, m in zip(ids, masks, strict=True)]
        batches.append(
            {
                "input_ids": pad_sequence(ids, batch_first=True),
                "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
                "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
            }
        )
    return batches


def packed_batches(task: LanguageTask, step: int) -> list[dict[str, Any]]:
    """Our micro-batches in the peer's words: a mask and positions that keep documents apart."""
    batches = []
    for batch in task.micro_batches(step, 0, 1):
        documents = batch.documents
        index = torch.arange(documents.shape[1]).expand_as(documents)
        begins = torch.ones_like(documents, dtype=torch.bool)
        begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
        own = documents[:, None, :, None] == documents[:, None, None, :]
        batches.append(
            {
                "input_ids": batch.tokens,
                "attention_mask": own & (index[:, None, :, None] >= index[:, None, None, :]),
                "position_ids": index - torch.where(begins, index, 0).cummax(dim=1).values,
                "labels": batch.tokens.masked_fill(~batch.loss_mask, IGNORED),
            }
        )
    return batches


@dataclass(frozen=True)
class Work:
    """The matrix products and the attention of some forward passes."""

    products: list[tuple[torch.Size, Tensor]]
    """Shape of x, and the weight, of each x · weightᵀ."""
    attentions: list[tuple[Layout, list[torch.Size], int]]
    """Documents, shapes of queries, keys and values, width of a head."""


def recorded_work(task: LanguageTask, model: nn.Module, steps: int) -> Work:
    """What the forward pass of each micro-batch really computes: all products of the model go
    through `linear`, all attention through `attend`, whichever way these then take."""
    work = Work([], [])

    def watched_linear(x: Tensor, weight: Tensor, added: Tensor | None = None) -> Tensor:
        work.products.append((x.shape, weight))
        return linear(x, weight, added)

    def watched_attend(q: Tensor, k: Tensor, v: Tensor, layout: Layout, head_dim: int) -> Tensor:
        work.attentions.append((layout, [x.shape for x in (q, k, v)], head_dim))
        return attend(q, k, v, layout, head_dim)

    with (
        patch("rlhf.model.linear.linear", watched_linear),
        patch("rlhf.model.logprobs.linear", watched_linear),
        patch("rlhf.model.attention.attend", watched_attend),
    ):  # with gradients, because without them the head takes its rows in more pieces
        for step in range(steps):
            for batch in task.micro_batches(step, 0, 1):
                task.loss(model, batch)
    if not work.products or not work.attentions:
        raise RuntimeError(
            f"recorded {len(work.products)} matrix products and {len(work.attentions)} calls of "
            "attention; the model no longer goes through rlhf.model's linear and attend"
        )
    return work


def floor(task: LanguageTask, steps: int) -> Callable[[], object]:
    """The matrix products and the attention of our steps, forward and backward, and nothing else.

    Both by the routines that training uses, so both sides of the ratio have the same ones.
    """
    work = recorded_work(task, task.build(), steps)

    @cache  # so made in the round before the clock starts
    def noise(place: int, shape: tuple[int, ...]) -> Tensor:
        """An input; those of one call differ in their place, and are no shared memory."""
        return torch.randn(shape, requires_grad=True)

    def run() -> None:
        for shape, weight in work.products:
            _there_and_back(linear, noise(0, shape), weight)
        for layout, shapes, head_dim in work.attentions:
            inputs = [noise(place, shape) for place, shape in enumerate(shapes)]
            _there_and_back(partial(attend, layout=layout, head_dim=head_dim), *inputs)

    return run


def _there_and_back(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    y = function(*inputs)
    torch.autograd.grad(y, inputs, y.detach())


def check_same_loss(task: LanguageTask, directory: Path) -> None:
    """Both sides compute the same thing, or their speed says nothing."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    module = task.build()
    with torch.no_grad():
        mine = sum(task.loss(module, batch)[0] for batch in task.micro_batches(0, 0, 1))
        batches = packed_batches(task, 0)
        learned = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)
        theirs = sum(model(**batch, num_items_in_batch=learned).loss for batch in batches)
    if abs(mine - theirs) > 1e-4 * mine:
        raise RuntimeError(f"our loss is {mine}, that of transformers' model {theirs}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--repeats", type=int, default=3, help="counted turns of each side")
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps of a turn")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as name:
        directory, steps = Path(name), range(arguments.steps)
        dialogues = encoded_dialogues(directory)
        task = packed_task(dialogues, directory)
        check_same_loss(task, directory)
        per_step = len(dialogues) * BATCH_ROWS // len(task.train)
        shown = shuffled_steps(dialogues, per_step, len(steps))
        batches = [batch for step in steps for batch in task.micro_batches(step, 0, 1)]
        sides = [
            ours(task, len(steps)),
            peer(directory, [partial(padded_batches, part) for part in shown]),
            peer(directory, [partial(packed_batches, task, step) for step in steps]),
            floor(task, len(steps)),
        ]
        mine, *theirs, least = interleaved(sides, arguments.repeats)
    packed = sum(int((batch.documents >= 0).sum()) for batch in batches)
    padded = sum(len(dialogue.ids) for part in shown for dialogue in part)
    rows = [
        Row(
            name=name,
            ours=packed / mine,
            peer=tokens / seconds,
            ratio=packed / mine / (tokens / seconds),
            unit="tokens/s",
            limit_share=least / mine,
        )
        for name, tokens, seconds in zip(
            ("padded", "packed"), (padded, packed), theirs, strict=True
        )
    ]
    print(f"our steps take {mine / least:.2f} times their matrix products and attention alone")
    report(rows, ("torch", "transformers"), THREADS, arguments.json)


if __name__ == "__main__":
    main()
