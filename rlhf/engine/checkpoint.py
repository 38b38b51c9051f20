"""What is stored of a training: one format for every engine, precision and number of ranks.

    rank-00000.safetensors      weight/NAME, exp_avg/NAME and exp_avg_sq/NAME, whole, in float32,
    rank-00001.safetensors      of every second parameter; metadata: the optimizer's step

Each rank writes the parameters that are its turn, and reads all files there are. So a run continues
on another number of workers, under another engine or ZeRO stage.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from data.errors import DataError
from rlhf.engine.distributed import Rank

STEP = "step"


class ParameterState(NamedTuple):
    """One parameter as the optimizer sees it: three float32 tensors of the parameter's shape."""

    weight: Tensor
    exp_avg: Tensor
    """AdamW's first moment."""
    exp_avg_sq: Tensor
    """AdamW's second moment."""


def write_states(
    directory: Path, states: Iterable[tuple[str, ParameterState]], step: int, rank: Rank
) -> None:
    """Writes this rank's turns.

    Args:
        directory: is made where it does not exist.
        states: of all parameters, in the same order on every rank; gathering one may need all
            ranks, so every rank goes through all of them.
        step: optimizer steps taken.
        rank: whose file this is.
    """
    directory.mkdir(parents=True, exist_ok=True)
    own = {
        f"{kind}/{name}": tensor.detach().cpu().contiguous()
        for index, (name, state) in enumerate(states)
        if index % rank.world_size == rank.index
        for kind, tensor in state._asdict().items()
    }
    path = directory / f"rank-{rank.index:05d}.safetensors"
    save_file(own, path, metadata={STEP: str(step)})


def read_states(
    directory: Path, shapes: dict[str, tuple[int, ...]]
) -> Iterator[tuple[str, ParameterState, int]]:
    """Name, state and optimizer step of every parameter, one at a time, in the order of `shapes`.

    Raises:
        DataError: a file is damaged, or holds another model.
    """
    files: dict[str, Any] = {}
    try:
        for path in sorted(directory.glob("rank-*.safetensors")):
            file = safe_open(path, framework="pt")
            files |= dict.fromkeys(file.keys(), file)
        for name, shape in shapes.items():
            keys = [f"{kind}/{name}" for kind in ParameterState._fields]
            state = ParameterState(*(files[key].get_tensor(key) for key in keys))
            if any(tuple(tensor.shape) != shape for tensor in state):
                raise DataError(
                    f"{name} has {list(shape)} weights, and {list(state.weight.shape)} in the "
                    f"checkpoint {str(directory)!r}; continue with the model that it was made of"
                )
            yield name, state, int(files[keys[0]].metadata()[STEP])
    except (SafetensorError, KeyError, OSError) as error:
        raise DataError(
            f"the checkpoint {str(directory)!r} is damaged ({error}); delete it to continue "
            "from the one before"
        ) from error
