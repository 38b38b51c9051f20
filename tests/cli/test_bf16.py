"""Every training command in bf16: losses near fp32's, models of float32 on disk."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.dataset import publish
from data.schemas import Comparison, Demonstration, Message, Prompt
from rlhf.cli.main import main
from rlhf.metrics import read_metrics
from rlhf.model.weights import read_hf_config
from tests.reward.tiny import tiny_tokenizer, write_language_model

WORDS = ("the quick brown fox", "jumps over", "the lazy dog", "please, now")
PRECISIONS = ("fp32", "bf16")


def run(command: str, out: Path, **options: Any) -> Path:
    """A command in this process, with few and small steps; its run directory."""
    words = [*command.split(), "--out", out, "--placement.ray", "false"]
    for name, value in options.items():
        words += [f"--{name.replace('__', '.')}", value]
    assert main([str(word) for word in words]) == 0
    return out


def losses(out: Path, name: str = "loss") -> list[float]:
    return [line[name] for line in read_metrics(out)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, a tokenizer, a chat model and the three kinds of datasets."""
    directory = tmp_path_factory.mktemp("inputs")
    (directory / "corpus.txt").write_text("\n".join(" ".join(WORDS[n % 3 :]) for n in range(200)))
    write_language_model(directory / "chat")
    tiny_tokenizer().save(directory / "chat")
    for split, count in (("train", 32), ("validation", 8), ("test", 8)):
        numbers = [f"{split}{n}" for n in range(count)]
        rows = [
            Demonstration(
                demonstration_id=number,
                messages=(Message("user", WORDS[n % 4]), Message("assistant", WORDS[n % 3])),
                domain="helpfulness",
                source="test",
            )
            for n, number in enumerate(numbers)
        ]
        publish(directory / "demonstrations", rows, Demonstration, split=split, key=split)  # type: ignore[arg-type]
        prompts = [
            Prompt(
                prompt_id=number,
                prompt=(Message("user", WORDS[n % 4]),),
                domain="safety" if n % 4 == 3 else "helpfulness",
                kind="test",
                source="test",
            )
            for n, number in enumerate(numbers)
        ]
        publish(directory / "prompts", prompts, Prompt, split=split, key=split)  # type: ignore[arg-type]
        comparisons = [_comparison(number, n) for n, number in enumerate(numbers)]
        publish(directory / "comparisons", comparisons, Comparison, split=split, key=split)  # type: ignore[arg-type]
    return directory


def _comparison(number: str, n: int) -> Comparison:
    return Comparison(
        comparison_id=number,
        prompt=(Message("user", f"{WORDS[n % 4]} {number}"),),
        chosen=(Message("assistant", "the fox"),),
        rejected=(Message("assistant", "a dog, please"),),
        domain="safety" if n % 2 else "helpfulness",
        safety_label=("both_safe", "chosen_safe_only")[n // 2 % 2] if n % 2 else None,
        strength="better",
        source="test",
        turns=1,
        prompt_tokens=2,
        chosen_tokens=3,
        rejected_tokens=3,
        tokenizer_hash="words",
    )


def check_saved(model: Path) -> None:
    """float32, and of more digits than bf16 has: the masters."""
    assert read_hf_config(model)["torch_dtype"] == "float32"
    for tensor in load_file(model / "model.safetensors").values():
        assert tensor.dtype is torch.float32
        assert not torch.equal(tensor, tensor.to(torch.bfloat16).float())


def test_pretrain(inputs: Path, tmp_path: Path) -> None:
    found = {
        precision: run(
            "pretrain",
            tmp_path / precision,
            corpus=inputs / "corpus.txt",
            tokenizer=inputs / "chat",
            train__size="tiny",
            train__row_length=64,
            train__batch_rows=4,
            train__optim__lr=1e-3,
            train__loop__log_every=1,
            engine__precision=precision,
        )
        for precision in PRECISIONS
    }
    fp32, bf16 = (losses(found[precision]) for precision in PRECISIONS)
    assert bf16 == pytest.approx(fp32, abs=0.03)
    assert bf16[-1] < bf16[0] - 0.3
    check_saved(found["bf16"] / "model")


def test_sft(inputs: Path, tmp_path: Path) -> None:
    found = {
        precision: run(
            "sft",
            tmp_path / precision,
            model=inputs / "chat",
            data=inputs / "demonstrations",
            train__row_length=64,
            train__batch_rows=2,
            train__optim__lr=3e-3,
            train__loop__log_every=1,
            engine__precision=precision,
        )
        for precision in PRECISIONS
    }
    fp32, bf16 = (losses(found[precision]) for precision in PRECISIONS)
    assert bf16 == pytest.approx(fp32, abs=0.03)
    assert bf16[-1] < bf16[0] - 0.1
    check_saved(found["bf16"] / "model")


def test_reward_models_and_ppo(inputs: Path, tmp_path: Path) -> None:
    found = {
        precision: run(
            "reward train",
            tmp_path / precision,
            model=inputs / "chat",
            data=inputs / "comparisons",
            train__batch_pairs=8,
            train__optim__lr=1e-3,
            train__loop__log_every=1,
            engine__precision=precision,
        )
        for precision in PRECISIONS
    }
    for domain in ("helpfulness", "safety"):
        fp32, bf16 = (losses(found[precision] / domain) for precision in PRECISIONS)
        assert bf16 == pytest.approx(fp32, abs=0.03)
        check_saved(found["bf16"] / domain / "model")
    ppo = run(
        "ppo",
        tmp_path / "ppo",
        model=inputs / "chat",
        rewards=found["bf16"],
        prompts=inputs / "prompts",
        reward_placement__ray="false",
        train__iterations=2,
        train__prompts_per_iteration=16,
        train__minibatch_size=8,
        train__sampling__max_new_tokens=8,
        train__optim__lr=1e-3,
        train__critic_optim__lr=1e-3,
        train__checkpoint_every=1,
        engine__precision="bf16",
    )
    # sampler, trainer and reference are one model at first, but for what bf16 rounds:
    # 8 tokens whose log-probabilities of about −6 are made of logits with errors of 2⁻⁹
    assert abs(losses(ppo, "objective/kl")[0]) < 0.05
    assert losses(ppo, "val/ratio")[0] == pytest.approx(1, abs=0.02)
    check_saved(ppo / "model")
