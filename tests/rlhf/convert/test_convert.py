"""`rlhf convert`: round trips without a changed bit, and what others load."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)

from data.errors import ConfigError
from data.tokenizer import Tokenizer
from rlhf.convert.checkpoint import permuted, unpermuted
from rlhf.generation.generator import generate
from rlhf.generation.sampling import SamplingConfig
from rlhf.model.weights import load_language_model, load_scalar_model, read_hf_config
from rlhf.types import PromptIds
from tests.rlhf.convert.models import (
    SHARDED,
    check_equal,
    convert,
    tensors_of,
    write_meta_files,
    write_theirs,
)
from tests.tiny_models import random_tokens

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_hugging_face_to_ours_and_back(tmp_path: Path, dtype: torch.dtype, kv_heads: int) -> None:
    start = write_theirs(tmp_path / "start", dtype=dtype, num_key_value_heads=kv_heads)
    assert len(list(start.glob("*.safetensors"))) > 3
    ours = convert(start, tmp_path / "ours", "hf", "ours")
    assert [path.name for path in ours.glob("*.safetensors")] == ["model.safetensors"]
    back = convert(ours, tmp_path / "back", "ours", "hf", "--shard_gb", SHARDED)
    files = list(back.glob("*.safetensors"))
    assert len(files) > 3
    assert max(path.stat().st_size for path in files) < 100_000  # the embeddings alone are 90,112
    check_equal(ours, start)
    check_equal(back, start)


@torch.no_grad()
def test_sharded_directories_are_read_as_they_are(tmp_path: Path) -> None:
    start = write_theirs(tmp_path / "start", dtype=torch.bfloat16)
    ours = load_language_model(start)
    theirs = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32).eval()
    tokens = random_tokens(2, 20)
    assert next(ours.parameters()).dtype == torch.float32
    assert_close(ours.lm_head(ours.model(tokens)), theirs(tokens).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sharded", [False, True])
def test_bin_files(tmp_path: Path, sharded: bool) -> None:
    start = write_theirs(tmp_path / "start", dtype=torch.float16)
    old = tmp_path / "old"
    old.mkdir()
    shutil.copy(start / "config.json", old)
    state = tensors_of(start) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    names = sorted(state)
    parts = [names[:7], names[7:]] if sharded else [names]
    places: dict[str, str] = {}
    for number, part in enumerate(parts):
        file = f"pytorch_model-{number}.bin" if sharded else "pytorch_model.bin"
        torch.save({name: state[name] for name in part}, old / file)
        places |= dict.fromkeys(part, file)
    if sharded:
        index = old / "pytorch_model.bin.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    check_equal(convert(old, tmp_path / "ours", "hf", "ours"), start)
    assert_close(
        load_language_model(old).state_dict(),
        load_language_model(start).state_dict(),
        atol=0,
        rtol=0,
    )


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_ours_to_meta_and_back(tmp_path: Path, shards: int) -> None:
    start = write_theirs(tmp_path / "start", dtype=torch.bfloat16)
    meta = convert(start, tmp_path / "meta", "hf", "meta", "--shards", str(shards))
    names = [f"consolidated.{rank:02}.pth" for rank in range(shards)]
    assert sorted(path.name for path in meta.glob("*.pth")) == names
    back = convert(meta, tmp_path / "back", "meta", "hf", "--context", "64")
    check_equal(back, start)
    ours, theirs = read_hf_config(back), read_hf_config(start)
    for key in ("hidden_size", "intermediate_size", "rms_norm_eps", "max_position_embeddings"):
        assert ours[key] == theirs[key]


def test_a_tied_model_comes_back_from_meta_with_a_copy(tmp_path: Path) -> None:
    start = write_theirs(tmp_path / "start", tie_word_embeddings=True)
    meta = convert(start, tmp_path / "meta", "hf", "meta", "--shards", "2")
    back = load_language_model(convert(meta, tmp_path / "back", "meta", "hf"))
    assert not back.config.tie_embeddings
    assert torch.equal(back.lm_head.weight, back.model.embed_tokens.weight)


def test_null_in_params_is_as_good_as_absent(tmp_path: Path) -> None:
    meta = write_meta_files(tmp_path / "meta", embeddings_by_rows=False)
    expected = convert(meta, tmp_path / "expected", "meta", "ours")
    params = json.loads((meta / "params.json").read_text())
    nothing = dict.fromkeys(("vocab_size", "multiple_of", "ffn_dim_multiplier", "rope_theta"))
    (meta / "params.json").write_text(json.dumps(params | nothing))
    check_equal(convert(meta, tmp_path / "found", "meta", "ours"), expected)


@pytest.mark.parametrize("rows", [False, True], ids=["columns", "rows"])
def test_meta_to_ours_and_back(tmp_path: Path, rows: bool) -> None:
    """Files as Meta makes them: three fifths of them slices, rope.freqs and a vocabulary of −1."""
    meta = write_meta_files(tmp_path / "meta", embeddings_by_rows=rows)
    ours = convert(meta, tmp_path / "ours", "meta", "ours")
    back = convert(ours, tmp_path / "back", "ours", "meta", "--shards", "2")
    for rank in range(2):
        expected = torch.load(meta / f"consolidated.{rank:02}.pth")
        found = torch.load(back / f"consolidated.{rank:02}.pth")
        assert found.keys() == expected.keys() - {"rope.freqs"}  # loaders compute it
        for name in found.keys() - ({"tok_embeddings.weight"} if rows else set()):
            assert torch.equal(found[name], expected[name]), name
            assert found[name].dtype == expected[name].dtype


def test_the_rotary_layouts_by_hand() -> None:
    # One head of 4 rows: Meta turns (0, 1) and (2, 3), Hugging Face (0, 2) and (1, 3).
    rows = torch.arange(4.0)[:, None]
    assert permuted(rows, 1)[:, 0].tolist() == [0, 2, 1, 3]
    two_heads = torch.arange(16.0).view(8, 2)
    assert torch.equal(unpermuted(permuted(two_heads, 2), 2), two_heads)
    assert permuted(two_heads, 2)[4:, 0].tolist() == [8, 12, 10, 14]


@torch.no_grad()
def test_metas_rotation_gives_the_same_scores(tmp_path: Path) -> None:
    """Queries and keys turned as Meta's code does, with complex numbers over neighbours."""
    torch.manual_seed(0)
    heads, width, length = 2, 8, 5
    weight, x = torch.randn(2, heads * width, 16), torch.randn(length, 16)
    frequencies = 10_000.0 ** -(torch.arange(0, width, 2) / width)
    angles = torch.outer(torch.arange(length).float(), frequencies)

    def meta(w: Tensor) -> Tensor:
        pairs = torch.view_as_complex((x @ w.T).view(length, heads, width // 2, 2))
        turned = pairs * torch.polar(torch.ones_like(angles), angles)[:, None]
        return torch.view_as_real(turned).flatten(2)

    def ours(w: Tensor) -> Tensor:
        from rlhf.model.rope import apply_rope, rope_tables

        cos, sin = rope_tables(torch.arange(length)[None], frequencies)
        y = (x @ permuted(w, heads).T).view(1, length, heads, width).transpose(1, 2)
        return apply_rope(y, cos, sin)[0].transpose(0, 1)

    expected = torch.einsum("qhd,khd->hqk", meta(weight[0]), meta(weight[1]))
    found = torch.einsum("qhd,khd->hqk", ours(weight[0]), ours(weight[1]))
    assert_close(found, expected, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_others_load_a_language_model(tmp_path: Path) -> None:
    start = write_theirs(tmp_path / "start")
    out = convert(start, tmp_path / "out", "hf", "hf", "--shard_gb", SHARDED)
    tokens = random_tokens(2, 20)
    theirs = AutoModelForCausalLM.from_pretrained(out).eval()
    expected = AutoModelForCausalLM.from_pretrained(start).eval()
    assert torch.equal(theirs(tokens).logits, expected(tokens).logits)
    ours = load_language_model(out)
    assert_close(ours.lm_head(ours.model(tokens)), theirs(tokens).logits, atol=1e-5, rtol=0)


@torch.no_grad()
def test_others_load_a_reward_model(tmp_path: Path) -> None:
    start = write_theirs(tmp_path / "start", num_labels=1)
    out = convert(start, tmp_path / "out", "hf", "ours")
    tokens = random_tokens(2, 20)
    theirs = AutoModelForSequenceClassification.from_pretrained(out).eval()
    expected = AutoModelForSequenceClassification.from_pretrained(start).eval()
    assert torch.equal(theirs(tokens).logits, expected(tokens).logits)
    scores = load_scalar_model(out)(tokens)[:, -1:]
    assert_close(scores, theirs(tokens).logits, atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="Meta's format has no place for a reward model"):
        convert(start, tmp_path / "meta", "hf", "meta")
    assert not (tmp_path / "meta").exists()


def test_the_scale_of_a_reward_model_travels(tmp_path: Path) -> None:
    start = write_theirs(tmp_path / "start", num_labels=1)
    config = read_hf_config(start) | {"score_mean": 1.25}
    (start / "config.json").write_text(json.dumps(config))
    assert read_hf_config(convert(start, tmp_path / "out", "hf", "ours"))["score_mean"] == 1.25


def test_a_story(shared_data: Path, tmp_path: Path) -> None:
    """A model that was really trained, by another program, with its tokenizer."""
    source = shared_data / "stories260K" / "stories260K.bin"
    model = load_language_model(convert(source, tmp_path / "stories", "llama2c", "ours")).eval()
    tokenizer = Tokenizer.load(tmp_path / "stories")
    assert sum(p.numel() for p in model.parameters()) == 260_032
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=64)
    (rollout,) = generate(model, [PromptIds("", [1])], greedy, eos_id=2, seed=0)
    story = tokenizer.decode(rollout.response_ids)
    assert story.startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the "
        "park. One day, she saw a big, red ball."
    )
    theirs: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "stories")
    ids = theirs.generate(torch.tensor([[1]]), max_new_tokens=64, do_sample=False)[0].tolist()
    assert rollout.ids == ids


MEASURE = """
import sys
from pathlib import Path
from rlhf.cli.convert import main

def memory(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) << 10

def convert(place):
    for source, form, out, to, option, value in [
        ("start", "hf", "ours", "ours", "--shard_gb", "0.012"),
        ("ours", "ours", "meta", "meta", "--shards", "4"),
        ("meta", "meta", "back", "hf", "--shard_gb", "0.012"),
    ]:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        main([f"{place}/{source}", "--from", form, "--out", f"{place}/{out}", "--to", to,
              option, value])
        yield memory("VmHWM")

list(convert(sys.argv[1]))
before = memory("VmRSS")
print(*(peak - before for peak in convert(sys.argv[2])))
"""


@pytest.mark.slow  # 20 s: a model of 60 MB, written and read by a process of its own
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory(tmp_path: Path) -> None:
    """Below twice the largest file, of a model of five times its size.

    The peak of a process above what it holds after a small model has gone the same way; pages of
    mapped files count.
    """
    small, large = tmp_path / "a", tmp_path / "b"
    write_theirs(small / "start")
    write_theirs(
        large / "start", shard="12MB", hidden_size=512, intermediate_size=1408, num_hidden_layers=5
    )
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(small), str(large)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    peaks = [int(word) for word in result.stdout.splitlines()[-1].split()]
    shards = sorted((large / "ours").glob("*.safetensors"))
    ranks = sorted((large / "meta").glob("*.pth"))
    largest = [max(f.stat().st_size for f in files) for files in (shards, ranks, ranks)]
    assert len(shards) > 5
    assert len(ranks) == 4
    # Measured: 0.3, 1.1 and 0.5 of the largest file.
    for peak, size in zip(peaks, largest, strict=True):
        assert peak < 2 * size, (peaks, largest)
    check_equal(large / "back", large / "ours")
    check_equal(large / "ours", large / "start")
