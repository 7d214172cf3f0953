"""The row of each sample, and the limits that real images set."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from drawn_textures import textures

from guided_diffusion.evaluation.copies import PLANTED, plant
from guided_diffusion.evaluation.image_sets import ImageSet
from guided_diffusion.evaluation.sample_scores import Limits, Scores, notes, score_samples

TRAIN, HELD_OUT = 10, 24


def make_set(images: np.ndarray, prefix: str, masks: np.ndarray | None = None, groups: list | None = None) -> ImageSet:
    """Images with a crack of 3 x 4 pixels each, unless masks are given."""
    if masks is None:
        masks = np.zeros(images.shape[:3], np.uint8)
        masks[:, 10:13, 12:16] = 1
    names = [f"{prefix}{k:03d}" for k in range(len(images))]
    return ImageSet(images, masks, names, list(map(str, groups or names)), ("crack", "pit"), "")


@pytest.fixture(scope="module")
def train() -> ImageSet:
    return make_set(textures(TRAIN, 32, 32, 0), "crack/t")


@pytest.fixture(scope="module")
def held_out() -> ImageSet:
    return make_set(textures(HELD_OUT, 32, 32, 1), "crack/h")


@pytest.fixture(scope="module")
def limits(train: ImageSet, held_out: ImageSet) -> Limits:
    return Limits.measure(train, train, held_out)


@pytest.fixture(scope="module")
def scored(train: ImageSet, limits: Limits) -> Scores:
    """0-4 planted copies, 5 and 6 alike, 7 empty, 8 a speck, 9 clipped, 10-12 plain."""
    images, masks = textures(13, 32, 32, 2), np.zeros((13, 32, 32), np.uint8)
    for k, kind in enumerate(PLANTED):
        images[k] = plant(train.images[k : k + 1], kind)[0]
    images[6] = plant(images[5:6, ::-1], "brightened")[0]
    images[9, :8, :, 2] = 255
    masks[:, 4:6, 5:9] = 2
    masks[:, 20:25, 20:24] = 1
    masks[7:9] = 0
    masks[8, 3, 3:8] = 1
    samples = replace(make_set(images, "", masks), names=[f"{k:06d}" for k in range(12)] + ["odd"])
    return score_samples(samples, train, limits, np.array([np.nan, *np.linspace(0, 1, 12)]))


def test_rows_tell_what_was_planted(scored: Scores) -> None:
    rows = scored.rows
    assert json.loads(json.dumps(rows)) == rows and json.dumps(scored.thresholds) and json.dumps(scored.memorization)
    crack, pit = ({"pixels": n, "share": n / 1024, "regions": 1, "largest": n} for n in (20, 8))
    near = {
        "name": "crack/t001",
        "distance": pytest.approx(0, abs=1e-4),
        "copy": True,
        "flip": "h",
        "top": 0,
        "left": 0,
    }
    shown = {key: value for key, value in rows[1].items() if key not in ("clipped", "nearest_sample")}
    assert shown == {
        **{"name": "000001", "index": 1, "empty": False, "speck": False, "agreement": 0.0},
        **{"image": "images/000001.png", "index_mask": "masks_converted_dir/000001.png"},
        **{"types": {"crack": crack, "pit": pit}, "nearest_train": near},
    }
    assert rows[0]["agreement"] is None and rows[12]["index"] is None and rows[12]["agreement"] == 1
    assert [row["nearest_train"]["copy"] for row in rows] == [True] * 5 + [False] * 8
    assert [row["nearest_train"]["name"] for row in rows[:5]] == [f"crack/t{k:03d}" for k in range(5)]
    assert [row["nearest_sample"]["duplicate"] for row in rows] == [k in (5, 6) for k in range(13)]
    assert rows[5]["nearest_sample"]["name"] == "000006" and rows[6]["nearest_sample"]["name"] == "000005"
    assert [(i, j) for i, j, _ in scored.duplicates] == [(5, 6)]
    assert [row["empty"] for row in rows] == [k == 7 for k in range(13)]
    assert [row["speck"] for row in rows] == [k == 8 for k in range(13)]  # 5 pixels of crack; real ones have 12
    assert rows[9]["clipped"] == pytest.approx(0.25, abs=0.01) and max(row["clipped"] for row in rows[10:]) < 0.01
    memorization = scored.memorization
    assert memorization["copies"]["value"] == 5 / 13 and memorization["duplicates"]["value"] == 2 / 13
    low, high = memorization["copies"]["interval"]
    assert 0.1 < low < 5 / 13 < high < 0.7


def test_limits_come_from_held_out_images(limits: Limits, train: ImageSet, held_out: ImageSet) -> None:
    assert limits.copy.calibrated_on == "held-out images" and limits.copy.images == HELD_OUT
    assert limits.copy.planted_found == dict.fromkeys(PLANTED, 1.0)
    assert notes(limits.as_json(train.class_names)) == []
    real = np.stack([*train.images, *held_out.images])
    shares = [(real == value).mean(axis=(1, 2)).max(axis=0) for value in (0, 255)]
    np.testing.assert_allclose(limits.clipped, shares)


def test_images_of_trained_objects_are_not_held_out(train: ImageSet, held_out: ImageSet) -> None:
    """By their groups where these are known on both sides; else by their looks, with a note."""
    leaked = np.concatenate([held_out.images, plant(train.images[:3], "brightened and noisy")])
    known = make_set(leaked, "x", groups=[*range(HELD_OUT), "A", "A", "B"])
    grouped = replace(train, groups=["A"] * 2 + ["B"] + [f"C{k}" for k in range(TRAIN - 3)])
    found = Limits.measure(grouped, grouped, known)
    assert found.copy.images == HELD_OUT and found.copy.far_out == []

    found = Limits.measure(train, train, known)
    assert found.copy.images == HELD_OUT + 3 and found.copy.far_out == ["x024", "x025", "x026"]
    assert "3 of 27 held-out images are like training images" in notes(found.as_json(train.class_names))[0]
    # Each image by itself: names that are alike in two folders do not make one object.
    names = train.names[:HELD_OUT] + held_out.names[TRAIN:]
    assert Limits.measure(train, train, replace(held_out, names=names, groups=names)).copy.images == HELD_OUT


def test_without_held_out_images_the_training_ones_serve(train: ImageSet) -> None:
    """Each against those of other groups, itself and its group left out."""
    grouped = replace(train, groups=[f"object {k // 2}" for k in range(TRAIN)])
    twins = train.images.copy()
    twins[1::2] = plant(twins[::2], "brightened and noisy")
    grouped = replace(grouped, images=twins)
    found = Limits.measure(grouped, grouped, None)
    assert found.copy.calibrated_on == "training images, each against those of other groups"
    assert found.copy.groups == TRAIN // 2 and found.copy.far_out == [] and found.copy.value > 0.05

    one = replace(train, groups=["one"] * TRAIN)
    found = Limits.measure(one, one, None)
    assert found.copy.value == 0 and found.copy.false_alarms is None
    assert "Near-copies are missed" in notes(found.as_json(train.class_names))[0]


def test_samples_that_show_windows(held_out: ImageSet) -> None:
    """Training images are larger then; without held-out ones, windows of theirs take their place."""
    train = make_set(textures(6, 64, 64, 0), "pit/t")
    images = textures(3, 32, 32, 2)
    images[1] = np.stack(train.images)[4, 20:52, 7:39]
    corners = np.concatenate([train.images[:, :32, :32], train.images[:, 32:, 32:]])
    seen = make_set(corners, "pit/t", groups=[*train.names] * 2)
    for real, count in ((held_out, HELD_OUT), (None, 12)):
        scores = score_samples(make_set(images, ""), train, Limits.measure(train, seen, real))
        assert scores.thresholds["copy"]["images"] == count
        near = [row["nearest_train"] for row in scores.rows]
        assert [row["copy"] for row in near] == [False, True, False]
        assert (near[1]["name"], near[1]["top"], near[1]["left"]) == ("pit/t004", 20, 7)
    alone = score_samples(make_set(images[:1], ""), train, Limits.measure(train, seen, held_out))
    assert alone.rows[0]["nearest_sample"] is None and alone.memorization["duplicates"]["value"] == 0
    assert alone.memorization["copies"]["interval"] is None and alone.duplicates == []
