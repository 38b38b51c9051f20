"""Fine-tuning on real dialogues against TRL's SFTTrainer: non-padding tokens per second.

    python benchmarks/sft.py --json runs/bench/sft.json

The same random model, dialogues, AdamW, float32 and threads; an optimizer step includes the making
of its batches. Each side is a process of its own, as its users have it; they take turns, and a rate
is that of a side's fastest turn, because others on the machine only ever slow it down. Tokens are
those of the dialogues that a step trains on; padding never counts. Ours are always packed and
isolated; a row is TRL's way of making batches:

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
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Row, report
from benchmarks.sides.sft_trl import PACKED_MICRO_BATCH, trainer_for
from benchmarks.sides.turns import Side, take_turns
from benchmarks.training import (
    BATCH_ROWS,
    OPTIM,
    ROW_LENGTH,
    THREADS,
    encoded_dialogues,
    packed_task,
)
from data.chat_format import EncodedDialogue

KINDS = (*PACKED_MICRO_BATCH, "unpacked")
COMPARED = 4
"""Dialogues on which both sides must agree."""


def work_of(
    dialogues: list[EncodedDialogue], model: Path, steps: int, per_step: int
) -> dict[str, Any]:
    """As the sides read it; `per_step` dialogues make a step where rows are not packed."""
    return {
        "model": str(model),
        "ids": [list(d.ids) for d in dialogues],
        "loss_masks": [list(d.loss_mask) for d in dialogues],
        "dialogues_per_step": per_step,
        "row_length": ROW_LENGTH,
        "batch_rows": BATCH_ROWS,
        "steps": steps,
        "optim": asdict(OPTIM),
        "threads": THREADS,
    }


def check_same_loss(kind: str, dialogues: list[EncodedDialogue], model: Path) -> None:
    """Both sides mean the same by the loss, where TRL keeps dialogues apart as well."""
    few = sorted(dialogues, key=lambda d: len(d.ids))[:COMPARED]
    task = packed_task(few, model)
    module = task.build()
    trainer = trainer_for(kind, work_of(few, model, 1, COMPARED))
    dataset: Any = trainer.train_dataset
    with torch.no_grad():
        mine = sum(float(task.loss(module, b)[0]) for b in task.micro_batches(0, 0, 1))
        batch = trainer.data_collator([dataset[index] for index in range(len(dataset))])
        theirs = float(trainer.compute_loss(trainer.model, batch))
    if abs(mine - theirs) > 1e-4 * mine:
        raise RuntimeError(f"our loss is {mine}, that of TRL's {kind} {theirs}")


def rate(side: Side) -> float:
    """Tokens per second of the fastest turn."""
    return max(turn["tokens"] / turn["seconds"] for turn in side.iterations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--only", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--repeats", type=int, default=3, help="counted turns of each side")
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps of a turn")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model"
        dialogues = encoded_dialogues(model)
        for kind in {"bfd", "unpacked"}.intersection(arguments.only):
            check_same_loss(kind, dialogues, model)
        per_step = len(dialogues) * BATCH_ROWS // len(packed_task(dialogues, model).train)
        file = Path(name) / "work.json"
        work = work_of(dialogues, model, arguments.steps, per_step)
        file.write_text(json.dumps(work), encoding="utf-8")
        peer = [sys.executable, "-m", "benchmarks.sides.sft_trl", str(file)]
        commands = {kind: [*peer, kind] for kind in arguments.only}
        commands["ours"] = [sys.executable, "-m", "benchmarks.sides.sft_ours", str(file)]
        rates = {
            name: rate(side)
            for name, side in take_turns(commands, Path(name), arguments.repeats).items()
        }
    ours = rates.pop("ours")
    rows = [
        Row(
            name=f"fine-tuning on HH, TRL {kind}",
            ours=ours,
            peer=theirs,
            ratio=ours / theirs,
            unit="tokens/s",
        )
        for kind, theirs in rates.items()
    ]
    report(rows, ("torch", "transformers", "trl"), THREADS, arguments.json)


if __name__ == "__main__":
    main()
