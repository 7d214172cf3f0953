"""evaluate.py control: planted answers of every figure, and the command from files to files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("scipy", reason="the packages of requirements-eval.txt are not installed")

from drawn_boxes import SIZE, TYPES, draw, image_set, rng  # noqa: E402
from random_extractor import random_extractor  # noqa: E402

from guided_diffusion.errors import InputError
from guided_diffusion.evaluation import control, quality
from guided_diffusion.evaluation.bootstrap import share_interval
from guided_diffusion.evaluation.control_background import far_from_defects, measure_outside, read_photographs
from guided_diffusion.evaluation.control_bounds import difference, ratio, verdict
from guided_diffusion.evaluation.control_masks import compare_agreement, measure_variety
from guided_diffusion.evaluation.control_types import asked_table, measure_counts, measure_kid, measure_recall
from guided_diffusion.evaluation.image_sets import ImageSet
from guided_diffusion.generation.sample_io import SampleFolder
from guided_diffusion.prepare.layouts import write_released


def masks_of(*types: int) -> np.ndarray:
    return np.array(types, np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)


# --- figures and bounds ------------------------------------------------------------------------------------------


def test_a_difference_of_shares_has_newcombes_interval() -> None:
    """His example of 56 of 70 against 48 of 80."""
    shares = [share_interval([True] * yes + [False] * no, range(yes + no)) for yes, no in ((56, 14), (48, 32))]
    assert difference(*shares)["value"] == pytest.approx(0.2)
    assert difference(*shares)["interval"] == pytest.approx([0.0524, 0.3339], abs=1e-4)
    assert difference(shares[0], {"value": 0.5, "interval": None}) == {"value": pytest.approx(0.3), "interval": None}


def test_a_ratio_turns_over_with_its_sides() -> None:
    a, b = {"value": 2.0, "interval": [1.0, 4.0]}, {"value": 4.0, "interval": [4.0, 4.0]}
    assert ratio(a, b)["value"] == pytest.approx(0.5) and ratio(a, b)["interval"] == pytest.approx([0.25, 1.0])
    assert ratio(b, a)["interval"] == pytest.approx([1.0, 4.0])


def test_verdicts_are_of_the_whole_interval() -> None:
    assert verdict({"value": 0.0, "interval": [-0.05, 0.1]}, least=-0.05) == "yes"
    assert verdict({"value": -0.2, "interval": [-0.3, -0.1]}, least=-0.05) == "no"
    assert verdict({"value": 0.0, "interval": [-0.1, 0.1]}, least=-0.05) == "yes, not shown"
    assert verdict({"value": 0.7, "interval": None}, most=0.6) == "no, not shown"
    assert verdict({"value": 0.7, "interval": [0.65, 0.8]}, most=0.6) == "no"


# --- types -------------------------------------------------------------------------------------------------------


def test_counts_of_asked_and_present_types() -> None:
    asked = asked_table([frozenset({1}), frozenset({1}), frozenset({1, 2}), frozenset()], 2)
    counts = measure_counts(asked, np.array([[1, 0], [0, 1], [1, 1], [0, 0]], bool), TYPES)
    crack, pit = counts["per_type"]["crack"], counts["per_type"]["pit"]
    assert (crack["asked"], crack["present"], crack["obeyed"]["value"]) == (3, 2, pytest.approx(2 / 3))
    assert (pit["asked"], pit["present"], pit["obeyed"]["value"]) == (1, 2, 1)
    assert counts["imbalance"] == {"asked": 0.5, "present": 0}


def test_the_classifier_finds_what_two_normal_distributions_allow() -> None:
    """One dimension of 20 tells: with d' = 3 at 10% false positives the best recall is Phi(3 - 1.28) = 0.957."""
    types = {side: np.arange(n) % 2 for side, n in (("train", 400), ("real", 2000), ("samples", 2000))}
    features = {side: rng(n).normal(size=(len(own), 20)) for n, (side, own) in enumerate(types.items())}
    for side, own in types.items():
        features[side][:, 3] += 3 * (own == 0)
    features["samples"][types["samples"] == 0, 3] -= 1  # cracks that look less like it
    sets = {side: image_set(np.zeros((len(own), 4, 4, 3), np.uint8), masks_of(*own + 1)) for side, own in types.items()}
    features["train"] = np.tile(features["train"], (4, 1))
    asked = asked_table([frozenset({1 + k}) for k in types["samples"]], 2)
    crack = measure_recall(*sets.values(), asked, features)["crack"]
    best = [NormalDist(d).cdf(-NormalDist().inv_cdf(0.9)) for d in (-3, -2)]
    assert crack["recall"]["real"]["value"] == pytest.approx(1 - NormalDist(3).cdf(NormalDist().inv_cdf(0.9)), abs=0.03)
    assert best[0] == pytest.approx(0.957, abs=0.001)
    assert crack["recall"]["samples"]["value"] == pytest.approx(best[1], abs=0.04)
    assert crack["recall"]["verdict"] == "no" and crack["recall"]["difference"]["interval"][1] < -0.05
    assert crack["false_positives"]["real"]["value"] == pytest.approx(0.1)
    assert crack["false_positives"]["samples"]["value"] == pytest.approx(0.1, abs=0.03)
    assert crack["counts"]["samples"] == {"with": 1000, "without": 1000}

    nothing = {side: rng(9).normal(size=own.shape) for side, own in features.items()}
    assert measure_recall(*sets.values(), asked, nothing)["crack"]["recall"]["verdict"] == "classifier cannot tell"
    features["samples"][:, 3] = 9  # all samples look like cracks: found, but with the false positives to match
    found = measure_recall(*sets.values(), asked, features)["crack"]
    assert found["recall"]["samples"]["value"] == found["false_positives"]["samples"]["value"] == 1
    assert found["recall"]["verdict"] == "yes" and found["false_positives"]["verdict"] == "no"
    few = measure_recall(sets["train"].take([0, 1]), *list(sets.values())[1:], asked, features)
    assert few["pit"]["reason"] == "1 training images with it and 1 without; 2 of each are needed"
    few = measure_recall(sets["train"], sets["real"].take(range(6)), sets["samples"], asked, features)
    assert few["pit"]["reason"] == "3 held-out images with it and 3 without; 8 of each are needed"


def test_kid_of_a_type_sees_a_shift_and_takes_equal_counts() -> None:
    real = image_set(np.zeros((60, 4, 4, 3), np.uint8), masks_of(*([1, 2] * 30)), np.arange(60) // 3)
    other = image_set(np.zeros((40, 4, 4, 3), np.uint8), masks_of(*([1] * 36 + [2] * 4)))
    features = {
        side: rng(n).normal(size=(count, 8))
        for n, (side, count) in enumerate((("real", 60), ("samples", 50), ("reference", 40)))
    }
    features["reference"] += 0.8
    asked = asked_table([frozenset({1 + k % 2}) for k in range(50)], 2)
    found = measure_kid(real, asked, other, features)
    crack, pit = found["crack"], found["pit"]
    assert crack["counts"] == {"samples": 25, "real": 30, "reference": 25}
    assert crack["samples"]["interval"][0] < 0 < crack["samples"]["interval"][1] < crack["reference"]["value"]
    assert crack["difference"]["value"] == pytest.approx(crack["samples"]["value"] - crack["reference"]["value"])
    assert crack["difference"]["interval"][1] < 0
    assert pit["difference"] is None and pit["counts"]["reference"] == 4 and pit["samples"]["interval"]
    assert "7 samples against 30" in measure_kid(real, asked[:14], None, features)["crack"]["reason"]


# --- masks -------------------------------------------------------------------------------------------------------


def test_agreement_is_held_against_that_of_real_images() -> None:
    figure = {"value": 0.5, "interval": [0.4, 0.6]}
    real = {"mean": figure, "per_type": {"crack": {"value": 0.8, "interval": [0.75, 0.85]}, "pit": None}, "images": 9}
    own = {"mean": figure, "per_type": {"crack": figure, "pit": figure}, "images": 5, "reference": real}
    found = compare_agreement(own)
    assert found["mean"]["difference"]["value"] == 0 and found["mean"]["verdict"] == "yes, not shown"
    crack = found["per_type"]["crack"]
    assert crack["difference"]["value"] == pytest.approx(-0.3) and crack["verdict"] == "no"
    assert found["per_type"]["pit"]["difference"] is None and found["images"] == {"samples": 5, "real": 9}
    assert compare_agreement({**own, "reference": None})["mean"]["verdict"] is None
    blind = {"value": 0.0, "interval": [0.0, 0.0]}  # as good as nothing is nothing good
    found = compare_agreement({**own, "mean": blind, "reference": {**real, "mean": blind}})
    assert found["mean"]["verdict"] == "segmenter cannot tell"


def test_images_of_one_mask_that_hardly_differ_are_found() -> None:
    images, masks = draw(24, 0)
    real = image_set(images, masks, np.arange(24) // 2)
    masks = masks[[0, 0, 0, 2, 2, 2, 1]]
    noise = rng(1).integers(0, 3, (7, SIZE, SIZE, 1)).astype(np.uint8)
    same = image_set(images[[0, 0, 0, 2, 2, 2, 1]] + noise, masks)
    files = ["a.png", "a.png", "a.png", "c.png", "c.png", "c.png", "b.png"]
    found = measure_variety(same, files, real, random_extractor())
    assert found["crack"]["counts"] == {"masks": 2, "samples": 6, "real": 12, "real_groups": 12}
    assert found["crack"]["ratio"]["value"] < 0.2 and found["crack"]["verdict"] == "no"
    assert found["pit"]["reason"].startswith("0 masks with it have several samples")
    different = image_set(images[[4, 6, 8, 10, 12, 14, 1]], masks)
    crack = measure_variety(different, files, real, random_extractor())["crack"]
    assert crack["ratio"]["value"] == pytest.approx(1, abs=0.25) and crack["samples"]["value"] > 0


# --- photographs -------------------------------------------------------------------------------------------------


def test_one_altered_pixel_outside_of_the_margin_is_found(tmp_path: Path) -> None:
    photographs, masks = draw(3, 0)[0], draw(3, 1)[1]
    for name, photograph in zip("abc", photographs, strict=True):
        Image.fromarray(photograph).save(tmp_path / f"{name}.png")
    kept = np.stack([far_from_defects(mask, 4) for mask in masks])
    rows, columns = np.nonzero(masks[0])
    top, left, bottom, right = rows.min() - 4, columns.min() - 4, rows.max() + 5, columns.max() + 5
    assert kept[0].sum() == SIZE**2 - (bottom - top) * (right - left) and not kept[0, top, left]
    images = np.where(kept[..., None], photographs, 0)
    files = ["a.png", "b.png", "c.png"]
    read = read_photographs(str(tmp_path), files, (SIZE, SIZE))
    found = measure_outside(image_set(images, masks), read, 4)
    assert found == {"samples": 3, "pixels": int(kept.sum()), "largest": 0, "differ": 0, "names": []}
    y, x = np.argwhere(kept[1])[7]
    images[1, y, x, 2] += 3
    found = measure_outside(image_set(images, masks), read, 4)
    assert (found["largest"], found["differ"], found["names"]) == (3, 1, ["000001"])
    with pytest.raises(InputError, match="has no d.png"):
        read_photographs(str(tmp_path), ["a.png", "d.png"], (SIZE, SIZE))


# --- the command -------------------------------------------------------------------------------------------------


class Threshold:
    """In a segmenter's place: calls light pixels cracks."""

    provenance = {"encoder": "threshold"}

    def __init__(self, held_out: ImageSet) -> None:
        self.reference = quality.agreement_summary(self, held_out)

    def predict(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [(image.mean(axis=2) > image.mean() + 20).astype(np.uint8) for image in images]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("control")
    label_map = {name: k for k, name in enumerate(TYPES, start=1)}
    for name, count, seed in (("train", 20, 1), ("real", 24, 2)):
        names = [f"{TYPES[k % 2]}/{name}{k:03d}" for k in range(count)]
        write_released(str(root / name), names, zip(*draw(count, seed), strict=True), label_map, {})
    photographs = draw(20, 5, light=0)[0]
    defects, masks = (part.repeat(2, axis=0) for part in draw(10, 6))  # two samples of each mask
    (root / "good").mkdir()
    for k, photograph in enumerate(photographs):
        Image.fromarray(photograph).save(root / "good" / f"{k:02d}.png")
    inserted = np.where(far_from_defects_all(masks)[..., None], photographs, defects)
    held = {"conditions": {"masks": 10, "margin": 4}}
    conditions = {
        "types": [{"types": [TYPES[k % 2]]} for k in range(20)],
        "inserted": [{"mask": f"{k // 2:03d}.png", "background": f"{k:02d}.png"} for k in range(20)],
        "free": None,
    }
    for name, own in conditions.items():
        images, drawn = (inserted, masks) if name == "inserted" else draw(20, 7)
        settings = {"seed": 0, **(held if name == "inserted" else {})}
        SampleFolder(str(root / name), TYPES, settings).add(range(20), images, drawn, own)
    return {path.name: str(path) for path in root.iterdir()}


def far_from_defects_all(masks: np.ndarray) -> np.ndarray:
    return np.stack([far_from_defects(mask, 4) for mask in masks])


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(control, "load_extractor", lambda name, device: random_extractor())
    monkeypatch.setattr(quality, "train_agreement_segmenter", lambda *_, held_out, **__: Threshold(held_out))
    parser = argparse.ArgumentParser()
    control.add_arguments(parser)
    control.main(parser.parse_args([*arguments, "--device", "cpu"]))


def test_samples_of_asked_types(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path
) -> None:
    flags = [part for name in ("train", "real") for part in (f"--{name}", folders[name])]
    flags += ["--samples", folders["types"], "--reference", folders["free"]]
    run(monkeypatch, *flags, "--out", str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["asked.png", "control.json", "control.md"]
    result = json.loads((tmp_path / "control.json").read_text())
    types = result["types"]
    assert result["masks"] is None and result["photographs"] is None and result["command"] == "control"
    assert types["counts"]["per_type"]["pit"]["obeyed"]["value"] == 1 and types["counts"]["imbalance"]["asked"] == 0
    crack = types["recall"]["crack"]
    assert crack["counts"]["train"] == {"with": 10, "without": 10} and crack["recall"]["real"]["value"] > 0.5
    assert crack["recall"]["difference"]["value"] == pytest.approx(0, abs=0.35)
    # The same images stand on both sides, under other draws.
    assert types["kid"]["crack"]["difference"]["value"] == pytest.approx(0)
    text = (tmp_path / "control.md").read_text()
    assert text in capsys.readouterr().out and "| crack | 10 | 10 | 100.0 [" in text
    again = tmp_path / "again"
    run(monkeypatch, *flags, "--out", str(again))
    assert json.loads((again / "control.json").read_text()) == result


def test_samples_in_photographs(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    flags = [part for name in ("train", "real") for part in (f"--{name}", folders[name])]
    flags += ["--samples", folders["inserted"], "--background", folders["good"], "--out", str(tmp_path)]
    run(monkeypatch, *flags)
    result = json.loads((tmp_path / "control.json").read_text())
    assert result["types"] is None and result["photographs"]["outside"]["largest"] == 0
    assert result["masks"]["agreement"]["images"] == {"samples": 20, "real": 24}
    assert result["masks"]["agreement"]["per_type"]["crack"]["difference"]["interval"]
    pit = result["masks"]["variety"]["pit"]
    assert pit["counts"] == {"masks": 5, "samples": 10, "real": 12, "real_groups": 12}
    assert 0.2 < pit["ratio"]["value"] < 2 and pit["samples"]["interval"]
    border = result["photographs"]["borders"]["crack"]["border"]
    assert 0.3 < border["auc"]["value"] <= 1 and border["counts"]["inserted"]["groups"] == 10
    assert result["provenance"]["segmenter"] == {"encoder": "threshold"}
    assert result["pictures"] == {"borders": "borders.png"} and (tmp_path / "borders.png").exists()
    assert "the largest difference from the photograph is 0 of 255" in (tmp_path / "control.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--samples": "free"}, "were made without conditions, neither types nor masks nor photographs"),
        ({"--samples": "bare"}, "has no manifest.jsonl, which says what was asked for"),
        ({"--samples": "unknown"}, r"unknown condition.types 'crak' \(did you mean 'crack'\?\)"),
        ({"--background": "good"}, "--background: no sample of .* was asked into photographs; leave it out"),
        ({"--samples": "inserted", "--reference": "free"}, "--reference: no sample of .* was asked for types"),
        ({"--samples": "inserted", "--background": "few"}, "--background .*few: has no 01.png"),
        ({"--reference": "nowhere"}, "--reference .*nowhere"),
        ({"--windows": "0"}, "--windows 0: must be at least 1"),
    ],
)
def test_bad_input_gets_one_line_before_anything_is_written(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    for name in ("bare", "unknown"):
        folder = tmp_path / name
        SampleFolder(str(folder), TYPES, {"seed": 0}).add(range(8), *draw(8, 1), [{"types": ["crak"]}] * 8)
    (tmp_path / "bare/manifest.jsonl").unlink()
    (tmp_path / "few").mkdir()
    Image.new("RGB", (SIZE, SIZE)).save(tmp_path / "few/00.png")
    flags = {"--real": folders["real"], "--train": folders["train"], "--samples": folders["types"]}
    for flag, value in changes.items():
        flags[flag] = value if flag == "--windows" else folders.get(value, str(tmp_path / value))
    out = tmp_path / "out"
    with pytest.raises(InputError, match=message) as caught:
        run(monkeypatch, *(part for pair in flags.items() for part in pair), "--out", str(out))
    assert "\n" not in str(caught.value) and not out.exists()


def test_the_command_line(run_script: Callable, folders: dict[str, str]) -> None:
    flags = ("--real", folders["real"], "--train", folders["train"], "--samples", folders["free"])
    result = run_script("evaluate.py", "control", *flags)
    assert result.returncode == 2 and result.stderr.startswith("error: --samples") and result.stderr.count("\n") == 1
