"""A really trained model of others, stories260K, through every stage, with a function as reward."""

import json
import re
import shutil
import time
from math import sqrt
from pathlib import Path
from statistics import mean, variance
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from data.dataset import publish, read_rows
from data.errors import ConfigError
from data.schemas import Demonstration, Message
from data.tokenizer import Tokenizer
from policy.language_task import LanguageTask
from policy.samples import read_samples
from policy.sft import pack_demonstrations
from reward.happy_words import share
from rlhf.cli import ppo, rejection_sampling, sft, temperature_sweep
from rlhf.cli.main import main
from rlhf.metrics import read_metrics
from rlhf.model.weights import load_language_model

ROOT = Path(__file__).parents[2]
OPENINGS = ROOT / "configs" / "stories" / "openings.jsonl"
HAPPY = ["--reward_function", "reward.happy_words:share", "--placement.ray", "false"]
STORIES = {
    "train": [
        ("One day, Tim lost his hat.", " His dog found it. Tim was happy."),
        ("Once upon a time, a cat was hungry.", " Mia gave her a fish. The cat loved Mia."),
    ],
    "validation": [("One day, Tim lost his ball.", " His dog found it. Tim was happy.")],
}


@pytest.fixture(scope="module")
def stories(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As transformers writes the model, with the tokenizer that was converted from llama2.c's."""
    root = tmp_path_factory.mktemp("stories")
    source = shared_data / "stories260K" / "stories260K.bin"
    words = ["convert", str(source), "--from", "llama2c", "--chat_form", "plain"]
    assert main([*words, "--out", str(root / "ours")]) == 0
    theirs: Any = AutoModelForCausalLM.from_pretrained(root / "ours")
    theirs.save_pretrained(root / "theirs", max_shard_size="500KB")
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(root / "ours" / name, root / "theirs" / name)
    assert len(list((root / "theirs").glob("*.safetensors"))) > 1
    return root / "theirs"


@pytest.fixture(scope="module")
def openings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prompts of the demonstration."""
    out = tmp_path_factory.mktemp("openings") / "prompts"
    words = ["data", "import", "generic", str(OPENINGS), "--rows", "prompts"]
    words += [
        "--domain",
        "helpfulness",
        "--source",
        "stories",
        "--validation",
        "0.3",
        "--test",
        "0",
    ]
    assert main([*words, "--out", str(out)]) == 0
    return out


def test_sft(stories: Path, tmp_path: Path) -> None:
    for split, texts in STORIES.items():
        rows = [
            Demonstration(
                demonstration_id=f"{split}{n}",
                messages=(Message("user", opening), Message("assistant", story)),
                domain="helpfulness",
                source="test",
            )
            for n, (opening, story) in enumerate(texts)
        ]
        publish(tmp_path / "data", rows, Demonstration, split=split, key=split)  # type: ignore[arg-type]
    words = (
        f"--model {stories} --data {tmp_path / 'data'} --out {tmp_path / 'run'} --train.epochs 4"
    )
    words += " --train.row_length 64 --train.batch_rows 1 --train.optim.lr 1e-3"
    sft.main([*words.split(), "--placement.ray", "false"])
    (last,) = (m for m in read_metrics(tmp_path / "run")[-1:])
    assert last["validation/loss"] < nats(stories, tmp_path / "data") - 0.5
    tuned = tmp_path / "run" / "model"
    tokenizer = Tokenizer.load(tuned)
    assert (tokenizer.chat_form, tokenizer.eos_id) == ("plain", tokenizer.bos_id)
    theirs: Any = AutoModelForCausalLM.from_pretrained(tuned)
    ids = [tokenizer.bos_id, *tokenizer.encode(STORIES["validation"][0][0])]
    with torch.no_grad():
        logits = theirs(torch.tensor([ids])).logits[0]
        ours = load_language_model(tuned)
        mask = torch.tensor([[False] + [True] * (len(ids) - 1)])
        logprobs = ours(torch.tensor([ids]), mask).logprobs[0, 1:]
    expected = logits[:-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=1e-4)


def nats(model: Path, data: Path) -> float:
    """Per token of the held-out story, its end included, before any training."""
    rows = read_rows(data, Demonstration, "validation")
    packed = pack_demonstrations(rows, Tokenizer.load(model), 64, 512)
    task = LanguageTask(
        start=model,
        tokenizer=model,
        train=packed,
        validation=packed,
        batch_rows=1,
        micro_batch_rows=1,
        num_steps=1,
        seed=0,
    )
    with torch.no_grad():
        found = task.evaluate(task.build().eval(), 0, 1)["validation/loss"]
    return found.total / found.count


def test_rejection_sampling(stories: Path, openings: Path, tmp_path: Path) -> None:
    """The happiest story of four, of those that end; most do within 400 tokens."""
    words = f"--model {stories} --prompts {openings} --out {tmp_path / 'run'}"
    words += " --train.num_prompts 4 --train.samples_per_prompt 4 --train.fine_tune.row_length 512"
    words += " --train.sampling.max_new_tokens 400 --train.sampling.temperature 1.0"
    rejection_sampling.main([*words.split(), "--train.fine_tune.batch_rows", "1", *HAPPY])
    samples = read_samples(tmp_path / "run" / "samples.parquet")
    assert len(samples) == 16
    assert [n for n in samples[0] if n.endswith("_score")] == ["combined_score"]
    for sample in samples:
        (expected,) = share([], [sample["response"]])
        assert sample["combined_score"] == pytest.approx(expected, rel=1e-6)
    best = [max(samples[n : n + 4], key=lambda s: s["combined_score"]) for n in (0, 4, 8, 12)]
    chosen = [s["prompt"] + s["response"] for s in best if s["finish_reason"] == "eos"]
    learned = read_rows(tmp_path / "run" / "best", Demonstration, "train")
    assert len(chosen) >= 2
    assert ["".join(m.content for m in d.messages) for d in learned] == chosen
    assert Tokenizer.load(tmp_path / "run" / "model").chat_form == "plain"


def test_ppo(stories: Path, openings: Path, tmp_path: Path) -> None:
    words = f"--config {ROOT}/configs/stories/ppo.yaml --model {stories} --prompts {openings}"
    words += f" --out {tmp_path} --train.iterations 2 --train.prompts_per_iteration 8"
    words += " --train.minibatch_size 4 --train.sampling.max_new_tokens 24 --train.eval_prompts 4"
    ppo.main([*words.split(), "--placement.ray", "false", "--reward_placement.ray", "false"])
    samples, lines = read_samples(tmp_path / "samples.parquet"), read_metrics(tmp_path)
    assert len(samples) == 16 and len(lines) == 2
    for line in lines:
        said = [s["response"] for s in samples if s["step"] == line["step"]]
        assert line["objective/scores"] == pytest.approx(sum(share([], said)) / 8, rel=1e-5)
        assert "objective/scores_helpfulness" not in line
    assert lines[0]["objective/kl"] == pytest.approx(0, abs=1e-4)
    assert lines[1]["objective/kl_k3"] > 1e-3  # it has moved
    assert "eval/scores" in lines[1] and "eval/scores_helpfulness" not in lines[1]
    before, after = (load_language_model(path) for path in (stories, tmp_path / "model"))
    assert not torch.equal(before.lm_head.weight, after.lm_head.weight)
    names = {alarm["name"] for alarm in json.loads((tmp_path / "alarms.json").read_text())}
    assert names <= {"no_end", "responses_shrink"}  # 24 tokens are no story


@pytest.mark.slow  # all of docs/real_weights.md's PPO: half a minute of one core
def test_ppo_learns_to_please_and_stays_readable(
    stories: Path, openings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From 2 to 8 happy words in a hundred, at a KL below 20 nats, in less than 5 CPU minutes."""
    words = f"--config {ROOT}/configs/stories/ppo.yaml --model {stories} --prompts {openings}"
    words += f" --out {tmp_path} --placement.ray false --reward_placement.ray false"
    began = time.process_time()
    ppo.main(words.split())
    assert time.process_time() - began < 300
    samples, lines = read_samples(tmp_path / "samples.parquet"), read_metrics(tmp_path)
    first, last = (
        [s["combined_score"] for s in samples if s["step"] == lines[place]["step"]]
        for place in (0, -1)
    )
    error = sqrt(variance(first) / len(first) + variance(last) / len(last))
    assert (mean(last) - mean(first)) / error > 5, "significant by far"
    assert lines[-1]["eval/kl"] < 20
    score, kl = lines[-1]["objective/scores"], lines[-1]["objective/kl"]
    told = capsys.readouterr().err.splitlines()[-1]
    assert re.search(rf"; tokens \d+, last score {score:.3f}, KL {kl:.3f}$", told)
    assert lines[-1]["health/repeated_ngrams"] < lines[0]["health/repeated_ngrams"] + 0.05


@pytest.mark.parametrize("command", [ppo, rejection_sampling, temperature_sweep])
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "give one reward: --rewards, a run of `rlhf reward train`, or --reward_function"),
        (["--rewards", "x", "--reward_function", "a:b"], "give one reward: --rewards"),
        (["--reward_function", "happy"], "reward_function is 'happy'; write package.module:func"),
        (["--reward_function", "reward.happy_words:shore"], "no function 'shore'; did you mean"),
    ],
)
def test_one_reward(
    command: Any, more: list[str], message: str, stories: Path, openings: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ["--model", str(stories), "--prompts", str(openings), "--out", str(out)]
    with pytest.raises(ConfigError, match=message):
        command.main([*words, *more])
    assert not out.exists()


def test_a_function_that_fails_ends_the_command_before_it_samples(
    stories: Path,
    openings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line and exit code 2, as for all that a person can mend."""
    (tmp_path / "rules_of_mine.py").write_text("def one(prompts, responses):\n    return [1]\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = ["ppo", "--model", str(stories), "--prompts", str(openings), "--out"]
    words += [str(tmp_path / "run"), "--reward_function", "rules_of_mine:one"]
    words += ["--placement.ray", "false", "--train.sampling.max_new_tokens", "4"]
    words += ["--train.prompts_per_iteration", "2", "--train.minibatch_size", "2"]
    assert main(words) == 2
    (line,) = (x for x in capsys.readouterr().err.splitlines() if x.startswith("rlhf ppo:"))
    assert "'rules_of_mine:one' returned 1 scores for 2 responses; it must return one for" in line
    assert not (tmp_path / "run").exists()
