"""The demo data set: what it holds, that its defects are grey and visible, and that drawing is repeatable."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from guided_diffusion.data.image_datasets import DefectDataset
from guided_diffusion.data.image_files import View
from guided_diffusion.data.prepared import read_label_map
from scripts.draw_demo_data import LABEL_MAP, draw, types_of_image


@pytest.mark.parametrize("size", [64, 128])
def test_defects_are_grey_and_show_by_their_edges(size: int) -> None:
    """A type is no grey level: within a defect, and on the plate around it, levels of the same range occur."""
    for name, index in LABEL_MAP.items():
        contrasts, shared = [], []
        for image, mask in (draw(k, size, 0) for k in range(24)):
            assert (image == image[..., :1]).all()
            inside = mask == index
            around = ndimage.binary_dilation(inside, iterations=size // 16) & (mask == 0)
            if inside.any():
                grey = image[..., 0].astype(float)
                edge = inside ^ ndimage.binary_erosion(inside)
                contrasts.append(abs(grey[edge].mean() - grey[around].mean()))
                shared.append(np.ptp(grey[inside]) > 25 and grey[around].std() > 4)
        assert min(contrasts) > 5 and np.mean(shared) > 0.9, name


def test_types_are_balanced_and_a_third_of_the_images_carry_several():
    carried = [types_of_image(index) for index in range(36)]
    assert sum(len(types) > 1 for types in carried) == 12
    assert sum(len(types) == 3 for types in carried) == 3
    for name in LABEL_MAP:
        assert 12 <= sum(name in types for types in carried) <= 24
    for index, types in enumerate(carried):
        counts = np.bincount(draw(index, 64, 0)[1].ravel(), minlength=4)
        assert set(np.flatnonzero(counts)) == {0, *(LABEL_MAP[name] for name in types)}
        assert (counts[counts > 0] >= 40).all() and counts[1:].sum() < 64 * 64 * 0.25  # large enough to learn


def test_command_draws_a_loadable_set_once(tmp_path: Path, run_script: Callable) -> None:
    root = tmp_path / "demo"
    first = run_script("draw_demo_data.py", root, "--num_images", 12)
    assert first.returncode == 0, first.stderr
    data = DefectDataset.load(str(root), 3, View((64, 64)))
    assert len(data) == 12 and read_label_map(str(root)) == LABEL_MAP
    assert {name.split("/")[0] for name in data.names} == set(LABEL_MAP)
    record = json.loads((root / "dataset.json").read_text())["images"][5]
    for path, drawn in zip((record["image"], record["mask"]), draw(5, 64, 0), strict=True):
        assert np.array_equal(np.array(Image.open(root / path)), drawn)

    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.*")}
    again = run_script("draw_demo_data.py", root, "--num_images", 12)
    assert again.returncode == 0 and "nothing changed" in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*.*")}
