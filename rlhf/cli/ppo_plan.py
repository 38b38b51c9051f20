"""What `rlhf ppo --plan` prints: memory by role, and what does not fit."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table

from data.errors import ConfigError
from data.schemas import DOMAINS
from policy.ppo_plan import GIB, RESERVE, PpoModels, Use, WorkerPlan
from reward.score import model_directory
from rlhf.engine.base import EngineConfig
from rlhf.model.config import SIZES, ModelConfig
from rlhf.model.weights import from_hf_config, read_hf_config
from rlhf.run import open_console

COLUMNS = ("para-\nmeters", "gra-\ndients", "opti-\nmizer", "activa-\ntions", "KV\ncache",
           "buf-\nfers", "total")  # fmt: skip


def models_of(policy: Path, reference: Path, critic: Path, rewards: Path | None) -> PpoModels:
    """Shapes from config.json, or from the name of a published size where a directory goes."""
    scorers = {} if rewards is None else {d: model_directory(rewards, d) for d in DOMAINS}
    return PpoModels(
        policy=_shape(policy),
        reference=_shape(reference),
        critic=_shape(critic),
        scorers={domain: _shape(directory) for domain, directory in scorers.items()},
    )


def _shape(directory: Path) -> ModelConfig:
    """Of a model directory; `7b`, and `7b/safety/model` just as well, is the published size."""
    size = directory.parts[0] if directory.parts else ""
    if size in SIZES and not Path(size).exists():
        return SIZES[size]
    if not directory.exists():
        raise ConfigError(
            f"no model at {str(directory)!r}; give a model directory or a published size, "
            f"{', '.join(SIZES)}"
        )
    return from_hf_config(read_hf_config(directory))


def print_plan(plans: Sequence[WorkerPlan], engine: EngineConfig, gpu_memory: float) -> None:
    """The table, and that it fits.

    Raises:
        ConfigError: some role does not fit on its GPUs.
    """
    console = open_console()
    console.print(_table(plans))
    available = gpu_memory * (1 - RESERVE)
    on_gpus = [plan for plan in plans if plan.placement.gpus_per_worker]
    gpus = sum(plan.placement.workers * plan.placement.gpus_per_worker for plan in plans)
    hosts = ", ".join(f"{plan.role} {_gib(plan.host)}" for plan in plans)
    lines = [f"Host memory of a worker while it loads, and for what is offloaded: {hosts} GiB."]
    short = [shortage(p, engine, available) for p in on_gpus if p.per_gpu > available * GIB]
    room = f"{available:.1f} GiB of each GPU's {gpu_memory:g}"
    if not on_gpus:
        lines.append("No role has GPUs: all of this is memory of the hosts.")
    elif not short:
        lines.append(f"Every role fits into {room}; {gpus:g} GPUs in all.")
    for line in lines + short:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if short:
        raise ConfigError(
            f"{len(short)} of {len(plans)} roles do not fit into {room}; see above what to change"
        )


def shortage(plan: WorkerPlan, engine: EngineConfig, available: float) -> str:
    """What does not fit, by how much, and what to change.

    Args:
        plan: of a role that needs more than there is.
        engine: of policy and critic.
        available: GiB of a GPU, the reserve taken off.
    """
    use = plan.phases[plan.peak]
    return (
        f"DOES NOT FIT: {plan.role}, {plan.peak}: {_gib(plan.per_gpu)} GiB on a GPU, "
        f"{available:.1f} are available; {_remedy(plan, use, engine, available * GIB)}"
    )


def _remedy(plan: WorkerPlan, use: Use, engine: EngineConfig, available: float) -> str:
    """By the largest part that a setting can make smaller."""
    if 0 < plan.placement.gpus_per_worker <= 0.5:
        return "give each worker a whole GPU (gpus_per_worker: 1)"
    if use.parameters + use.buffers > available:
        return (
            "every worker holds whole models here, however many workers there are: take GPUs of "
            f"{ceil(use.total / (1 - RESERVE) / GIB)} GiB or more, or a smaller model"
        )
    sizes = {
        "sampling": use.kv_cache + use.activations if plan.peak == "sampling" else 0,
        "activations": use.activations if plan.peak != "sampling" else 0,
        "training": use.gradients + use.optimizer,
    }
    match max(sizes, key=lambda name: sizes[name]):
        case "sampling":
            return (
                "raise placement.workers, up to train.minibatch_size: each then samples fewer "
                "responses at a time"
            )
        case "activations" if not engine.recompute_activations:
            return "set engine.recompute_activations"
        case "activations":
            return "lower train.micro_batch_size"
        case _ if engine.zero_stage < 3:
            return "raise engine.zero_stage to 3"
        case _:
            return (
                f"set engine.offload_optimizer, or give the {plan.role} more workers, up to "
                "train.minibatch_size"
            )


def _table(plans: Sequence[WorkerPlan]) -> Table:
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("GiB of a worker")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for plan in plans:
        table.add_section()
        table.add_row(f"{plan.role} × {plan.placement.workers}", style="bold")
        for part, use in plan.held.items():
            table.add_row(f"  {part} holds", *_cells(use))
        for phase, use in plan.phases.items():
            name = f"  all, {phase}"
            table.add_row(name, *_cells(use), style="bold" if phase == plan.peak else None)
    return table


def _cells(use: Use) -> list[str]:
    return [_gib(size) if size else "" for size in (*vars(use).values(), use.total)]


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}" if size >= 0.1 * GIB else f"{size / GIB:.3f}"
