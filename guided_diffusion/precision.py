"""In which precision networks compute."""

from __future__ import annotations

import torch
from torch import nn


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which networks run. precision: "fp32", or "bf16": products in bfloat16, sums in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def exact_float32() -> None:
    """Make fp32 mean IEEE float32 on GPUs as well: by default PyTorch lets convolutions round to TF32's 10 bits."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def cast_weights(model: nn.Module) -> None:
    """Keep the weights of convolutions and linear layers in bfloat16, for a network that only generates.

    Autocast would cast them anew at every step; the result is the same.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            module.to(torch.bfloat16)
