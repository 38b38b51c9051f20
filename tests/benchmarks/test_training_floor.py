"""The floor of the benchmark of training: the products and the attention of our steps."""

from collections import Counter
from pathlib import Path

import pytest
from torch import Tensor

from benchmarks import training
from data.packing import pack
from policy.language_task import LanguageTask
from rlhf.model import kernels
from rlhf.model.config import ModelConfig

LAYERS, WIDTH, KV, FFN, VOCAB = 2, 64, 32, 96, 80
SHAPE = ModelConfig(
    vocab_size=VOCAB,
    dim=WIDTH,
    num_layers=LAYERS,
    num_heads=2,
    num_kv_heads=1,
    ffn_dim=FFN,
    context=128,
)
ROWS, LENGTH, LEARNED = 3, 128, 100
"""Each row is one dialogue, of which the last tokens are learned."""
TOKENS, READ = 384, 320
"""3 · 128 tokens; 3 · 100 states are read behind the last layer, filled up to a multiple of 64.
They are more than the head would take at a time without gradients."""


@pytest.fixture
def task(tmp_path: Path) -> LanguageTask:
    """One step of one micro-batch."""
    ids = [list(range(10, 74)) * 2] * ROWS
    masks = [[False] * (LENGTH - LEARNED) + [True] * LEARNED] * ROWS
    return LanguageTask(
        start=SHAPE,
        tokenizer=tmp_path,
        train=pack(ids, masks, length=LENGTH, pad_id=0),
        validation=pack([], None, length=LENGTH, pad_id=0),
        batch_rows=ROWS,
        micro_batch_rows=ROWS,
        num_steps=1,
        seed=0,
    )


def behind_attention(rows: int) -> Counter[tuple[int, ...]]:
    """Rows of x and shape of the weight: of the output projection and the feed-forward layer."""
    down, ups = (rows, WIDTH, FFN), (rows, FFN, WIDTH)
    return Counter({(rows, WIDTH, WIDTH): 1, ups: 2, down: 1})


def test_every_product_is_recorded_with_the_rows_that_it_has(task: LanguageTask) -> None:
    found = training.recorded_work(task, task.build(), 1).products
    projections = Counter({(TOKENS, WIDTH, WIDTH): LAYERS, (TOKENS, KV, WIDTH): 2 * LAYERS})
    head = Counter({(READ, VOCAB, WIDTH): 1})
    expected = projections + behind_attention(TOKENS) + behind_attention(READ) + head
    assert Counter((shape[0], *weight.shape) for shape, weight in found) == expected


@pytest.mark.parametrize("compiled", [True, False])
def test_every_layer_attends_whichever_way(
    task: LanguageTask, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    if not compiled:
        monkeypatch.setattr(kernels, "usable", lambda *_: False)
    work = training.recorded_work(task, task.build(), 1)
    spans = [[row * LENGTH, LENGTH] for row in range(ROWS)]
    shapes = [(ROWS * LENGTH, width) for width in (WIDTH, KV, KV)]
    assert [(layout.spans.tolist(), *rest) for layout, *rest in work.attentions] == [
        (spans, shapes, 32)
    ] * LAYERS


def test_the_floor_repeats_all_of_it(task: LanguageTask, monkeypatch: pytest.MonkeyPatch) -> None:
    run = training.floor(task, 1)
    there_and_back, inputs = training._there_and_back, list[tuple[Tensor, ...]]()

    def watch(function: object, *given: Tensor) -> None:
        inputs.append(given)
        there_and_back(function, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "_there_and_back", watch)
    run()
    assert Counter(map(len, inputs)) == {2: 7 * LAYERS + 1, 3: LAYERS}
    assert all(len(set(map(id, given))) == len(given) for given in inputs)


def test_a_floor_of_nothing_is_an_error(task: LanguageTask) -> None:
    with pytest.raises(RuntimeError, match="recorded 0 matrix products and 0 calls of attention"):
        training.floor(task, 0)
