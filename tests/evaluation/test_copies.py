"""The nearest training image, what counts as a near-copy, and the picture of the closest pairs."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from drawn_formats import textures
from scipy import ndimage

from guided_diffusion.data.image_files import read_image
from guided_diffusion.evaluation import copies
from guided_diffusion.evaluation.copies import FLIPS, MARGIN, PLANTED, calibrate, distances_among, place, plant
from guided_diffusion.evaluation.image_sets import ImageSet


def band(image: np.ndarray) -> np.ndarray:
    """Of a sample of 24 px, by the definition, with scipy."""
    grey = image @ np.array([0.299, 0.587, 0.114])
    fine, coarse = (ndimage.gaussian_filter(grey, 24 / part, radius=3, mode="mirror") for part in (64, 16))
    return fine - coarse


def standardised(bands: np.ndarray) -> np.ndarray:
    return (bands - bands.mean(axis=(-2, -1), keepdims=True)) / bands.std(axis=(-2, -1), keepdims=True)


def test_the_best_place_and_flip_by_the_definition() -> None:
    """Correlation at every place; neither side is square, and the images differ in size."""
    samples, train = textures(3, 24, 32), [textures(1, 27, 40, seed=1)[0], textures(1, 24, 32, seed=2)[0]]
    distance, *found = place(samples, train)
    for (n, sample), (m, image) in product(enumerate(samples), enumerate(train)):
        own, shift = band(sample)[3:-3, 3:-3], 3 if image.shape == sample.shape else 0
        bands = [np.pad(band(np.flip(image, axes)), shift)[3:-3, 3:-3] for axes in FLIPS.values()]
        windows = np.lib.stride_tricks.sliding_window_view(bands, own.shape, (1, 2))
        r = (standardised(windows) * standardised(own)).mean(axis=(-2, -1))
        flip, *corner = np.unravel_index(r.argmax(), r.shape)
        assert distance[n, m] == pytest.approx(1 - r.max(), abs=1e-4) and found[0][n, m] == flip
        for axis, start in enumerate(corner):
            room = image.shape[axis] - sample.shape[axis]
            start -= shift
            assert found[1 + axis][n, m] == (room - start if axis in list(FLIPS.values())[flip] else start)
    with pytest.raises(ValueError, match="smaller than the samples of 24 x 32"):
        place(samples, [np.zeros((20, 40, 3), np.uint8)])


def best(samples: np.ndarray, train: list[np.ndarray]) -> list[tuple]:
    """(number of the nearest training image, flip, top, left, distance) of each sample."""
    distance, flip, top, left = place(samples, train)
    nearest = enumerate(distance.argmin(axis=1))
    return [(m, list(FLIPS)[flip[n, m]], top[n, m], left[n, m], float(distance[n, m])) for n, m in nearest]


@pytest.mark.parametrize(("flip", "top", "left"), [("none", 3, 10), ("h", 0, 0), ("v", 16, 5), ("hv", 1, 12)])
def test_a_window_is_found_where_it_was_cut(flip: str, top: int, left: int) -> None:
    train = list(textures(4, 48, 48))
    window = copies.window_of(train[2], flip, top, left, (32, 32))
    np.testing.assert_array_equal(window, np.flip(train[2][top : top + 32, left : left + 32], FLIPS[flip]))
    changed = 0.6 * window.astype(float) @ np.diag([1.0, 0.9, 0.8]) + np.array([40, 50, 60])  # darker, flatter, tinted
    exact, altered = best(np.stack([window, np.round(changed).astype(np.uint8)]), train)
    assert exact[:4] == altered[:4] == (2, flip, top, left)
    assert exact[4] == pytest.approx(0, abs=1e-4) and altered[4] < 0.03


def test_shifted_large_and_flat_images() -> None:
    """Whole images may hang over the border; those of 128 px and more are reduced; flat ones are like nothing."""
    train = list(textures(3, 64, 64))
    (match,) = best(plant(train[1][None], "shifted 3 px"), train)
    assert match[:4] == (1, "none", -3, -3) and match[4] < 0.02
    large = list(textures(3, 192, 192, smooth=4))
    ((number, _, top, left, distance),) = best(large[1][11:139, 30:158][None], large)
    assert number == 1 and distance < 0.05 and abs(top - 11) <= 1 and left == 30
    flat = np.full((1, 32, 32, 3), 200, np.uint8)
    assert place(flat, [flat[0], textures(1, 32, 32)[0]])[0].tolist() == [[1, 1]]
    assert place(textures(1, 32, 32), [flat[0]])[0].tolist() == [[1]]


def test_distances_among_images_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    images = textures(7, 32, 32)
    images[5] = images[1, :, ::-1]
    images[6] = plant(images[2:3], "shifted 3 px")[0]
    distances = distances_among(images)
    np.testing.assert_array_equal(distances, distances.T)
    assert np.isinf(np.diag(distances)).all()
    assert distances[1, 5] < 1e-4 and distances[2, 6] < 0.02 and (np.sort(distances.min(axis=1))[4:] > 0.1).all()
    monkeypatch.setattr(copies, "BLOCK", 3)
    np.testing.assert_allclose(distances_among(images), distances, atol=1e-5)


def unrelated_distances(count: int, seed: int) -> np.ndarray:
    """Distances whose artanh r is the largest of 400 normal variables."""
    return 1 - np.tanh(np.random.default_rng(seed).normal(0, 0.15, (count, 400)).max(axis=1))


def test_a_third_of_leaked_images_does_not_move_the_limit() -> None:
    """Images of trained objects in groups of their own: they are left out, and named."""
    distances, groups = unrelated_distances(40, 1), [f"tile{k // 2}" for k in range(40)]
    clean = calibrate(distances, groups, groups)
    assert clean["value"] == pytest.approx(MARGIN * distances.min()) and clean["far_out"] == clean["alarms"] == []
    share = clean["false_alarms"]
    assert share["value"] == 0 and share["interval"][1] > 0.01  # 40 images exclude no less
    leaked = np.concatenate([distances, np.random.default_rng(2).uniform(0.005, 0.06, 20)])
    names = [f"image{k}" for k in range(60)]
    found = calibrate(leaked, [*groups, *(f"leak{k // 2}" for k in range(20))], names)
    assert found["value"] == clean["value"] and found["far_out"] == found["alarms"] == names[40:]
    assert found["groups"] == 30 and found["false_alarms"]["value"] == pytest.approx(1 / 3)


def test_an_image_is_judged_by_other_groups() -> None:
    """A group that stands out lowers the limit, so that its own images would pass. One group alone sets no limit."""
    others, odd = unrelated_distances(18, 0), np.linspace(0.3, 0.5, 10)
    distances, groups = np.concatenate([others, odd]), [*map(str, range(18)), *["odd"] * 10]
    found = calibrate(distances, groups, groups)
    assert found["value"] == pytest.approx(MARGIN * 0.3) and found["far_out"] == []
    assert found["alarms"] == ["odd"] * int((odd < MARGIN * others.min()).sum()) != []
    one, two = (calibrate(others, np.arange(18) % groups, ["x"] * 18) for groups in (1, 2))
    assert one["value"] == 0 and two["value"] > 0 and two["false_alarms"] is None


def nearest(samples: np.ndarray, train: np.ndarray) -> np.ndarray:
    return place(samples, train)[0].min(axis=1)


@pytest.mark.parametrize("side", [64, 128])
def test_magnetic_tiles(shared_dir: Path, side: int) -> None:
    """Real photographs, windows of 64 px in 128 px and whole ones: 25 that were trained, 61 of other tiles.

    split.json calls tile 30 another tile, but it is the trained one of 27, 28 and 29, photographed again.
    """
    folder = shared_dir / "data" / "magnetic_tile"
    if not (folder / "split.json").exists():
        pytest.skip("no magnetic tiles beside this checkout")
    files = json.loads((folder / "split.json").read_text())["files"]

    def read(part: str) -> np.ndarray:
        return np.stack([read_image(str(folder / file), (128, 128)) for file in files if files[file]["part"] == part])

    train, dev = read("train5"), read("dev")
    tiles = [entry["tile"] for entry in files.values() if entry["part"] == "dev"]
    corners = np.random.default_rng(0).integers(0, 129 - side, (len(dev), 2))
    windows = np.stack([im[y : y + side, x : x + side] for im, (y, x) in zip(dev, corners, strict=True)])
    found = calibrate(nearest(windows, train), tiles, list(map(str, tiles)))
    assert set(found["far_out"]) == {"30"} and set(found["alarms"]) == {"30"}
    middle = slice(64 - side // 2, 64 + side // 2)
    for kind in PLANTED:
        assert (nearest(plant(train[:, middle, middle], kind), train) < found["value"]).all()


def test_the_picture_shows_the_nearest_pairs_and_frames_copies() -> None:
    train, images = textures(3, 48, 48), textures(30, 32, 32, seed=3)
    images[7] = train[1, 5:37, 9:41][:, ::-1]
    names = [f"{k:06d}" for k in range(30)]
    samples = ImageSet(images, images[..., 0], names, names, ("pit",), "")
    whole = ImageSet(train, train[..., 0], ["a", "b", "c" * 90], ["a", "b", "c"], ("pit",), "")
    rows = []
    for name, (m, flip, top, left, distance) in zip(names, best(images, train), strict=True):
        near = {"name": whole.names[m], "flip": flip, "top": top, "left": left, "distance": distance}
        rows.append({"name": name, "nearest_train": {**near, "copy": distance < 0.1}})
    picture = np.asarray(copies.draw_closest_pairs(samples, whole, rows, 0.1))
    top, left = (np.flatnonzero((picture == (200, 30, 30)).all(axis=-1).any(axis=axis))[0] + 3 for axis in (1, 0))
    pair = picture[top : top + 128, left : left + 2 * 128 + 3]
    for start in (0, 131):  # enlarged four times; and the training image's window, flipped as matched
        np.testing.assert_array_equal(pair[::4, start : start + 128 : 4], images[7])
