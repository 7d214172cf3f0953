"""evaluate.py lift on squares in noise: what it finds, how it goes on after a stop, and what it says to bad input."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
from drawn_boxes import TYPES, draw, write_real, write_samples
from PIL import Image

from guided_diffusion.errors import InputError
from guided_diffusion.evaluation import lift
from guided_diffusion.evaluation.lift_report import judge


def run(*arguments: str) -> None:
    parser = argparse.ArgumentParser()
    lift.add_arguments(parser)
    lift.main(parser.parse_args([str(argument) for argument in (*arguments, "--device", "cpu")]))


def read(out: Path) -> dict:
    return json.loads((out / "lift.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lift")
    write_real(root / "train", 4, 0, good=2)
    write_real(root / "val", 10, 1, good=4)
    images, masks = draw(10, 2)
    write_samples(root / "ours", images, masks)
    write_samples(root / "shuffled", images, np.roll(masks, 3, axis=0))
    return root


@pytest.fixture(scope="module")
def flags(folder: Path) -> list[str]:
    sets = ["--samples", f"ours={folder / 'ours'}", "--samples", f"shuffled={folder / 'shuffled'}"]
    limits = ["--steps", 20, "--batch_size", 3, "--seeds", 4, "--jobs", 1, "--verdict_arm", "ours_x2"]
    arms = ["--ratios", 2, "--counts", "", "--baselines", "repeat"]
    return ["--train", folder / "train", "--val", folder / "val", *sets, *limits, *arms, "--out", folder / "out"]


@pytest.fixture(scope="module")
def result(folder: Path, flags: list[str]) -> dict:
    run(*flags)
    return read(folder / "out")


def test_repeating_is_no_lift_and_shuffled_masks_are_worse(result: dict) -> None:
    arms = result["arms"]
    assert list(arms) == ["real", "repeat_x1", "ours_x2", "shuffled_x2"]
    low, high = arms["repeat_x1"]["difference_to_real"]["miou"]["interval"]
    assert low <= 0 <= high
    assert arms["real"]["miou"]["value"] > 10  # it has learned something, which shuffled masks undo
    assert arms["shuffled_x2"]["miou"]["interval"][1] < arms["ours_x2"]["miou"]["interval"][0]
    assert arms["shuffled_x2"]["difference_to_real"]["miou"]["interval"][1] < 0


def test_what_is_written(result: dict, folder: Path) -> None:
    out = folder / "out"
    assert len(list((out / "runs").glob("*.json"))) == 4 * 4
    assert result["counts"] == {
        "train": 4, "train_good": 2, "val": 10, "val_groups": 10, "val_good": 4,
        "samples": {"ours": [10], "shuffled": [10]}, "seeds": 4,
    }  # fmt: skip
    for arm in result["arms"].values():
        assert arm["extra"] == {"real": 0, "repeat": 4, "synthetic": 8}[arm["kind"]] and arm["trainings"] == 4
        assert np.mean(arm["by_seed"]) == pytest.approx(arm["miou"]["value"])
        per_type = [arm["per_type"][name]["iou"]["value"] for name in TYPES]
        assert np.mean(per_type) == pytest.approx(arm["miou"]["value"])
    ours, real = result["arms"]["ours_x2"], result["arms"]["real"]
    assert ours["difference_to_real"]["miou"]["value"] == pytest.approx(ours["miou"]["value"] - real["miou"]["value"])
    assert real["difference_to_real"] is None and ours["difference_to_copy_paste"] is None
    assert result["provenance"]["encoder"] == "efficientnet_lite0"
    assert result["verdict"]["sentence"] in (out / "lift.md").read_text()
    for picture in ("lift.png", "predictions.png"):
        assert min(Image.open(out / picture).size) > 100


def test_a_run_that_was_cut_off_goes_on(result: dict, flags: list[str], folder: Path, tmp_path: Path) -> None:
    """Of one training nothing is there, of another the segmenter alone; the others are not trained again."""
    shutil.copytree(folder / "out", tmp_path / "out")
    runs = tmp_path / "out" / "runs"
    (lost,) = runs.glob("ours_x2_run0_seed1_*.json")
    (untested,) = runs.glob("real_run0_seed0_*.json")
    segmenters = {path: path.stat().st_mtime_ns for path in runs.glob("*.pt")}
    before = [json.loads(path.read_text()) for path in (lost, untested)]
    for path in (lost, untested, *runs.glob("ours_x2_run0_seed1_*.pt"), tmp_path / "out" / "lift.json"):
        path.unlink()
    run(*flags[:-1], tmp_path / "out")
    after = [json.loads(path.read_text()) for path in (lost, untested)]
    assert after == before
    trained = {path.name for path, time in segmenters.items() if path.stat().st_mtime_ns != time}
    assert len(segmenters) == 16 and trained == {path.name for path in runs.glob("ours_x2_run0_seed1_*.pt")}
    again = read(tmp_path / "out")
    assert again["arms"] == result["arms"] and again["verdict"] == result["verdict"]


def test_other_settings_and_several_processes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generator runs form one arm; several workers give what one gives; other settings are trained anew."""
    fork = multiprocessing.get_context("fork")  # spawning would import torch anew
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: fork)
    sets = f"two={folder / 'ours'},{folder / 'shuffled'}"
    common = ["--train", folder / "train", "--val", folder / "val", "--samples", sets, "--quick"]
    common += ["--batch_size", 2, "--seeds", 1]
    run(*common, "--steps", 2, "--jobs", 2, "--out", tmp_path / "a")
    run(*common, "--steps", 2, "--jobs", 1, "--out", tmp_path / "b")
    one = read(tmp_path / "b")
    assert read(tmp_path / "a")["arms"] == one["arms"]
    assert list(one["arms"]) == ["real", "copy_paste_x1", "two_x1"]
    assert (one["arms"]["two_x1"]["runs"], one["arms"]["two_x1"]["trainings"]) == (2, 2)
    versus = one["arms"]["two_x1"]["miou"]["value"] - one["arms"]["copy_paste_x1"]["miou"]["value"]
    assert one["arms"]["two_x1"]["difference_to_copy_paste"]["miou"]["value"] == pytest.approx(versus)
    assert one["notes"][0].startswith("A first look only") and one["verdict"]["arm"] == "two_x1"
    names = {path.name for path in (tmp_path / "b" / "runs").iterdir()}
    run(*common, "--steps", 1, "--jobs", 1, "--out", tmp_path / "b")
    assert names < {path.name for path in (tmp_path / "b" / "runs").iterdir()}


@pytest.mark.parametrize(
    ("low", "high", "shown", "start"),
    [
        (5.1, 9.6, "lift", "+7.3 mIoU, 95% interval 5.1 to 9.6, at ratio 2."),
        (-0.2, 9.6, "none", "A lift is not shown: +7.3 mIoU, 95% interval -0.2 to 9.6, at ratio 2; the"),
        (-9.6, -5.1, "loss", "The samples do harm: +7.3"),
    ],
)
def test_the_verdict_says_what_the_interval_says(low: float, high: float, shown: str, start: str) -> None:
    difference = {"miou": {"value": 7.3, "interval": [low, high]}}
    arm = {"ratio": 2.0, "extra": 50, "miou": {}, "difference_to_real": difference, "difference_to_copy_paste": None}
    verdict = judge({"real": {"miou": {}}, "ours_x2": arm}, "ours_x2")
    assert verdict["shown"] == shown and verdict["sentence"].startswith(start)


def test_bad_input_gets_one_line(folder: Path, tmp_path: Path) -> None:
    ours = folder / "ours"
    others = write_samples(tmp_path / "others", *draw(3, 0), names=("pit", "stain"))
    dark = write_real(tmp_path / "dark", 4, 5, types=[1])
    bright = write_real(tmp_path / "bright", 4, 6, types=[2])
    only_bright = write_samples(tmp_path / "only", *draw(4, 7, types=[2]))
    small = write_samples(tmp_path / "small", *draw(4, 8, size=24))
    (tmp_path / "groups.json").write_text('{"other.png": "a"}')
    for match, changes in (
        ("--samples .*nowhere: does not exist", {"samples": tmp_path / "nowhere"}),
        ("its types are pit, stain, but those of --train .* are dark, bright", {"samples": others}),
        ("--val .*: bright/train001 is also in --train .*, as are 3 more; test on", {"val": folder / "train"}),
        ("--val .*bright: shows bright, but --train .*dark dark; test on", {"train": dark, "val": bright}),
        ("its masks show none of the types of --train", {"train": dark, "samples": only_bright}),
        ("shows whole images of 24 x 24 px, but .*ours whole images of 32 x 32 px", {"samples": f"a={ours},{small}"}),
        ("--ratios: synthetic_x4 needs 16 samples, but synthetic has 10", {"ratios": 4}),
        ("--seeds 0: must be at least 1", {"seeds": 0}),
        ("--ratios 1,a: should be positive numbers", {"ratios": "1,a"}),
        ("unknown --baselines 'copypaste' .did you mean 'copy_paste'", {"baselines": "copypaste"}),
        ("unknown --verdict_arm 'synthetic_x3'", {"ratios": 1, "verdict_arm": "synthetic_x3"}),
        ("names no group for the image", {"groups": tmp_path / "groups.json"}),
        ("cannot be called 'a b'", {"samples": f"a b={ours}"}),
        ("--real_share 1.5: is a share", {"real_share": 1.5}),
    ):
        given = {"train": folder / "train", "val": folder / "val", "samples": ours, "out": tmp_path / "out", **changes}
        with pytest.raises(InputError, match=match) as caught:
            run(*(part for flag, value in given.items() for part in (f"--{flag}", value)))
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_what_is_missing_is_said(folder: Path, tmp_path: Path) -> None:
    """A type that validation does not show, or the samples do not: a note, and the rest goes on."""
    train = write_real(tmp_path / "train", 4, 0)  # without a folder good
    val = write_real(tmp_path / "val", 4, 5, types=[1])
    samples = write_samples(tmp_path / "samples", *draw(4, 6, types=[1]))
    run(
        "--train", train, "--val", val, "--samples", samples, "--out", tmp_path / "out", "--quick",
        "--steps", 1, "--batch_size", 2, "--seeds", 1, "--jobs", 1, "--baselines", "",
    )  # fmt: skip
    found = read(tmp_path / "out")
    assert len(found["notes"]) == 6 and "--val shows no bright" in found["notes"][2]
    real = found["arms"]["real"]
    assert real["per_type"]["bright"]["iou"] == {"value": None, "interval": None}
    assert real["miou"] == real["per_type"]["dark"]["iou"]
    assert real["false_positive_rate"]["value"] is None
