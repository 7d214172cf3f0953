"""Defect-Gen: few-shot generation of defect images with aligned per-type masks, large and small network in turn."""

from .api import DefectGen, GeneratedBatch
from .config import Config
from .config_file import load_config
from .errors import InputError
from .gaussian_diffusion import GaussianDiffusion, create_diffusion
from .unet import UNet, create_model

__all__ = [
    "Config",
    "DefectGen",
    "GaussianDiffusion",
    "GeneratedBatch",
    "InputError",
    "UNet",
    "create_diffusion",
    "create_model",
    "load_config",
]
