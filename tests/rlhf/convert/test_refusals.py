"""What `rlhf convert` refuses: damaged files, orders that fit nothing, and foreign code."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data.errors import ConfigError, DataError, UserError
from rlhf.cli.convert import main
from rlhf.model.weights import load_language_model
from tests.reward.tiny import tiny_tokenizer
from tests.rlhf.convert.models import (
    check_equal,
    convert,
    write_meta_files,
    write_theirs,
)

Damage = Callable[[Path], None]


def cut(name: str) -> Damage:
    def damage(directory: Path) -> None:
        file = directory / name
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return damage


def replace_text(name: str, old: str, new: str) -> Damage:
    def damage(directory: Path) -> None:
        text = (directory / name).read_text()
        assert old in text
        (directory / name).write_text(text.replace(old, new))

    return damage


SHARD = "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut(SHARD), rf"weights in '.*{SHARD}' cannot be read.*ends within 'model\.layers\."),
        (lambda d: (d / SHARD).unlink(), rf"{SHARD}' is missing; copy the model again"),
        (
            replace_text("config.json", '"intermediate_size": 96', '"intermediate_size": 100'),
            r"'model\.layers\.0\.mlp\.\w+_proj\.weight' in .* has shape \(.*\b96\b.*\); "
            r"its config asks for \(.*\b100\b.*\)",
        ),
        (
            replace_text("model.safetensors.index.json", "model.norm.weight", "model.rorm.weight"),
            r"lacks the tensor 'model\.rorm\.weight' of its index",
        ),
        (
            lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": [1]}'),
            "is no index of weights; copy the model again",
        ),
        (
            lambda d: (d / "model.safetensors.index.json").unlink(),
            r"holds no weights: none of model\.safetensors, pytorch_model\.bin",
        ),
        (replace_text("config.json", '"llama"', '"mistral"'), "only Llama models are supported"),
    ],
)
def test_damaged_directories(tmp_path: Path, damage: Damage, reason: str) -> None:
    start = write_theirs(tmp_path / "start")
    start = convert(start, tmp_path / "two", "hf", "hf", "--shard_gb", "0.0003")
    assert (start / SHARD).is_file()
    damage(start)
    for read in (
        lambda: convert(start, tmp_path / "out", "hf", "ours"),
        lambda: load_language_model(start),
    ):
        with pytest.raises(DataError, match=reason):
            read()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut("consolidated.01.pth"), r"consolidated\.01\.pth' cannot be read: it is cut short"),
        (
            lambda d: (d / "consolidated.01.pth").unlink(),
            r"'tok_embeddings\.weight' in '.*consolidated\.00\.pth' has shape \(32, 8\); "
            r"its config asks for \(.*\)",
        ),
        (lambda d: (d / "params.json").unlink(), r"no model of Meta's .* it has no params\.json"),
        (replace_text("params.json", '"n_heads": 4, ', ""), r"lacks 'n_heads'"),
        (
            replace_text("params.json", '"n_kv_heads": 2', '"n_kv_heads": 4'),
            r"'layers\.0\.attention\.wk\.weight' in .* has shape \(4, 16\); "
            r"its config asks for \(8, 16\)",
        ),
        (replace_text("params.json", '"n_heads": 4', '"n_heads": null'), r"lacks 'n_heads'"),
        (
            replace_text("params.json", '"multiple_of": 256', '"multiple_of": 0'),
            r"params\.json' is damaged: multiple_of is 0, not a whole number above 0; copy",
        ),
        (
            replace_text("params.json", '"vocab_size": -1', '"vocab_size": "32"'),
            r"params\.json' is damaged: vocab_size is '32', not a whole number",
        ),
        (
            replace_text("params.json", '"norm_eps": 1e-05', '"norm_eps": "1e-05"'),
            r"params\.json' is damaged: norm_eps is '1e-05', not a number above 0",
        ),
        (
            replace_text("params.json", '"n_heads": 4', '"n_heads": 3'),
            r"the model in '.*meta' cannot be used: dim \(16\) must be a multiple of num_heads",
        ),
        (
            replace_text("params.json", "}", ', "use_scaled_rope": true}'),
            "Llama 3.1 or later .* convert from the model's Hugging Face directory",
        ),
    ],
)
def test_damaged_files_of_meta(tmp_path: Path, damage: Damage, reason: str) -> None:
    meta = write_meta_files(tmp_path / "meta", embeddings_by_rows=False)
    damage(meta)
    with pytest.raises(DataError, match=reason):
        convert(meta, tmp_path / "out", "meta", "ours")


def test_a_vocabulary_that_ranks_cannot_share(tmp_path: Path) -> None:
    """Two would get 163 and 162 rows, and readers expect as many each."""
    start = write_theirs(tmp_path / "start", vocab_size=325)
    (start / "tokenizer.model").unlink()
    for shards in ("2", "4"):
        with pytest.raises(ConfigError, match=rf"shards is {shards}; .* the vocabulary of 325 ids"):
            convert(start, tmp_path / "meta", "hf", "meta", "--shards", shards)
    assert not (tmp_path / "meta").exists()
    meta = convert(start, tmp_path / "meta", "hf", "meta", "--shards", "1")
    check_equal(convert(meta, tmp_path / "back", "meta", "hf"), start)


def llama2c_with(content: Callable[[bytes], bytes], shared_data: Path, tmp_path: Path) -> Path:
    whole = (shared_data / "stories260K" / "stories260K.bin").read_bytes()
    path = tmp_path / "model.bin"
    path.write_bytes(content(whole))
    return path


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda b: b[:20], "is too short for a header of llama2.c"),
        (lambda b: b[:700_000], r"ends within 'model\.layers\.\d\.mlp\.\w+\.weight' \(\d+, \d+\)"),
        (lambda b: b + b"more", r"has 1056544 bytes, its header asks for 1056540"),
        (lambda b: b"24ka" + b[4:], "of a later format of llama2.c; export it with --version 0"),
        (lambda b: b"\0" * 28 + b[28:], "no legacy model of llama2.c: a size in its header is 0"),
    ],
)
def test_damaged_files_of_llama2c(
    shared_data: Path, tmp_path: Path, content: Callable[[bytes], bytes], reason: str
) -> None:
    path = llama2c_with(content, shared_data, tmp_path)
    with pytest.raises(DataError, match=reason):
        convert(path, tmp_path / "out", "llama2c", "ours")


class Malicious:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("plain", [False, True], ids=["torch.save", "pickle"])
@pytest.mark.parametrize("form", ["hf", "meta"])
def test_nothing_is_executed(tmp_path: Path, form: str, plain: bool) -> None:
    trace = tmp_path / "executed"
    state = {"model.norm.weight": Malicious(trace)}
    if form == "hf":
        source = write_theirs(tmp_path / "source")
        for file in source.glob("model*.safetensors*"):
            file.unlink()
        path = source / "pytorch_model.bin"
    else:
        source = write_meta_files(tmp_path / "source", embeddings_by_rows=False)
        path = source / "consolidated.00.pth"
    if plain:
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path)
    with pytest.raises(DataError, match=r"holds more than tensors|cannot be read"):
        convert(source, tmp_path / "out", form, "ours")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--from", "hf"], r"holds consolidated\.\*\.pth: a model of Meta's; use --from meta"),
        (["--from", "meta", "--to", "meta", "--shards", "3"], "shards is 3; it must divide the 2"),
        (["--from", "meta", "--out", "{here}"], "exists already; choose another place or remove"),
        (["--from", "gguf"], "--from"),
        ([], "--from"),
        (["--from", "meta", "--tokenizer", "{tiny}"], "has 352 pieces, the model 32 ids"),
        (["--from", "llama2c"], "is a directory; name the .bin file"),
    ],
)
def test_wrong_orders(tmp_path: Path, options: list[str], reason: str) -> None:
    meta = write_meta_files(tmp_path / "meta", embeddings_by_rows=False)
    tiny_tokenizer().save(tmp_path / "tokens")
    places = {"{here}": str(tmp_path), "{tiny}": str(tmp_path / "tokens")}
    words = [places.get(option, option) for option in options]
    with pytest.raises(UserError, match=reason):
        main([str(meta), "--out", str(tmp_path / "out"), *words])
