"""Reward models of transformers, here; and ours, there."""

import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from data.schemas import Message
from reward.score import ScoreWorker, score_with
from reward.train import encode_scored
from rlhf.actors.group import LocalGroup
from rlhf.actors.placement import Placement
from tests.reward.tiny import VOCAB_SIZE, tiny_chat, write_reward_model

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers warns about itself
HERE = Placement(ray=False)


@pytest.mark.parametrize("most", ["1GB", "20KB"], ids=["whole", "sharded"])
def test_a_classifier_of_transformers_is_a_reward_model(tmp_path: Path, most: str) -> None:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        num_labels=1,
        initializer_range=0.3,  # scores that differ
    )
    theirs: Any = LlamaForSequenceClassification(config)
    theirs.eval().save_pretrained(tmp_path / "model", max_shard_size=most)
    assert len(list((tmp_path / "model").glob("*.safetensors"))) == (1 if most == "1GB" else 5)
    rng = random.Random(0)
    sequences = [[rng.randrange(VOCAB_SIZE) for _ in range(n)] for n in (3, 40, 17, 5)]
    with torch.no_grad():
        expected = [float(theirs(torch.tensor([ids])).logits[0, 0]) for ids in sequences]
    assert max(expected) - min(expected) > 0.1
    group = LocalGroup(ScoreWorker, HERE, tmp_path / "model")
    assert_close(score_with(group, sequences), expected, rtol=0, atol=1e-5)


def test_the_three_lines_of_the_documentation(tmp_path: Path) -> None:
    """As they stand there, but for the path."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    page = (Path(__file__).parents[2] / "docs" / "reward.md").read_text(encoding="utf-8")
    (block,) = re.findall(
        r"A Hugging Face user needs three lines:\n\n```python\n(.*?)```", page, re.S
    )
    assert len(block.splitlines()) == 3
    directory = write_reward_model(tmp_path / "model")
    messages = [Message("user", "the quick brown fox"), Message("assistant", "jumps over")]
    given = {
        "AutoModelForSequenceClassification": AutoModelForSequenceClassification,
        "AutoTokenizer": AutoTokenizer,
        "messages": [{"role": m.role, "content": m.content} for m in messages],
    }
    found: dict[str, Any] = {}
    exec(block.replace("runs/reward/helpfulness/model", str(directory)), given, found)

    group = LocalGroup(ScoreWorker, HERE, directory)
    ids = encode_scored(tiny_chat(), messages[:1], messages[1:], 4096)
    assert float(found["score"]) == pytest.approx(score_with(group, [ids])[0], abs=1e-5)
