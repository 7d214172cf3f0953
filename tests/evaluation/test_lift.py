"""evaluate.py lift on squares in noise: what it finds, how it goes on after a stop, and what it says to bad input."""

import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from evaluating import TYPES, draw, evaluate, write_real, write_samples
from PIL import Image

from guided_diffusion.errors import InputError
from guided_diffusion.evaluation import lift, segmenter
from guided_diffusion.evaluation.bootstrap import Resampling
from guided_diffusion.evaluation.lift import _shares, judge, resampled_scores
from guided_diffusion.evaluation.segmenter import Outcome, count_pixels, scores
from guided_diffusion.file_io import lock_folder

SIZE = {"seeds": 3, "steps": 20, "ratios": 2}


def run(folder: Path, out: Path, *quick: str, **flags: object) -> dict:
    """What lift.json holds, of the sets in `folder` and others that flags name."""
    sets = {"train": folder / "train", "val": folder / "val", "samples": folder / "ours"}
    evaluate(lift, *quick, **{**sets, "out": out, "device": "cpu", **flags})
    return json.loads((out / "lift.json").read_text())


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Batches of three, one baseline, one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmenter, "BATCH_SIZE", 3)
        patch.setattr(segmenter, "NUM_GOOD", 1)
        patch.setattr(lift, "BASELINES", ["repeat"])
        patch.setattr(lift, "default_workers", lambda: 1)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lift")
    write_real(root / "train", 4, 0, good=2)
    write_real(root / "val", 10, 1, good=4)
    write_samples(root / "ours", *draw(10, 2))
    write_samples(root / "other", *draw(6, 3))
    return root


@pytest.fixture(scope="module")
def result(folder: Path) -> dict:
    return run(folder, folder / "out", **SIZE)


def test_repeating_is_no_lift_and_figures_are_those_of_the_trainings(result: dict, folder: Path) -> None:
    arms, out = result["arms"], folder / "out"
    assert list(arms) == ["real", "repeat_x1", "synthetic_x2"] and len(list((out / "runs").iterdir())) == 3 * 3
    assert [arm["extra"] for arm in arms.values()] == [0, 4, 8] and result["others"] == []
    low, high = arms["repeat_x1"]["difference_to_real"]["miou"]["interval"]
    assert low <= 0 <= high
    for arm in arms.values():
        per_type = [arm["per_type"][name]["iou"]["value"] for name in TYPES]
        assert np.mean(per_type) == pytest.approx(arm["miou"]["value"]) and arm["miou"]["value"] > 10
    ours, real = arms["synthetic_x2"], arms["real"]
    assert ours["difference_to_real"]["miou"]["value"] == pytest.approx(ours["miou"]["value"] - real["miou"]["value"])
    assert real["difference_to_real"] is None and ours["difference_to_copy_paste"] is None
    counts = {"train": 4, "train_good": 2, "val": 10, "val_groups": 10, "val_good": 4, "seeds": 3}
    assert result["counts"] == counts | {"samples": {"synthetic": [10]}}
    assert result["verdict"]["arm"] == "synthetic_x2" and result["verdict"]["sentence"] in (out / "lift.md").read_text()
    assert min(Image.open(out / "lift.png").size) > 100


def test_a_run_that_was_cut_off_goes_on(result: dict, folder: Path) -> None:
    """One segmenter is damaged; the others are not trained again, and all figures are as before."""
    runs = folder / "out" / "runs"
    (lost,) = runs.glob("synthetic_x2_run0_seed1_*.pt")
    before = {path: path.stat().st_mtime_ns for path in runs.iterdir()}
    lost.write_bytes(lost.read_bytes()[:9000])
    with lock_folder(str(folder / "out"), "--out"), pytest.raises(InputError, match="--out .*is at work there"):
        run(folder, folder / "out", **SIZE)
    assert run(folder, folder / "out", **SIZE) == result
    assert [path for path in runs.iterdir() if path.stat().st_mtime_ns != before[path]] == [lost]


def test_two_segmenters_give_two_verdicts(folder: Path, tmp_path: Path) -> None:
    """Each what it gives alone; their files stand beside each other."""
    small = {"seeds": 1, "steps": 2}
    both = run(folder, tmp_path, "--quick", **small, segmenter="both")
    runs, text = set((tmp_path / "runs").iterdir()), (tmp_path / "lift.md").read_text()
    unet, deeplab = (run(folder, tmp_path, "--quick", **small, segmenter=kind) for kind in ("unet", "deeplab"))
    assert len(runs) == 2 * 3 and runs == set((tmp_path / "runs").iterdir())
    assert deeplab == both | {"others": [], "settings": deeplab["settings"]} and unet["arms"] != deeplab["arms"]
    assert both["others"] == [{key: unet[key] for key in ("segmenter", "provenance", "arms", "verdict")}]
    for of, name in ((deeplab, "DeepLabV3+"), (unet, "U-Net")):
        assert f"**{of['verdict']['sentence']}**" in text and f"mIoU of {name}, " in of["verdict"]["sentence"]


def test_several_processes_and_generator_runs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several workers give what one gives. Validation shows one type only; training has no defect-free images."""
    fork = multiprocessing.get_context("fork")  # spawning would import torch anew
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: fork)
    shown = {"train": write_real(tmp_path / "train", 4, 0), "val": write_real(tmp_path / "val", 4, 5, types=[1])}
    common = {**shown, "samples": f"two={folder / 'ours'},{folder / 'other'}", "seeds": 1, "steps": 2}
    one = run(folder, tmp_path / "a", "--quick", **common)
    monkeypatch.setattr(lift, "default_workers", lambda: 2)
    assert run(folder, tmp_path / "b", "--quick", **common)["arms"] == one["arms"]
    assert list(one["arms"]) == ["real", "copy_paste_x1", "two_all"] and one["arms"]["two_all"]["runs"] == 2
    assert one["arms"]["two_all"]["extra"] == 6  # the smaller run's
    real, pasted, two = one["arms"].values()
    versus = two["miou"]["value"] - pasted["miou"]["value"]
    assert two["difference_to_copy_paste"]["miou"]["value"] == pytest.approx(versus)
    assert real["per_type"]["bright"]["iou"] == {"value": None, "interval": None}
    assert real["miou"] == real["per_type"]["dark"]["iou"] and real["false_positive_rate"]["value"] is None


def test_images_seeds_and_runs_are_resampled_as_by_hand() -> None:
    """Every resample written out: repeat the images, train again by picking seeds and runs, average."""
    groups, rng = ["a", "a", "b", "c", "good1", "good2"], np.random.default_rng(0)

    def outcome(min_pixels: int) -> Outcome:
        masks = rng.choice(4, (2, 4, 8, 10), p=[0.7, 0.1, 0.1, 0.1]).astype(np.uint8)
        pixels = np.stack([count_pixels(p, t, 3) for p, t in zip(*masks, strict=True)])
        return Outcome(pixels, rng.integers(0, 40, 2), min_pixels)

    outcomes = [[outcome(10 + s) for s in range(3)] for _ in range(2)]
    found = resampled_scores(outcomes, groups, "set", num_resamples=15)
    images = Resampling.draw(groups, "lift", "images", least=1, num_resamples=15).weights.astype(int)
    runs, seeds = _shares(2, 15, "runs", "set"), _shares(3, 15, "seeds")
    for b in range(16):
        assert images[b, 0] == images[b, 1]  # of one group
        bad, good = np.repeat(range(4), images[b, :4]), np.repeat(range(2), images[b, 4:])
        drawn_runs, drawn_seeds = (1, 2) if b else (2, 3)
        chosen = [
            scores(Outcome(one.pixels[bad], one.good[good], one.min_pixels), np.ones((1, len(bad) + len(good))))
            for r in np.repeat(range(2), np.round(runs[b] * drawn_runs).astype(int))
            for one in np.repeat(outcomes[r], np.round(seeds[b] * drawn_seeds).astype(int))
        ]
        assert len(chosen) == drawn_runs * drawn_seeds
        for key in ("miou", "false_positive_rate"):
            np.testing.assert_allclose(found[key][b], 100 * np.mean([one[key][0] for one in chosen]))
    assert len(np.unique(np.hstack([runs, seeds]), axis=0)) > 5  # runs and seeds are resampled too
    # The variance over resamples is that of a mean of so few seeds: s^2 / n, with n - 1 in s^2.
    values = np.array([3.0, 5.0, 4.0, 9.0, 1.0])
    means = _shares(5, 40_000, "seeds")[1:] @ values
    assert means.var() == pytest.approx(values.var(ddof=1) / 5, rel=0.03)


def test_the_verdict_says_what_the_interval_says() -> None:
    pasted = {"miou": {"value": 1, "interval": [-2, 4]}}
    for low, high, seeds, start in (
        (5.1, 9.6, 2, ""),
        (-0.2, 9.6, 2, "A lift is not shown: "),
        (-9, -5, 2, "The samples do harm: "),
        (-9, -5, 1, "One training of each arm shows nothing for certain: "),
    ):
        difference = {"miou": {"value": 7.3, "interval": [low, high]}}
        arm = {"ratio": 2.0, "difference_to_real": difference, "difference_to_copy_paste": pasted}
        sentence = judge({"ours_x2": arm}, "ours_x2", "U-Net", seeds)["sentence"]
        assert sentence.startswith(f"{start}+7.3 mIoU of U-Net, 95% interval {low:.1f} to {high:.1f}, at ratio 2")
        assert sentence.endswith("Against copy-paste: +1.0, -2.0 to 4.0.")


def test_bad_input_gets_one_line(folder: Path, tmp_path: Path) -> None:
    dark, bright = (write_real(tmp_path / name, 4, k, types=[k]) for k, name in enumerate(("dark", "bright"), 1))
    only_bright = write_samples(tmp_path / "only", *draw(4, 7, types=[2]))
    ours, small = folder / "ours", write_samples(tmp_path / "small", *draw(4, 8, size=24))
    groups = tmp_path / "groups.json"
    groups.write_text(json.dumps({path.name: "tile" for path in (folder / "val").rglob("*.png")}))
    for match, changes in (
        ("--val .*: 4 of its images are in --train .* too, such as bright/train001", {"val": folder / "train"}),
        ("--val .*bright: shows bright, but --train .*dark dark; take", {"train": dark, "val": bright}),
        ("--samples .*only: shows bright, but --train .*dark dark; take", {"train": dark, "samples": only_bright}),
        ("--samples .*small: are not of the size and view of .*ours; compare", {"samples": f"a={ours},{small}"}),
        ("synthetic_x4 needs 16 samples, but synthetic has 10. Make more", {"ratios": 4}),
        ("--seeds 0: must be from 1 to", {"seeds": 0}),
        *((f"--ratios {ratio}: must be from 0.001", {"ratios": f"1,{ratio}"}) for ratio in ("-2.0", "nan", "inf")),
        ("--ratios: '1;2' is not a list such as 0.5,1,all", {"ratios": "1;2"}),
        ("unknown --verdict_arm 'synthetic_x3'", {"ratios": "all", "verdict_arm": "synthetic_x3"}),
        ("--val .*: intervals need images of at least 2 groups; add", {"groups": groups}),
        ("--samples: name each set NAME=DIR", {"samples": f"repeat={ours}"}),
        *(("--samples: .*names a folder twice, or none", {"samples": text}) for text in ("x=", f"x={ours},{ours}/")),
        ("--val .*other: holds generated images; name a prepared set of real ones", {"val": folder / "other"}),
    ):
        with pytest.raises(InputError, match=match) as caught:
            run(folder, tmp_path / "out", **changes)
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_intervals_are_over_given_groups_and_false_alarms_set_by_training_images(folder, tmp_path, monkeypatch) -> None:
    groups, of_groups, calibrated, summarize = tmp_path / "groups.json", [], set(), lift.summarize
    files = (folder / "val").rglob("*.png")
    groups.write_text(json.dumps({path.name: f"tile{int(path.stem.removeprefix('val')) // 2}" for path in files}))
    monkeypatch.setattr(lift, "summarize", lambda runs, own, *to: of_groups.extend(own) or summarize(runs, own, *to))
    monkeypatch.setattr(lift, "calibrate", lambda pixels, share: calibrated.add(len(pixels)) or 5)
    run(folder, tmp_path / "out", "--quick", seeds=1, steps=2, groups=groups)
    assert len(of_groups) == 10 + 4 and len(set(of_groups[:10])) == 5
    assert calibrated == {2}  # the defect-free images of the training; there are four held-out ones
