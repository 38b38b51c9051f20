"""`rlhf reproduce reward` and `hh` at a hundredth of their size, in this process."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from rlhf.actors.placement import Placement
from rlhf.cli import reproduce_hh, reproduce_reward, stages
from rlhf.cli.main import COMMANDS, main
from rlhf.cli.reproducing import shared_stages
from rlhf.run import console
from tests.cli.micro import write_micro_configs
from tests.command_lines import assert_understood

SEED_STAGES = 1 + len(reproduce_reward.MODELS)
RUNNERS = (
    "rlhf.cli.reproducing.run_stages",
    "rlhf.cli.reproduce_reward.run_side_by_side",
    "rlhf.cli.reproduce_hh.run_stages",
)
"""What the commands give their stages to."""
STRENGTHS = ("significantly_better", "better", "slightly_better", "negligibly_better")


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Micro configs in place of configs/tiny."""
    directory = tmp_path / "configs"
    write_micro_configs(directory)
    for module in (reproduce_reward, reproduce_hh):
        monkeypatch.setattr(module, "configs_directory", lambda: directory)
    return directory


@pytest.mark.slow  # two seeds of everything, seventeen trainings
def test_claims_are_judged_from_end_to_end(configs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["reproduce", "reward", "--out", str(out), "--seeds", "2"]
    assert main(words) == 0
    results = json.loads((out / "reproduce.json").read_text())
    finished = {p: p.stat().st_mtime_ns for p in out.rglob("finished.json")}
    assert len(finished) == 1 + 5 + 2 * (SEED_STAGES + 7)  # a reward run has one for each model
    (out / "finished.json").unlink()
    (out / "seed-1" / "quarter" / "finished.json").unlink()
    assert main(words) == 0  # goes on with what is missing
    redone = {p.relative_to(out) for p, t in finished.items() if p.stat().st_mtime_ns != t}
    assert redone == {Path("finished.json"), Path("seed-1/quarter/finished.json")}
    assert json.loads((out / "reproduce.json").read_text()) == results


def write_stage(words: Sequence[str]) -> None:
    """What a stage leaves behind, with random scores."""
    out = Path(words[words.index("--out") + 1])
    out.mkdir(parents=True)
    rng = np.random.default_rng(len(str(out)))
    rows = [
        {
            "comparison_id": str(number),
            "side": side,
            "domain": "safety" if number % 2 else "helpfulness",
            "strength": STRENGTHS[number // 2 % 4],
            "safety_label": "chosen_safe_only" if number % 2 else None,
            "helpfulness_score": rng.normal(),
            "safety_score": rng.normal(),
        }
        for number in range(80)
        for side in ("chosen", "rejected")
    ]
    pd.DataFrame(rows).to_parquet(out / "scores.parquet")
    (out / "finished.json").touch()


def test_results_of_finished_stages(
    configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "run_command", write_stage)
    out = tmp_path / "run"
    words = ["reproduce", "reward", "--out", str(out), "--processes", "1"]
    with console.capture() as first:
        assert main(words) == 0
    results = json.loads((out / "reproduce.json").read_text())
    assert [len(m["values"]) for c in results["claims"] for m in c["measures"]] == [3] * 21
    # seven models × two domains × four strengths and all of them
    assert len(results["accuracy"]) == 7 * 2 * 5
    assert [r["share"] for r in results["data"]] == [0.0625] * 5 + [0.25] * 5 + [1.0] * 5
    page = (out / "report.html").read_text()
    assert "Table 29" in page and 'src="http' not in page
    monkeypatch.setattr(stages, "run_command", lambda words: pytest.fail("it is finished"))
    with console.capture() as again:
        assert main(words) == 0
    shown = [" ".join(text.get().split()) for text in (first, again)]
    assert all("Figure 27" in text and "mean [95 % interval]" in text for text in shown)


def test_every_stage_is_a_command_line(
    configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every option is known to the command that it is given to."""
    seen = []
    for command in ("reward", "hh a/helpful.jsonl a/harmless.jsonl"):
        out = tmp_path / command.split()[0]
        stages: dict[str, Sequence[str]] = {}
        for runner in RUNNERS:
            monkeypatch.setattr(runner, lambda *a, kept=stages: kept.update(a[1]))
        main(["reproduce", *command.split(), "--out", str(out)])
        seen += list(stages.values())
    assert len(seen) == 5 + 3 * SEED_STAGES + 3 + 3
    for words in seen:
        name = next(n for n in COMMANDS if " ".join(words).startswith(n + " "))
        assert_understood(name, [*words[len(name.split()) :], "--out", "somewhere"])


def test_each_seed_has_its_own_comparisons_and_models() -> None:
    config = reproduce_reward.ReproduceRewardCommand(out=Path("my runs"), seeds=3)
    shared = shared_stages(config.out, reproduce_reward.configs_directory())
    stages = shared | reproduce_reward.seed_stages(config)
    assert len(stages) == 5 + 3 * SEED_STAGES
    collect, large = stages["seed-2/collect"], stages["seed-2/large_margin"]
    assert collect[collect.index("--judge.seed") + 1] == "2"
    assert large[large.index("--data") + 1] == "my runs/seed-2/collect/comparisons"
    assert large[large.index("--train.margin") + 1] == "large"
    assert large[large.index("--train.seed") + 1] == "2"
    assert large[large.index("--model") + 1] == "my runs/sft/model"
    without = stages["seed-0/no_auxiliary"]
    assert without[without.index("--domains") + 1] == "[safety]"
    assert stages["world"][-2:] == ["--seed", "0"]  # nothing to place
    assert large[-4:] == ["--placement.workers", "1", "--placement.ray", "false"]


def test_stages_go_on_where_they_were_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def fake(words: Sequence[str]) -> None:
        ran.append(words[0])
        if ran == ["works", "stops"]:
            raise KeyboardInterrupt
        out = Path(words[words.index("--out") + 1])
        out.mkdir()
        (out / "finished.json").touch()

    monkeypatch.setattr(stages, "run_command", fake)
    chain = {"a": ["works"], "b": ["stops"]}
    with pytest.raises(KeyboardInterrupt):
        stages.run_stages(tmp_path, chain, Placement(ray=False))
    stages.run_stages(tmp_path, chain, Placement(ray=False))
    assert ran == ["works", "stops", "stops"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["reward", "--seeds", "1"], "seeds is 1; an interval over seeds needs 2 or more"),
        (["reward", "--processes", "0"], "processes is 0"),
        (["hh", "helpful.jsonl"], "no file has safety comparisons; name helpful and harmless"),
        (["hh", "other.jsonl"], "names neither 'harmless' nor 'helpful'"),
    ],
)
def test_wrong_settings(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", *words]) == 2
    assert told in capsys.readouterr().err


def test_hh_from_end_to_end(configs: Path, tmp_path: Path) -> None:
    small = yaml.safe_load((configs / "reward_hh.yaml").read_text())
    small["train"] |= {"epochs": 1.0, "batch_pairs": 8}
    (configs / "reward_hh.yaml").write_text(yaml.safe_dump(small))
    files = [write_transcripts(tmp_path, name) for name in ("helpful-base", "harmless-base")]
    out = tmp_path / "hh run"
    words = ["reproduce", "hh", *map(str, files), "--out", str(out), "--seeds", "2"]
    assert main([*words, "--workers", "1"]) == 0
    rows = json.loads((out / "reproduce.json").read_text())["rows"]
    assert {row["scorer"] for row in rows} == {"reward models", "the longer wins", "bag of words"}
    cells = {(row["scorer"], row["domain"]): row for row in rows}
    assert len(cells) == 9
    helpful, harmless, both = (
        cells["the longer wins", domain] for domain in ("helpfulness", "safety", "both")
    )
    assert both["n"] == helpful["n"] + harmless["n"]
    assert helpful["mean"] == 1 and harmless["mean"] == 0  # as they were written
    assert both["mean"] == pytest.approx(helpful["n"] / both["n"])
    assert helpful["seeds_low"] is None and cells["reward models", "both"]["seeds_low"] is not None


def test_rows_by_hand() -> None:
    def table(right: float) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
        own = {"helpfulness": {"all": {"accuracy": right, "n": 30}}}
        own |= {"safety": {"all": {"accuracy": 0.5, "n": 10}}}
        return dict.fromkeys(("helpfulness", "safety"), own)

    helpful, _, both = reproduce_hh.rows_of([table(0.6), table(0.8)])
    # s = 0.141421, t(0.975, 1) = 12.7062: 0.7 ± 12.7062 · 0.141421 / √2 = ± 1.27062
    assert (helpful["mean"], helpful["seeds_high"]) == pytest.approx((0.7, 1.97062), abs=1e-5)
    # (30 · 0.6 + 10 · 0.5) / 40 = 0.575 and (30 · 0.8 + 10 · 0.5) / 40 = 0.725
    assert (both["mean"], both["n"]) == (pytest.approx(0.65), 40)


def write_transcripts(directory: Path, name: str) -> Path:
    """Dialogues of random words; the longer reply is chosen where it is helpful, else rejected."""
    rng = random.Random(name)
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["".join(rng.choices(alphabet, k=rng.randrange(3, 9))) for _ in range(900)]

    def text(words: int) -> str:
        return " ".join(rng.choices(vocabulary, k=words))

    path = directory / f"{name}.jsonl"
    lines = []
    for _ in range(80):
        prompt = f"\n\nHuman: {text(6)}\n\nAssistant: "
        replies = [prompt + text(12), prompt + text(4)]
        chosen, rejected = replies if name == "helpful-base" else replies[::-1]
        lines.append(json.dumps({"chosen": chosen, "rejected": rejected}) + "\n")
    path.write_text("".join(lines))
    return path
