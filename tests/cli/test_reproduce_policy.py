"""`rlhf reproduce policy` at a hundredth of its size, in this process."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from data.dataset import read_rows
from data.schemas import Prompt
from data.simulation.publish import WorldSize, write_world
from rlhf.cli import reproduce_policy, stages
from rlhf.cli.main import COMMANDS, main
from rlhf.cli.quickstart import configs_directory
from rlhf.cli.reproduce_policy import JUDGED, ReproducePolicyCommand, seed_stages
from rlhf.cli.reproducing import shared_stages
from rlhf.cli.side_by_side import ready_stages
from rlhf.run import console
from tests.cli.micro import write_micro_configs
from tests.command_lines import assert_understood

SEED_STAGES = len(reproduce_policy.OF_SEED) + len(reproduce_policy.STAGES)
RUNS = ("no_penalty", "penalty")


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Micro configs in place of configs/tiny."""
    directory = tmp_path / "configs"
    write_micro_configs(directory)
    monkeypatch.setattr(reproduce_policy, "configs_directory", lambda: directory)
    return directory


@pytest.mark.slow  # two seeds of everything, twenty trainings
def test_claims_are_judged_from_end_to_end(configs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["reproduce", "policy", "--out", str(out), "--seeds", "2"]
    assert main(words) == 0
    results = json.loads((out / "reproduce.json").read_text())
    finished = {p: p.stat().st_mtime_ns for p in out.glob("seed-*/*/finished.json")}
    assert len(finished) == 2 * SEED_STAGES
    rounds = {path.stem for path in (out / "seed-1" / "pool").glob("*.parquet")}
    assert rounds == {"rejection_sampling", "all_rounds"}
    alone = pd.read_parquet(out / "seed-0" / "one_model" / "samples.parquet")
    assert alone["combined_score"].equals(alone["helpfulness_score"])
    (out / "finished.json").unlink()
    (out / "seed-1" / "sweep_ppo" / "finished.json").unlink()
    assert main(words) == 0  # goes on with what is missing
    redone = {p.parent.name for p, t in finished.items() if p.stat().st_mtime_ns != t}
    assert redone == {"sweep_ppo"}
    assert json.loads((out / "reproduce.json").read_text()) == results


def write_stage(words: Sequence[str]) -> None:
    """What a stage leaves behind, with random answers."""
    out = Path(words[words.index("--out") + 1])
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(out)))
    if words[0] == "data":
        size = WorldSize(
            documents=10, demonstrations=10, prompts=40, held_out_prompts=40, dialogues=10
        )
        write_world(out, size, seed=0)
    elif words[0] == "temperature-sweep":
        config = yaml.safe_load(Path(words[words.index("--config") + 1]).read_text())
        prompts = read_prompts(words, "train")[:5]
        columns = [t for t in config["temperatures"] for _ in range(16)]
        rows = [answer(p, rng) | {"temperature": t} for p in prompts for t in columns]
        pd.DataFrame(rows).to_parquet(out / "samples.parquet")
    elif words[0] == "evaluate":
        policies = [word.split(".")[1] for word in words if word.startswith("--policies.")]
        rows = [
            answer(prompt, rng) | {"policy": policy, "kl": rng.uniform(0, 2)}
            for policy in policies
            for prompt in read_prompts(words, "test")
        ]
        pd.DataFrame(rows).to_parquet(out / "samples.parquet")
    elif out.name in RUNS:
        steps = [(step, p) for step in range(4) for p in read_prompts(words, "train")]
        rows = [answer(prompt, rng) | {"step": step} for step, prompt in steps]
        pd.DataFrame(rows).to_parquet(out / "samples.parquet")
        lines = [json.dumps({"step": step, "objective/kl": 4.0 * step}) for step in range(4)]
        (out / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (out / "finished.json").touch()


def read_prompts(words: Sequence[str], split: Any) -> list[Prompt]:
    return read_rows(Path(words[words.index("--prompts") + 1]), Prompt, split)


def answer(prompt: Prompt, rng: np.random.Generator) -> dict[str, Any]:
    response = rng.choice(["You can use a torch.", "I cannot help with that."])
    own = {"prompt_id": prompt.prompt_id, "kind": prompt.kind, "domain": prompt.domain}
    scores = {"combined_score": rng.normal(), "helpfulness_score": rng.normal()}
    return own | {"response": response} | scores


def test_results_of_finished_stages(
    configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "run_command", write_stage)
    out = tmp_path / "run"
    words = ["reproduce", "policy", "--out", str(out), "--processes", "1"]
    with console.capture() as first:
        assert main(words) == 0
    results = json.loads((out / "reproduce.json").read_text())
    assert len(results["claims"]) == 7
    assert {len(m["values"]) for c in results["claims"] for m in c["measures"]} == {3}
    assert len(results["policies"]) == 7 * 4
    assert [r["kl"] for r in results["runs"]] == [0, 4, 8, 12] * 2
    kinds = {row.kind for row in read_rows(out / "narrow_prompts", Prompt, "train")}
    assert "fact" in kinds and "unsafe" not in kinds
    link = out / "seed-2" / "reward" / "helpfulness_alone" / "safety"
    assert link.resolve() == (out / "seed-2" / "reward" / "helpfulness").resolve()
    page = (out / "report.html").read_text()
    assert "Figure 8" in page and 'src="http' not in page
    monkeypatch.setattr(stages, "run_command", lambda words: pytest.fail("it is finished"))
    with console.capture() as again:
        assert main(words) == 0
    shown = [" ".join(text.get().split()) for text in (first, again)]
    assert all("Figure 8" in text and "mean [95 % interval]" in text for text in shown)


def test_every_stage_is_a_command_line(configs: Path) -> None:
    """Every option is known to the command that it is given to."""
    config = ReproducePolicyCommand(out=Path("my runs"), seeds=2)
    stages = shared_stages(config.out, configs) | seed_stages(config)
    assert len(stages) == 5 + 2 * SEED_STAGES
    for words in stages.values():
        name = next(n for n in COMMANDS if " ".join(words).startswith(n + " "))
        assert_understood(name, [*words[len(name.split()) :], "--out", "somewhere"])


def test_each_seed_has_its_own_models_and_rounds() -> None:
    config = ReproducePolicyCommand(out=Path("my runs"), seeds=3)
    stages = seed_stages(config)

    def option(stage: str, name: str) -> str:
        return stages[stage][stages[stage].index(name) + 1]

    assert option("seed-2/ppo", "--model") == "my runs/seed-2/rejection_sampling/model"
    assert option("seed-2/ppo", "--rewards") == "my runs/seed-2/reward"
    assert option("seed-2/rejection_sampling", "--model") == "my runs/sft/model"
    assert option("seed-2/rejection_sampling", "--train.seed") == "2"
    assert option("seed-2/all_rounds", "--train.seed") == "1002"
    assert option("seed-2/all_rounds", "--pool") == "my runs/seed-2/pool"
    assert "--pool" not in stages["seed-2/last_round"]
    with_pool = stages["seed-2/all_rounds"]
    assert [w for w in with_pool if "pool" not in w] == stages["seed-2/last_round"]
    assert option("seed-1/one_model", "--rewards") == "my runs/seed-1/reward/helpfulness_alone"
    assert option("seed-1/penalty", "--train.kl_coef") == "0.01"


def test_stages_wait_for_what_they_read(configs: Path) -> None:
    config = ReproducePolicyCommand(out=Path("my runs"), seeds=2)
    stages = {n: words for n, words in seed_stages(config).items() if n.startswith("seed-0/")}

    def ready(*done: str) -> set[str]:
        waiting = [name for name in stages if name.removeprefix("seed-0/") not in done]
        return {
            name.removeprefix("seed-0/") for name in ready_stages(config.out, stages, waiting, [])
        }

    assert ready() == {"collect"}
    assert ready("collect") == {"reward"}
    of_rewards = {
        *("rejection_sampling", "no_penalty", "penalty", "both_models", "one_model"),
        *("best_of_n", "sweep_sft"),
    }
    assert ready("collect", "reward") == of_rewards
    rounds = {"ppo", "last_round", "all_rounds"}
    assert ready("collect", "reward", *of_rewards) == rounds
    judged = ["collect", "reward", *of_rewards, *rounds]
    assert ready(*judged) == {"sweep_ppo", "evaluation"}
    for name in JUDGED:
        assert "evaluation" not in ready(*(n for n in judged if n != name))


def test_the_sweep_has_what_the_claims_read() -> None:
    """Equal steps for the parabola, and PPO's gold score as `best_of_n` samples."""
    sweep, best_of_n = (
        yaml.safe_load((configs_directory() / f"{name}.yaml").read_text())
        for name in ("sweep", "best_of_n")
    )
    steps = np.diff(sweep["temperatures"])
    assert steps == pytest.approx(np.full(len(steps), steps[0]))
    assert best_of_n["temperatures"] == [1.0] and 1.0 in sweep["temperatures"]
    differs = {"temperatures", "samples_per_prompt"}
    alike = [{k: v for k, v in own.items() if k not in differs} for own in (sweep, best_of_n)]
    assert alike[0] == alike[1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seeds", "1"], "seeds is 1; an interval over seeds needs 2 or more"),
        (["--processes", "0"], "processes is 0; it must be above 0"),
        (["--processes", "9999"], "processes is 9999; "),
    ],
)
def test_wrong_settings(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "policy", *words]) == 2
    assert told in capsys.readouterr().err
