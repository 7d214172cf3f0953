"""KID, FID, neighbourhoods, perceptual distances: against definitions, other implementations and known answers."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from drawn_boxes import draw, image_set
from random_extractor import random_extractor
from scipy import linalg

from guided_diffusion.evaluation import fidelity
from guided_diffusion.evaluation.bootstrap import Resampling
from guided_diffusion.evaluation.features import Extractor, import_torchvision
from guided_diffusion.evaluation.fidelity import (
    MEASURES,
    Seen,
    distances,
    diversity,
    embed,
    fid,
    kid,
    kid_resampled,
    measure_fidelity,
    neighbourhoods,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def one_by_one(resamples: Resampling, row: int) -> list[tuple[int, int, int]]:
    """A resample written out: (image, unit, number of the unit's copy) for every image in it."""
    counts = resamples.counts[row].astype(int)
    return [(i, unit, copy) for i, unit in enumerate(resamples.unit) for copy in range(counts[unit])]


def kid_by_loops(x: np.ndarray, y: np.ndarray, in_x: list, in_y: list) -> float:
    """The estimate by its definition, pair by pair; copies of one unit are not compared with each other."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (sum(float(p) * float(q) for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    def mean_of_pairs(z: np.ndarray, drawn: list) -> float:
        values = [
            k(z[i], z[j])
            for i, unit, copy in drawn
            for j, other_unit, other_copy in drawn
            if unit != other_unit or (copy == other_copy and i != j)
        ]
        return float(np.mean(values))

    between = [k(x[i], y[j]) for i, _, _ in in_x for j, _, _ in in_y]
    return mean_of_pairs(x, in_x) + mean_of_pairs(y, in_y) - 2 * float(np.mean(between))


def test_kid_and_a_resample_of_it_are_its_definition() -> None:
    """Single images and groups of unlike size, pair by pair over the images that were drawn."""
    x, y = rng(0).normal(size=(5, 3)), rng(1).normal(0.3, 1, size=(7, 3))
    np.testing.assert_allclose(kid(x, y), kid_by_loops(x, y, *([(i, i, 0) for i in range(n)] for n in (5, 7))), 1e-12)
    of_x = Resampling.draw(range(5), 12, rng(2))
    of_y = Resampling.draw(["a", "b", "b", "c", "a", "b", "d"], 12, rng(3))
    expected = [kid_by_loops(x, y, one_by_one(of_x, row), one_by_one(of_y, row)) for row in range(12)]
    np.testing.assert_allclose(kid_resampled(x, y, of_x, of_y), expected, rtol=1e-11)


def test_the_bootstrap_has_the_spread_of_true_new_draws() -> None:
    """Apart distributions, where the estimate is asymptotically normal; groups of near-copies count as one."""
    draws = rng(5)

    def new_draws() -> tuple[np.ndarray, np.ndarray]:
        objects = np.repeat(draws.normal(size=(20, 4)), 5, axis=0)
        return draws.normal(0.8, 1, size=(400, 4)), objects + 0.05 * draws.normal(size=(100, 4))

    true = np.std([kid(*new_draws()) for _ in range(400)])
    spreads = {"groups": [], "images": []}
    for _ in range(20):
        x, y = new_draws()
        of_x = Resampling.draw(range(400), 200, draws)
        for name, groups in (("groups", np.arange(100) // 5), ("images", range(100))):
            values = kid_resampled(x, y, of_x, Resampling.draw(groups, 200, draws))
            spreads[name].append(values.std())
    assert np.mean(spreads["groups"]) == pytest.approx(true, rel=0.2)
    assert np.mean(spreads["images"]) < 0.8 * true


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """The distance by its definition, with the root of a matrix."""
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = linalg.sqrtm(a @ b)
    return float(((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum() + np.trace(a + b - 2 * np.real(root)))


@pytest.mark.parametrize(("n", "m", "d"), [(60, 40, 6), (7, 12, 30), (12, 7, 30), (2, 3, 5)])
@pytest.mark.filterwarnings("ignore:Matrix is singular")
def test_fid_is_its_definition(n: int, m: int, d: int) -> None:
    """Also with fewer images than dimensions, where the root is of a singular matrix: hence the looser bound."""
    x, y = rng(0).normal(1, 1, size=(n, d)), rng(1).normal(0.5, 2, size=(m, d)) + 100
    rtol = 1e-9 if n > d else 1e-5
    np.testing.assert_allclose(fid(x, y), frechet(x, y), rtol=rtol)


def test_fid_is_that_of_torch_fidelity() -> None:
    import_torchvision()
    metric_fid = pytest.importorskip("torch_fidelity.metric_fid")
    x, y = rng(0).gamma(1, size=(40, 64)), rng(1).gamma(1.5, size=(30, 64))
    statistics = [{"mu": z.mean(axis=0), "sigma": np.cov(z, rowvar=False)} for z in (x, y)]
    theirs = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    np.testing.assert_allclose(fid(x, y), theirs["frechet_inception_distance"], rtol=1e-6)


def means(samples: np.ndarray, real: np.ndarray) -> dict[str, float]:
    near = neighbourhoods(samples, real, range(len(samples)), range(len(real)))
    return {name: float(np.mean(values)) for name, values in near.items()}


def test_the_four_measures_are_those_of_prdc() -> None:
    prdc = pytest.importorskip("prdc")
    for shift in (0.0, 0.5, 2.0):
        real, samples = rng(0).normal(size=(50, 8)), rng(1).normal(shift, 0.8, size=(40, 8))
        ours = means(samples, real)
        three, five = (prdc.compute_prdc(real, samples, nearest_k=k) for k in (3, 5))
        assert ours == pytest.approx({**three, "density": five["density"], "coverage": five["coverage"]}, abs=1e-12)
    assert ours["precision"] < 0.5 < means(real[:25], real[25:])["precision"]  # not all the same


def test_near_copies_in_a_group_do_not_shrink_the_balls() -> None:
    """Eight photographs each of some objects: by groups new objects are among them, one by one hardly."""

    def photographs(draws: np.random.Generator) -> np.ndarray:
        return np.repeat(draws.normal(size=(12, 3)), 8, axis=0) + 0.01 * draws.normal(size=(96, 3))

    real, samples = photographs(rng(0)), rng(1).normal(size=(60, 3))
    grouped = neighbourhoods(samples, real, range(60), np.arange(96) // 8)
    assert grouped["precision"].mean() > 0.4 and means(samples, real)["precision"] < 0.1


def test_halves_of_one_set_against_worse_and_worse_ones() -> None:
    real, ours = rng(0).normal(size=(40, 16)), rng(1).normal(size=(40, 16))
    results = [measure_fidelity(ours + shift, real, range(40), range(40)) for shift in (0, 0.5, 1.5)]
    low, high = results[0]["kid"]["interval"]
    assert low < 0 < high
    for name, better in (("kid", min), ("fid", min), ("precision", max), ("density", max), ("coverage", max)):
        values = [result[name]["value"] for result in results]
        assert better(values) == values[0] and values != sorted(values, reverse=better is min), name
    for result in results:
        for name in set(result) - {"fid"}:
            low, high = result[name]["interval"]
            assert low < result[name]["value"] + 1e-9 and result[name]["value"] - 1e-9 < high, name
    assert measure_fidelity(ours, real, range(40), range(40)) == results[0]
    assert measure_fidelity(ours, real, range(40), range(40), key=(1,))["kid"] != results[0]["kid"]


def test_what_few_images_do_not_allow_is_none() -> None:
    x, y = rng(0).normal(size=(4, 6)), rng(1).normal(size=(6, 6))
    result = measure_fidelity(x, y, range(4), ["a", "a", "a", "b", "b", "b"])
    assert result["kid"]["interval"] and result["fid"] and not any(result[name] for name in MEASURES)
    assert measure_fidelity(x, y, range(4), ["a"] * 6)["kid"]["interval"] is None


def by_loops(extractor: Extractor, one: np.ndarray, other: np.ndarray) -> float:
    """Equation 1 of Zhang et al. 2018 with unit weights, place by place."""
    total = 0.0
    for a, b in zip(extractor.layers(one[None]), extractor.layers(other[None]), strict=True):
        a, b = a[0].double(), b[0].double()
        a, b = (z / z.norm(dim=0).clamp(min=1e-12) for z in (a, b))  # a place may hold nothing but zeros
        places = [float(((a[:, i, j] - b[:, i, j]) ** 2).sum()) for i in range(a.shape[1]) for j in range(a.shape[2])]
        total += float(np.mean(places))
    return total


def test_the_distance_is_its_formula() -> None:
    extractor = random_extractor()
    images = rng().integers(0, 256, (3, 20, 24, 3), np.uint8)
    embedded = embed(extractor, images)
    ours = distances(embedded)
    np.testing.assert_allclose(ours[0, 1], by_loops(extractor, images[0], images[1]), rtol=1e-4)
    np.testing.assert_allclose(ours[2, 1], by_loops(extractor, images[2], images[1]), rtol=1e-4)
    np.testing.assert_allclose(np.diagonal(ours), 0, atol=1e-5)
    np.testing.assert_allclose(embed(extractor, images[1:]), embedded[1:], atol=1e-6)


def test_diversity_is_the_mean_over_pairs() -> None:
    embedded = rng().normal(size=(9, 30)).astype(np.float32)
    expected = np.mean([((a - b) ** 2).sum() for a, b in combinations(embedded.astype(np.float64), 2)])
    result = diversity(embedded, range(9))
    assert result["value"] == pytest.approx(expected, rel=1e-5)
    assert result["interval"][0] < expected < result["interval"][1] and result == diversity(embedded, range(9))
    assert diversity(embedded, ["a"] * 9)["interval"] is None and diversity(embedded[:1], "a") is None
    assert diversity(np.repeat(embedded, 3, axis=0), range(27))["value"] < result["value"]


def test_many_images_are_drawn_by_key_within_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    extractor, images = random_extractor(), image_set(*draw(30, 0))
    whole, compared = Seen.look(images, extractor, 0), []
    monkeypatch.setattr(fidelity, "MEMORY", 12 * embed(extractor, images.images[:1]).nbytes)
    monkeypatch.setattr(fidelity, "diversity", lambda embedded, groups, key: compared.append(list(groups)))
    some = [Seen.look(images, extractor, key) for key in (0, 0, 1)]
    assert len(set(compared[0])) == 12 and sorted(compared[0]) == compared[0] == compared[1] != compared[2]
    assert np.array_equal(some[0].features, whole.features)
