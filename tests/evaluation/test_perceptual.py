"""Perceptual distance and diversity: against the formula, by pairs, and with planted copies."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from random_extractor import random_extractor

from guided_diffusion.evaluation import perceptual
from guided_diffusion.evaluation.features import Extractor
from guided_diffusion.evaluation.perceptual import cluster_diversity, distances, diversity, embed, within_memory


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return random_extractor()


def by_loops(extractor: Extractor, one: np.ndarray, other: np.ndarray) -> float:
    """Equation 1 of Zhang et al. 2018 with unit weights, place by place."""
    total = 0.0
    for a, b in zip(extractor.layers(one[None]), extractor.layers(other[None]), strict=True):
        a, b = a[0].double(), b[0].double()
        a, b = (z / z.norm(dim=0).clamp(min=1e-12) for z in (a, b))  # a place may hold nothing but zeros
        places = [float(((a[:, i, j] - b[:, i, j]) ** 2).sum()) for i in range(a.shape[1]) for j in range(a.shape[2])]
        total += float(np.mean(places))
    return total


def test_the_distance_is_its_formula(extractor: Extractor) -> None:
    images = rng().integers(0, 256, (3, 20, 24, 3), np.uint8)
    embedded = embed(extractor, images, batch_size=2)
    ours = distances(embedded, embedded)
    np.testing.assert_allclose(ours[0, 1], by_loops(extractor, images[0], images[1]), rtol=1e-4)
    np.testing.assert_allclose(ours[2, 1], by_loops(extractor, images[2], images[1]), rtol=1e-4)
    np.testing.assert_allclose(np.diagonal(ours), 0, atol=1e-5)
    np.testing.assert_allclose(embed(extractor, images), embedded, atol=1e-6)


def test_it_grows_with_noise_and_blur(extractor: Extractor) -> None:
    y, x = np.mgrid[:48, :48]
    image = np.repeat(((np.hypot(y - 24, x - 20) < 11) * 160 + 40)[..., None], 3, axis=2).astype(np.float64)
    noise = rng().normal(size=image.shape)
    noisy = [np.clip(image + strength * noise, 0, 255) for strength in (0, 10, 40)]
    blurred, soft = [], image
    for _ in range(2):
        for _ in range(4):
            soft = sum(np.roll(soft, shift, axis) for axis in (0, 1) for shift in (-1, 0, 1)) / 6
        blurred.append(soft)
    d = distances(*(embed(extractor, np.stack(images).astype(np.uint8)) for images in ([image], noisy + blurred)))[0]
    assert d[0] < 1e-5 < d[1] < d[2] and 1e-5 < d[3] < d[4]


def test_diversity_is_the_mean_over_pairs() -> None:
    embedded = rng().normal(size=(9, 30)).astype(np.float32)
    expected = np.mean([((a - b) ** 2).sum() for a, b in combinations(embedded.astype(np.float64), 2)])
    result = diversity(embedded)
    assert result["value"] == pytest.approx(expected, rel=1e-5)
    assert result["interval"][0] < expected < result["interval"][1] and result == diversity(embedded)
    assert diversity(embedded, ["a"] * 9)["interval"] is None and diversity(embedded[:1]) is None
    repeated = diversity(np.repeat(embedded, 3, axis=0))
    assert repeated["value"] < result["value"]


def test_its_interval_has_the_spread_of_true_new_draws() -> None:
    """Images in groups that look alike count as groups."""
    draws = rng(2)

    def images() -> np.ndarray:
        sizes = draws.gamma(2, size=(15, 1))  # some far out, some not: pairs differ
        return np.repeat(sizes * draws.normal(size=(15, 6)), 3, axis=0) + 0.05 * draws.normal(size=(45, 6))

    groups = np.arange(45) // 3
    true = np.std([diversity(images(), ["a"] * 45)["value"] for _ in range(300)])
    widths = [high - low for low, high in (diversity(images(), groups)["interval"] for _ in range(30))]
    assert np.mean(widths) == pytest.approx(3.92 * true, rel=0.25)


def test_clusters_are_those_of_the_nearest_training_image() -> None:
    """Two windows show the first training image; the third has one sample, so no pairs; the fourth none."""
    train = np.array([[0, 0], [0, 10], [50, 0], [90, 0], [0, 90]], np.float32)
    sources = ["a", "a", "b", "c", "d"]
    samples = np.array([[1, 0], [0, 9], [-1, 0], [51, 0], [53, 0], [91, 0]], np.float32)
    result = cluster_diversity(samples, train, sources)
    a = np.mean([1 + 81, 4, 1 + 81])  # squared distances
    assert result["value"] == pytest.approx((a + 4) / 2)
    assert (result["clusters"], result["of"], result["largest"]) == (2, 4, 0.5)
    assert result["interval"][0] <= result["value"] <= result["interval"][1]
    assert cluster_diversity(samples[[0, 3, 5]], train, sources) is None
    assert cluster_diversity(samples, train, sources, ["x"] * 6)["interval"] is None


def test_clusters_expose_a_generator_of_near_copies() -> None:
    """Alike in diversity, not within clusters."""
    train = rng().normal(size=(5, 40)).astype(np.float32)
    copies = np.repeat(train, 8, axis=0) + 0.01 * rng(1).normal(size=(40, 40)).astype(np.float32)
    varied = np.repeat(train, 8, axis=0) * 0.6 + 0.8 * rng(2).normal(size=(40, 40)).astype(np.float32)
    assert diversity(copies)["value"] > 0.6 * diversity(varied)["value"]
    within = [cluster_diversity(samples, train, range(5)) for samples in (copies, varied)]
    assert within[0]["interval"][1] < 0.01 * within[1]["interval"][0]


def test_many_images_are_drawn_by_key_within_memory(extractor: Extractor, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((30, 16, 16, 3), np.uint8)
    assert list(within_memory(extractor, images, 0)) == list(range(30))
    monkeypatch.setattr(perceptual, "MEMORY", 12 * embed(extractor, images[:1]).nbytes)
    chosen = within_memory(extractor, images, 0)
    assert len(set(chosen)) == 12 and sorted(chosen) == list(chosen) == list(within_memory(extractor, images, 0))
    assert list(chosen) != list(within_memory(extractor, images, 1))
