"""`rlhf ppo` against TRL's PPO, and one Ray worker against this process: seconds per iteration.

    python -m venv PEER && PEER/bin/pip install trl==1.12.0 transformers==5.23.0 torch
    python benchmarks/ppo.py --peer PEER/bin/python --json runs/bench/ppo.json

Without --peer only the row of Ray is measured. Each side is a process of its own, with as many
threads as there are cores; they take turns. Same weights, prompts, responses of at most 48 tokens,
batch of 64 in one mini-batch and one micro-batch, float32; a policy, a reference and a critic of
1.4 M parameters each. TRL scores with one reward model of that size, `rlhf ppo` with its two.

Prompts are first messages of HH: as they come (19 tokens on average, 87 at most; TRL pads them to
the longest of a batch, `rlhf ppo` packs them), or cut to 32 tokens, where nothing is to be padded.

Rows are medians over iterations, in ms; the ratio is the peer's time over ours. `reference` is the
log-probabilities under it, `values` those of the critic before the update, `train` the update of
policy and critic, `rest` everything else (rewards, advantages, metrics, samples). A sync of weights
is no row: with one worker both sides sample from the very weights that they train. `peak memory` is
in MB, of the whole process. HH is read from $RLHF_SHARED_DATA, or from shared/data beside the
checkout.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

from benchmarks.measure import Row, report, shared_data
from benchmarks.sides.turns import Side, take_turns
from data.chat_format import ChatFormat
from data.counting import WordCounter
from data.dataset import publish
from data.importers.hh_rlhf import read_files
from data.schemas import Message, Prompt
from data.tokenizer import Tokenizer, train_tokenizer
from rlhf.actors.placement import usable_cores
from rlhf.model.config import named_size
from rlhf.model.init import init_language_model, scalar_model_from
from rlhf.model.weights import save_model

VOCAB_SIZE, PROMPT_TOKENS, RESPONSE_TOKENS, BATCH, RATE = 4096, 32, 48, 64, 1e-6
NUM_PROMPTS = 3 * BATCH
EPOCHS = (1, 4)
"""The paper's, and TRL's default."""
LENGTHS = ("natural", "equal")
"""Of prompts: as they come, and all cut to `PROMPT_TOKENS`."""
PHASES = ("iteration", "generate", "score", "reference", "values", "train", "rest")
MB = 1e6


@dataclass(frozen=True)
class Work:
    """What all sides do, in one directory."""

    directory: Path
    iterations: int

    def prepare(self) -> None:
        """Models, and the same prompts as a dataset and as ids."""
        shared = shared_data()
        files = read_files([shared / "hh-rlhf" / "helpful-base.test.jsonl.gz"], WordCounter())
        texts = [row.prompt[0].content for file in files for row in file.rows]
        tokenizer = train_tokenizer(texts, VOCAB_SIZE)
        model = init_language_model(named_size("tiny", VOCAB_SIZE), 0)
        save_model(model, self.directory / "model", tokenizer.special_ids)
        tokenizer.save(self.directory / "model")
        for domain in ("helpfulness", "safety"):
            target = self.directory / "rewards" / domain / "model"
            save_model(scalar_model_from(model, 1), target, tokenizer.special_ids)
            tokenizer.save(target)
        self._write_prompts("natural", texts[:NUM_PROMPTS], tokenizer)
        self._write_prompts("equal", cut(texts, tokenizer), tokenizer)

    def _write_prompts(self, lengths: str, texts: list[str], tokenizer: Tokenizer) -> None:
        prompts = [Message("user", text) for text in texts]
        rows = [
            Prompt(
                prompt_id=str(number),
                prompt=(message,),
                domain="helpfulness",
                kind="hh",
                source="hh-rlhf",
            )
            for number, message in enumerate(prompts)
        ]
        publish(self.directory / lengths, rows, Prompt, split="train", key="hh")
        chat = ChatFormat(tokenizer)
        ids = [chat.encode_prompt([message]) for message in prompts]
        (self.directory / f"{lengths}.json").write_text(json.dumps(ids), encoding="utf-8")

    def file(self, lengths: str, epochs: int) -> Path:
        """As the sides read it."""
        work = {
            "model": str(self.directory / "model"),
            "rewards": str(self.directory / "rewards"),
            "dataset": str(self.directory / lengths),
            "prompts": json.loads((self.directory / f"{lengths}.json").read_text(encoding="utf-8")),
            "batch": BATCH,
            "response_tokens": RESPONSE_TOKENS,
            "epochs": epochs,
            "iterations": self.iterations,
            "rate": RATE,
            "threads": usable_cores(),
        }
        path = self.directory / f"work-{lengths}-{epochs}.json"
        path.write_text(json.dumps(work), encoding="utf-8")
        return path


def cut(texts: list[str], tokenizer: Tokenizer) -> list[str]:
    """Beginnings of texts that make prompts of `PROMPT_TOKENS` tokens."""
    chat = ChatFormat(tokenizer)
    around = len(chat.encode_prompt([Message("user", "")]))
    begun = [tokenizer.decode(tokenizer.encode(t)[: PROMPT_TOKENS - around]) for t in texts]
    fit = [t for t in begun if len(chat.encode_prompt([Message("user", t)])) == PROMPT_TOKENS]
    if len(fit) < NUM_PROMPTS:
        raise RuntimeError(f"only {len(fit)} prompts of {PROMPT_TOKENS} tokens")
    return fit[:NUM_PROMPTS]


def rows_of(title: str, ours: Side, peer: Side, phases: tuple[str, ...]) -> list[Row]:
    """One row per phase."""
    rows = []
    for phase in phases:
        mine, theirs = (
            1000 * median(iteration[phase] for iteration in side.iterations)
            for side in (ours, peer)
        )
        name = f"{title}, {phase}"
        rows.append(Row(name=name, ours=mine, peer=theirs, ratio=theirs / mine, unit="ms"))
    return rows


def compare(work: Work, lengths: str, epochs: int, peer: Path | None, repeats: int) -> list[Row]:
    """The rows of one setting."""
    file = str(work.file(lengths, epochs))
    own = [sys.executable, "-m", "benchmarks.sides.ppo_ours", file]
    commands = {"ours": [*own, "false"], "ray": [*own, "true"]}
    if peer:
        commands["trl"] = [str(peer), "-m", "benchmarks.sides.ppo_trl", file]
    sides = take_turns(commands, work.directory, repeats)
    title, rows = f"{lengths} prompts, epochs {epochs}", []
    if peer:
        ours, trl = sides["ours"], sides["trl"]
        rows += rows_of(f"TRL 1.12.0, {title}", ours, trl, PHASES)
        mine, theirs = ours.peak_bytes / MB, trl.peak_bytes / MB
        memory = f"TRL 1.12.0, {title}, peak memory"
        rows.append(Row(name=memory, ours=mine, peer=theirs, ratio=theirs / mine, unit="MB"))
    ray = f"one Ray worker (ours) against this process (peer), {title}"
    return rows + rows_of(ray, sides["ray"], sides["ours"], PHASES[:1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--peer", type=Path, help="Python of an environment with TRL 1.12.0")
    parser.add_argument("--prompts", nargs="+", choices=LENGTHS, default=LENGTHS[:1])
    parser.add_argument("--epochs", type=int, nargs="+", default=EPOCHS, help="passes over a batch")
    parser.add_argument("--repeats", type=int, default=3, help="counted turns of each side")
    parser.add_argument("--iterations", type=int, default=5, help="counted iterations of a turn")
    arguments = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        work = Work(Path(name), arguments.iterations)
        work.prepare()
        for lengths, epochs in product(arguments.prompts, arguments.epochs):
            rows += compare(work, lengths, epochs, arguments.peer, arguments.repeats)
    report(rows, ("torch", "transformers", "ray"), usable_cores(), arguments.json)


if __name__ == "__main__":
    main()
