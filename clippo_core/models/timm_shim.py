"""Import timm (and so torchvision), also where torchvision's compiled operators cannot load.

    RuntimeError: operator torchvision::nms does not exist  ──▶  declare nms and qnms, import again

A package index may pair a CPU build of torch with a CUDA build of torchvision. The compiled part
then stays out, and torchvision's Python stumbles over operators that nobody declared. Declaring
their schemas is enough: nothing here (nor open_clip, in `benchmarks/`) calls them. A healthy pair
of wheels takes the first branch and nothing is declared. `torchvision.ops.nms` itself still
raises.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# Kept alive, because a torch.library.Library withdraws its operators when it is collected.
_libraries: list[object] = []


def load_torchvision() -> ModuleType:
    """torchvision, its two undeclared operators declared where its own binary could not be
    loaded.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    import torch

    if not _libraries:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS.values():
            library.define(schema)
        _libraries.append(library)
    return importlib.import_module("torchvision")


def load_timm() -> ModuleType:
    """timm, ready for `timm.layers` and `timm.models.vision_transformer`."""
    load_torchvision()
    import timm
    import timm.models.vision_transformer

    return timm
