"""`rlhf rounds`: what a round takes from the ones before it, and what a killed one loses."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from annotation_app.importing import read_items
from data.dataset import publish, read_rows
from data.schemas import DOMAINS, SPLITS, Comparison, Demonstration, Prompt
from data.simulation.publish import WorldSize, write_world
from data.tokenizer import train_tokenizer
from policy.samples import read_samples
from rlhf.cli import rounds_comparisons, rounds_progress, stages
from rlhf.cli.main import main
from rlhf.model.init import init_language_model
from rlhf.model.weights import save_model
from rlhf.run import FINISHED_FILE, read_json
from tests.cli.killing import killed_when
from tests.cli.micro import write_micro_configs
from tests.reward.tiny import tiny_shape

PROMPTS = 24
"""Of each split in a round."""
SIZE = WorldSize(documents=200, demonstrations=12, prompts=60, held_out_prompts=30, dialogues=10)
SETTINGS: dict[str, dict[str, Any]] = {
    "reward": {"epochs": 1.0, "batch_pairs": 8, "micro_batch_pairs": 8},
    "rejection_sampling": {
        "num_prompts": 12,
        "part_prompts": 4,
        "sampling": {"temperature": 1.0, "max_new_tokens": 48},
    },
}


def write_chat_model(directory: Path, corpus: str) -> None:
    """A random model that ends most answers early: EOS is the likeliest token by its length."""
    tokenizer = train_tokenizer(corpus.splitlines(), 512)
    shape = replace(tiny_shape(tokenizer.vocab_size), context=256)
    model = init_language_model(shape, seed=0)
    embeddings = model.lm_head.weight
    with torch.no_grad():
        embeddings += shape.dim**-0.5
        embeddings[tokenizer.eos_id] += 1.5 * shape.dim**-0.5
    save_model(model, directory, tokenizer.special_ids)
    tokenizer.save(directory)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world, a random chat model, and settings with which a stage takes a second."""
    root = tmp_path_factory.mktemp("inputs")
    write_world(root / "world", SIZE, seed=0)
    write_chat_model(root / "model", (root / "world" / "corpus.txt").read_text())
    write_micro_configs(root / "configs")
    for name, changes in SETTINGS.items():
        path = root / "configs" / f"{name}.yaml"
        config = yaml.safe_load(path.read_text())
        config["train"] |= changes
        path.write_text(yaml.safe_dump(config))
    return root


def words(inputs: Path, out: Path, *more: str) -> list[str]:
    """Two rounds in this process, the second with PPO."""
    return [
        "rounds", "--model", str(inputs / "model"), "--prompts", str(inputs / "world/prompts"),
        "--configs", str(inputs / "configs"), "--out", str(out), "--workers", "1",
        "--rounds", "2", "--ppo_from", "2", "--comparisons", str(PROMPTS), *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two rounds."""
    out = tmp_path_factory.mktemp("rounds") / "run"
    assert main(words(inputs, out)) == 0
    return out


def comparisons_of(directory: Path) -> list[Comparison]:
    return read_rows(directory, Comparison)


def test_reward_models_learn_from_all_comparisons_so_far(finished: Path) -> None:
    own = [comparisons_of(finished / f"round_{n}/collect/comparisons") for n in (1, 2)]
    result = read_json(finished / "rounds.json")
    counts = [(r["round"], r["comparisons"], r["comparisons_so_far"]) for r in result["rounds"]]
    assert counts == [(1, len(own[0]), len(own[0])), (2, len(own[1]), len(own[0] + own[1]))]
    together = {c.comparison_id for c in comparisons_of(finished / "comparisons")}
    assert together == {c.comparison_id for c in own[0] + own[1]}
    tested = [read_json(finished / f"round_{n}/reward/accuracy.json") for n in (1, 2)]
    for n in (1, 2):  # of the test split, those of this round and of those before
        held_out = [
            row
            for k in range(1, n + 1)
            for row in read_rows(finished / f"round_{k}/collect/comparisons", Comparison, "test")
            if row.domain == "safety"
        ]
        assert tested[n - 1]["safety"]["safety"]["all"]["n"] == len(held_out)
        found = result["rounds"][n - 1]["reward_accuracy"]["safety"]
        assert found == tested[n - 1]["safety"]["safety"]["all"]


def test_the_newest_policies_are_compared_on_prompts_of_their_own(finished: Path) -> None:
    own = [comparisons_of(finished / f"round_{n}/collect/comparisons") for n in (1, 2)]
    models = [{c.chosen_model for c in rows} | {c.rejected_model for c in rows} for rows in own]
    assert models == [{"sft"}, {"v1", "sft"}]
    assert {own[0][0].chosen_temperature, own[0][0].rejected_temperature} == {0.8, 1.0}
    asked = [{c.prompt for c in rows if c.batch == f"round-{n}"} for n, rows in enumerate(own, 1)]
    train = {row.prompt for row in read_rows(finished / "comparisons", Comparison, "train")}
    assert asked[0] and asked[1] and not asked[0] & asked[1] & train


def test_rejection_sampling_learns_the_best_of_all_rounds(finished: Path) -> None:
    pooled = [read_samples(finished / f"pool/v{n}.parquet") for n in (1, 2)]
    learned = read_rows(finished / "round_2/rejection_sampling/best", Demonstration)
    assert pooled[0] and pooled[1]
    assert len(learned) == len(pooled[0]) + len(pooled[1])
    policies = [record["policy"].split("/run/")[-1] for (record, *_) in pooled]
    assert policies[0].endswith("/model") and policies[1] == "round_1/rejection_sampling/model"


def test_every_policy_is_in_the_table(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not (finished / "round_1/ppo").exists()
    records = read_json(finished / "rounds.json")["policies"]
    assert [(r["policy"], r["round"]) for r in records] == [
        ("sft", 0), ("v1", 1), ("v2", 2), ("v2_ppo", 2)
    ]  # fmt: skip
    prompts = len(read_samples(finished / "round_2/evaluation/samples.parquet")) / len(records)
    for record in records[1:]:
        for judge in ("by_gold", "by_rewards"):
            counts = record[judge]["all"]
            assert counts["win"] + counts["tie"] + counts["loss"] == prompts
    assert read_json(finished / "rounds.json")["reward_models"] == "round_2/reward"
    rounds_progress.show_progress(finished)
    shown = capsys.readouterr().err
    assert "V2 + PPO" in shown and "accuracy on the test split" in shown


def test_finished_rounds_are_kept_and_one_more_can_follow(
    inputs: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def stop_at_reward(given: Sequence[str]) -> None:
        ran.append(given[given.index("--out") + 1])
        if given[0] == "reward":
            raise KeyboardInterrupt
        run_command(given)

    run_command = stages.run_command
    monkeypatch.setattr(stages, "run_command", stop_at_reward)
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    assert main(words(inputs, finished)) == 0
    assert ran == []
    assert main([*words(inputs, out), "--rounds", "3"]) == 130
    assert ran == [str(out / "round_3/collect"), str(out / "round_3/reward")]
    third = comparisons_of(out / "round_3/collect/comparisons")
    assert {third[0].chosen_model, third[0].rejected_model} == {"v2", "v2_ppo"}
    assert read_json(out / "round_3/comparisons.json")["comparisons"] == len(third)


def publish_some(directory: Path, finished: Path, key: str, domains: Sequence[str]) -> int:
    """Comparisons as the annotation app publishes them; returns how many."""
    rows = [
        replace(row, comparison_id=f"{key}-{number}")
        for number, row in enumerate(read_rows(finished / "comparisons", Comparison, "train"))
        if row.domain in domains
    ]
    publish(directory, rows, Comparison, split="train", key=key)
    return len(rows)


def test_waiting_for_people(
    inputs: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is there, then too few, then one domain only, then enough; nobody knows the truth."""
    source, out = tmp_path / "published", tmp_path / "run"
    published: list[int] = []

    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    def publish_next(seconds: float) -> None:
        key, domains = [("a", ["safety"]), ("b", ["safety"]), ("c", DOMAINS)][len(published)]
        published.append(publish_some(source, finished, key, domains))

    given = words(inputs, out, "--annotations", str(source), "--rounds", "1")
    given += ["--other_model", str(inputs / "model")]
    given[given.index("--prompts") + 1] = str(write_real_prompts(inputs, tmp_path / "prompts"))
    monkeypatch.setattr(rounds_comparisons.time, "sleep", stop)
    assert main(given) == 130
    items = [
        item
        for path in sorted((out / "round_1/collect").glob("pairs-*.parquet"))
        for item in read_items(path.name, path.read_bytes())
    ]
    assert 0 < len(items) <= PROMPTS
    assert {r.model for item in items for r in item.responses or ()} == {"sft", "other"}
    capsys.readouterr()
    monkeypatch.setattr(rounds_comparisons.time, "sleep", publish_next)
    assert main(given) == 0
    told = capsys.readouterr().err
    waits = f"round_1 waits for {PROMPTS} new comparisons in {source}"
    assert f"{waits}; 0 are there\n{waits}; {published[0]} are there\n" in told
    assert "round_1 waits for helpfulness comparisons" in told
    assert published[0] < PROMPTS <= published[0] + published[1]
    counts = {"comparisons": sum(published), "so_far": sum(published)}
    assert read_json(out / "round_1/comparisons.json") == counts
    sft, first = read_json(out / "rounds.json")["policies"]
    assert "gold_helpfulness" not in sft and "by_gold" not in first
    scores = read_json(out / "round_1/evaluation/scores.json")
    assert first["by_rewards"] == scores["v1"]["win_rates"]
    publish_some(source, finished, "late", DOMAINS)
    (out / "round_1" / FINISHED_FILE).unlink()
    assert main(given) == 0  # what is published late does not reach a round that has begun
    assert len(comparisons_of(out / "comparisons")) == sum(published)


def test_people_have_to_compare_where_nobody_knows_the_truth(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words(inputs, tmp_path / "run")
    given[given.index("--prompts") + 1] = str(write_real_prompts(inputs, tmp_path / "prompts"))
    assert main(given) == 2
    assert "so people have to compare" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_both_splits_are_needed(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_rows(inputs / "world/prompts", Prompt, "train")
    publish(tmp_path / "prompts", rows, Prompt, split="train", key="train")
    given = words(inputs, tmp_path / "run")
    given[given.index("--prompts") + 1] = str(tmp_path / "prompts")
    assert main(given) == 2
    assert "has no test split; a round needs both" in capsys.readouterr().err


def write_real_prompts(inputs: Path, directory: Path) -> Path:
    """The world's prompts without their truth."""
    for split in SPLITS:
        rows = [
            replace(row, task=None) for row in read_rows(inputs / "world/prompts", Prompt, split)
        ]
        publish(directory, rows, Prompt, split=split, key="real")
    return directory


def results(out: Path) -> dict[str, Any]:
    """What a run leaves, without times and its own name."""
    models = [out / f"round_{n}/rejection_sampling" for n in (1, 2)] + [out / "round_2/ppo"]
    return {
        "rounds": read_json(out / "rounds.json"),
        "comparisons": comparisons_of(out / "comparisons"),
        "weights": [(run / "model/model.safetensors").read_bytes() for run in models],
    }


@pytest.mark.slow  # six processes of their own, one after the other
def test_kill_9_in_every_stage(inputs: Path, finished: Path, tmp_path: Path) -> None:
    """One run killed in each kind of stage; what was finished is not done again."""
    out = tmp_path / "run"
    kept: dict[Path, int] = {}
    for begun in (
        "round_1/collect/config.yaml",
        "round_1/reward/safety/config.yaml",
        "round_1/rejection_sampling/samples.parquet",
        "round_2/collect/comparisons/manifest.json",
        "round_2/ppo/metrics.jsonl",
    ):
        killed_when((out / begun).exists, words(inputs, out))
        now = {path: path.stat().st_mtime_ns for path in out.rglob(FINISHED_FILE)}
        assert kept.items() <= now.items(), f"done again before {begun}"
        kept = now
    assert main(words(inputs, out)) == 0
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    # round 1, its four stages and two reward models; collect, reward with two, rejection sampling
    assert len(kept) == 1 + 4 + 2 + 1 + 3 + 1
    assert results(out) == results(finished)
