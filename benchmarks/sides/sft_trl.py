"""TRL's SFTTrainer as a side of benchmarks/sft.py: `-m benchmarks.sides.sft_trl WORK.json KIND`."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig as TrlConfig
from trl import SFTTrainer

from benchmarks.measure import IGNORED
from benchmarks.sides.turns import Iteration, serve

PACKED_MICRO_BATCH = {"bfd": 1, "wrapped": 4}
"""Rows of TRL's forward pass, where it packs; ours has 4."""
UNPACKED_MICRO_BATCH = 8


class CountingTrainer(SFTTrainer):
    """Knows how many real tokens it was trained on."""

    num_tokens = 0

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        mask = inputs.get("attention_mask")  # absent where sequences are joined: nothing is padded
        self.num_tokens += inputs["input_ids"].numel() if mask is None else int(mask.sum())
        return super().compute_loss(model, inputs, *args, **kwargs)


def trainer_for(kind: str, work: dict[str, Any]) -> CountingTrainer:
    """A trainer that stands ready; its steps hold as many dialogues as ours."""
    packs = kind in PACKED_MICRO_BATCH
    micro_batch = PACKED_MICRO_BATCH.get(kind, UNPACKED_MICRO_BATCH)
    items = work["batch_rows"] if packs else work["dialogues_per_step"]
    arguments = TrlConfig(
        output_dir=str(Path(work["model"]) / "trl"),
        packing=packs,
        packing_strategy=kind if packs else "bfd",
        max_length=work["row_length"],
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=round(items / micro_batch),
        max_steps=work["steps"],
        learning_rate=work["optim"]["lr"],
        adam_beta2=work["optim"]["betas"][1],
        adam_epsilon=work["optim"]["eps"],
        weight_decay=work["optim"]["weight_decay"],
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
            "input_ids": ids,
            "labels": [i if on else IGNORED for i, on in zip(ids, mask, strict=True)],
        }
        for ids, mask in zip(work["ids"], work["loss_masks"], strict=True)
    ]
    return CountingTrainer(
        model=AutoModelForCausalLM.from_pretrained(work["model"], dtype=torch.float32),
        args=arguments,
        train_dataset=Dataset.from_list(examples),
        processing_class=AutoTokenizer.from_pretrained(work["model"]),
    )


def main(work_file: str, kind: str) -> None:
    work = json.loads(Path(work_file).read_text(encoding="utf-8"))
    torch.set_num_threads(work["threads"])
    trainer = trainer_for(kind, work)

    def turn() -> list[Iteration]:
        before, start = trainer.num_tokens, time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        return [{"seconds": seconds, "tokens": float(trainer.num_tokens - before)}]

    serve(turn)


if __name__ == "__main__":
    main(*sys.argv[1:])
