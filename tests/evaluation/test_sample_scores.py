"""The row of each sample, and the limits that real images set."""

import json
from dataclasses import replace

import numpy as np
import pytest
from drawn_formats import textures

from guided_diffusion.evaluation.copies import PLANTED, plant
from guided_diffusion.evaluation.image_sets import ImageSet
from guided_diffusion.evaluation.sample_scores import measure_limits, memorization, notes, region_sizes, score_samples


def make_set(images: np.ndarray, prefix: str, masks: np.ndarray | None = None, groups: list | None = None) -> ImageSet:
    """Images with a crack of 3 x 4 pixels each, unless masks are given."""
    if masks is None:
        masks = np.zeros(images.shape[:3], np.uint8)
        masks[:, 10:13, 12:16] = 1
    names = [f"{prefix}{k:03d}" for k in range(len(images))]
    return ImageSet(images, masks, names, list(map(str, groups or names)), ("crack", "pit"), "")


TRAIN, HELD_OUT = make_set(textures(10, 32, 32, 0), "crack/t"), make_set(textures(24, 32, 32, 1), "crack/h")


@pytest.fixture(scope="module")
def limits() -> dict:
    return measure_limits(TRAIN, TRAIN, HELD_OUT)


def test_rows_tell_what_was_planted(limits: dict) -> None:
    """0-4 planted copies, 5 and 6 alike, 7 empty, 8 a speck, 9 clipped, 10 a speck beside a pit, 11 and 12 plain."""
    images, masks = textures(13, 32, 32, 2), np.zeros((13, 32, 32), np.uint8)
    for k, kind in enumerate(PLANTED):
        images[k] = plant(TRAIN.images[k : k + 1], kind)[0]
    images[6] = plant(images[5:6, ::-1], "brightened")[0]
    images[9, :8, :, 2] = 255
    masks[:, 4:6, 5:9] = 2
    masks[:, 20:25, 20:24] = 1
    masks[7:9] = 0
    masks[[8, 10], 3, 3:8] = 1
    masks[10, 20:] = 0
    rows, among = score_samples(make_set(images, "", masks), TRAIN, limits, np.array([np.nan, *np.linspace(0, 1, 12)]))
    assert json.loads(json.dumps(rows)) == rows and json.dumps(limits)
    crack, pit = ({"pixels": n, "share": n / 1024, "regions": 1, "largest": n} for n in (20, 8))
    near = {"name": "crack/t001", "distance": pytest.approx(0, abs=1e-4), "copy": True}
    assert {key: value for key, value in rows[1].items() if key not in ("clipped", "nearest_sample")} == {
        **{"name": "001", "types": {"crack": crack, "pit": pit}, "empty": False, "speck": False, "agreement": 0.0},
        "nearest_train": {**near, "flip": "h", "top": 0, "left": 0},
    }
    assert rows[0]["agreement"] is None and rows[12]["agreement"] == 1
    copied = [row["nearest_train"]["name"] for row in rows if row["nearest_train"]["copy"]]
    assert copied == [f"crack/t{k:03d}" for k in range(5)]
    assert [row["nearest_sample"]["duplicate"] for row in rows] == [k in (5, 6) for k in range(13)]
    assert [rows[k]["nearest_sample"]["name"] for k in (5, 6)] == ["006", "005"] and among[5, 6] == among.min()
    assert [row["empty"] for row in rows] == [k == 7 for k in range(13)]
    assert [row["speck"] for row in rows] == [k == 8 for k in range(13)]  # 5 pixels of crack; real ones have 12
    assert rows[9]["clipped"] == pytest.approx(0.25, abs=0.01) and max(row["clipped"] for row in rows[10:]) < 0.01
    shares = memorization(rows)
    assert shares["copies"]["value"] == 5 / 13 and shares["duplicates"]["value"] == 2 / 13
    low, high = shares["copies"]["interval"]
    assert 0.1 < low < 5 / 13 < high < 0.7


def test_limits_come_from_held_out_images(limits: dict) -> None:
    assert limits["copy"]["calibrated_on"] == "held-out images" and limits["copy"]["images"] == 24
    assert limits["copy"]["planted_found"] == dict.fromkeys(PLANTED, 1.0)
    assert notes(limits) == []
    real = np.stack([*TRAIN.images, *HELD_OUT.images])
    shares = [(real == value).mean(axis=(1, 2)).max(axis=0) for value in (0, 255)]
    np.testing.assert_allclose(limits["clipped"], shares)


def test_images_of_trained_objects_are_not_held_out() -> None:
    """By their groups where these are known on both sides; else by their looks, with a note."""
    leaked = np.concatenate([HELD_OUT.images, plant(TRAIN.images[:3], "brightened and noisy")])
    real, train = make_set(leaked, "x", groups=[*range(24), "A", "A", "B"]), replace(TRAIN, groups=[*"AABCDEFGHI"])
    found = measure_limits(train, train, real)["copy"]
    assert found["images"] == 24 and found["far_out"] == []
    found = measure_limits(TRAIN, TRAIN, real)
    assert found["copy"]["images"] == 27 and found["copy"]["far_out"] == ["x024", "x025", "x026"]
    assert "3 of 27 held-out images look like training images" in notes(found)[0]
    # Each image by itself: names that are alike in two folders do not make one object.
    names = TRAIN.names + HELD_OUT.names[10:]
    assert measure_limits(TRAIN, TRAIN, replace(HELD_OUT, names=names, groups=names))["copy"]["images"] == 24


def test_without_held_out_images_the_training_ones_serve() -> None:
    """Each against those of other groups, itself and its group left out."""
    twins = TRAIN.images.copy()
    twins[1::2] = plant(twins[::2], "brightened and noisy")
    train = replace(TRAIN, groups=[*"AABBCCDDEE"], images=twins)
    found = measure_limits(train, train, None)["copy"]
    assert found["calibrated_on"] == "training images, each against those of other groups"
    assert found["groups"] == 5 and found["far_out"] == [] and found["value"] > 0.05

    one = replace(TRAIN, groups=["one"] * 10)
    found = measure_limits(one, one, None)
    assert found["copy"]["value"] == 0 and found["copy"]["false_alarms"] is None
    assert "Near-copies are missed" in notes(found)[0]
    found["copy"]["far_out"] = ["x001"]
    assert "give it one group in --groups" in notes(found)[0]


def test_samples_that_show_windows() -> None:
    """Training images are larger then; without held-out ones, windows of theirs take their place."""
    train = make_set(textures(6, 64, 64, 0), "pit/t")
    images = textures(3, 32, 32, 2)
    images[1] = np.stack(train.images)[4, 20:52, 7:39]
    corners = np.concatenate([train.images[:, :32, :32], train.images[:, 32:, 32:]])
    seen = make_set(corners, "pit/t", groups=[*train.names] * 2)
    for real, count in ((HELD_OUT, 24), (None, 12)):
        limits = measure_limits(train, seen, real)
        assert limits["copy"]["images"] == count
        near = [row["nearest_train"] for row in score_samples(make_set(images, ""), train, limits)[0]]
        assert [row["copy"] for row in near] == [False, True, False]
        assert (near[1]["name"], near[1]["top"], near[1]["left"]) == ("pit/t004", 20, 7)
    alone, _ = score_samples(make_set(images[:1], ""), train, limits)
    assert alone[0]["nearest_sample"] is None and memorization(alone)["duplicates"]["value"] == 0
    assert memorization(alone)["copies"]["interval"] is None


def test_regions_are_connected_parts_of_one_type() -> None:
    mask = np.array([[1, 0, 0, 2, 2], [0, 1, 0, 2, 0], [0, 0, 0, 1, 0], [3, 0, 0, 1, 1]], np.uint8)
    assert region_sizes(mask, ("pit", "crack", "dent")) == {"pit": [3, 2], "crack": [3], "dent": [1]}
    assert region_sizes(np.zeros((4, 4), np.uint8), ("pit",)) == {}


def test_duplicates_are_judged_against_images_of_other_groups() -> None:
    """Two photographs of each object, alike: they say nothing about unlike samples."""
    twins = HELD_OUT.images.copy()
    twins[1::2] = plant(twins[::2], "brightened")
    real = replace(HELD_OUT, images=twins, groups=[str(k // 2) for k in range(24)])
    found = measure_limits(TRAIN, TRAIN, real)["duplicate"]
    assert found["value"] > 0.05
