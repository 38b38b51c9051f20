"""A process that trains and saves after every step until it is killed."""

import warnings
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from rlhf.engine.optim import OptimConfig
from rlhf.engine.torch_engine import TorchEngine
from rlhf.run import Run
from tests.rlhf.toy_task import Toy
from tests.tiny_models import small_language_model


def fresh_engine() -> TorchEngine:
    return TorchEngine(small_language_model(), OptimConfig())


def take_step(engine: TorchEngine, step: int) -> None:
    task = Toy(stop_before=-1)
    engine.train_step(task.micro_batches(step, 0, 1), task.loss, 1e-3)


def state_of(engine: TorchEngine, directory: Path) -> bytes:
    """Weights, moments and step as they are saved."""
    engine.save(directory)
    return (directory / "rank-00000.safetensors").read_bytes()


def train_until_killed(directory: Path, scratch: Path, pipe: Connection) -> None:
    """Tells which step it continues from and with what; then trains, saves and tells each step."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    run = Run(directory, "toy", {})
    step, checkpoint = run.resume()
    engine = fresh_engine()
    if checkpoint is not None:
        engine.load(checkpoint)
    pipe.send((step, state_of(engine, scratch)))
    while True:
        take_step(engine, step)
        step += 1
        run.checkpoint(step, engine.save)
        pipe.send(step)
