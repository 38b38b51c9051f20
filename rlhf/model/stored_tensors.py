"""The tensors of a model directory, found at once and read one by one.

A directory holds `model.safetensors`, or shards of it with an index, or the same as
`pytorch_model.bin`. Nothing in these files is ever executed: a .bin is a pickle, and torch's
`weights_only` reader takes tensors from it and refuses everything else.
"""

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from data.errors import DataError

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
"""Sharded, each has an index beside it: the name with `.index.json` behind."""
SAFETENSORS_DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
COMPUTED = ("rotary_emb.inv_freq", "rope.freqs")
"""Constants that older checkpoints carry along; they follow from the config."""


class StoredTensor(NamedTuple):
    """Where a tensor is, and what it is, before anybody has read it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    """The tensor itself; of a .safetensors file, pages are read when they are used."""


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """All tensors of a Hugging Face directory, but those that are computed.

    Raises:
        DataError: no weights there, or a file that is missing, cut short or no tensor file.
    """
    for name in SINGLE_FILES:
        index = directory / f"{name}.index.json"
        if index.is_file():
            return _of_index(index)
        if (directory / name).is_file():
            return tensors_of_file(directory / name)
    raise DataError(
        f"{str(directory)!r} holds no weights: none of {', '.join(SINGLE_FILES)} and their "
        "*.index.json is there; copy the model again"
    )


def tensors_of_file(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one .safetensors, .bin or .pth file.

    Raises:
        DataError: the file is cut short, or is something else.
    """
    if not path.is_file():
        raise DataError(f"{str(path)!r} is missing; copy the model again")
    found = _of_safetensors(path) if path.suffix == ".safetensors" else _of_pickle(path)
    return {name: tensor for name, tensor in found.items() if not name.endswith(COMPUTED)}


def check_shapes(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], place: Path
) -> None:
    """The same names with the same shapes.

    Raises:
        DataError: names the first tensor that is missing, of another shape, or too many.
    """
    for name, shape in expected.items():
        if name not in found:
            raise DataError(f"{str(place)!r} lacks the tensor {name!r} {shape}")
        if found[name] != shape:
            raise DataError(
                f"{name!r} in {str(place)!r} has shape {found[name]}; its config asks for {shape}"
            )
    unknown = sorted(set(found) - set(expected))
    if unknown:
        raise DataError(f"{str(place)!r} holds a tensor that no Llama has: {unknown[0]!r}")


def _of_index(index: Path) -> dict[str, StoredTensor]:
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = {
            name: tensors_of_file(index.parent / Path(name).name)  # beside the index, nowhere else
            for name in sorted(set(places.values()))
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{str(index)!r} is no index of weights; copy the model again") from error
    found = {}
    for name, file in places.items():
        if name.endswith(COMPUTED):
            continue
        if name not in files[file]:
            raise DataError(f"{str(index.parent / file)!r} lacks the tensor {name!r} of its index")
        found[name] = files[file][name]
    return found


def _of_safetensors(path: Path) -> dict[str, StoredTensor]:
    def read(name: str) -> Tensor:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name)

    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            kinds = {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"weights in {str(path)!r} cannot be read: {error}{_cut_tensor(path)}; "
            "copy the file again"
        ) from error
    return {
        name: StoredTensor(shape, _dtype(name, kind, path), lambda name=name: read(name))  # type: ignore[misc]
        for name, (shape, kind) in kinds.items()
    }


def _dtype(name: str, kind: str, path: Path) -> torch.dtype:
    if kind not in SAFETENSORS_DTYPES:
        raise DataError(
            f"{name!r} in {str(path)!r} is of type {kind}; "
            f"weights are {', '.join(SAFETENSORS_DTYPES)}"
        )
    return SAFETENSORS_DTYPES[kind]


def _cut_tensor(path: Path) -> str:
    """Which tensor of a file that was cut short is incomplete."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        start = file.read(min(size, 1 << 26))
    available = path.stat().st_size - 8 - size
    try:
        header: dict[str, Any] = json.loads(start)
        for name, entry in header.items():
            if name != "__metadata__" and entry["data_offsets"][1] > available:
                return f" (it ends within {name!r} {tuple(entry['shape'])})"
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        pass  # no header of safetensors: there is no more to say
    return ""


def _of_pickle(path: Path) -> dict[str, StoredTensor]:
    def read(name: str) -> Tensor:
        # Mapped anew for each tensor: pages of a mapping stay in memory as long as it lives.
        return _load_pickle(path)[name].clone()

    state = _load_pickle(path)
    for name, tensor in state.items():
        if tensor.dtype not in SAFETENSORS_DTYPES.values():
            raise DataError(f"{name!r} in {str(path)!r} is of type {tensor.dtype}, as no weight is")
    return {
        name: StoredTensor(tuple(tensor.shape), tensor.dtype, lambda name=name: read(name))  # type: ignore[misc]
        for name, tensor in state.items()
    }


def _load_pickle(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{str(path)!r} holds more than tensors, which may be code; it was not loaded: take "
            "the model's safetensors files, from a source that you trust"
        ) from error
    except Exception as error:  # on a damaged pickle torch raises whatever its reader runs into
        raise DataError(
            f"weights in {str(path)!r} cannot be read: it is cut short or not written by "
            "torch.save (1.6 or later); copy the file again"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        raise DataError(
            f"{str(path)!r} is no state dict: it holds something else than tensors by their names; "
            "take the model's safetensors files"
        )
    return state
