"""Fine-tuning on real dialogues against TRL's SFTTrainer: non-padding tokens per second.

    python benchmarks/sft.py --json runs/bench/sft.json

One process, the same random model, dialogues, AdamW, float32 and threads; an optimizer step
includes the making of its batches. Tokens are those of the dialogues that a step trains on; padding
never counts. Ours are always packed and isolated; a row is TRL's way of making batches:

- `bfd`: packed, and kept apart as ours are. TRL joins the rows of a micro-batch to one sequence,
  whose attention costs the square of its length, so it gets one row at a time: its best.
- `wrapped`: one stream cut into rows; dialogues see each other, and some are cut in two.
- `unpacked`: dialogues padded to the longest of 8, TRL's default.

Before the clock starts, `unpacked` and `bfd` must give our loss on the same dialogues. TRL runs
without its default gradient checkpointing, which costs time and is not needed for memory here. HH
is read from $RLHF_SHARED_DATA, or from shared/data beside the checkout; dialogues of more than 1024
tokens are left out.
"""

import argparse
import os
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig as TrlConfig
from trl import SFTTrainer

from benchmarks.measure import Row, interleaved, report
from benchmarks.training import (
    BATCH_ROWS,
    IGNORED,
    OPTIM,
    ROW_LENGTH,
    THREADS,
    encoded_dialogues,
    ours,
    packed_task,
)
from data.chat_format import EncodedDialogue

PACKED_MICRO_BATCH = {"bfd": 1, "wrapped": 4}
"""Rows of TRL's forward pass, where it packs; ours has 4."""
UNPACKED_MICRO_BATCH = 8
KINDS = (*PACKED_MICRO_BATCH, "unpacked")
COMPARED = 4
"""Dialogues on which both sides must agree."""


class CountingTrainer(SFTTrainer):
    """Knows how many real tokens it was trained on."""

    num_tokens = 0

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        mask = inputs.get("attention_mask")  # absent where sequences are joined: nothing is padded
        self.num_tokens += inputs["input_ids"].numel() if mask is None else int(mask.sum())
        return super().compute_loss(model, inputs, *args, **kwargs)


@dataclass
class Trl:
    """TRL's side of a row: optimizer steps, and the tokens of each turn."""

    trainer: CountingTrainer
    turns: list[int] = field(default_factory=list)

    def __call__(self) -> None:
        before = self.trainer.num_tokens
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            self.trainer.train()  # prints its metrics
        self.turns.append(self.trainer.num_tokens - before)


def trl(
    kind: str, dialogues: list[EncodedDialogue], directory: Path, steps: int, per_step: int
) -> Trl:
    """A trainer that stands ready; `per_step` dialogues make a step where rows are not packed."""
    micro_batch = PACKED_MICRO_BATCH.get(kind, UNPACKED_MICRO_BATCH)
    items = per_step if kind == "unpacked" else BATCH_ROWS
    arguments = TrlConfig(
        output_dir=str(directory / "trl"),
        packing=kind != "unpacked",
        packing_strategy="bfd" if kind == "unpacked" else kind,
        max_length=ROW_LENGTH,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=round(items / micro_batch),
        max_steps=steps,
        learning_rate=OPTIM.lr,
        adam_beta2=OPTIM.betas[1],
        adam_epsilon=OPTIM.eps,
        weight_decay=OPTIM.weight_decay,
        lr_scheduler_type="constant",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    examples = [
        {
            "input_ids": d.ids,
            "labels": [i if on else IGNORED for i, on in zip(d.ids, d.loss_mask, strict=True)],
        }
        for d in dialogues
    ]
    trainer = CountingTrainer(
        model=AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32),
        args=arguments,
        train_dataset=Dataset.from_list(examples),
        processing_class=AutoTokenizer.from_pretrained(directory),
    )
    return Trl(trainer)


def check_same_loss(kind: str, dialogues: list[EncodedDialogue], directory: Path) -> None:
    """Both sides mean the same by the loss, where TRL keeps dialogues apart as well."""
    few = sorted(dialogues, key=lambda d: len(d.ids))[:COMPARED]
    task = packed_task(few, directory)
    module = task.build()
    trainer = trl(kind, few, directory, 1, COMPARED).trainer
    dataset: Any = trainer.train_dataset
    with torch.no_grad():
        mine = sum(float(task.loss(module, b)[0]) for b in task.micro_batches(0, 0, 1))
        batch = trainer.data_collator([dataset[index] for index in range(len(dataset))])
        theirs = float(trainer.compute_loss(trainer.model, batch))
    if abs(mine - theirs) > 1e-4 * mine:
        raise RuntimeError(f"our loss is {mine}, that of TRL's {kind} {theirs}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--only", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--repeats", type=int, default=3, help="counted turns of each side")
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps of a turn")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as name:
        directory, steps = Path(name), arguments.steps
        dialogues = encoded_dialogues(directory)
        task = packed_task(dialogues, directory)
        for kind in {"bfd", "unpacked"}.intersection(arguments.only):
            check_same_loss(kind, dialogues, directory)
        per_step = len(dialogues) * BATCH_ROWS // len(task.train)
        peers = [trl(kind, dialogues, directory, steps, per_step) for kind in arguments.only]
        mine, *theirs = interleaved([ours(task, steps), *peers], arguments.repeats)
        batches = [batch for step in range(steps) for batch in task.micro_batches(step, 0, 1)]
    rate = sum(int((batch.documents >= 0).sum()) for batch in batches) / mine
    rows = [
        Row(
            name=f"fine-tuning on HH, TRL {kind}",
            ours=rate,
            peer=peer.turns[-1] / seconds,
            ratio=rate / (peer.turns[-1] / seconds),
            unit="tokens/s",
        )
        for kind, peer, seconds in zip(arguments.only, peers, theirs, strict=True)
    ]
    report(rows, ("torch", "transformers", "trl"), THREADS, arguments.json)


if __name__ == "__main__":
    main()
