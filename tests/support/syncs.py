"""Counts where a program asks a tensor for its content: on a GPU each such place stops the host
until all that is queued is done. Counted on a CPU, where it costs nothing and happens all the same.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

METHODS = (
    "item",
    "tolist",
    "numpy",
    "cpu",
    "__bool__",
    "__float__",
    "__int__",
    "__index__",
    "__array__",
    "__contains__",
)
OPERATORS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"}
ONES_OWN = "clippo_core/"


class Syncs(TorchDispatchMode):
    """Within it: `places`, "file in function" -> how often. The file is ours where one of ours asks
    without another package in between, else the package's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()
        self._inside = False

    def __enter__(self) -> Syncs:
        self._before = {name: getattr(torch.Tensor, name) for name in METHODS}
        for name, method in self._before.items():
            setattr(torch.Tensor, name, self._counting(method))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for name, method in self._before.items():
            setattr(torch.Tensor, name, method)

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None):
        name = operator.overloadpacket.__name__
        by_mask = name in ("index", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in OPERATORS or by_mask:
            self._count()
        return operator(*args, **(kwargs or {}))

    def _counting(self, method: Any) -> Any:
        def counting(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self._count()
            outermost, self._inside = not self._inside, True
            try:
                return method(tensor, *args, **kwargs)
            finally:
                self._inside = not outermost

        return counting

    def _count(self) -> None:
        if self._inside:
            return  # item() of float(), say
        frame = sys._getframe(2)
        while frame.f_back is not None:
            path = frame.f_code.co_filename
            if ONES_OWN in path or "/deepspeed/" in path:
                break
            frame = frame.f_back
        package = "deepspeed/" if "/deepspeed/" in frame.f_code.co_filename else ONES_OWN
        file = frame.f_code.co_filename.rpartition(package)[2]
        self.places[f"{package}{file} in {frame.f_code.co_name}"] += 1
