"""A model on disk: a Hugging Face directory that AutoModel classes load as it is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from data.durable import (
    full_disk_is_told,
    removed_on_failure,
    replace_directory,
    temporary_of,
    write_durably,
)
from data.errors import DataError, UserError
from rlhf.model.config import Kind, ModelConfig, RopeScaling, check_entries
from rlhf.model.heads import LanguageModel, ScalarModel
from rlhf.model.rope import rope_frequencies
from rlhf.model.stored_tensors import check_shapes, stored_tensors

M = TypeVar("M", LanguageModel, ScalarModel)
CAUSAL_LM = "LlamaForCausalLM"
SEQUENCE_CLASSIFICATION = "LlamaForSequenceClassification"
EMBEDDING = "model.embed_tokens.weight"
REQUIRED_KEYS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
"""Of config.json; the others have defaults, as in transformers."""
KINDS: dict[str, Kind] = {
    **dict.fromkeys((*REQUIRED_KEYS, "num_key_value_heads"), "a whole number above 0"),
    **dict.fromkeys(("rms_norm_eps", "rope_theta"), "a number above 0"),
    "tie_word_embeddings": "true or false",
}
ROPE_KINDS: dict[str, Kind] = {
    **dict.fromkeys(
        ("rope_theta", "factor", "low_freq_factor", "high_freq_factor"), "a number above 0"
    ),
    "original_max_position_embeddings": "a whole number above 0",
}


def save_model(
    model: LanguageModel | ScalarModel,
    directory: Path,
    special_ids: dict[str, int],
    extra: dict[str, Any] | None = None,
    weights: dict[str, Tensor] | None = None,
    save_tokenizer: Callable[[Path], object] | None = None,
) -> None:
    """Writes config.json and model.safetensors; the directory is complete or absent.

    Args:
        model: gives the architecture, and the weights unless they come gathered.
        directory: must not exist, or is replaced.
        special_ids: bos_token_id, eos_token_id and pad_token_id.
        extra: further keys of config.json, such as a reward model's score statistics.
        weights: full state dict where the model itself is sharded.
        save_tokenizer: puts the tokenizer into the directory that it receives.

    Raises:
        OSError: the directory cannot be written; a full disk is ENOSPC.
    """
    state = model.state_dict() if weights is None else weights
    if model.config.tie_embeddings:
        state = {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    config = to_hf_config(model, special_ids) | (extra or {})
    temporary = temporary_of(directory)
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    with removed_on_failure(temporary), full_disk_is_told(directory.parent):
        temporary.mkdir(parents=True)
        save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        if save_tokenizer is not None:
            save_tokenizer(temporary)
        replace_directory(temporary, directory)


def load_language_model(directory: Path) -> LanguageModel:
    """A causal language model, in float32 whatever the type of its files.

    Raises:
        DataError: no model there, another architecture, or weights that do not fit.
    """
    return _load(directory, LanguageModel, CAUSAL_LM)


def load_scalar_model(directory: Path) -> ScalarModel:
    """A reward model with one label, in float32 whatever the type of its files.

    Raises:
        DataError: no model there, another architecture, or weights that do not fit.
    """
    return _load(directory, ScalarModel, SEQUENCE_CLASSIFICATION)


def read_hf_config(directory: Path) -> dict[str, Any]:
    """config.json of a model directory.

    Raises:
        DataError: no such file, not a JSON object, or architectures that are no list.
    """
    path = directory / "config.json"
    if not path.is_file():
        inside = directory / "model"
        remedy = f"give {str(inside)!r}" if (inside / path.name).is_file() else "check the path"
        raise DataError(f"no model at {str(directory)!r}: it has no config.json; {remedy}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text at all
        raise DataError(f"{str(path)!r} is not JSON: {error}; copy the model again") from error
    if not isinstance(config, dict):
        raise DataError(f"{str(path)!r} holds no JSON object; copy the model again")
    architectures = config.get("architectures")
    if not isinstance(architectures, list | None):
        raise DataError(
            f"{str(path)!r} is damaged: architectures is {architectures!r}, not a list; "
            "copy it again from the model's source"
        )
    return config


def to_hf_config(model: LanguageModel | ScalarModel, special_ids: dict[str, int]) -> dict[str, Any]:
    """Our config in the words of transformers' LlamaConfig.

    It says everything of rotary positions twice: version 4 knows no `rope_parameters`, and would
    take a base of 10,000 and no scaling without a word.
    """
    config = model.config
    scalar = isinstance(model, ScalarModel)
    return {
        "architectures": [SEQUENCE_CLASSIFICATION if scalar else CAUSAL_LM],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "intermediate_size": config.ffn_dim,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_base,
        "rope_parameters": _rope_parameters(config),
        **_rope_scaling_of_version_4(config),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": "float32",
        **special_ids,
        **({"num_labels": 1} if scalar else {}),
    }


def from_hf_config(raw: dict[str, Any]) -> ModelConfig:
    """The inverse of `to_hf_config`; null is as good as absent.

    Raises:
        DataError: a model that is not a plain Llama, or a key that is missing or damaged.
        ConfigError: sizes that do not fit together.
    """
    raw = {key: value for key, value in raw.items() if value is not None}
    if raw.get("model_type") != "llama":
        raise DataError(f"model_type is {raw.get('model_type')!r}; only Llama models are supported")
    if raw.get("hidden_act", "silu") != "silu":
        raise DataError(f"hidden_act is {raw['hidden_act']!r}; Llama's is 'silu'")
    for key in ("attention_bias", "mlp_bias"):
        if raw.get(key):
            raise DataError(f"{key} is {raw[key]!r}; Llama has no biases")
    missing = [key for key in REQUIRED_KEYS if key not in raw]
    if missing:
        raise DataError(f"config.json lacks {missing[0]!r}; copy it again from the model's source")
    check_entries(raw, KINDS, "config.json")
    rope = _rope_entries(raw)
    config = ModelConfig(
        vocab_size=raw["vocab_size"],
        dim=raw["hidden_size"],
        num_layers=raw["num_hidden_layers"],
        num_heads=raw["num_attention_heads"],
        num_kv_heads=raw.get("num_key_value_heads", raw["num_attention_heads"]),
        ffn_dim=raw["intermediate_size"],
        context=raw["max_position_embeddings"],
        norm_eps=raw.get("rms_norm_eps", 1e-6),
        rope_base=rope.get("rope_theta", raw.get("rope_theta", 10_000.0)),
        rope_scaling=_rope_scaling(rope),
        tie_embeddings=raw.get("tie_word_embeddings", False),
    )
    if (raw.get("head_dim") or config.head_dim) != config.head_dim:
        raise DataError(f"head_dim is {raw['head_dim']}; Llama's is width / heads")
    return config


def _rope_parameters(config: ModelConfig) -> dict[str, Any]:
    base: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_base}
    scaling = config.rope_scaling
    if scaling is None:
        return base
    base |= {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        base |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    return base


def _rope_scaling_of_version_4(config: ModelConfig) -> dict[str, Any]:
    """Nothing where there is no scaling."""
    match config.rope_scaling:
        case None:
            return {}
        case RopeScaling(kind="linear", factor=factor):
            # Before 4.43 the kind was "type", with no third entry; all later ones read that too.
            return {"rope_scaling": {"type": "linear", "factor": factor}}
    entries = _rope_parameters(config)
    del entries["rope_theta"]  # has a place of its own
    return {"rope_scaling": entries}


def _rope_entries(raw: dict[str, Any]) -> dict[str, Any]:
    """What a config says of rotary positions; as in transformers `rope_scaling` goes first."""
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise DataError(
            f"config.json is damaged: its rotary embedding is {rope!r}, not a JSON object; "
            "copy it again from the model's source"
        )
    rope = {key: value for key, value in rope.items() if value is not None}
    check_entries(rope, ROPE_KINDS, "config.json")
    return rope


def _rope_scaling(rope: dict[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    try:
        match kind:
            case "default":
                return None
            case "linear":
                return RopeScaling(kind="linear", factor=rope["factor"])
            case "llama3":
                return RopeScaling(
                    kind="llama3",
                    factor=rope["factor"],
                    low_freq_factor=rope["low_freq_factor"],
                    high_freq_factor=rope["high_freq_factor"],
                    original_context=rope["original_max_position_embeddings"],
                )
    except KeyError as error:
        raise DataError(f"the {kind!r} rotary embedding of config.json lacks {error}") from error
    raise DataError(
        f"rope_type is {kind!r}; supported are 'default', 'linear' and 'llama3', because others "
        "change with the length of the text or scale the attention"
    )


def _load(directory: Path, model_type: type[M], architecture: str) -> M:
    raw = read_hf_config(directory)
    found = (raw.get("architectures") or ["unknown"])[0]
    if found != architecture:
        raise DataError(f"{str(directory)!r} holds a {found}; a {architecture} is needed here")
    try:
        config = from_hf_config(raw)
    except UserError as error:
        raise DataError(f"the model in {str(directory)!r} cannot be used: {error}") from error
    found = stored_tensors(directory)
    with torch.device("meta"):
        model = model_type(config)
    if config.tie_embeddings and isinstance(model, LanguageModel):
        found.pop("lm_head.weight", None)
    check_shapes(
        {name: tensor.shape for name, tensor in found.items()},
        stored_shapes(model),
        directory,
    )
    state = {name: tensor.read().float() for name, tensor in found.items()}
    if config.tie_embeddings and isinstance(model, LanguageModel):
        state["lm_head.weight"] = state[EMBEDDING]
    model.load_state_dict(state, assign=True)
    _restore_after_meta(model)
    return model


def stored_shapes(model: LanguageModel | ScalarModel) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a file of this model holds."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if model.config.tie_embeddings:
        shapes.pop("lm_head.weight", None)
    return shapes


def _restore_after_meta(model: LanguageModel | ScalarModel) -> None:
    """What a state dict does not carry: tied weights and rotary frequencies."""
    config = model.config
    model.model.frequencies = rope_frequencies(
        config.head_dim, config.rope_base, config.rope_scaling
    )
    if config.tie_embeddings and isinstance(model, LanguageModel):
        model.lm_head.weight = model.model.embed_tokens.weight


def update_hf_config(directory: Path, extra: dict[str, Any]) -> None:
    """Adds keys to a model's config.json."""
    config = read_hf_config(directory) | extra
    write_durably(directory / "config.json", (json.dumps(config, indent=2) + "\n").encode())
