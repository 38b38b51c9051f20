"""The format of checkpoints: any number of ranks write it, any reads it; damage is told."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

from data.errors import DataError
from rlhf.engine.checkpoint import ParameterState, read_states, write_states
from rlhf.engine.distributed import Rank

SHAPES = {"a": (2, 3), "b": (4,), "c": (1, 1)}


def states() -> dict[str, ParameterState]:
    """Weights 0, 1, 2, …; moments a hundred and two hundred more."""
    found, start = {}, 0
    for name, shape in SHAPES.items():
        size = torch.Size(shape).numel()
        weight = torch.arange(start, start + size, dtype=torch.float32).reshape(shape)
        found[name] = ParameterState(weight, weight + 100, weight + 200)
        start += size
    return found


def write(directory: Path, world_size: int) -> None:
    for index in range(world_size):
        rank = Rank(index=index, world_size=world_size)
        write_states(directory, states().items(), 7, rank)


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_what_any_number_of_ranks_wrote_is_read(tmp_path: Path, world_size: int) -> None:
    write(tmp_path / "new", world_size)
    found = list(read_states(tmp_path / "new", SHAPES))
    assert [(name, step) for name, _, step in found] == [("a", 7), ("b", 7), ("c", 7)]
    for name, state, _ in found:
        assert_close(tuple(state), tuple(states()[name]), atol=0, rtol=0)


def test_ranks_take_turns(tmp_path: Path) -> None:
    write(tmp_path, 2)
    names = []
    for rank in range(2):
        with safe_open(tmp_path / f"rank-0000{rank}.safetensors", framework="pt") as file:
            names.append({key for key in file.keys() if key.startswith("weight/")})  # noqa: SIM118
    assert names == [{"weight/a", "weight/c"}, {"weight/b"}]


def test_a_file_that_is_missing_or_torn(tmp_path: Path) -> None:
    write(tmp_path, 2)
    path = tmp_path / "rank-00001.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(
        DataError, match=r"is damaged .*; delete it to continue from the one before"
    ):
        list(read_states(tmp_path, SHAPES))
    path.unlink()
    with pytest.raises(DataError, match=r"is damaged \('weight/b'\)"):
        list(read_states(tmp_path, SHAPES))


def test_the_checkpoint_of_another_model(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with pytest.raises(DataError, match=r"b has \[5\] weights, and \[4\] in the checkpoint"):
        list(read_states(tmp_path, SHAPES | {"b": (5,)}))
