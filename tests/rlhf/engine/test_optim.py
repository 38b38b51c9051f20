"""Schedules and AdamW by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from data.errors import ConfigError
from rlhf.engine.optim import OptimConfig, build_adamw, learning_rate, set_learning_rate
from tests.tiny_models import SMALL, small_language_model


def rates(config: OptimConfig, num_steps: int, *steps: int) -> list[float]:
    return [learning_rate(config, step, num_steps) for step in steps]


def test_cosine_by_hand() -> None:
    # 100 steps, 10 of them warm-up; then ½ (1 + cos π t) from 1 to 0.1 over 90 steps
    config = OptimConfig(lr=1.0, warmup_ratio=0.1)
    assert rates(config, 100, 0, 4, 9) == pytest.approx([0.1, 0.5, 1.0])
    # t = 0, ¼ · 90 is no step, ½ → 0.1 + 0.9 · ½, ⅔ → 0.1 + 0.9 · ¼
    assert rates(config, 100, 10, 55, 70) == pytest.approx([1.0, 0.55, 0.325])
    # t = 89/90: 0.1 + 0.9 · ½ (1 − cos 2°) = 0.1 + 0.9 · 0.000304587
    assert rates(config, 100, 99) == pytest.approx([0.100274128])


def test_the_warm_up_takes_five_steps_at_least() -> None:
    # section 3.2.2 of the paper: 3 %, at least 5 steps
    config = OptimConfig(lr=1.0)
    assert rates(config, 100, 0, 3, 4, 5) == pytest.approx([0.2, 0.8, 1.0, 1.0])
    assert rates(config, 1000, 0, 29, 30) == pytest.approx([1 / 30, 1.0, 1.0])
    # three steps are all warm-up
    assert rates(config, 3, 0, 1, 2) == pytest.approx([1 / 3, 2 / 3, 1.0])


def test_constant() -> None:
    config = OptimConfig(lr=2.0, schedule="constant", warmup_ratio=0.1)
    assert rates(config, 100, 0, 9, 10, 99) == pytest.approx([0.2, 2.0, 2.0, 2.0])
    flat = OptimConfig(lr=2.0, schedule="constant", warmup_ratio=0.0)
    assert rates(flat, 100, 0, 99) == [2.0, 2.0]


def test_the_rate_falls_after_the_warm_up_and_never_below_its_end() -> None:
    config = OptimConfig(lr=1.0, final_ratio=0.25)
    found = rates(config, 500, *range(15, 500))
    assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(0.25, abs=1e-4)


def step_of(value: nn.Module, parameter: Tensor, config: OptimConfig, *grads: float) -> float:
    """The parameter after AdamW steps with these gradients."""
    optimizer = build_adamw(list(value.parameters()), config)
    for grad in grads:
        parameter.grad = torch.full_like(parameter, grad)
        optimizer.step()
    return float(parameter.detach().flatten()[0])


def test_adamw_by_hand() -> None:
    # w = 1, lr 0.1, decay 0.1: w ← w (1 − lr · decay) − lr m̂ / (√v̂ + ε), ε = 0
    config = OptimConfig(lr=0.1, weight_decay=0.1, eps=0.0)
    matrix = nn.Linear(1, 1, bias=False)
    nn.init.ones_(matrix.weight)
    # first step: m̂ = v̂ = 1: 0.99 − 0.1 = 0.89
    assert step_of(matrix, matrix.weight, config, 1.0) == pytest.approx(0.89)
    nn.init.ones_(matrix.weight)
    # second gradient 3: m = 0.9 · 0.1 + 0.1 · 3 = 0.39, m̂ = 0.39/0.19 = 2.052632;
    # v = 0.95 · 0.05 + 0.05 · 9 = 0.4975, v̂ = 0.4975/0.0975 = 5.102564, √ = 2.258885;
    # 0.89 · 0.99 − 0.1 · 2.052632/2.258885 = 0.8811 − 0.090869 = 0.790231
    assert step_of(matrix, matrix.weight, config, 1.0, 3.0) == pytest.approx(0.790231, abs=1e-6)


def test_vectors_do_not_decay() -> None:
    norm = nn.RMSNorm(4)
    config = OptimConfig(lr=0.1, weight_decay=0.1, eps=0.0)
    assert step_of(norm, norm.weight, config, 1.0) == pytest.approx(0.9)


def test_epsilon_stands_outside_the_root() -> None:
    matrix = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(matrix.weight)
    # −0.1 · 1/(1 + 1)
    assert step_of(matrix, matrix.weight, OptimConfig(lr=0.1, eps=1.0), 1.0) == pytest.approx(-0.05)


def test_groups_of_a_language_model() -> None:
    model = small_language_model(tie_embeddings=True)
    model.model.layers[0].requires_grad_(False)
    parameters = list(model.parameters())
    matrices, vectors = build_adamw(parameters, OptimConfig(weight_decay=0.3)).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    # one layer of 7 matrices and 2 norms, the tied embedding once, the final norm
    assert len(matrices["params"]) == 7 + 1
    assert len(vectors["params"]) == 2 + 1
    assert all(p.shape == (SMALL.dim,) for p in vectors["params"])


def test_the_rate_of_every_group_is_set() -> None:
    optimizer = build_adamw(list(small_language_model().parameters()), OptimConfig())
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]
    before = [p.clone() for p in optimizer.param_groups[0]["params"]]
    set_learning_rate(optimizer, 0.0)
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert_close(optimizer.param_groups[0]["params"], before, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"lr": -1e-5}, "lr is -1e-05; it must be 0 or more"),
        ({"clip_norm": 0.0}, r"clip_norm is 0\.0; it must be above 0"),
        ({"eps": -1e-8}, "eps is -1e-08; it must be 0 or more"),
        ({"weight_decay": -0.1}, r"weight_decay is -0\.1; it must be 0 or more"),
        ({"warmup_min_steps": -1}, "warmup_min_steps is -1; it must be 0 or more"),
        ({"betas": (0.9, 1.0)}, r"betas is \(0\.9, 1\.0\); both must be in \[0, 1\)"),
        ({"warmup_ratio": 1.0}, r"warmup_ratio is 1\.0; it must be in \[0, 1\)"),
        ({"final_ratio": 1.5}, r"final_ratio is 1\.5; it must be in \[0, 1\]"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        OptimConfig(**values)
