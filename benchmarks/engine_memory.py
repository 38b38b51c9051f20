"""Memory of a rank by ZeRO stage against one plain process: MB at the peak of a training step.

    python benchmarks/engine_memory.py --json runs/bench/engine_memory.json

Two ranks over gloo on one machine train a model of about 100 M parameters with AdamW. A rank's
figure is how far its resident memory rises above what it was before the model was built (Linux's
VmHWM, reset before the last step; of the two ranks the higher); "held" is what its tensors hold
between steps. The peer is the torch engine in a process of its own.
"""

import argparse
import ctypes
import gc
import multiprocessing
import os
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import Row, report
from rlhf.engine.base import EngineConfig
from rlhf.engine.build import build_engine
from rlhf.engine.distributed import Rank, free_address, join
from rlhf.engine.optim import OptimConfig
from rlhf.model.config import ModelConfig
from rlhf.model.init import init_language_model
from rlhf.types import Stats

SHAPE = ModelConfig(
    vocab_size=32_000, dim=640, num_layers=12, num_heads=10, num_kv_heads=10, ffn_dim=1720
)
TOKENS, STEPS, SECONDS, MB = 16, 2, 600.0, 1e6


@dataclass(frozen=True)
class Memory:
    """Of one rank, in bytes above its baseline."""

    peak: int
    held: int


def memory_of(config: EngineConfig, rank: Rank) -> Memory:
    """Trains on this rank; the last step is the measured one."""
    baseline = _resident("VmRSS")
    engine = build_engine(init_language_model(SHAPE, 0), config, OptimConfig(), rank)
    generator = torch.Generator().manual_seed(rank.index)
    tokens = torch.randint(SHAPE.vocab_size, (1, TOKENS), generator=generator)
    for step in range(STEPS):
        if step == STEPS - 1:
            _free_what_is_unused()
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
        engine.train_step([tokens], _loss, 1e-4)
    peak = _resident("VmHWM")
    _free_what_is_unused()
    return Memory(peak - baseline, _held_by_tensors())


def _loss(module: nn.Module, tokens: Tensor) -> tuple[Tensor, Stats]:
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, 0] = False
    return -module(tokens, mask).logprobs.mean(), {}


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def _free_what_is_unused() -> None:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def _held_by_tensors() -> int:
    storages: dict[int, int] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that torch is about to rename
        for thing in gc.get_objects():
            if isinstance(thing, Tensor):
                for tensor in (thing, thing.grad if thing.is_leaf else None):
                    if tensor is not None:
                        storage = tensor.untyped_storage()
                        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def in_processes(config: EngineConfig, world_size: int) -> Memory:
    """The rank that needs most, of so many fresh processes."""
    context = multiprocessing.get_context("forkserver")  # which imports once for all
    context.set_forkserver_preload(["benchmarks.engine_memory", "deepspeed"])
    address = free_address() if world_size > 1 else ""
    with tempfile.TemporaryDirectory() as name:
        processes = []
        for index in range(world_size):
            rank = Rank(index=index, world_size=world_size, address=address)
            processes.append(context.Process(target=_rank, args=(config, rank, Path(name))))
            processes[-1].start()
        for process in processes:
            process.join()
        found: list[Any] = [torch.load(p, weights_only=False) for p in Path(name).glob("*.pt")]
    if len(found) < world_size:
        raise RuntimeError(f"a rank of {config} failed")
    return max(found, key=lambda memory: memory.peak)


def _rank(config: EngineConfig, rank: Rank, directory: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  DeepSpeed prints its progress
    join(rank, SECONDS)
    torch.save(memory_of(config, rank), directory / f"{rank.index}.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    configs = {
        f"ZeRO {stage}": EngineConfig(kind="deepspeed", zero_stage=stage) for stage in range(4)
    }
    configs["ZeRO 3, offload"] = EngineConfig(
        kind="deepspeed", zero_stage=3, offload_optimizer=True
    )
    for stage in (1, 3):
        configs[f"ZeRO {stage}, bf16"] = EngineConfig(
            kind="deepspeed", zero_stage=stage, precision="bf16"
        )
    alone = in_processes(EngineConfig(kind="torch"), 1)
    rows = []
    for name, config in configs.items():
        memory = in_processes(config, 2)
        print(f"{name}: {memory}", file=sys.stderr)
        for kind, ours, peer in (
            ("peak", memory.peak, alone.peak),
            ("held by tensors", memory.held, alone.held),
        ):
            row = Row(
                name=f"{name}, {kind}",
                ours=ours / MB,
                peer=peer / MB,
                ratio=peer / ours,  # less is better
                unit="MB",
            )
            rows.append(row)
    report(rows, ("torch", "deepspeed"), 1, arguments.json)


if __name__ == "__main__":
    main()
