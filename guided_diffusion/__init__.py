"""Defect-Gen: few-shot generation of defect images with aligned per-type masks, large and small network in turn."""

import importlib
from typing import Any

_HOMES = {
    "Config": "config",
    "DefectGen": "generation.api",
    "GaussianDiffusion": "diffusion.gaussian_diffusion",
    "GeneratedBatch": "generation.batch",
    "InputError": "errors",
    "Settings": "generation.settings",
    "UNet": "networks.unet",
    "create_model": "networks.unet",
    "load_config": "config_file",
    "train": "cli.train",
}
__all__ = sorted(_HOMES)
MAX_TYPES = 255  # an index mask is uint8
GOOD = "good"  # stands for "no defect", among type names and as the folder of images without a mask


def __getattr__(name: str) -> Any:
    """Import on first use: preparing data needs no torch, in each of its processes."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
