"""`rlhf sft` as a side of benchmarks/sft.py: `-m benchmarks.sides.sft_ours WORK.json`."""

import json
import sys
import time
from pathlib import Path

from benchmarks.sides.turns import Iteration, serve
from benchmarks.training import OPTIM, packed_task
from data.chat_format import EncodedDialogue
from rlhf.actors.group import Seat
from rlhf.engine.base import EngineConfig
from rlhf.engine.distributed import Rank
from rlhf.training import NUM_TOKENS, TrainWorker


def main(work_file: str) -> None:
    work = json.loads(Path(work_file).read_text(encoding="utf-8"))
    pairs = zip(work["ids"], work["loss_masks"], strict=True)
    dialogues = [EncodedDialogue(ids, loss_mask) for ids, loss_mask in pairs]
    task = packed_task(dialogues, Path(work["model"]))
    seat = Seat(rank=Rank(), threads=work["threads"], device="cpu", timeout=60.0)
    worker = TrainWorker(seat, task, EngineConfig(), OPTIM)

    def turn() -> list[Iteration]:
        start = time.perf_counter()
        stats = worker.train(0, work["steps"])
        seconds = time.perf_counter() - start
        return [{"seconds": seconds, "tokens": stats[NUM_TOKENS].total}]

    serve(turn)


if __name__ == "__main__":
    main(*sys.argv[1:])
