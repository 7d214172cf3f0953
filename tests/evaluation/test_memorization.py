"""The nearest training image, what counts as a copy, reused patches, and the picture of the closest pairs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from random_extractor import random_extractor

from guided_diffusion.data.image_datasets import read_image
from guided_diffusion.evaluation import copies as memorization
from guided_diffusion.evaluation.closest_pairs import draw_closest_pairs
from guided_diffusion.evaluation.copies import (
    FLIPS,
    Band,
    Match,
    TrainFeatures,
    correlate,
    distances_among,
    nearest_whole,
    place,
    window_of,
)
from guided_diffusion.evaluation.image_sets import ImageSet

ndimage = pytest.importorskip("scipy.ndimage")
stats = pytest.importorskip("scipy.stats")

from guided_diffusion.evaluation.copy_threshold import (  # noqa: E402
    PLANTED,
    RATE,
    calibrate,
    find_planted,
    fit,
    plant,
    tolerance_factor,
)
from guided_diffusion.evaluation.patches import EXPECTED, reused_patches  # noqa: E402

CPU = torch.device("cpu")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def textures(count: int, height: int, width: int, seed: int = 0, smooth: float = 1.5) -> np.ndarray:
    """Blurred noise uint8 [count, height, width, 3], of about 128 +- 30."""
    noise = ndimage.gaussian_filter(rng(seed).normal(size=(count, height, width, 3)), (0, smooth, smooth, 0))
    return np.clip(128 + 30 * noise / noise.std(), 0, 255).astype(np.uint8)


# --- placing -----------------------------------------------------------------------------------------------------


def test_every_place_and_flip_is_tried_and_the_best_is_pearsons() -> None:
    """Against numpy's correlation of each part that lies on the image; windows and images that are not square."""
    windows, images = rng(0).normal(size=(3, 2, 6, 9)), [rng(1).normal(size=(13, 15)), rng(2).normal(size=(9, 11))]
    windows[2, 1] = images[1][2:8, 1:10]
    windows[1, 0, :4, :8] = images[0][9:13, 7:15]  # hangs over by 2 rows and 1 column
    shift = 2
    found = correlate(torch.from_numpy(windows).float(), [torch.from_numpy(image).float() for image in images], shift)
    for n, variants in enumerate(windows):
        for m, image in enumerate(images):
            best = (np.inf,)
            for k, window in enumerate(variants):
                for top in range(-shift, image.shape[0] - 6 + shift + 1):
                    for left in range(-shift, image.shape[1] - 9 + shift + 1):
                        a, b = max(0, -top), max(0, -left)
                        part = image[max(0, top) : top + 6, max(0, left) : left + 9]
                        own = window[a : a + part.shape[0], b : b + part.shape[1]]
                        r = np.corrcoef(own.ravel(), part.ravel())[0, 1]
                        best = min(best, (1 - r, k, top + shift, left + shift))
            assert found[0][n, m] == pytest.approx(best[0], abs=1e-5)
            assert tuple(array[n, m] for array in found[1:]) == best[1:]
    assert found[0][2, 1] == pytest.approx(0, abs=1e-5) and found[0][1, 0] < 1e-5
    with pytest.raises(ValueError, match="smaller than the windows of 6 x 9"):
        correlate(torch.zeros(1, 1, 6, 9), [torch.zeros(5, 20)], 0)


def test_the_band_is_a_difference_of_gaussians_where_it_is_known_in_full() -> None:
    images = textures(2, 40, 64, smooth=0.5)
    band = Band.of(40, 64)
    assert (band.factor, band.radius) == (1, 5)
    grey = images @ np.array([0.299, 0.587, 0.114])
    fine, coarse = (ndimage.gaussian_filter(grey, (0, sigma, sigma), radius=(0, 5, 5)) for sigma in (40 / 64, 40 / 16))
    np.testing.assert_allclose(band(images, CPU), (fine - coarse)[:, 5:-5, 5:-5], atol=1e-3)
    np.testing.assert_allclose(band(images, CPU, "hv"), (fine - coarse)[:, 5:-5, 5:-5][:, ::-1, ::-1], atol=1e-3)
    assert Band.of(130, 256).factor == 2 and band(np.repeat(images, 300, 0), CPU).shape == (600, 30, 54)


@pytest.mark.parametrize(("flip", "top", "left"), [("none", 3, 10), ("h", 0, 0), ("v", 16, 5), ("hv", -4, 12)])
def test_a_window_is_found_where_it_was_cut(flip: str, top: int, left: int) -> None:
    train = list(textures(4, 48, 48))
    window = window_of(train[2], Match(2, flip, top, left, 0), (32, 32))
    if top >= 0:  # the definition; below 0 the first row is repeated
        np.testing.assert_array_equal(
            window, np.flip(train[2][top : top + 32, left : left + 32], [axis - 1 for axis in FLIPS[flip]])
        )
    (match,) = nearest_whole(window[None], train)
    assert (match.train, match.flip, match.top, match.left) == (2, flip, top, left)
    assert match.distance == pytest.approx(0, abs=1e-4)
    changed = 0.6 * window.astype(float) @ np.diag([1.0, 0.9, 0.8]) + np.array([40, 50, 60])  # darker, flatter, tinted
    (match,) = nearest_whole(np.round(changed).astype(np.uint8)[None], train)
    assert (match.train, match.flip, match.top, match.left) == (2, flip, top, left) and match.distance < 0.03


def test_large_images_are_reduced_before() -> None:
    train = list(textures(3, 192, 192, smooth=4))
    (match,) = nearest_whole(train[1][11:139, 30:158][None], train)
    assert match.train == 1 and match.distance < 0.05 and abs(match.top - 11) <= 1 and match.left == 30


def test_flat_images_are_like_nothing() -> None:
    flat = np.full((1, 32, 32, 3), 200, np.uint8)
    assert place(flat, [flat[0], textures(1, 32, 32)[0]]).distance.tolist() == [[1, 1]]
    assert place(textures(1, 32, 32), [flat[0]]).distance.tolist() == [[1]]


def test_distances_among_images_do_not_depend_on_order_or_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    images = textures(7, 32, 32)
    images[5] = images[1, :, ::-1]
    images[6] = plant(images[2:3], "shifted 3 px")[0]
    distances = distances_among(images)
    np.testing.assert_array_equal(distances, distances.T)
    assert np.isinf(np.diag(distances)).all()
    placed = place(images, list(images)).distance
    np.fill_diagonal(placed, np.inf)
    # Of a pair one is the window, and which one it is tells a little at the border.
    np.testing.assert_allclose(distances, np.triu(placed) + np.triu(placed, 1).T, atol=1e-5)
    assert distances[1, 5] < 1e-4 and distances[2, 6] < 0.02 and (np.sort(distances.min(axis=1))[4:] > 0.1).all()
    monkeypatch.setattr(memorization, "BATCH_PIXELS", 1)
    np.testing.assert_allclose(distances_among(images), distances, atol=1e-5)


def test_feature_distances_are_the_nearest_windows() -> None:
    extractor, train = random_extractor(), list(textures(3, 48, 48))
    features = TrainFeatures.of(train, (32, 32), extractor)
    assert len(features.features) == 3 * 4 * 4  # starts 0 and 16 either way, and flips
    samples = np.stack([train[1][16:, :32], train[2][:32, :32][::-1, ::-1], textures(1, 32, 32, seed=5)[0]])
    distances = features.distances(extractor(samples))
    assert distances.shape == (3, 3)
    np.testing.assert_allclose([distances[0, 1], distances[1, 2]], 0, atol=1e-5)
    windows = np.stack([np.flip(train[0][y : y + 32, x : x + 32], [axis - 1 for axis in axes])
                        for y in (0, 16) for x in (0, 16) for axes in FLIPS.values()])  # fmt: skip
    one, others = extractor(samples[2:])[0].astype(np.float64), extractor(windows).astype(np.float64)
    cosines = others @ one / np.linalg.norm(one) / np.linalg.norm(others, axis=1)
    assert distances[2, 0] == pytest.approx(1 - cosines.max(), abs=1e-5)


# --- thresholds --------------------------------------------------------------------------------------------------


def unrelated_distances(count: int, draws: np.random.Generator) -> np.ndarray:
    """Distances whose z is the largest of 400 normal variables."""
    return 1 - np.tanh(draws.normal(0, 0.15, (count, 400)).max(axis=1))


def test_the_threshold_keeps_its_promise() -> None:
    """Under its assumption: in 9 of 10 cases fewer than 1% of unseen images are below it."""
    draws = rng(0)
    for n in (6, 20):
        values = np.array([fit(unrelated_distances(n, draws), np.arange(n))[0] for _ in range(300)])
        rates = 1 - stats.norm.cdf(np.arctanh(1 - values) / 0.15) ** 400
        assert 0.85 < np.mean(rates < RATE) and np.quantile(rates, 0.97) > RATE / 3  # and it is not much too strict


def test_with_many_groups_the_bound_is_the_quantile() -> None:
    """Mean 0.5772, standard deviation pi / sqrt(6) (Johnson, Kotz and Balakrishnan 1995, chapter 22)."""
    quantile = stats.gumbel_r.ppf(1 - RATE)
    exact = (quantile - np.euler_gamma) / (np.pi / np.sqrt(6))
    assert exact < tolerance_factor(200) < 1.15 * exact
    factors = [tolerance_factor(n) for n in (2, 3, 5, 10, 30, 200, 1000)]
    assert factors == sorted(factors, reverse=True) and factors[0] > 20


def test_a_third_of_leaked_images_does_not_move_it() -> None:
    """Images of trained objects in groups of their own: they are left out, and named."""
    distances, groups = unrelated_distances(40, rng(1)), [f"tile{k // 2}" for k in range(40)]
    clean = calibrate(distances, groups, groups, "held-out images")
    leaked = np.concatenate([distances, rng(2).uniform(0.005, 0.06, 20)])
    names = [f"image{k}" for k in range(60)]
    found = calibrate(leaked, [*groups, *(f"leak{k // 2}" for k in range(20))], names, "held-out images")
    assert found.far_out == names[40:] and found.groups == 30
    assert found.value == pytest.approx(clean.value, rel=0.01) and found.alarms == names[40:]
    assert found.false_alarms["value"] == pytest.approx(1 / 3) and found.false_alarms_of_rest["value"] == 0
    assert clean.far_out == clean.alarms == [] and clean.false_alarms["value"] == 0
    assert clean.false_alarms["interval"][1] > 0.01  # which 40 images cannot exclude


def test_an_image_is_judged_by_other_groups() -> None:
    """A group of many images that stands out: its own images widen the threshold, so that they would pass."""
    others, odd = unrelated_distances(18, rng(0)), np.linspace(0.3, 0.5, 10)
    distances, groups = np.concatenate([others, odd]), [*map(str, range(18)), *["odd"] * 10]
    found = calibrate(distances, groups, groups, "held-out images")
    by_others = fit(others, np.arange(18))[0]
    assert found.far_out == [] and found.value < 0.3 < by_others
    assert found.alarms == ["odd"] * int((odd < by_others).sum())
    assert found.false_alarms["value"] == len(found.alarms) / 28


def test_few_groups_make_few_copies() -> None:
    distances = unrelated_distances(12, rng(0))
    values = [calibrate(distances, np.arange(12) % groups, ["x"] * 12, "").value for groups in (1, 2, 4, 12)]
    assert values[0] == 0 and values == sorted(values)
    assert calibrate(distances, np.arange(12) % 2, ["x"] * 12, "").false_alarms is None


# --- copies and false alarms on pictures ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plates(repo: Path) -> np.ndarray:
    """Drawn metal plates with defects, 64 px: 144 different ones."""
    spec = importlib.util.spec_from_file_location("draw_demo_data", repo / "scripts/draw_demo_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return np.stack([module.draw(index, 64, seed=0)[0] for index in range(144)])


def test_planted_copies_are_found_and_held_out_images_are_not(plates: np.ndarray) -> None:
    """The threshold comes from one half of the held-out images, and is tried on the other and on copies."""
    train, calibration, judged = list(plates[:24]), plates[24:44], plates[44:]
    limit = fit(place(calibration, train).distance.min(axis=1), np.arange(20))[0]
    matches = nearest_whole(judged, train)
    assert len(judged) == 100 and sum(match.distance < limit for match in matches) <= 1
    found = find_planted(np.stack(train), lambda images: place(images, train).distance, limit)
    assert found == dict.fromkeys(PLANTED, 1.0)
    matches = nearest_whole(plant(np.stack(train), "flipped"), train)
    assert [(match.train, match.flip) for match in matches] == [(k, "h") for k in range(24)]


def test_magnetic_tiles(shared_dir: Path) -> None:
    """Real photographs, windows of 64 px in 128 px: 25 that were trained, 61 of other tiles.

    split.json calls tile 30 another tile, but it is the trained one of 27, 28 and 29, photographed again.
    """
    folder = shared_dir / "data" / "magnetic_tile"
    if not (folder / "split.json").exists():
        pytest.skip("no magnetic tiles beside this checkout")
    files = json.loads((folder / "split.json").read_text())["files"]

    def read(part: str) -> list[np.ndarray]:
        return [read_image(str(folder / file), (128, 128)) for file in files if files[file]["part"] == part]

    train, dev = read("train5"), read("dev")
    tiles = [entry["tile"] for entry in files.values() if entry["part"] == "dev"]
    places = rng(0).integers(0, 65, (len(dev), 2))
    windows = np.stack([image[y : y + 64, x : x + 64] for image, (y, x) in zip(dev, places, strict=True)])
    distances = place(windows, train).distance
    found = calibrate(distances.min(axis=1), tiles, [str(tile) for tile in tiles], "held-out images")
    assert set(found.far_out) == {"30"} and set(found.alarms) == {"30"}
    assert found.false_alarms_of_rest["value"] <= 0.01
    planted = np.stack([image[20:84, 40:104] for image in train])
    assert find_planted(planted, lambda images: place(images, train).distance, found.value) == dict.fromkeys(
        PLANTED, 1.0
    )


# --- patches -----------------------------------------------------------------------------------------------------


def test_reused_patches_are_seen_and_new_ones_are_not() -> None:
    train, real, new = list(textures(5, 64, 64)), textures(8, 64, 64, seed=1), textures(8, 64, 64, seed=2)
    halves = rng(0).integers(0, 5, (8, 2))
    collages = np.stack([np.concatenate([train[a][:, :32], train[b][:, 32:]], axis=1) for a, b in halves])
    unrelated = np.ones((8, 5), bool)
    found = {
        name: reused_patches(samples, real, train, unrelated) for name, samples in (("new", new), ("old", collages))
    }
    assert found["new"]["side"] == 16 and found["new"]["patches"] == found["new"]["of_real"] == 8 * 9
    low, high = found["new"]["share"]["interval"]
    assert low <= EXPECTED <= high + 0.03
    assert found["old"]["share"]["value"] > 0.5  # two columns of patches of three lie on one side
    # A real image is never compared with the training images that it may not be compared with.
    itself = reused_patches(new, np.stack(train), train, ~np.eye(5, dtype=bool))
    assert itself["limit"] > 0.1 > reused_patches(new, np.stack(train), train, np.ones((5, 5), bool))["limit"]


# --- the picture ---------------------------------------------------------------------------------------------------


def test_the_picture_shows_the_nearest_pairs_and_frames_copies() -> None:
    train = textures(3, 48, 48)
    images = textures(30, 32, 32, seed=3)
    images[7] = train[1, 5:37, 9:41][:, ::-1]
    masks = np.zeros((30, 32, 32), np.uint8)
    names = [f"{k:06d}" for k in range(30)]
    samples = ImageSet(images, masks, names, names, ("pit",), "")
    whole = ImageSet(list(train), [mask[:48] for mask in masks], ["a", "b", "c" * 90], ["a", "b", "c"], ("pit",), "")
    rows = [
        {"name": name, "nearest_train": {**vars(match), "name": whole.names[match.train], "copy": match.distance < 0.1}}
        for name, match in zip(names, nearest_whole(images, whole.images), strict=True)
    ]
    picture = np.asarray(draw_closest_pairs(samples, whole, rows, 0.1))
    red = (picture == (200, 30, 30)).all(axis=-1)
    assert red.sum() > 1000
    first = np.flatnonzero(red.any(axis=1))[0], np.flatnonzero(red.any(axis=0))[0]
    pair = picture[first[0] + 3 :, first[1] + 3 :][:128, : 2 * 128 + 3]
    np.testing.assert_array_equal(pair[::4, :128:4], images[7])  # enlarged four times
    np.testing.assert_array_equal(pair[::4, 131::4], images[7])  # the training image's window, flipped as matched
    only = draw_closest_pairs(samples.take([0]), whole, rows[:1], 0.1)
    assert only.height < picture.shape[0] / 3
    assert not (np.asarray(only) == (200, 30, 30)).all(axis=-1).any()
