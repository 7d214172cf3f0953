"""The row of each sample, and the limits that real images set."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from random_extractor import random_extractor

from guided_diffusion.evaluation.image_sets import ImageSet

ndimage = pytest.importorskip("scipy.ndimage")

from guided_diffusion.evaluation.copy_threshold import PLANTED, plant  # noqa: E402
from guided_diffusion.evaluation.sample_scores import Limits, Scores, notes, score_samples  # noqa: E402

TYPES = ("crack", "pit")
SIZE = (32, 32)
TRAIN, HELD_OUT = 10, 24


def textures(count: int, side: int, seed: int) -> np.ndarray:
    """Blurred noise uint8 [count, side, side, 3], of about 128 +- 30."""
    noise = np.random.default_rng(seed).normal(size=(count, side, side, 3))
    noise = ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 0))
    return np.clip(128 + 30 * noise / noise.std(), 0, 255).astype(np.uint8)


def make_set(images: np.ndarray, prefix: str, masks: np.ndarray | None = None, groups: list | None = None) -> ImageSet:
    """Images with a crack of 3 x 4 pixels each, unless masks are given."""
    if masks is None:
        masks = np.zeros(images.shape[:3], np.uint8)
        masks[:, 10:13, 12:16] = 1
    names = [f"{prefix}{k:03d}" for k in range(len(images))]
    return ImageSet(images, masks, names, list(map(str, groups or names)), TYPES, "")


@pytest.fixture(scope="module")
def train() -> ImageSet:
    return make_set(textures(TRAIN, 32, 0), "crack/t")


@pytest.fixture(scope="module")
def held_out() -> ImageSet:
    return make_set(textures(HELD_OUT, 32, 1), "crack/h")


@pytest.fixture(scope="module")
def limits(train: ImageSet, held_out: ImageSet) -> Limits:
    return Limits.measure(train, held_out, SIZE, random_extractor())


@pytest.fixture(scope="module")
def scored(train: ImageSet, held_out: ImageSet, limits: Limits) -> Scores:
    """0-3 planted copies, 4 and 5 alike, 6 empty, 7 a speck, 8 clipped, 9-11 plain."""
    images, masks = textures(12, 32, 2), np.zeros((12, *SIZE), np.uint8)
    for k, kind in enumerate(PLANTED):
        images[k] = plant(train.images[k : k + 1], kind)[0]
    images[5] = plant(images[4:5, ::-1], "brightened")[0]
    images[8, :8, :, 2] = 255
    masks[:, 4:6, 5:9] = 2
    masks[:, 20:25, 20:24] = 1
    masks[6] = 0
    masks[7] = 0
    masks[7, 3, 3:8] = 1
    samples = replace(make_set(images, "", masks), names=[f"{k:06d}" for k in range(11)] + ["odd"])
    agreement = np.array([np.nan, *np.linspace(0, 1, 11)])
    return score_samples(samples, train, held_out, random_extractor(), agreement, limits=limits, patches=True)


def test_rows_tell_what_was_planted(scored: Scores) -> None:
    rows = scored.rows
    assert json.loads(json.dumps(rows)) == rows and json.dumps(scored.thresholds) and json.dumps(scored.memorization)
    first = {key: rows[0][key] for key in ("name", "index", "image", "index_mask", "empty", "speck", "agreement")}
    assert first == {
        **{"name": "000000", "index": 0, "image": "images/000000.png"},
        **{"index_mask": "masks_converted_dir/000000.png", "empty": False, "speck": False, "agreement": None},
    }
    assert rows[11]["index"] is None and rows[11]["agreement"] == 1
    assert rows[0]["types"] == {
        "crack": {"pixels": 20, "share": 20 / 1024, "regions": 1, "largest": 20},
        "pit": {"pixels": 8, "share": 8 / 1024, "regions": 1, "largest": 8},
    }
    assert [row["nearest_train"]["copy"] for row in rows] == [True] * 4 + [False] * 8
    assert [row["nearest_train"]["name"] for row in rows[:4]] == [f"crack/t{k:03d}" for k in range(4)]
    assert rows[0]["nearest_train"] == {
        **{
            "name": "crack/t000",
            "distance": pytest.approx(0, abs=1e-4),
            "copy": True,
            "flip": "h",
            "top": 0,
            "left": 0,
        },
        **{"feature_distance": pytest.approx(0, abs=1e-5), "feature_copy": True},
    }
    assert [row["nearest_sample"]["duplicate"] for row in rows] == [k in (4, 5) for k in range(12)]
    assert rows[4]["nearest_sample"]["name"] == "000005" and rows[5]["nearest_sample"]["name"] == "000004"
    assert [(i, j) for i, j, _ in scored.duplicates] == [(4, 5)]
    assert [row["empty"] for row in rows] == [k == 6 for k in range(12)]
    assert [row["speck"] for row in rows] == [k == 7 for k in range(12)]  # 5 pixels of crack; real ones have 12
    assert rows[8]["clipped"] == pytest.approx(0.25, abs=0.01) and max(row["clipped"] for row in rows[9:]) < 0.01


def test_the_summary_counts_rows(scored: Scores) -> None:
    memorization = scored.memorization
    assert memorization["copies"]["value"] == 4 / 12 and memorization["duplicates"]["value"] == 2 / 12
    by_features = sum(row["nearest_train"]["feature_copy"] for row in scored.rows)
    assert memorization["copies_by_features"]["value"] == by_features / 12
    low, high = memorization["copies"]["interval"]
    assert 0.1 < low < 4 / 12 < high < 0.7
    assert memorization["reused_patches"]["patches"] == 12 * 9


def test_limits_come_from_held_out_images(limits: Limits, train: ImageSet, held_out: ImageSet) -> None:
    assert limits.copy.calibrated_on == "held-out images" and limits.copy.images == HELD_OUT
    assert limits.copy.planted_found == dict.fromkeys(PLANTED, 1.0) and notes(limits.as_json()) == []
    shares = [
        (np.stack([*train.images, *held_out.images]) == value).mean(axis=(1, 2)).max(axis=0) for value in (0, 255)
    ]
    np.testing.assert_allclose(limits.clipped, shares)
    again = Limits.measure(train, held_out, SIZE, random_extractor())
    assert again.as_json() == limits.as_json()


def test_images_of_trained_objects_are_not_held_out(train: ImageSet, held_out: ImageSet) -> None:
    """By their groups where these are known on both sides; else by their looks, with a note."""
    leaked = np.concatenate([held_out.images, plant(train.images[:3], "brightened and noisy")])
    known = make_set(leaked, "x", groups=[*range(HELD_OUT), "A", "A", "B"])
    grouped = replace(train, groups=["A"] * 2 + ["B"] + [f"C{k}" for k in range(TRAIN - 3)])
    found = Limits.measure(grouped, known, SIZE, random_extractor())
    assert found.copy.images == HELD_OUT and found.copy.far_out == []

    found = Limits.measure(train, known, SIZE, random_extractor())
    assert found.copy.images == HELD_OUT + 3 and found.copy.far_out == ["x024", "x025", "x026"]
    assert "3 of 27 held-out images are like training images" in notes(found.as_json())[0]
    samples = make_set(textures(2, 32, 5), "")
    scores = score_samples(samples, train, known, random_extractor(), limits=found, patches=True)
    assert scores.memorization["reused_patches"]["of_real"] == HELD_OUT * 9  # nor do leaked ones set this limit
    # Each image by itself: names that are alike in two folders do not make one object.
    same_names = replace(held_out, names=train.names[:HELD_OUT] + held_out.names[TRAIN:])
    same_names = replace(same_names, groups=list(same_names.names))
    assert Limits.measure(train, same_names, SIZE, random_extractor()).copy.images == HELD_OUT


def test_without_held_out_images_the_training_ones_serve(train: ImageSet) -> None:
    """Each against those of other groups, itself and its group left out."""
    grouped = replace(train, groups=[f"object {k // 2}" for k in range(TRAIN)])
    twins = train.images.copy()
    twins[1::2] = plant(twins[::2], "brightened and noisy")
    found = Limits.measure(replace(grouped, images=twins), None, SIZE, random_extractor())
    assert found.copy.calibrated_on == "training images, each against those of other groups"
    assert found.copy.groups == TRAIN // 2 and found.copy.far_out == [] and found.copy.value > 0.05

    one = replace(train, groups=["one"] * TRAIN)
    found = Limits.measure(one, None, SIZE, random_extractor())
    assert found.copy.value == 0 and asdict(found.copy)["false_alarms"] is None
    assert "Near-copies are missed" in notes(found.as_json())[0]
    scores = score_samples(one.take([0, 1]), one, None, random_extractor(), limits=found, patches=True)
    assert scores.memorization["reused_patches"]["share"]["value"] == scores.memorization["copies"]["value"] == 0


def test_samples_that_show_windows(held_out: ImageSet) -> None:
    """Training images are larger then; without held-out ones, windows around their defects take their place."""
    train = make_set(textures(6, 64, 0), "pit/t")
    images = textures(3, 32, 2)
    images[1] = np.stack(train.images)[4, 20:52, 7:39]
    samples = make_set(images, "")
    for real, count in ((held_out, HELD_OUT), (None, 24)):
        scores = score_samples(samples, train, real, random_extractor())
        assert scores.thresholds["copy"]["images"] == count
        near = [row["nearest_train"] for row in scores.rows]
        assert [row["copy"] for row in near] == [False, True, False]
        assert (near[1]["name"], near[1]["top"], near[1]["left"]) == ("pit/t004", 20, 7)


def test_one_sample_alone(train: ImageSet, held_out: ImageSet, limits: Limits) -> None:
    alone = score_samples(make_set(textures(1, 32, 4), ""), train, held_out, random_extractor(), limits=limits)
    assert alone.rows[0]["nearest_sample"] is None and alone.memorization["duplicates"]["value"] == 0
    assert alone.memorization["copies"]["interval"] is None and alone.duplicates == []
