"""Real images as samples show them: views from manifests, windows, whole images, groups, label maps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.data.image_files import View
from guided_diffusion.data.prepared import write_released
from guided_diffusion.errors import InputError
from guided_diffusion.evaluation.image_sets import read_good, read_samples, read_whole, read_windows, view_of_samples
from guided_diffusion.generation.sample_io import SampleFolder, common_class_names

NAMES = ("scratch", "pit")


def write_data(root: Path, good: int = 0) -> str:
    """Two scratches and a pit of 24 px in the released layout, and defect-free images of 24 x 48 px."""
    rng = np.random.default_rng(0)
    names = [f"{NAMES[k % 2]}/{k}" for k in range(3)] + [f"good/{k}" for k in range(good)]
    masks = [(rng.random((24, 24)) < 0.1).astype(np.uint8) * (1 + k % 2) for k in range(3)] + [None] * good
    images = [rng.integers(0, 256, (24, 24 if mask is not None else 48, 3), np.uint8) for mask in masks]
    write_released(str(root), names, zip(images, masks, strict=True), {"pit": 2, "scratch": 1}, {})
    return str(root)


def write_samples(root: Path, **settings: object) -> str:
    rng = np.random.default_rng(1)
    folder = SampleFolder(str(root), NAMES, {"seed": 0, **settings})
    folder.add([0, 1], rng.integers(0, 256, (2, 16, 16, 3), np.uint8), rng.integers(0, 3, (2, 16, 16), np.uint8))
    return str(root)


def test_samples_and_their_view(tmp_path: Path) -> None:
    plain = write_samples(tmp_path / "plain")
    assert view_of_samples(plain, (16, 16)) == View((16, 16))
    assert View((16, 16)).whole_size == (16, 16)
    cut = write_samples(tmp_path / "cut", crops={"crop_from": [24, 24], "crop_defect": 0.8})
    view = view_of_samples(cut, (16, 16))
    assert view == View((16, 16), True, (24, 24), 0.8) and view.whole_size == (24, 24)
    samples = read_samples(cut, NAMES)
    assert samples.images.shape == (2, 16, 16, 3) and samples.names == samples.groups == ["000000", "000001"]
    assert samples.take([1]).names == ["000001"]


def test_windows_are_pieces_of_the_whole_images(tmp_path: Path) -> None:
    root = write_data(tmp_path)
    view = View((16, 16), True, (), 1.0)
    whole = read_whole(root, NAMES, view)
    windows = read_windows(root, NAMES, view, windows=5)
    assert whole.names == ["pit/1", "scratch/0", "scratch/2"] and whole.images[0].shape == (24, 24, 3)
    assert windows.images.shape == (15, 16, 16, 3) and windows.names[5] == "scratch/0#0"
    assert windows.groups[5:10] == ["scratch/0"] * 5
    for image, mask, group in zip(windows.images, windows.masks, windows.groups, strict=True):
        source = whole.images[whole.names.index(group)]
        places = np.lib.stride_tricks.sliding_window_view(source, (16, 16, 3)).reshape(-1, 16, 16, 3)
        assert (places == image).all(axis=(1, 2, 3)).any() and mask.any()
    again = read_windows(root, NAMES, view, windows=5)
    assert np.array_equal(again.images, windows.images)
    assert read_windows(root, NAMES, View((16, 16))).images.shape == (3, 16, 16, 3)  # stretched, once each


def test_groups_and_defect_free_images(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data", good=2)
    groups = tmp_path / "groups.csv"
    groups.write_text("0.png,a\n1.png,b\nscratch/2.png,a\nscratch/0.png,a\npit/1.png,b\ngood/0.png,c\ngood/1.png,c\n")
    assert read_whole(root, NAMES, View((8, 8)), groups=str(groups)).groups == ["b", "a", "a"]
    good = read_good(root, NAMES, View((8, 8)), groups=str(groups))
    assert good.names == ["good/0", "good/1"] and good.groups == ["c", "c"]
    assert [image.shape for image in good.images] == [(8, 8, 3)] * 2 and not any(mask.any() for mask in good.masks)
    assert [image.shape for image in read_good(root, NAMES, View((8, 8), True)).images] == [(24, 48, 3)] * 2
    assert len(read_good(write_data(tmp_path / "none"), NAMES, View((8, 8)))) == 0


def test_label_maps_have_to_agree(tmp_path: Path) -> None:
    root, samples = write_data(tmp_path / "data"), write_samples(tmp_path / "samples")
    assert common_class_names({"--real": root, "--samples": samples}) == NAMES
    (tmp_path / "data/dataset.json").write_text(json.dumps({"label_map": {"pit": 1, "scratch": 2}}))
    with pytest.raises(InputError, match="--samples .* scratch, pit, .*--real .* pit, scratch"):
        common_class_names({"--real": root, "--samples": samples})
    (tmp_path / "data/dataset.json").unlink()
    assert common_class_names({"--real": root, "--samples": samples}) == NAMES
    with pytest.raises(InputError, match="--real .*dataset.json"):
        common_class_names({"--real": root})


def test_samples_of_two_sizes_are_refused(tmp_path: Path) -> None:
    samples = write_samples(tmp_path)
    for part in ("images", "masks_converted_dir"):
        Image.open(tmp_path / part / "000000.png").resize((8, 8), 0).save(tmp_path / part / "000000.png")
    with pytest.raises(InputError, match=r"--samples .*000001.png: is 16 x 16 pixels, but .*000000.png is 8 x 8"):
        read_samples(samples, NAMES)
    with pytest.raises(InputError, match="--samples .*does not exist"):
        read_samples(str(tmp_path / "absent"), NAMES)


def test_networks_trained_on_windows_say_so_in_the_manifest(
    run_script, trained_pair, demo_data, tmp_path: Path
) -> None:
    crops = ["--set", "data.fit=random_crop", "--set", "data.crop_from=32", "--set", "data.crop_defect=0.5"]
    crops += ["--set", "data.resolution=16", "--set", "train.iterations=1"]
    config = trained_pair.small / "config.yml"
    result = run_script("train.py", "--config", config, "--data_dir", demo_data, "--work_dir", tmp_path / "net", *crops)
    assert result.returncode == 0, result.stderr
    flags = ["--step_inference", 1000, "--num_steps", 2, "--num_samples", 1, "--precision", "fp32"]
    for small, name in ((tmp_path / "net", "cut"), (trained_pair.small, "plain")):
        result = run_script("inference.py", "--small_recep", small, "--sample_dir", tmp_path / name, *flags)
        assert result.returncode == 0, result.stderr
    assert view_of_samples(str(tmp_path / "cut"), (16, 16)) == View((16, 16), True, (32, 32), 0.5)
    assert "crops" not in json.loads((tmp_path / "plain/manifest.jsonl").read_text())["settings"]
