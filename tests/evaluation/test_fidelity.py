"""FID, precision and recall, density and coverage: against other implementations, and where the answer is known."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from guided_diffusion.evaluation.bootstrap import Resampling
from guided_diffusion.evaluation.fidelity import MEASURES, fid, fid_resampled, measure_fidelity, neighbourhoods
from guided_diffusion.evaluation.torchvision_import import import_torchvision

scipy_linalg = pytest.importorskip("scipy.linalg")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """The distance by its definition, with the root of a matrix."""
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy_linalg.sqrtm(a @ b)
    return float(((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum() + np.trace(a + b - 2 * np.real(root)))


# --- FID ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m", "d"), [(60, 40, 6), (7, 12, 30), (12, 7, 30), (2, 3, 5)])
@pytest.mark.filterwarnings("ignore:Matrix is singular")
def test_fid_is_its_definition(n: int, m: int, d: int) -> None:
    """Also with fewer images than dimensions, where the root is of a singular matrix: hence the looser bound."""
    x, y = rng(0).normal(1, 1, size=(n, d)), rng(1).normal(0.5, 2, size=(m, d)) + 100
    rtol = 1e-9 if n > d else 1e-5
    np.testing.assert_allclose(fid(x, y), frechet(x, y), rtol=rtol)
    np.testing.assert_allclose(fid(x.astype(np.float32), y.astype(np.float32)), frechet(x, y), rtol=1e-4)


def test_fid_is_that_of_torch_fidelity() -> None:
    if not all(find_spec(package) for package in ("torchvision", "torch_fidelity")):
        pytest.skip("torch-fidelity is not installed")
    import_torchvision()
    from torch_fidelity import metric_fid

    x, y = rng(0).gamma(1, size=(40, 64)), rng(1).gamma(1.5, size=(30, 64))
    statistics = [{"mu": z.mean(axis=0), "sigma": np.cov(z, rowvar=False)} for z in (x, y)]
    theirs = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    np.testing.assert_allclose(fid(x, y), theirs["frechet_inception_distance"], rtol=1e-6)


def test_fid_of_two_normals_with_many_images() -> None:
    """Independent coordinates: the sum of (m - n)^2 + (s - t)^2."""
    x, y = rng(0).normal(0, [1, 2, 3], size=(1_000, 3)), rng(1).normal(1, [2, 2, 1], size=(1_000, 3))
    assert fid(x, y) == pytest.approx(3 * 1 + 1 + 0 + 4, rel=0.1)
    assert fid(x[:500], x[:500]) == pytest.approx(0, abs=1e-9)


def test_a_resample_of_fid_is_its_definition() -> None:
    x, y = rng(0).normal(size=(9, 4)), rng(1).normal(0.3, 2, size=(8, 4))
    of_x = Resampling.draw(range(9), 6, rng(2))
    of_y = Resampling.draw(["a", "b", "b", "c", "a", "d", "d", "e"], 6, rng(3))
    expected = [
        frechet(np.repeat(x, w.astype(int), axis=0), np.repeat(y, v.astype(int), axis=0))
        for w, v in zip(of_x.weights, of_y.weights, strict=True)
    ]
    np.testing.assert_allclose(fid_resampled(x, y, of_x, of_y), expected, rtol=1e-5)


def test_the_interval_of_fid_has_the_spread_of_true_new_draws() -> None:
    """Fewer images than dimensions, real ones in groups: 95% of intervals hold the mean over new draws, or more."""
    draws, scale = rng(5), np.arange(1, 61) ** -0.5

    def ours() -> np.ndarray:
        return draws.normal(0.2, 1, size=(24, 60)) * scale

    def real() -> np.ndarray:
        return (np.repeat(draws.normal(size=(12, 60)), 2, axis=0) + 0.3 * draws.normal(size=(24, 60))) * scale

    true = [fid(ours(), real()) for _ in range(300)]
    results = [measure_fidelity(ours(), real(), np.arange(24) // 2)["fid"] for _ in range(30)]
    widths = [high - low for low, high in (result["interval"] for result in results)]
    assert 3.92 * 0.9 < np.mean(widths) / np.std(true) < 3.92 * 1.6
    covered = [low < np.mean(true) < high for low, high in (result["interval"] for result in results)]
    assert np.mean(covered) >= 0.9


# --- neighbourhoods ----------------------------------------------------------------------------------------------


def means(samples: np.ndarray, real: np.ndarray) -> dict[str, float]:
    near = neighbourhoods(samples, real, range(len(real)), range(len(samples)))
    return {name: float(np.mean(getattr(near, name))) for name in ("precision", "recall", "density", "coverage")}


def test_the_four_measures_are_those_of_prdc() -> None:
    prdc = pytest.importorskip("prdc")
    for shift in (0.0, 0.5, 2.0):
        real, samples = rng(0).normal(size=(50, 8)), rng(1).normal(shift, 0.8, size=(40, 8))
        ours = means(samples, real)
        three, five = (prdc.compute_prdc(real, samples, nearest_k=k) for k in (3, 5))
        assert ours == pytest.approx({**three, "density": five["density"], "coverage": five["coverage"]}, abs=1e-12)
    assert ours["precision"] < 0.5 < means(real[:25], real[25:])["precision"]  # not all the same


def test_they_tell_a_lack_of_quality_from_a_lack_of_variety() -> None:
    """Real images in two clumps; samples of one clump only are precise, samples of neither are not."""
    real = np.concatenate([rng(0).normal(0, 1, size=(40, 4)), rng(1).normal(20, 1, size=(40, 4))])
    one_clump = means(rng(2).normal(0, 1, size=(40, 4)), real)
    assert one_clump["precision"] > 0.8 and one_clump["recall"] < 0.6 and one_clump["coverage"] < 0.6
    between = means(rng(3).normal(10, 1, size=(40, 4)), real)
    assert between == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}
    copies = means(real, real)
    assert copies["precision"] == copies["coverage"] == 1


def test_near_copies_in_a_group_do_not_shrink_the_balls() -> None:
    """Eight photographs each of some objects: by groups new objects are among them, one by one hardly."""

    def photographs(draws: np.random.Generator) -> np.ndarray:
        return np.repeat(draws.normal(size=(12, 3)), 8, axis=0) + 0.01 * draws.normal(size=(96, 3))

    real, samples = photographs(rng(0)), rng(1).normal(size=(60, 3))
    grouped = neighbourhoods(samples, real, np.arange(96) // 8, range(60))
    assert grouped.precision.mean() > 0.4 and means(samples, real)["precision"] < 0.1


# --- all of them -------------------------------------------------------------------------------------------------


def test_halves_of_one_set_against_worse_and_worse_ones() -> None:
    real, ours = rng(0).normal(size=(40, 16)), rng(1).normal(size=(40, 16))
    results = [measure_fidelity(ours + shift, real, range(40)) for shift in (0, 0.5, 1.5)]
    low, high = results[0]["kid"]["interval"]
    assert low < 0 < high
    for name, better in (("kid", min), ("fid", min), ("precision", max), ("density", max), ("coverage", max)):
        values = [result[name]["value"] for result in results]
        assert better(values) == values[0] and values != sorted(values, reverse=better is min), name
    for result in results:
        for name in MEASURES:
            low, high = result[name]["interval"]
            assert low < result[name]["value"] + 1e-9 and result[name]["value"] - 1e-9 < high, name
    assert measure_fidelity(ours, real, range(40)) == results[0]
    assert measure_fidelity(ours, real, range(40), key=(1,))["kid"] != results[0]["kid"]


def test_what_few_images_do_not_allow_is_none() -> None:
    x, y = rng(0).normal(size=(4, 6)), rng(1).normal(size=(6, 6))
    result = measure_fidelity(x, y, ["a", "a", "a", "b", "b", "b"])
    assert result["precision"] and result["recall"] and result["density"] is None and result["coverage"] is None
    assert result["kid"]["interval"] and result["fid"]["interval"] is None
    alone = measure_fidelity(x, y, ["a"] * 6)
    assert alone["kid"]["interval"] is None and alone["precision"] is None and alone["recall"]["interval"] is None
    assert measure_fidelity(x[:1], y, range(6))["kid"] is None
