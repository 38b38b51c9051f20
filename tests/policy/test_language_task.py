"""The task behind pretraining and fine-tuning: its batches and its loss."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from data.errors import ConfigError
from data.packing import PackedRows, pack
from policy.language_task import LanguageTask, steps_for
from rlhf.actors.placement import Placement
from rlhf.engine.base import EngineConfig
from rlhf.engine.optim import OptimConfig
from rlhf.model.config import ModelConfig
from rlhf.model.heads import LanguageModel
from rlhf.model.weights import load_language_model, read_hf_config
from rlhf.run import Run
from rlhf.training import LoopConfig, train
from rlhf.types import merge_stats, stat_values
from tests.reward.tiny import VOCAB_SIZE, tiny_shape, tiny_tokenizer

Documents = list[tuple[list[int], list[bool]]]


def draw_documents(count: int, *, seed: int = 0) -> Documents:
    """Random ids, some of them to be learned; never the first."""
    rng = random.Random(seed)
    documents = []
    for _ in range(count):
        length = rng.randint(2, 16)
        mask = [False] + [rng.random() < 0.6 for _ in range(length - 1)]
        documents.append(([rng.randrange(VOCAB_SIZE) for _ in range(length)], mask))
    return documents


def rows_of(documents: Documents, length: int = 32) -> PackedRows:
    ids, masks = [d[0] for d in documents], [d[1] for d in documents]
    return pack(ids, masks, length=length, pad_id=0)


def task_of(
    train: PackedRows,
    validation: PackedRows | None = None,
    *,
    batch_rows: int | None = None,
    micro_batch_rows: int = 100,
    start: Path | ModelConfig | None = None,
) -> LanguageTask:
    return LanguageTask(
        start=start or tiny_shape(),
        tokenizer=Path("no-tokenizer-is-needed"),
        train=train,
        validation=rows_of([]) if validation is None else validation,
        batch_rows=len(train) if batch_rows is None else batch_rows,
        micro_batch_rows=micro_batch_rows,
        num_steps=1,
        seed=3,
    )


@torch.no_grad()
def nats(model: nn.Module, documents: Documents) -> list[float]:
    """−log p of every learned token, each document alone: plain next-token cross-entropy."""
    assert isinstance(model, LanguageModel)
    found = []
    for ids, mask in documents:
        log_probs = model.lm_head(model.model(torch.tensor([ids])))[0].log_softmax(dim=-1)
        found += [-float(log_probs[t - 1, ids[t]]) for t in range(1, len(ids)) if mask[t]]
    return found


def gradient(task: LanguageTask, module: nn.Module, world_size: int) -> Tensor:
    """Of step 0, added up over ranks and micro-batches as an engine would."""
    module.zero_grad()
    counts = set()
    for rank in range(world_size):
        batches = task.micro_batches(0, rank, world_size)
        counts.add(len(batches))
        for batch in batches:
            task.loss(module, batch)[0].backward()  # type: ignore[no-untyped-call]
    assert len(counts) == 1  # the ranks step together
    return torch.cat([p.grad.flatten() for p in module.parameters()])  # type: ignore[union-attr]


def test_loss_is_the_mean_over_learned_tokens_of_unpacked_documents() -> None:
    documents = draw_documents(12)
    rows = rows_of(documents)
    assert len(rows) < 12  # several documents share a row, and one must not see another
    task = task_of(rows)
    module = task.build()
    (batch,) = task.micro_batches(0, 0, 1)
    loss, stats = task.loss(module, batch)
    expected = nats(module, documents)
    assert loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    assert stats["loss"] == (pytest.approx(sum(expected), rel=1e-5), len(expected))
    assert stats["tokens"].total == sum(len(ids) for ids, _ in documents)


def test_rows_of_one_document_give_the_same() -> None:
    documents = draw_documents(12)
    packed, plain = task_of(rows_of(documents)), task_of(rows_of(documents, length=16))
    assert len(plain.train) > len(packed.train)
    module = packed.build()
    assert_close(gradient(plain, module, 1), gradient(packed, module, 1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("micro_batch_rows", [1, 2, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_micro_batches_and_ranks_change_nothing(world_size: int, micro_batch_rows: int) -> None:
    documents = draw_documents(14)
    whole = task_of(rows_of(documents))
    assert len(whole.train) == 5  # so that some ranks get an empty row
    parts = task_of(rows_of(documents), micro_batch_rows=micro_batch_rows)
    module = whole.build()
    expected, found = gradient(whole, module, 1), gradient(parts, module, world_size)
    assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_is_the_mean_over_ranks(world_size: int) -> None:
    documents = draw_documents(14, seed=1)
    task = task_of(rows_of(draw_documents(3)), rows_of(documents), micro_batch_rows=2)
    module = task.build()
    with torch.no_grad():
        ranks = [task.evaluate(module, rank, world_size) for rank in range(world_size)]
    expected = nats(module, documents)
    assert stat_values(merge_stats(ranks)) == {
        "validation/loss": pytest.approx(sum(expected) / len(expected), rel=1e-5)
    }


def test_nothing_to_validate_on_is_no_metric() -> None:
    task = task_of(rows_of(draw_documents(3)))
    assert stat_values(task.evaluate(task.build(), 0, 1)) == {}


def test_an_epoch_sees_every_row_once() -> None:
    rows = rows_of(draw_documents(40), length=16)
    task = task_of(rows, batch_rows=4)
    count = len(rows)
    stream = [int(row) for step in range(count) for row in task.rows_of_step(step)]  # 4 epochs
    epochs = [stream[start : start + count] for start in range(0, 4 * count, count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4  # a new order each time
    small = task_of(rows_of([([1] * 9, [True] * 9)] * 3, length=16), batch_rows=5)
    assert sorted(Counter(small.rows_of_step(0).tolist()).values()) == [1, 2, 2]  # 3 + 2 of 3


def test_steps_for() -> None:
    assert steps_for(128, 64, 2.0) == 4
    assert steps_for(100, 64, 2.0) == 3  # 3.125
    assert steps_for(10, 4, 0.5) == 1  # 1.25
    assert steps_for(1, 1024, 1.0) == 1
    with pytest.raises(ConfigError, match="nothing to train on: the training split is empty"):
        steps_for(0, 64, 2.0)


def test_models_start_from_a_directory_or_a_shape(chat_model: Path) -> None:
    rows = rows_of(draw_documents(3))
    fresh, again = (task_of(rows).build().state_dict() for _ in range(2))
    loaded = task_of(rows, start=chat_model).build().state_dict()
    weights = load_language_model(chat_model).state_dict()
    assert all(torch.equal(fresh[name], again[name]) for name in fresh)  # the seed draws them
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    assert not torch.equal(fresh["lm_head.weight"], weights["lm_head.weight"])


class OnMeta(nn.Module):
    """Weights on another device; tells where its inputs are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, device="meta"))

    def forward(self, *inputs: Tensor) -> None:
        raise LookupError({tensor.device.type for tensor in inputs})


def test_batches_follow_the_module() -> None:
    rows = rows_of(draw_documents(3))
    task = task_of(rows, validation=rows)
    with pytest.raises(LookupError, match=r"^{'meta'}$"):
        task.loss(OnMeta(), task.micro_batches(0, 0, 1)[0])
    with pytest.raises(LookupError, match=r"^{'meta'}$"):
        task.evaluate(OnMeta(), 0, 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_run_on_a_gpu_is_one_on_the_cpu(chat_model: Path, tmp_path: Path) -> None:
    rows = rows_of(draw_documents(20))
    task = replace(
        task_of(rows, validation=rows, batch_rows=2, start=chat_model),
        tokenizer=chat_model,
        num_steps=3,
    )
    figures = [
        train(
            task,
            Run(tmp_path / f"{gpus} gpus", "sft", {}),
            optim=OptimConfig(lr=1e-3),
            engine=EngineConfig(kind="torch"),
            loop=LoopConfig(),
            placement=Placement(ray=False, gpus_per_worker=gpus),
            name="sft",
        )
        for gpus in (0, 1)
    ]
    assert figures[1] == pytest.approx(figures[0], rel=1e-3)


def test_saved_models_come_back(chat_model: Path, tmp_path: Path) -> None:
    task = LanguageTask(
        start=chat_model,
        tokenizer=chat_model,
        train=rows_of([]),
        validation=rows_of([]),
        batch_rows=1,
        micro_batch_rows=1,
        num_steps=1,
        seed=0,
    )
    module = task.build()
    weights = {name: tensor + 1 for name, tensor in module.state_dict().items()}
    task.save(module, weights, tmp_path / "out")
    found = load_language_model(tmp_path / "out").state_dict()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    config = read_hf_config(tmp_path / "out")
    assert config["eos_token_id"] == tiny_tokenizer().eos_id != config["pad_token_id"]
