"""How many bytes tensors take, and took at most: every allocation that torch dispatches."""

import gc
import warnings
import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts what is allocated inside the block; a storage that many tensors share counts once.

    Example:
        with LiveBytes() as memory:
            work()
        memory.now, memory.peak
    """

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}
        self._before: list[Tensor] = []
        self.now = self.peak = 0

    def __enter__(self) -> "LiveBytes":
        gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that torch is about to rename
            # kept, so that no storage of theirs is freed and its number given to another
            self._before = [thing for thing in gc.get_objects() if isinstance(thing, Tensor)]
        for tensor in self._before:
            self._see(tensor)
        self.now = self.peak = 0
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return result

    def since(self) -> int:
        """The most since the last call, or since the beginning; the count begins anew."""
        peak, self.peak = self.peak, self.now
        return peak

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes and tensor.device.type != "meta":
            self._sizes[key] = size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)
