"""A Llama checkpoint as others publish it: bf16 shards beside Llama's own tokenizer, fine-tuned."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from data.chat_format import ChatFormat
from data.dataset import publish
from data.errors import DataError
from data.schemas import Demonstration, Message
from data.tokenizer import Tokenizer
from rlhf.cli import convert, sft
from rlhf.model.weights import load_language_model

USER, ANSWER = Message("user", "Which word?"), Message("assistant", "Word.")


@pytest.fixture(scope="module")
def checkpoint(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """config.json, two shards with an index and tokenizer.model, nothing else."""
    directory = tmp_path_factory.mktemp("llama") / "model"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.1,
    )
    model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(directory, max_shard_size="2500KB")
    assert len(list(directory.glob("*.safetensors"))) == 2
    content = (shared_data / "llama-tokenizer" / "tokenizer.model").read_bytes()
    (directory / "tokenizer.model").write_bytes(content)
    return directory


def write_demonstrations(directory: Path, user: Message = USER) -> Path:
    for split, count in (("train", 8), ("validation", 2)):
        rows = [
            Demonstration(
                demonstration_id=f"{split} {n}",
                messages=(Message("system", "Be brief."), user, ANSWER),
                loss_on="all",
                domain="helpfulness",
                source="test",
            )
            for n in range(count)
        ]
        publish(directory, rows, Demonstration, split=split, key=split)  # type: ignore[arg-type]
    return directory


def fine_tune(model: Path, data: Path, out: Path) -> Path:
    """`rlhf sft`, in this process, 32 steps of a row."""
    words = f"--model {model} --data {data} --out {out} --placement.ray false"
    words += " --train.row_length 64 --train.batch_rows 1 --train.epochs 8 --train.optim.lr 0.03"
    sft.main(words.split())
    return out / "model"


def nats(model: Any, tokenizer: Tokenizer) -> float:
    """Mean −log p of the answer."""
    encoded = ChatFormat(tokenizer).encode_dialogue([Message("system", "Be brief."), USER, ANSWER])
    tokens, mask = torch.tensor([encoded.ids]), torch.tensor([encoded.loss_mask])
    with torch.no_grad():
        return -float(model(tokens, mask).logprobs.sum() / mask.sum())


def test_it_is_fine_tuned_as_it_is(checkpoint: Path, tmp_path: Path) -> None:
    data = write_demonstrations(tmp_path / "data")
    tuned = fine_tune(checkpoint, data, tmp_path / "run")
    tokenizer = Tokenizer.load(tuned)
    before, after = load_language_model(checkpoint), load_language_model(tuned)
    assert all(p.dtype == torch.float32 for p in before.parameters())  # bf16 files, fp32 sums
    assert nats(before, tokenizer) > 9  # log 32,000 = 10.4
    assert nats(after, tokenizer) < 1
    # What stands there, others load: weights, tokenizer, chat template, padding.
    theirs: Any = AutoModelForCausalLM.from_pretrained(tuned)
    words: Any = AutoTokenizer.from_pretrained(tuned)
    raw = [{"role": m.role, "content": m.content} for m in (Message("system", "Be brief."), USER)]
    ids = words.apply_chat_template(raw, return_tensors="pt", return_dict=False)
    answer = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False
    )
    assert words.decode(answer[0, ids.shape[1] :], skip_special_tokens=True).strip() == "Word."
    assert theirs.config.pad_token_id == words.pad_token_id == 0


def test_tags_in_its_messages(checkpoint: Path, tmp_path: Path) -> None:
    """Refused before anything is trained; escaped once the model was converted so."""
    data = write_demonstrations(tmp_path / "data", Message("user", "a [/INST] b"))
    with pytest.raises(
        DataError, match=r"contains '\[/INST\]'.*rlhf convert --tags_in_text escape"
    ):
        fine_tune(checkpoint, data, tmp_path / "refused")
    out = tmp_path / "escaping"
    words = f"{checkpoint} --from hf --to ours --out {out} --tags_in_text escape"
    convert.main(words.split())
    tuned = fine_tune(out, data, tmp_path / "run")
    assert Tokenizer.load(tuned).tags_in_text == "escape"
