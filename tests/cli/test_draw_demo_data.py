"""The demo data set: what it holds, that the colour rule reads it, and that drawing is repeatable."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.data.image_datasets import DefectDataset
from guided_diffusion.data.prepared import read_label_map
from scripts.draw_demo_data import LABEL_MAP, draw, mask_agreement, tint_rule, types_of_image

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "draw_demo_data.py"


def run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(("size", "seed"), [(64, 0), (64, 1), (128, 5), (48, 2)])
def test_colour_rule_recovers_the_masks(size, seed):
    drawn = [draw(index, size, seed) for index in range(24)]
    masks = np.stack([mask for _, mask in drawn])
    found = np.stack([tint_rule(image) for image, _ in drawn])
    assert found.dtype == np.uint8 and found.shape == masks.shape
    for name, label in LABEL_MAP.items():
        overlap, union = (masks == label) & (found == label), (masks == label) | (found == label)
        assert overlap.sum() / union.sum() > 0.9, name
        per_image = [o.sum() / u.sum() for o, u in zip(overlap, union, strict=True) if u.any()]
        assert min(per_image) > 0.8, name


def test_types_are_balanced_and_a_third_of_the_images_carry_several():
    carried = [types_of_image(index) for index in range(36)]
    assert sum(len(types) > 1 for types in carried) == 12
    assert sum(len(types) == 3 for types in carried) == 3
    for name in LABEL_MAP:
        assert 12 <= sum(name in types for types in carried) <= 24
    for index, types in enumerate(carried):
        labels = set(np.unique(draw(index, 64, 0)[1]).tolist()) - {0}
        assert labels == {LABEL_MAP[name] for name in types}


def test_regions_are_large_enough_to_learn():
    for index in range(24):
        mask = draw(index, 64, 0)[1]
        counts = np.bincount(mask.ravel(), minlength=4)
        assert (counts[counts > 0] >= 40).all()
        assert counts[1:].sum() < 64 * 64 * 0.25


def test_command_draws_a_loadable_set_once(tmp_path):
    first = run("demo", "--num_images", 12, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    root = tmp_path / "demo"
    data = DefectDataset.load(str(root), 3, (64, 64))
    assert len(data) == 12 and read_label_map(str(root)) == LABEL_MAP
    assert {name.split("/")[0] for name in data.names} == set(LABEL_MAP)
    record = json.loads((root / "dataset.json").read_text())["images"][5]
    image, mask = draw(5, 64, 0)
    assert np.array_equal(np.array(Image.open(root / record["image"])), image)
    assert np.array_equal(np.array(Image.open(root / record["mask"])), mask)

    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.*")}
    again = run("demo", "--num_images", 12, cwd=tmp_path)
    assert again.returncode == 0 and "nothing changed" in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*.*")}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["out", "--num_images", 2], "--num_images"), (["out", "--size", 8], "--size"), (["file"], "file")],
)
def test_bad_input_ends_in_one_line_and_status_2(tmp_path, arguments, word):
    (tmp_path / "file").write_text("")
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == 2 and word in result.stderr
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_drawn_masks_agree_with_their_colours_and_shuffled_ones_do_not() -> None:
    pairs = [draw(i, 64, seed=0) for i in range(12)]
    shuffled = [(image, pairs[(i + 5) % 12][1]) for i, (image, _) in enumerate(pairs)]
    good, bad = mask_agreement(pairs), mask_agreement(shuffled)
    assert set(good) == {"scratch", "stain", "pit"}
    assert min(min(row[1:]) for row in good.values()) > 0.9
    assert max(max(row[1:]) for row in bad.values()) < 0.25
    image, mask = pairs[0]
    assert all(row[1:] == (0.0, 0.0) for row in mask_agreement([(image, np.zeros_like(mask))]).values())
