"""Importing torchvision beside a torch that it was not compiled for.

The registries' torchvision is compiled for the CUDA build of torch. Beside the CPU build its compiled part does not
load, and the Python part then fails at import with "operator torchvision::nms does not exist", though nothing that
we use of it (and that timm uses) calls a compiled operator. Declaring the operators is enough.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

_MISSING = ("torchvision::nms", "torchvision::qnms")  # those that its Python part looks up while it is imported
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision() -> ModuleType:
    """torchvision; where its compiled part is missing, with operators that are declared but cannot be called.

    Call it before importing timm, which imports torchvision. Raises ImportError where it is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if f"operator {_MISSING[0]} does not exist" not in str(error):
            raise
    for name in _MISSING:
        torch.library.define(name, _SCHEMA)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # what the failed import has left
    return importlib.import_module("torchvision")
