"""Whether inserted defects are told from real ones: patches, folds and AUCs with planted answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the packages of requirements-eval.txt are not installed")

from drawn_boxes import SIZE, draw, image_set, rng  # noqa: E402
from random_extractor import random_extractor  # noqa: E402

from guided_diffusion.evaluation.control_boundary import (
    Patches,
    border_pixels,
    cut_patches,
    deal,
    measure_boundary,
    patch_side,
    tell_apart,
)
from guided_diffusion.evaluation.control_classifier import LinearClassifier, describe
from guided_diffusion.evaluation.image_sets import ImageSet


def test_borders_and_patches_lie_where_they_should() -> None:
    region = np.zeros((SIZE, SIZE), bool)
    region[10:20, 10:SIZE] = True  # to the edge, which is no border
    border = border_pixels(region)
    assert border.sum() == 2 * 22 + 8 and border[10, SIZE - 1] and not border[15, SIZE - 1] and border[15, 10]
    images, masks = draw(10, 0)
    patches = cut_patches(image_set(images, masks, "aabbccddee"), 1, 16, None, random_extractor())
    assert set(patches.groups) == set("abcde") and patches.images.shape[1:] == (16, 16, 3)
    assert np.abs(patches.images.mean(axis=(1, 2)) - 128).max() < 0.5  # of one brightness
    empty = cut_patches(image_set(images, masks), 1, 16, 30, random_extractor())
    assert len(empty) == 0 and empty.images.shape == (0, 16, 16, 3)
    assert [patch_side(margin) for margin in (0, 4, 6)] == [16, 16, 20]


def test_no_group_is_in_two_folds() -> None:
    groups = [name for k, name in enumerate("abcdefg") for _ in range(k + 1)]
    fold = deal(groups, 3, ())
    assert all(len({int(f) for f, g in zip(fold, groups, strict=True) if g == own}) == 1 for own in "abcdefg")
    assert sorted(np.bincount(fold)) == [9, 9, 10]


def bars(seed: int, rim: bool = False) -> Patches:
    """120 patches of 20 groups: noise, lighter on the right, with a dark line beside the step if asked."""
    draws = rng(seed)
    own = draws.integers(100, 150, (120, 16, 16, 1)).repeat(3, axis=3)
    own[:, :, 8:] += draws.integers(20, 40, (120, 1, 1, 1))
    if rim:
        own[:, :, 4:6] = 60
    own = own.astype(np.uint8)
    return Patches(own, describe(random_extractor(), own), [f"{k // 6}" for k in range(120)])


def test_borders_of_one_distribution_are_not_told_apart_and_rims_are() -> None:
    same, scores = tell_apart(bars(0), bars(1))
    assert same["auc"]["value"] == pytest.approx(0.5, abs=0.1)
    assert same["auc"]["interval"][0] < 0.5 < same["auc"]["interval"][1] and len(scores[0]) == 120
    told, _ = tell_apart(bars(0), bars(1, rim=True))
    assert told["auc"]["value"] > 0.98 and told["counts"]["inserted"] == {"patches": 120, "groups": 20}


def test_what_marks_a_photograph_does_not_help() -> None:
    """Each group has its own stripe, of no one else's place: known to who has seen the group, and to no other."""

    def marked(patches: Patches, first: int) -> Patches:
        features = np.zeros((120, 64), np.float32)
        features[np.arange(120), first + np.array(list(map(int, patches.groups)))] = 1
        return replace(patches, features=features + rng(first).normal(0, 0.01, features.shape))

    told, _ = tell_apart(marked(bars(0), 0), marked(bars(1), 30))
    assert told["auc"]["value"] < 0.7


def test_too_few_patches_or_groups_are_refused() -> None:
    one = replace(bars(1), groups=["same"] * 120)
    assert "120 inserted patches of 1 " in tell_apart(bars(0), one)[0]["reason"]
    few = Patches(bars(0).images[:99], bars(0).features[:99], bars(0).groups[:99])
    found, scores = tell_apart(few, bars(1))
    assert found["reason"].startswith("99 real patches of 17 ") and "auc" not in found and scores is None


def test_photographs_of_other_texture_are_told_away_from_defects_too() -> None:
    """Two kinds of photographs, equal defects: the classifier is as good where there is no defect."""

    def kind(seed: int, coarse: bool) -> ImageSet:
        draws = rng(seed)
        images = draws.integers(90, 120, (20, 48, 48, 1))
        if coarse:
            images = images[:, ::2, ::2].repeat(2, axis=1).repeat(2, axis=2)
        masks = np.zeros((20, 48, 48), np.uint8)
        masks[:, 9:22, 9:22] = 1
        images = np.where(masks[..., None] > 0, draws.integers(180, 190, images.shape), images)
        return image_set(images.repeat(3, axis=3).astype(np.uint8), masks, np.arange(20) // 2)

    found, pictures = measure_boundary(kind(0, False), kind(1, True), 1, random_extractor())
    auc = {of: part["auc"]["value"] for of, part in found["crack"].items()}
    assert auc["border"] > 0.9 and auc["away"] > 0.95
    assert found["crack"]["border"]["verdict"] == "no" and "verdict" not in found["crack"]["away"]
    assert "0 real patches" in found["pit"]["border"]["reason"]
    assert list(pictures) == ["crack"] and pictures["crack"][0].shape[1:] == (16, 16, 3)


def test_descriptions_keep_small_things_and_the_classifier_weighs_classes_alike() -> None:
    images = np.full((2, SIZE, SIZE, 3), 100, np.uint8)
    images[1, 5, 5] = 255
    features = describe(random_extractor(), images)
    mean, largest = features[:, :8], features[:, 8:16]
    assert np.ptp(largest, axis=0).max() > 10 * np.ptp(mean, axis=0).max()
    features = np.concatenate([rng(0).normal(0, 1, (900, 1)), rng(1).normal(2, 1, (100, 1))])
    classifier = LinearClassifier.fit(features, np.arange(1000) >= 900)
    assert classifier(np.array([[0.9]]))[0] < 0 < classifier(np.array([[1.1]]))[0]
