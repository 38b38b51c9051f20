"""Model directories: complete or absent, and clear words where they are neither."""

import errno
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from data import durable
from data.errors import DataError
from rlhf.model import weights
from rlhf.model.config import RopeScaling
from rlhf.model.weights import (
    from_hf_config,
    load_language_model,
    load_scalar_model,
    read_hf_config,
    save_model,
    to_hf_config,
    update_hf_config,
)
from tests.tiny_models import SMALL, random_tokens, small_language_model, small_scalar_model

SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_model(small_language_model(), tmp_path / "model", SPECIAL)
    return tmp_path / "model"


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_a_language_model_comes_back(tmp_path: Path, tied: bool) -> None:
    model = small_language_model(tie_embeddings=tied)
    save_model(model, tmp_path / "model", SPECIAL)
    loaded = load_language_model(tmp_path / "model")
    assert loaded.config == model.config
    assert_close(loaded.state_dict(), model.state_dict(), atol=0, rtol=0)
    tokens = random_tokens(2, 9)
    assert torch.equal(loaded.model(tokens), model.model(tokens))  # the rotary frequencies too
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) is tied
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert ("lm_head.weight" in stored) is not tied  # once is enough


@torch.no_grad()
def test_a_scalar_model_comes_back(tmp_path: Path) -> None:
    model = small_scalar_model(tie_embeddings=True)
    save_model(model, tmp_path / "model", SPECIAL, extra={"score_mean": 1.5})
    loaded = load_scalar_model(tmp_path / "model")
    for (_, read), (_, written) in zip(
        loaded.named_parameters(), model.named_parameters(), strict=True
    ):
        assert torch.equal(read, written)
    tokens = random_tokens(2, 9)
    # Not bit for bit: where weights lie in memory decides how oneDNN adds up.
    assert_close(loaded(tokens), model(tokens), rtol=0, atol=1e-6)
    assert read_hf_config(tmp_path / "model")["score_mean"] == 1.5


def test_gathered_weights_are_written_in_place_of_the_models(tmp_path: Path) -> None:
    other = small_language_model(seed=7).state_dict()
    save_model(small_language_model(), tmp_path / "model", SPECIAL, weights=other)
    assert_close(load_language_model(tmp_path / "model").state_dict(), other, atol=0, rtol=0)


def test_loaded_weights_can_be_trained(directory: Path) -> None:
    model = load_language_model(directory)
    assert all(p.requires_grad and not p.is_meta for p in model.parameters())
    assert not any(buffer.is_meta for buffer in model.buffers())


SCALINGS = [
    None,
    RopeScaling(kind="linear", factor=2.0),
    RopeScaling(kind="llama3", factor=8.0, low_freq_factor=2.0, original_context=64),
]


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_config_goes_there_and_back(scaling: RopeScaling | None) -> None:
    raw = to_hf_config(small_language_model(rope_scaling=scaling), SPECIAL)
    assert from_hf_config(raw) == replace(SMALL, rope_scaling=scaling)
    assert (raw["bos_token_id"], raw["eos_token_id"], raw["pad_token_id"]) == (1, 2, 0)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_version_4_of_transformers_finds_the_rotary_embedding(scaling: RopeScaling | None) -> None:
    """It knows two keys, and takes 10,000 where `rope_theta` is missing."""
    raw = to_hf_config(small_language_model(rope_scaling=scaling), SPECIAL)
    del raw["rope_parameters"]
    assert raw["rope_theta"] == SMALL.rope_base
    # As LlamaConfig of 4.31 wants it, and as Llama 3.1 was published.
    expected = {
        None: None,
        "linear": {"type": "linear", "factor": 2.0},
        "llama3": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 2.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    }
    assert raw.get("rope_scaling") == expected[scaling and scaling.kind]
    assert from_hf_config(raw) == replace(SMALL, rope_scaling=scaling)


def test_of_two_scalings_the_one_counts_that_transformers_takes() -> None:
    raw = to_hf_config(small_language_model(), SPECIAL)
    both = from_hf_config(raw | {"rope_scaling": {"type": "linear", "factor": 4.0}})
    assert both.rope_scaling == RopeScaling(kind="linear", factor=4.0)
    assert both.rope_base == SMALL.rope_base


def test_null_is_as_good_as_absent() -> None:
    raw = to_hf_config(small_language_model(num_kv_heads=6), SPECIAL)
    raw |= {"num_key_value_heads": None, "tie_word_embeddings": None, "rope_scaling": None}
    raw["rope_parameters"]["factor"] = None
    assert from_hf_config(raw) == replace(SMALL, num_kv_heads=6)
    with pytest.raises(DataError, match=r"config\.json lacks 'hidden_size'"):
        from_hf_config(raw | {"hidden_size": None})


WHOLE = "not a whole number above 0"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_attention_heads": 0}, f"num_attention_heads is 0, {WHOLE}"),
        ({"num_key_value_heads": 0}, f"num_key_value_heads is 0, {WHOLE}"),
        ({"hidden_size": "64"}, f"hidden_size is '64', {WHOLE}"),
        ({"vocab_size": [61]}, rf"vocab_size is \[61\], {WHOLE}"),
        ({"num_hidden_layers": 2.0}, f"num_hidden_layers is 2.0, {WHOLE}"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps is '1e-6', not a number above 0"),
        ({"rope_theta": float("nan")}, "rope_theta is nan, not a number above 0"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false', not true or false"),
        ({"rope_scaling": [8.0]}, r"its rotary embedding is \[8.0\], not a JSON object"),
        ({"rope_scaling": {"type": "linear", "factor": "8"}}, "factor is '8', not a number above"),
        ({"architectures": {"0": "LlamaForCausalLM"}}, r"architectures is \{.*\}, not a list"),
    ],
)
def test_entries_that_are_damaged(directory: Path, changes: dict[str, Any], reason: str) -> None:
    update_hf_config(directory, changes)
    with pytest.raises(
        DataError, match=rf"{directory}.*config\.json.* is damaged: {reason}.*; copy"
    ):
        load_language_model(directory)


def test_configs_of_older_programs() -> None:
    raw = to_hf_config(small_language_model(), SPECIAL)
    for key in ("rope_parameters", "rope_theta", "num_key_value_heads", "tie_word_embeddings"):
        del raw[key]
    old = from_hf_config(raw | {"rope_theta": 1234.0})
    assert old.rope_base == 1234.0
    assert old.num_kv_heads == old.num_heads == 6
    assert not old.tie_embeddings
    assert from_hf_config(raw).rope_base == 10_000.0
    longer = from_hf_config(raw | {"rope_scaling": {"type": "linear", "factor": 4.0}})
    assert longer.rope_scaling == RopeScaling(kind="linear", factor=4.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "qwen2"}, "model_type is 'qwen2'; only Llama models are supported"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 8.0}}, "rope_type is 'yarn'; supp"),
        (
            {"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 4.0}},
            "rope_type is 'dynamic'; supported are 'default', 'linear' and 'llama3'",
        ),
        (
            {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
            "the 'llama3' rotary embedding of config.json lacks 'low_freq_factor'",
        ),
        ({"head_dim": 8}, "head_dim is 8; Llama's is width / heads"),
        ({"attention_bias": True}, "attention_bias is True; Llama has no biases"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; Llama's is 'silu'"),
    ],
)
def test_what_is_no_plain_llama(changes: dict[str, Any], reason: str) -> None:
    """Each of these would load and give wrong logits without a word."""
    raw = to_hf_config(small_language_model(), SPECIAL) | changes
    with pytest.raises(DataError, match=reason):
        from_hf_config(raw)


def test_the_other_architecture(directory: Path) -> None:
    with pytest.raises(
        DataError, match="holds a LlamaForCausalLM; a LlamaForSequenceClassification is needed here"
    ):
        load_scalar_model(directory)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no model at .*: it has no config\.json; check the path"):
        load_language_model(tmp_path)


def test_a_run_in_place_of_its_model(directory: Path) -> None:
    with pytest.raises(DataError, match=rf"it has no config\.json; give '{directory}'$"):
        load_language_model(directory.parent)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"model_type": "lla', r"config\.json' is not JSON: .*; copy the model again"),
        (b'{"model_type": "ll\xff"}', r"config\.json' is not JSON: .*; copy the model again"),
        (b"[]", r"config\.json' holds no JSON object; copy the model again"),
    ],
)
def test_a_torn_config(directory: Path, content: bytes, reason: str) -> None:
    (directory / "config.json").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        load_language_model(directory)


@pytest.mark.parametrize("key", weights.REQUIRED_KEYS)
def test_a_config_that_lacks_a_key(directory: Path, key: str) -> None:
    config = read_hf_config(directory)
    del config[key]
    (directory / "config.json").write_text(json.dumps(config))
    reason = rf"the model in '{directory}' cannot be used: config\.json lacks '{key}'"
    with pytest.raises(DataError, match=reason):
        load_language_model(directory)


def test_weights_that_are_missing(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"holds no weights: none of model\.safetensors, pytorch"):
        load_language_model(directory)


@pytest.mark.parametrize(
    ("keep", "reason"),
    [(0.5, r"\(it ends within 'model\.layers\..*' \(\d+, \d+\)\)"), (0.001, "copy the file")],
)
def test_weights_that_are_cut_short(directory: Path, keep: float, reason: str) -> None:
    path = directory / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(DataError, match=rf"weights in .* cannot be read: .*{reason}"):
        load_language_model(directory)


@pytest.mark.parametrize(
    "header", [b"[1]", b'{"a":{}}', b'{"a":{"data_offsets":"12"}}', b"[" * 9999]
)
def test_weights_with_another_header(directory: Path, header: bytes) -> None:
    content = len(header).to_bytes(8, "little") + header
    (directory / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors' cannot be read: .*; copy the file"):
        load_language_model(directory)


PICKLES = {
    "KeyError": b"h\x05.",  # gets what nobody put
    "IndexError": b"a.",  # appends to nothing
    "TypeError": b"}]Ns.",  # a list as a key
    "AssertionError": b"K\x01Q.",  # the place of no tensor
    "struct.error": b"J\x01",  # ends within a number
}


@pytest.mark.parametrize("program", PICKLES.values(), ids=PICKLES)
def test_pickles_that_are_damaged(directory: Path, program: bytes) -> None:
    """Torch tells of the file's end by the error that its reader ran into."""
    (directory / "model.safetensors").unlink()
    path = directory / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02" + program)
        file.writestr("archive/version", b"3\n")
    with pytest.raises(DataError, match=r"pytorch_model\.bin' (cannot be read|holds more than)"):
        load_language_model(directory)


@pytest.mark.parametrize("state", [{0: torch.ones(2)}, {"a": 1}, [torch.ones(2)]], ids=repr)
def test_what_is_no_state_dict(directory: Path, state: object) -> None:
    (directory / "model.safetensors").unlink()
    torch.save(state, directory / "pytorch_model.bin")
    reason = r"pytorch_model\.bin' is no state dict: it holds something else than tensors by their"
    with pytest.raises(DataError, match=reason):
        load_language_model(directory)


def test_weights_that_do_not_fit(directory: Path) -> None:
    path = directory / "model.safetensors"
    state = load_file(path)
    norm = state.pop("model.norm.weight")
    save_file(state, path)
    with pytest.raises(DataError, match=r"lacks the tensor 'model\.norm\.weight' \(24,\)"):
        load_language_model(directory)
    save_file(state | {"model.norm.weight": norm[:7].clone()}, path)
    with pytest.raises(DataError, match=r"has shape \(7,\); its config asks for \(24,\)"):
        load_language_model(directory)
    without = {name: tensor for name, tensor in state.items() if "embed_tokens" not in name}
    save_file(without | {"model.norm.weight": norm}, path)
    config = read_hf_config(directory)
    for tied in (False, True):
        update_hf_config(directory, {"tie_word_embeddings": tied})
        with pytest.raises(DataError, match=r"lacks the tensor 'model\.embed_tokens\.weight'"):
            load_language_model(directory)
    update_hf_config(directory, config)
    save_file(state | {"model.norm.weight": norm, "model.bias": norm.clone()}, path)
    with pytest.raises(DataError, match=r"holds a tensor that no Llama has: 'model\.bias'"):
        load_language_model(directory)


def test_a_crash_while_writing_leaves_the_old_model(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "save_file", crash)
    with pytest.raises(KeyboardInterrupt):
        save_model(small_language_model(seed=1), directory, SPECIAL)
    expected = small_language_model().state_dict()
    assert_close(load_language_model(directory).state_dict(), expected, atol=0, rtol=0)
    with pytest.raises(KeyboardInterrupt):
        save_model(small_language_model(seed=1), directory.with_name("new"), SPECIAL)
    assert [path.name for path in directory.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("written", ["weights", "tokenizer"])
def test_a_full_disk_while_writing(
    directory: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    if written == "weights":
        monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        save_model(small_language_model(seed=1), directory, SPECIAL, save_tokenizer=full)
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in directory.parent.iterdir()] == ["model"]
    expected = small_language_model().state_dict()
    assert_close(load_language_model(directory).state_dict(), expected, atol=0, rtol=0)


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path: Path) -> None:
    left = durable.temporary_of(tmp_path / "model")
    left.mkdir()
    (left / "half.safetensors").touch()
    save_model(
        small_language_model(),
        tmp_path / "model",
        SPECIAL,
        save_tokenizer=lambda place: (place / "tokenizer.model").touch(),
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert names == ["config.json", "model.safetensors", "tokenizer.model"]


def test_a_model_is_replaced_as_a_whole(directory: Path) -> None:
    (directory / "left over.txt").write_text("of the old one")
    save_model(small_language_model(seed=1), directory, SPECIAL)
    assert sorted(p.name for p in directory.iterdir()) == ["config.json", "model.safetensors"]
    assert [p.name for p in directory.parent.iterdir()] == ["model"]


def test_keys_are_added_to_the_config(directory: Path) -> None:
    before = read_hf_config(directory)
    update_hf_config(directory, {"score_std": 2.0})
    assert read_hf_config(directory) == before | {"score_std": 2.0}
    assert json.loads((directory / "config.json").read_text())["score_std"] == 2.0
