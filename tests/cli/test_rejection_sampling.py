"""`rlhf rejection-sampling` and `rlhf temperature-sweep` on random models: what they write."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from data.dataset import publish, read_rows
from data.errors import ConfigError, DataError
from data.schemas import DOMAINS, Demonstration, Message, Prompt
from policy import scored_samples
from policy.best_of_n import compare_temperatures
from policy.samples import read_samples, write_samples
from reward.score import model_directory
from rlhf.cli import rejection_sampling, temperature_sweep
from rlhf.model.init import init_language_model
from rlhf.model.weights import read_hf_config, save_model
from rlhf.run import read_json
from tests.cli.killing import killed_when
from tests.reward.tiny import (
    VOCAB_SIZE,
    tiny_shape,
    tiny_tokenizer,
    write_reward_model,
)

Words = Callable[..., list[str]]
NUM_PROMPTS, PER_PROMPT = 12, 4
MANY = 64
"""Samples per prompt where sampling must take long enough to be killed in."""


def write_chat_model(directory: Path, num_layers: int) -> None:
    """A random model that ends most answers within fifty tokens.

    All embeddings share a direction, in which the hidden state then lies too; along it, that of EOS
    (the head's as well, for they are tied) is longer, which makes EOS likelier.
    """
    model = init_language_model(replace(tiny_shape(), num_layers=num_layers), seed=0)
    embeddings, special = model.lm_head.weight, tiny_tokenizer().special_ids
    with torch.no_grad():
        embeddings += embeddings.shape[1] ** -0.5
        embeddings[tiny_tokenizer().eos_id] += 3 * embeddings.shape[1] ** -0.5
    save_model(model, directory, special)
    tiny_tokenizer().save(directory)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random models and twelve prompts."""
    root = tmp_path_factory.mktemp("inputs")
    write_chat_model(root / "model", num_layers=2)
    for seed, domain in enumerate(DOMAINS):
        write_reward_model(model_directory(root / "rewards", domain), seed=seed)
    prompts = [
        Prompt(
            prompt_id=f"p{n}",
            prompt=(Message("user", "a quick fox jumps"[: n + 1]),),
            domain=DOMAINS[n % 2],
            kind="test",
            source="test",
        )
        for n in range(NUM_PROMPTS)
    ]
    publish(root / "prompts", prompts, Prompt, split="train", key="prompts")
    return root


@pytest.fixture
def words(inputs: Path) -> Words:
    """`words(out, …)`: arguments of either command, in this process."""

    def make(out: Path, *more: str) -> list[str]:
        return [
            "--model", str(inputs / "model"), "--rewards", str(inputs / "rewards"),
            "--prompts", str(inputs / "prompts"), "--out", str(out), "--placement.ray", "false",
            *more,
        ]  # fmt: skip

    return make


def train(*more: str) -> list[str]:
    """A round that takes a second."""
    return [
        "--train.samples_per_prompt", str(PER_PROMPT), "--train.part_prompts", "3",
        "--train.sampling.max_new_tokens", "50", "--train.fine_tune.row_length", "160",
        "--train.fine_tune.batch_rows", "1", *more,
    ]  # fmt: skip


def answers(directory: Path) -> list[str]:
    return [d.messages[-1].content for d in read_rows(directory / "best", Demonstration)]


def best_of(directory: Path) -> list[str]:
    """From the samples file: the best of each prompt, where it ended."""
    table = pq.read_table(directory / "samples.parquet").to_pandas()
    best = table.loc[table.groupby("prompt_id", sort=False).combined_score.idxmax()]
    return list(best[best.finish_reason == "eos"].response)


def test_rounds_share_a_pool(words: Words, tmp_path: Path) -> None:
    """Three rounds: the second learns the first's best too, the third half of the first's."""
    pool = ["--pool", str(tmp_path / "pool")]
    first, second, third = (tmp_path / name for name in ("v1", "v2", "v3"))
    rejection_sampling.main(words(first, *train(), *pool))
    rejection_sampling.main(words(second, *train("--train.seed", "1"), *pool))
    rejection_sampling.main(
        words(third, *train("--train.seed", "2"), *pool, "--mixture.v1", "0.5", "--mixture.v2", "0")
    )
    own = [best_of(directory) for directory in (first, second, third)]
    assert all(len(best) >= 2 for best in own), "too few random answers ended"
    assert answers(first) == own[0]
    assert answers(second) == own[1] + own[0]
    found = answers(third)
    assert found[: len(own[2])] == own[2]
    assert len(found) == len(own[2]) + round(len(own[0]) / 2)
    assert set(found) <= {*own[0], *own[2]}
    held = [read_samples(tmp_path / "pool" / f"{name}.parquet") for name in ("v1", "v2", "v3")]
    assert [[record["response"] for record in records] for records in held] == own
    assert {(r["round"], r["temperature"]) for r in held[1]} == {("v2", 1.2)}
    assert not (first / "parts").exists()
    namesake = tmp_path / "another" / "v2"
    with pytest.raises(DataError, match=r"already holds other samples of round 'v2'; .*--round"):
        rejection_sampling.main(words(namesake, *train(), *pool))
    assert not namesake.exists(), "nothing is sampled in vain"


def test_a_small_model_learns_from_a_large_one(words: Words, inputs: Path, tmp_path: Path) -> None:
    """Distillation: the student keeps its shape."""
    write_chat_model(tmp_path / "small", num_layers=1)
    rejection_sampling.main(words(tmp_path / "run", *train(), "--student", str(tmp_path / "small")))
    assert answers(tmp_path / "run") == best_of(tmp_path / "run")
    layers = [
        read_hf_config(directory / "model")["num_hidden_layers"]
        for directory in (inputs, tmp_path / "run")
    ]
    assert layers == [2, 1]
    assert read_hf_config(tmp_path / "run" / "model")["vocab_size"] == VOCAB_SIZE


def test_a_control_learns_other_samples(words: Words, tmp_path: Path) -> None:
    control = train("--train.selection", "random_per_prompt", "--train.keep", "2")
    rejection_sampling.main(words(tmp_path / "run", *control))
    records = read_samples(tmp_path / "run" / "samples.parquet")
    found, ended = answers(tmp_path / "run"), [r for r in records if r["finish_reason"] == "eos"]
    assert set(found) <= {record["response"] for record in ended}
    assert set(found) != set(best_of(tmp_path / "run"))


def test_a_sweep_names_the_temperature_that_a_round_then_takes(
    words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--samples_per_prompt", "4", "--sampling.max_new_tokens", "20"]
    sweep = tmp_path / "sweep"
    temperature_sweep.main(words(sweep, *options, "--temperatures", "[0.5,1.5,3.0]"))
    found = read_json(sweep / "sweep.json")
    assert found["num_prompts"] == NUM_PROMPTS
    points = found["temperature_curves"]
    assert [(p["temperature"], p["n"]) for p in points] == [
        (t, n) for t in (0.5, 1.5, 3.0) for n in (1, 2, 4)
    ]
    maxima = {p["temperature"]: p["maximum"] for p in points if p["n"] == 4}
    best = max(maxima, key=lambda t: maxima[t])
    assert found["best_temperature"] == best
    table = pq.read_table(sweep / "samples.parquet").to_pandas()
    assert len(table) == NUM_PROMPTS * 4 * 3
    by_hand = table.groupby(["temperature", "prompt_id"]).combined_score.max()
    assert maxima[best] == pytest.approx(by_hand[best].mean(), abs=1e-6)
    assert all((sweep / f"{n}.svg").stat().st_size for n in ("best_of_n", "scores", "diversity"))
    told = " ".join(capsys.readouterr().err.split())
    assert f"{best:g} (best)" in told
    lead = found["against_runner_up"]
    assert f"{best:g} leads {lead['runner_up']:g} by {lead['difference']:.2f}" in told
    rejection_sampling.main(words(tmp_path / "run", *train(), "--sweep", str(sweep)))
    taken = {r["temperature"] for r in read_samples(tmp_path / "run" / "samples.parquet")}
    assert taken == {best}


@pytest.mark.parametrize(("best", "warned"), [(1.0, False), (1.5, True)])
def test_the_warmest_of_a_sweep_is_told(best: float, warned: bool) -> None:
    rng = np.random.default_rng(0)
    noise, responses = rng.normal(size=(6, 4)), [[[1, 2]] * 4] * 6
    tables = {t: noise + (t == best) for t in (0.5, 1.0, 1.5)}
    told = temperature_sweep._lead(compare_temperatures(tables, dict.fromkeys(tables, responses)))
    assert told is not None and f"{best:g} leads" in told
    assert (f"{best:g} is the warmest of the sweep: read its best samples" in told) is warned


def test_several_temperatures_in_one_round(words: Words, tmp_path: Path) -> None:
    rejection_sampling.main(words(tmp_path, *train("--train.temperatures", "[0.8,1.2]")))
    records = read_samples(tmp_path / "samples.parquet")
    assert len(records) == NUM_PROMPTS * PER_PROMPT * 2
    assert answers(tmp_path) == best_of(tmp_path)
    found = read_json(tmp_path / "best_of_n.json")
    assert [point["n"] for point in found["curve"]] == [1, 2, 4, 8]
    assert found["best_temperature"] in (0.8, 1.2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--round", "v1"], "round and mixture speak about a pool; name its directory"),
        (["--mixture.v1", "0.5"], "round and mixture speak about a pool"),
        (["--pool", "{}/pool", "--mixture.v9", "1"], "names round 'v9'; the pool's earlier"),
        (["--pool", "{}/pool", "--round", "a/b"], "round is 'a/b'; use up to 60 letters"),
        (["--sweep", "{}/none"], "holds no finished sweep; run `rlhf temperature-sweep"),
        (
            ["--sweep", "{}/none", "--train.temperatures", "[1.0]"],
            "sweep and train.temperatures both name temperatures; give one",
        ),
    ],
)
def test_refused_before_anything_is_written(
    words: Words, tmp_path: Path, more: list[str], message: str
) -> None:
    out = tmp_path / "run"
    with pytest.raises((ConfigError, DataError), match=message):
        rejection_sampling.main(words(out, *(word.format(tmp_path) for word in more)))
    assert not out.exists()


def results(directory: Path) -> dict[str, Any]:
    """What a run leaves, without times."""
    return {
        "samples": read_samples(directory / "samples.parquet"),
        "best": read_rows(directory / "best", Demonstration),
        "curve": json.loads((directory / "best_of_n.json").read_text()),
        "weights": (directory / "model" / "model.safetensors").read_bytes(),
    }


def test_kill_9_while_sampling(
    words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is sampled, no prompt twice; what was sampled before is kept as it is."""
    options = train("--train.part_prompts", "1", "--train.samples_per_prompt", str(MANY))
    argv, parts = words(tmp_path / "run", *options), tmp_path / "run" / "parts"
    killed_when(lambda: len(list(parts.glob("sampled-*"))) >= 2, ["rejection-sampling", *argv])
    before = {path.name for path in parts.glob("sampled-*")}
    assert 2 <= len(before) < NUM_PROMPTS
    written: list[str] = []

    def writing(path: Path, records: Any) -> None:
        written.append(path.name)
        write_samples(path, records)

    monkeypatch.setattr(scored_samples, "write_samples", writing)
    rejection_sampling.main(argv)
    monkeypatch.undo()
    sampled = {name for name in written if name.startswith("sampled-")}
    assert len(written) == len(set(written)) == 2 * NUM_PROMPTS - len(before)
    assert not sampled & before and len(sampled | before) == NUM_PROMPTS
    records = read_samples(tmp_path / "run" / "samples.parquet")
    ids = [record["prompt_id"] for record in records]
    assert len(ids) == NUM_PROMPTS * MANY
    assert {ids.count(f"p{n}") for n in range(NUM_PROMPTS)} == {MANY}
    rejection_sampling.main(words(tmp_path / "undisturbed", *options))
    assert results(tmp_path / "run") == results(tmp_path / "undisturbed")


@pytest.mark.slow  # five commands of their own, one after the other
def test_kill_9_in_every_phase(words: Words, tmp_path: Path) -> None:
    """One run killed while sampling, scoring, choosing and training, with a pool."""
    options = train("--train.fine_tune.loop.checkpoint_every", "1", "--train.part_prompts", "1")
    run, parts = tmp_path / "run" / "v1", tmp_path / "run" / "v1" / "parts"
    argv = words(run, *options, "--pool", str(tmp_path / "pool"))
    for due in (
        lambda: any(parts.glob("sampled-*-0000004.parquet")),
        lambda: any(parts.glob("scored-*-0000002.parquet")),
        lambda: (run / "samples.parquet").exists(),
        lambda: (run / "best" / "manifest.json").exists(),
        lambda: any(run.glob("checkpoints/step-*")),
    ):
        killed_when(due, ["rejection-sampling", *argv])
    rejection_sampling.main(argv)
    expected = words(tmp_path / "undisturbed", *options)
    rejection_sampling.main(expected)
    assert results(run) == results(tmp_path / "undisturbed")
    pooled = read_samples(tmp_path / "pool" / "v1.parquet")
    assert [record["response"] for record in pooled] == best_of(run)
