"""The whole loop at a hundredth of its size, through the real Ray, DeepSpeed and Parquet.

It takes a minute, because that is what starting fourteen groups of Ray actors costs; every other
test of the commands uses the run directory that it leaves.
"""

import json
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from data.dataset import read_rows
from data.schemas import Comparison, Demonstration
from data.validation import find_faults
from rlhf.cli import quickstart, stages
from rlhf.cli.main import main
from rlhf.run import Run
from tests.cli.conftest import MicroRun

pytestmark = [pytest.mark.ray, pytest.mark.deepspeed]
POLICIES = {"sft", "rejection_sampling", "ppo", "ghost_attention"}


def test_every_stage_leaves_a_finished_run(micro_run: MicroRun) -> None:
    for name in quickstart.STAGES:
        assert (micro_run.out / name / "finished.json").is_file(), name
        assert (micro_run.out / name / "config.yaml").read_text().startswith("# rlhf ")


def test_a_killed_run_went_on_from_its_finished_stages(micro_run: MicroRun) -> None:
    assert micro_run.first_exit == -signal.SIGKILL
    assert micro_run.finished_at_kill  # some stages were done ...
    for name, modified in micro_run.finished_at_kill.items():  # ... and were not run again
        assert (micro_run.out / name / "finished.json").stat().st_mtime_ns == modified
    assert set(micro_run.finished_at_kill) < set(quickstart.STAGES)


def test_summary_has_every_figure(micro_run: MicroRun) -> None:
    summary = json.loads((micro_run.out / "summary.json").read_text())
    assert set(summary["policies"]) == POLICIES
    for name, figures in summary["policies"].items():
        assert 0 <= figures["gold_helpfulness"] <= 1
        assert 0 <= figures["violation_rate"] <= 1
        assert {"lookalike_verb", "lookalike_being"} <= set(
            figures["unnecessary_refusal_rate"]["by_kind"]
        )
        assert figures["num_prompts"] == sum(figures["num_by_kind"].values())
        if name != "sft":
            counts = figures["win"] + figures["tie"] + figures["loss"]
            assert counts == figures["num_prompts"]
    for model in ("helpfulness", "safety"):
        for domain in ("helpfulness", "safety"):
            assert set(summary["reward_accuracy"][model][domain]["all"]) == {
                "accuracy",
                "low",
                "high",
                "n",
            }
    assert set(summary["ghost_attention"]["with"]) == {"1", "2", "4", "6"}
    assert set(summary["stages"]) == set(quickstart.STAGES)
    assert all(cost["seconds"] > 0 for cost in summary["stages"].values())
    assert summary["peak_memory_bytes"] > 100e6
    assert summary["seconds"] > max(c["seconds"] for c in summary["stages"].values())
    assert all(set(e) == {"met", "sentence"} for e in summary["expectations"].values())


def test_report_is_one_file_that_needs_no_network(micro_run: MicroRun) -> None:
    page = (micro_run.out / "report.html").read_text()
    assert "<html" in page
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_comparisons_are_a_valid_dataset(micro_run: MicroRun) -> None:
    comparisons = micro_run.out / "collect" / "comparisons"
    assert list(find_faults(comparisons)) == []
    rows = read_rows(comparisons, Comparison)
    assert {row.domain for row in rows} == {"helpfulness", "safety"}
    assert all(row.strength for row in rows)
    assert all((row.safety_label is not None) == (row.domain == "safety") for row in rows)


def test_best_samples_have_the_highest_score_of_their_prompt(micro_run: MicroRun) -> None:
    run = micro_run.out / "rejection_sampling"
    samples = pq.read_table(run / "samples.parquet").to_pandas()
    best = samples.loc[samples.groupby("prompt_id").combined_score.idxmax()]
    best = best[best.finish_reason == "eos"]
    learned = read_rows(run / "best", Demonstration)
    assert {d.messages[-1].content for d in learned} == set(best.response)


def test_gold_needs_no_reward_models(micro_run: MicroRun, tmp_path: Path) -> None:
    """Without them the samples and the figures are the same, only the scores are missing."""
    before = micro_run.out / "evaluation"
    settings = yaml.safe_load((before / "config.yaml").read_text())
    settings |= {"rewards": None, "ppo_runs": {}, "out": str(tmp_path / "out")}
    settings["placement"] = {"workers": 1, "ray": False}
    (tmp_path / "without.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    assert main(["evaluate", "gold", "--config", str(tmp_path / "without.yaml")]) == 0
    one, other = (pd.read_parquet(out / "samples.parquet") for out in (before, tmp_path / "out"))
    scores = ["helpfulness_score", "safety_score", "combined_score"]
    assert set(one.columns) - set(other.columns) == set(scores)
    assert one["response"].tolist() == other["response"].tolist()
    rates = [json.loads((out / "gold.json").read_text()) for out in (before, tmp_path / "out")]
    for of_policy in (figures for found in rates for figures in found.values()):
        of_policy.pop("kl")  # a difference of sums, which two workers round otherwise
    assert rates[0] == rates[1]


def test_running_it_again_shows_the_result_at_once(
    micro_run: MicroRun, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    assert main(["quickstart", "--out", str(micro_run.out), "--overoptimise"]) == 0
    assert time.monotonic() - began < 10
    shown = capsys.readouterr().err
    assert "report.html" in shown
    assert "violation rate" in shown


def test_an_interrupted_stage_has_cost_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(words: list[str]) -> None:
        time.sleep(0.2)
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "run_command", interrupted)
    monkeypatch.setattr(stages, "session", lambda placement: nullcontext())
    config = quickstart.QuickstartConfig(out=tmp_path)
    run = Run(tmp_path, "quickstart", {})
    for interruptions in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            quickstart._run_stages(config, run, {"world": ["data", "simulate"]})
        cost = json.loads((tmp_path / quickstart.COST_FILE).read_text())
        assert cost["seconds"] >= 0.2 * interruptions
        assert cost["peak_memory_bytes"] > 0


def test_another_seed_needs_another_directory(
    micro_run: MicroRun, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["quickstart", "--out", str(micro_run.out), "--seed", "1", "--overoptimise"]
    assert main(words) == 2
    message = capsys.readouterr().err
    assert "seed is 0, yours is 1" in message
    assert len(message.splitlines()) == 1
