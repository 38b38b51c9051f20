"""Training a reward model on HH against TRL's RewardTrainer: pairs per second.

    python benchmarks/reward.py --json runs/bench/reward.json

Same model, comparisons, batch of 64 pairs, AdamW, precision and threads; an optimizer step includes
the making of its batches. Before the clock starts both sides must give the same loss on the same
comparisons. TRL runs without its default gradient checkpointing, which costs time and is not needed
for memory here; its bf16 is autocast over float32 weights, ours has bf16 weights with float32
masters. Comparisons of more than 1024 tokens are left out, as TRL does. HH is read from
$RLHF_SHARED_DATA, or from shared/data beside the checkout.
"""

import sys
from pathlib import Path

# A script's own folder comes first, where this file would hide the package `reward`.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import os
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig as TrlConfig
from trl import RewardTrainer

from benchmarks.measure import Row, interleaved, report, shared_data
from data.counting import WordCounter
from data.importers.hh_rlhf import read_files
from data.tokenizer import Tokenizer, train_tokenizer
from reward.train import EncodedPair, RewardConfig, RewardTask, encode_pairs
from rlhf.engine.torch_engine import TorchEngine
from rlhf.model.config import named_size
from rlhf.model.heads import ScalarModel
from rlhf.model.init import init_language_model
from rlhf.model.weights import save_model

THREADS = 2
MAX_LENGTH, VOCAB_SIZE, BATCH, RATE = 1024, 2048, 64, 1e-4
TRL_MICRO_BATCH = 8
"""TRL's default; larger ones pad more."""
Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
COMPARED = 4
"""Comparisons on which both sides must agree."""
FILES = ("helpful-base.test.jsonl.gz", "harmless-base.test.jsonl.gz")


def longest(pair: EncodedPair) -> int:
    """Tokens of the longer of the two whole dialogues."""
    return len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))


def hh_task(directory: Path) -> RewardTask:
    """A random model of the tiny size on HH; the directory receives it for TRL as well."""
    shared = shared_data()
    files = read_files([shared / "hh-rlhf" / name for name in FILES], WordCounter())
    rows = [row for file in files for row in file.rows]
    texts = [m.content for c in rows for m in (*c.prompt, *c.chosen, *c.rejected)]
    tokenizer = train_tokenizer(texts, VOCAB_SIZE)
    config = RewardConfig(batch_pairs=BATCH, max_length=10**6)
    pairs = [p for p in encode_pairs(rows, tokenizer, config) if longest(p) <= MAX_LENGTH]
    task = make_task(directory, tokenizer, pairs)
    scalar = task.build()
    assert isinstance(scalar, ScalarModel)
    save_model(scalar, directory / "reward", tokenizer.special_ids)
    tokenizer.save(directory / "reward")
    return task


def make_task(directory: Path, tokenizer: Tokenizer, pairs: list[EncodedPair]) -> RewardTask:
    shape = replace(named_size("tiny", tokenizer.vocab_size), context=MAX_LENGTH)
    save_model(init_language_model(shape, 0), directory / "chat", tokenizer.special_ids)
    tokenizer.save(directory / "chat")
    return RewardTask(
        start=directory / "chat",
        tokenizer=directory / "chat",
        train=pairs,
        validation=[],
        config=RewardConfig(batch_pairs=BATCH, max_length=MAX_LENGTH),
    )


def check_same_loss(task: RewardTask, directory: Path) -> None:
    """Both sides start from the same model, and mean the same by its loss."""
    pairs = task.train[:COMPARED]
    few = replace(task, train=pairs, config=replace(task.config, batch_pairs=COMPARED))
    model = AutoModelForSequenceClassification.from_pretrained(
        directory / "reward", dtype=torch.float32
    )
    with torch.no_grad():
        (batch,) = few.micro_batches(0, 0, 1)
        mine = float(few.loss(task.build(), batch)[0])
        chosen, rejected = (
            torch.stack([model(torch.tensor([p.prompt + ids(p)])).logits[0, 0] for p in pairs])
            for ids in (lambda p: p.chosen, lambda p: p.rejected)
        )
    theirs = float(-F.logsigmoid(chosen - rejected).mean())
    if abs(mine - theirs) > 1e-5:
        raise RuntimeError(f"our loss is {mine}, that of transformers' model {theirs}")


def ours(task: RewardTask, precision: Precision, steps: int) -> Callable[[], object]:
    """Optimizer steps as a worker of `rlhf reward train` takes them."""
    engine = TorchEngine(task.build(), task.config.optim, precision)

    def run() -> None:
        for step in range(steps):
            engine.train_step(task.micro_batches(step, 0, 1), task.loss, RATE)

    return run


def trl(
    task: RewardTask, directory: Path, precision: Precision, steps: int
) -> Callable[[], object]:
    """As many steps of TRL's trainer, which is built before the clock starts."""
    examples = [
        {"chosen_ids": p.prompt + p.chosen, "rejected_ids": p.prompt + p.rejected}
        for p in task.train
    ]
    optim = task.config.optim
    arguments = TrlConfig(
        output_dir=str(directory / "trl"),
        per_device_train_batch_size=TRL_MICRO_BATCH,
        gradient_accumulation_steps=BATCH // TRL_MICRO_BATCH,
        max_steps=steps,
        learning_rate=RATE,
        adam_beta2=optim.betas[1],
        adam_epsilon=optim.eps,
        weight_decay=optim.weight_decay,
        max_length=MAX_LENGTH,
        use_cpu=True,
        bf16=precision == "bf16",
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    model = directory / "reward"
    trainer = RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32),
        args=arguments,
        train_dataset=Dataset.from_list(examples),
        processing_class=AutoTokenizer.from_pretrained(model),
    )

    def run() -> None:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            trainer.train()  # prints its metrics

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--only", choices=PRECISIONS, nargs="+", default=list(PRECISIONS))
    parser.add_argument("--repeats", type=int, default=3, help="counted turns of each side")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of a turn")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        task = hh_task(directory)
        once, twice = (sum(map(size, task.train)) for size in (len, lambda p: 2 * longest(p)))
        print(f"{len(task.train)} comparisons; the shared prompt saves {1 - once / twice:.0%}")
        check_same_loss(task, directory)
        for precision in arguments.only:
            sides = [
                ours(task, precision, arguments.steps),
                trl(task, directory, precision, arguments.steps),
            ]
            mine, theirs = interleaved(sides, arguments.repeats)
            pairs = arguments.steps * BATCH
            row = Row(
                name=f"reward model on HH, {precision}",
                ours=pairs / mine,
                peer=pairs / theirs,
                ratio=theirs / mine,
                unit="pairs/s",
            )
            rows.append(row)
    report(rows, ("torch", "transformers", "trl"), THREADS, arguments.json)


if __name__ == "__main__":
    main()
