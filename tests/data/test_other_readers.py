"""Our files as other tools see them: Hugging Face datasets and TRL."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.dataset import open_manifest, publish
from data.schemas import Comparison, Message

# The imports of these libraries warn about themselves.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def dialogue_files(tmp_path: Path, make_comparison: Callable[..., Comparison]) -> list[str]:
    """Files of 8 comparisons of two turns, in two published parts."""
    prompt = (Message("user", "q"), Message("assistant", "a"), Message("user", "q"))
    for part in range(2):
        rows = [make_comparison(4 * part + n, prompt=prompt, turns=2) for n in range(4)]
        publish(tmp_path / "ds", rows, Comparison, split="train", key=f"k{part}")
    return [str(tmp_path / "ds" / f.path) for f in open_manifest(tmp_path / "ds").files]


def test_hugging_face_datasets_reads_our_files(tmp_path: Path, dialogue_files: list[str]) -> None:
    import datasets

    loaded = datasets.load_dataset(
        "parquet", data_files=dialogue_files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(loaded) == 8
    assert loaded[5]["prompt"] == [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "q"},
    ]
    assert loaded[5]["chosen"] == [{"role": "assistant", "content": "good answer 5"}]
    assert loaded[5]["rejected"] == [{"role": "assistant", "content": "bad answer 5"}]
    assert loaded[5]["strength"] is None


def test_trl_trains_a_reward_model_on_our_files(tmp_path: Path, dialogue_files: list[str]) -> None:
    import datasets
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast
    from trl import RewardConfig, RewardTrainer

    words = ["<pad>", "</s>", "<unk>", "U", "A", "q", "a", "good", "bad", "answer", *"01234567"]
    vocabulary = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ 'U ' if m.role == 'user' else 'A ' }}{{ m.content + ' ' }}"
        "{% endfor %}"
    )
    model = LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            pad_token_id=0,
            num_labels=1,  # type: ignore[call-arg]
        )
    )
    loaded = datasets.load_dataset(
        "parquet", data_files=dialogue_files, split="train", cache_dir=str(tmp_path / "cache")
    )
    trainer: Any = RewardTrainer(
        model=model,
        args=RewardConfig(
            output_dir=str(tmp_path / "run"),
            max_steps=1,
            per_device_train_batch_size=8,
            use_cpu=True,
            bf16=False,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
        ),
        train_dataset=loaded,
        processing_class=tokenizer,
    )
    prepared = trainer.train_dataset[5]
    assert tokenizer.decode(prepared["chosen_ids"]).startswith("U q A a U q A good answer 5")
    assert tokenizer.decode(prepared["rejected_ids"]).startswith("U q A a U q A bad answer 5")
    assert trainer.train().training_loss > 0
