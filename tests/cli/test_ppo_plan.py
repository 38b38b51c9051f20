"""`rlhf ppo --plan`: for the configs of clusters, for model directories, and what does not fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from policy.ppo import PpoConfig
from policy.ppo_plan import GIB, Placements, PpoModels, WorkerPlan, plan_ppo
from rlhf.actors.placement import Placement
from rlhf.cli.main import main
from rlhf.cli.ppo_plan import shortage
from rlhf.engine.base import EngineConfig
from rlhf.model.config import SIZES
from rlhf.model.weights import save_model
from tests.tiny_models import small_language_model

ROOT = Path(__file__).parents[2]
ZERO_3 = EngineConfig(zero_stage=3, precision="bf16", recompute_activations=True)


def plan_of(size: str, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    config = str(ROOT / "configs" / size / "ppo.yaml")
    assert main(["ppo", "--config", config, *words, "--plan"]) == code
    shown = capsys.readouterr()
    return shown.out + shown.err


@pytest.mark.parametrize(
    ("size", "most", "verdict"),
    [
        # GiB of the policy: 12.6 of the sampler; a 32nd of 2 bytes per parameter of the reference,
        # of 18 of the trainer, and its 0.2; 32 of the cache; 6.1 to read prompts; 3.2 of joined
        # projections
        ("7b", "57.7", "Every role fits into 72.0 GiB of each GPU's 80; 72 GPUs in all."),
        ("13b", "95.4", "Every role fits into 126.0 GiB of each GPU's 140; 72 GPUs in all."),
        ("70b", "176.3", "Every role fits into 241.2 GiB of each GPU's 268; 144 GPUs in all."),
    ],
)
def test_the_configs_of_clusters(
    size: str, most: str, verdict: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = plan_of(size, capsys)
    assert verdict in shown
    assert most in shown
    assert all(f"{role} ×" in shown for role in ("policy", "critic", "helpfulness scorer"))


def test_a_critic_apart(capsys: pytest.CaptureFixture[str]) -> None:
    shown = plan_of("7b", capsys, "--critic_placement.workers", "8")
    assert "policy × 32" in shown and "critic × 8" in shown
    assert "48 GPUs in all" in shown  # 32 + 8 + 2 · 4
    shown = plan_of("7b", capsys, "--critic_placement.workers", "65", code=2)
    assert "minibatch_size is 64; it must be at least 65, the number of critic workers" in shown


def test_workers_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert "the torch engine runs one worker" in plan_of(
        "7b", capsys, "--engine.kind", "torch", code=2
    )
    shown = plan_of("7b", capsys, "--placement.gpus_per_worker", "-1", code=2)
    assert "gpus_per_worker is -1.0; it must be" in shown
    shown = plan_of("7b", capsys, "--placement.workers", "65", code=2)
    assert "minibatch_size is 64; it must be at least 65, the number of policy workers" in shown


def test_gpus_that_are_too_small(capsys: pytest.CaptureFixture[str]) -> None:
    shown = plan_of("70b", capsys, "--gpu_memory", "180", code=2)
    assert "DOES NOT FIT: policy, sampling: 176.3 GiB on a GPU, 162.0 are available" in shown
    assert "error: 1 of 4 roles do not fit into 162.0 GiB of each GPU's 180; see above" in shown


def test_models_are_read_from_their_directories(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    save_model(small_language_model(), tmp_path / "model", special)
    shown = plan_of("7b", capsys, "--model", str(tmp_path / "model"))
    lines = [line.split() for line in shown.splitlines() if " holds " in line]
    rows = {words[0]: words[-1] for words in lines}
    assert rows["reference"] == "0.000"
    assert rows["model"] == "12.3"  # of the reward models, which are the published ones still


def test_a_function_takes_no_memory(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "7b", "--prompts", "x", "--reward_function", "a.b:c", "--plan"]
    assert main(["ppo", *words]) == 0
    shown = capsys.readouterr().out
    assert "scorer" not in shown and "critic × 1" in shown
    assert "No role has GPUs" in shown


def test_what_is_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--prompts", "x", "--rewards", "7b", "--plan"]
    assert main(["ppo", "--model", "8b", *words]) == 2
    assert "no model at '8b'; give a model directory or a published size, tiny, nano, 7b" in (
        " ".join(capsys.readouterr().err.split())
    )
    assert main(["ppo", "--model", "7b", "--gpu_memory", "0", *words]) == 2
    assert "gpu_memory" in capsys.readouterr().err


def plan_of_7b(role: str, engine: EngineConfig, workers: int, **train: Any) -> WorkerPlan:
    seven = SIZES["7b"]
    models = PpoModels(policy=seven, reference=seven, critic=seven, scorers={"safety": seven})
    placement = Placement(workers=workers, gpus_per_worker=1)
    plans = plan_ppo(
        models, PpoConfig(**train), engine, Placements(placement, placement, placement)
    )
    return next(plan for plan in plans if plan.role == role)


ZERO_1, STORED = replace(ZERO_3, zero_stage=1), replace(ZERO_3, recompute_activations=False)
BIG = {"prompts_per_iteration": 512, "minibatch_size": 512}


@pytest.mark.parametrize(
    ("plan", "engine", "phase", "remedy"),
    [
        (plan_of_7b("safety scorer", ZERO_3, 4), ZERO_3, "scoring", "take GPUs of 15 GiB or more"),
        (plan_of_7b("policy", ZERO_3, 8), ZERO_3, "sampling", "raise placement.workers"),
        (plan_of_7b("critic", STORED, 64, **BIG), STORED, "updating", "recompute_activations"),
        (plan_of_7b("critic", ZERO_3, 16, **BIG, micro_batch_size=32), ZERO_3, "updating",
         "train.micro_batch_size"),
        (plan_of_7b("critic", ZERO_1, 8, minibatch_size=8), ZERO_1, "starting",
         "engine.zero_stage to 3"),
        (plan_of_7b("critic", ZERO_3, 2, minibatch_size=2), ZERO_3, "updating",
         "offload_optimizer"),
    ],
)  # fmt: skip
def test_what_to_change(plan: WorkerPlan, engine: EngineConfig, phase: str, remedy: str) -> None:
    """Where a GiB is missing."""
    assert plan.peak == phase
    assert remedy in shortage(plan, engine, plan.per_gpu / GIB - 1)


def test_a_gpu_for_each_worker() -> None:
    plan = plan_of_7b("policy", ZERO_3, 32)
    shared = replace(plan, placement=Placement(workers=32, gpus_per_worker=0.5))
    assert "115.4 GiB on a GPU" in shortage(shared, ZERO_3, 72.0)  # 2 · 57.70
    assert "gpus_per_worker: 1" in shortage(shared, ZERO_3, 72.0)
