"""Supervised fine-tuning: only answers are learned, and they are."""

from pathlib import Path

import pytest
import torch

from data.errors import ConfigError, DataError
from data.schemas import Demonstration, LossOn, Message
from policy.samples import read_samples
from policy.sft import ANSWERS_FILE, SftConfig, fine_tune, pack_demonstrations
from rlhf.actors.group import LocalGroup
from rlhf.actors.workers import GenerateWorker, generate_with
from rlhf.engine.optim import OptimConfig
from rlhf.generation.sampling import SamplingConfig
from rlhf.metrics import read_metrics
from rlhf.model.weights import load_language_model
from rlhf.run import Run
from rlhf.training import LoopConfig
from rlhf.types import PromptIds
from tests.policy.in_process import HERE
from tests.reward.tiny import TORCH, tiny_chat, tiny_tokenizer


def dialogue(*texts: str, loss_on: LossOn = "all") -> Demonstration:
    """Texts by user and assistant in turn."""
    roles = ("user", "assistant")
    return Demonstration(
        demonstration_id=" ".join(texts),
        messages=tuple(Message(roles[n % 2], text) for n, text in enumerate(texts)),  # type: ignore[arg-type]
        loss_on=loss_on,
        domain="helpfulness",
        source="test",
    )


def learned(demonstration: Demonstration) -> list[str]:
    """The pieces of text whose tokens are learned, one per run of them."""
    rows = pack_demonstrations([demonstration], tiny_tokenizer(), 128, 128)
    runs: list[list[int]] = []
    mask = rows.loss_mask[0]
    for t in mask.nonzero()[0]:
        if not mask[t - 1]:
            runs.append([])
        runs[-1].append(int(rows.tokens[0, t]))
    assert all(run[-1] == tiny_tokenizer().eos_id for run in runs)  # the end is learned too
    return [tiny_tokenizer().decode(run) for run in runs]


def test_only_answers_are_learned() -> None:
    assert learned(dialogue("hi", "hello you", "bye", "so long")) == ["hello you", "so long"]
    assert learned(dialogue("hi", "hello you", "bye", "so long", loss_on="last")) == ["so long"]


def test_the_separator_stands_before_every_answer_and_is_not_learned() -> None:
    # Section 3.1: one special token between prompt and answer. In a dialogue of two turns it comes
    # twice, each time right before the first token that is learned.
    tags = tiny_tokenizer().instruction_ids
    assert tags is not None
    separator = tags[1]
    rows = pack_demonstrations([dialogue("hi", "you", "bye", "so long")], tiny_tokenizer(), 64, 64)
    tokens, mask = rows.tokens[0], rows.loss_mask[0]
    places = [t for t in range(64) if tokens[t] == separator]
    assert places == [t - 1 for t in range(1, 64) if mask[t] and not mask[t - 1]]
    assert len(places) == 2


def test_dialogues_share_rows() -> None:
    demonstrations = [dialogue("hi", "hello"), dialogue("a", "b"), dialogue("bye", "so long")]
    rows = pack_demonstrations(demonstrations, tiny_tokenizer(), 128, 128)
    assert len(rows) == 1 and sorted(set(rows.documents[0].tolist())) == [-1, 0, 1, 2]
    encoded = [tiny_chat().encode_dialogue(d.messages) for d in demonstrations]
    assert int(rows.loss_mask.sum()) == sum(sum(e.loss_mask) for e in encoded)


@pytest.mark.parametrize(("row_length", "context"), [(16, 64), (64, 16), (64, 64), (200, 200)])
def test_a_dialogue_longer_than_a_row_or_the_context(row_length: int, context: int) -> None:
    long = dialogue("hello hello hello", "b" * 100)
    length = len(tiny_chat().encode_dialogue(long.messages).ids)
    assert 64 < length < 200
    if context == 200:
        assert len(pack_demonstrations([long], tiny_tokenizer(), row_length, context)) == 1
        return
    with pytest.raises(DataError) as told:
        pack_demonstrations([long], tiny_tokenizer(), row_length, context)
    assert str(told.value) == (
        f"dialogue {long.demonstration_id!r} has {length} tokens; a row holds {row_length} and the "
        f"model's context is {context}: shorten or drop it"
        + (", or raise row_length" if row_length == 16 else "")
    )


@torch.no_grad()
def nats(model: Path, demonstration: Demonstration) -> float:
    """Mean −log p of the answer tokens of a dialogue, without packing."""
    encoded = tiny_chat().encode_dialogue(demonstration.messages, loss_on=demonstration.loss_on)
    tokens, mask = torch.tensor([encoded.ids]), torch.tensor([encoded.loss_mask])
    logprobs = load_language_model(model)(tokens, mask).logprobs
    return -float(logprobs.sum() / mask.sum())


def test_answers_are_learned(tmp_path: Path, chat_model: Path) -> None:
    answers = {"one": "fox", "two": "dog", "three": "quick brown"}
    demonstrations = [dialogue(user, answer) for user, answer in answers.items()] * 8
    held_out = [dialogue("one", "fox"), dialogue("two", "dog")]
    config = SftConfig(
        row_length=64,
        batch_rows=2,
        micro_batch_rows=1,
        epochs=12.0,
        optim=OptimConfig(lr=1e-2, eps=1e-8),
        loop=LoopConfig(log_every=5),
    )
    run = Run(tmp_path / "run", "sft", {})
    figures = fine_tune(
        demonstrations, held_out, config, run, model=chat_model, engine=TORCH, placement=HERE
    )
    rows = pack_demonstrations(demonstrations, tiny_tokenizer(), 64, 192)
    lines = read_metrics(run.directory)
    assert lines[-1]["step"] == round(len(rows) * 12 / 2)
    assert figures["tokens"] == 12 * int((rows.documents >= 0).sum())  # every token of every epoch
    assert lines[0]["loss"] > 2.0 and lines[-1]["loss"] < 0.1

    encoded = [tiny_chat().encode_dialogue(d.messages) for d in held_out]
    counts = [sum(e.loss_mask) for e in encoded]
    total = sum(n * nats(run.model, d) for n, d in zip(counts, held_out, strict=True))
    assert figures["validation/loss"] == pytest.approx(total / sum(counts), abs=1e-4)

    group = LocalGroup(GenerateWorker, HERE, run.model)
    prompts = [
        PromptIds(user, tiny_chat().encode_prompt([Message("user", user)])) for user in answers
    ]
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=30)
    rollouts = generate_with(group, prompts, greedy, eos_id=tiny_tokenizer().eos_id, seed=0)
    said = {r.prompt_id: tiny_chat().decode_response(r.response_ids) for r in rollouts}
    assert said == answers
    assert {r.finish_reason for r in rollouts} == {"eos"}


def test_answers_at_each_validation_are_kept(tmp_path: Path, chat_model: Path) -> None:
    held_out = [dialogue("one", "fox", "two", "dog"), dialogue("three", "brown")]
    config = SftConfig(
        row_length=64,
        batch_rows=1,
        epochs=4.0,
        optim=OptimConfig(lr=1e-2),
        loop=LoopConfig(evaluate_every=3),
        sampling=SamplingConfig(temperature=0.0, max_new_tokens=5),
    )
    run = Run(tmp_path / "run", "sft", {})
    for _ in range(2):  # the second time like a session that begins anew after one was killed
        fine_tune(
            [dialogue("one", "fox")], held_out, config, run,
            model=chat_model, engine=TORCH, placement=HERE,
        )  # fmt: skip
    records = read_samples(run.directory / ANSWERS_FILE)
    assert [r["step"] for r in records] == [3, 3, 4, 4]  # 4 steps; the last is validated too
    wanted = {
        " ".join(("one", "fox", "two", "dog")): ("two", "dog"),
        "three brown": ("three", "brown"),
    }
    for record in records:
        assert (record["prompt"], record["demonstration"]) == wanted[record["prompt_id"]]

    group = LocalGroup(GenerateWorker, HERE, run.model)
    prompts = [
        PromptIds(d.demonstration_id, tiny_chat().encode_prompt(d.messages[:-1])) for d in held_out
    ]
    eos_id = tiny_tokenizer().eos_id
    rollouts = generate_with(group, prompts, config.sampling, eos_id=eos_id, seed=0)
    said = {r.prompt_id: tiny_chat().decode_response(r.response_ids) for r in rollouts}
    assert {r["prompt_id"]: r["response"] for r in records[2:]} == said


def test_no_answers_are_kept_where_none_can_be(tmp_path: Path, chat_model: Path) -> None:
    for name, held_out, count in [("off", [dialogue("one", "fox")], 0), ("empty", [], 8)]:
        config = SftConfig(row_length=256, batch_rows=1, epochs=1.0, sample_dialogues=count)
        run = Run(tmp_path / name, "sft", {})
        fine_tune(
            [dialogue("one", "fox")], held_out, config, run,
            model=chat_model, engine=TORCH, placement=HERE,
        )  # fmt: skip
        assert not (run.directory / ANSWERS_FILE).exists()


def test_nothing_longer_than_the_context_is_learned_or_validated(
    tmp_path: Path, chat_model: Path
) -> None:
    run, config = Run(tmp_path / "run", "sft", {}), SftConfig(row_length=256, batch_rows=1)
    short, long = [dialogue("one", "fox")], [dialogue("x" * 200, "fox")]
    for train, held_out in ((long, short), (short, long)):
        with pytest.raises(DataError, match="a row holds 256 and the model's context is 192: sho"):
            fine_tune(train, held_out, config, run, model=chat_model, engine=TORCH, placement=HERE)


def test_prompts_and_earlier_answers_are_not_learned(tmp_path: Path, chat_model: Path) -> None:
    # One step on "b": what is said of the prompt and of the earlier answer may only change by
    # accident, the last answer becomes likelier.
    demonstration = dialogue("the quick", "brown fox", "jumps", "over", loss_on="last")
    config = SftConfig(
        row_length=64,
        batch_rows=1,
        epochs=20.0,
        optim=OptimConfig(lr=3e-3, weight_decay=0.0, warmup_min_steps=1),
    )
    run = Run(tmp_path / "run", "sft", {})
    fine_tune([demonstration], [], config, run, model=chat_model, engine=TORCH, placement=HERE)
    earlier = dialogue("the quick", "brown fox")
    assert nats(run.model, demonstration) < 0.5 < 2.0 < nats(chat_model, demonstration)
    assert nats(run.model, earlier) > 0.8 * nats(chat_model, earlier)


def test_nothing_to_learn(tmp_path: Path, chat_model: Path) -> None:
    run = Run(tmp_path / "run", "sft", {})
    with pytest.raises(ConfigError, match="nothing to train on"):
        fine_tune([], [], SftConfig(), run, model=chat_model, engine=TORCH, placement=HERE)


def test_defaults_are_the_papers() -> None:
    # Llama 2, section 3.1: batch 64, length 4096, 2 epochs, cosine from 2e-5, weight decay 0.1
    config = SftConfig()
    assert (config.batch_rows, config.row_length, config.epochs) == (64, 4096, 2.0)
    assert (config.optim.lr, config.optim.schedule) == (2e-5, "cosine")
    assert config.optim.weight_decay == 0.1
