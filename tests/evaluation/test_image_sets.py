"""Real images as samples show them: views from manifests, windows, whole images, groups, label maps."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import save_untrained
from evaluating import TYPES, draw, write_real, write_samples
from PIL import Image

from guided_diffusion import DefectGen
from guided_diffusion.data.image_files import View
from guided_diffusion.errors import InputError
from guided_diffusion.evaluation.image_sets import WINDOWS, as_shown, read_good, read_real, read_samples, sources
from guided_diffusion.evaluation.image_sets import view_of_samples as view_of
from guided_diffusion.generation.sample_io import common_class_names


def test_samples_and_their_view(tmp_path: Path) -> None:
    images, masks = draw(2, 1, size=16)
    assert view_of(write_samples(tmp_path / "plain", images, masks), (16, 16)) == View((16, 16))
    cut = write_samples(tmp_path / "cut", images, masks, crops={"crop_from": [24, 24], "crop_defect": 0.8})
    assert view_of(cut, (16, 16)) == View((16, 16), True, (24, 24), 0.8)
    with pytest.raises(InputError, match="cut: its samples are of 32 x 16 pixels, but training saw images of 24 x 24"):
        view_of(cut, (16, 32))
    samples = read_samples(cut, TYPES)
    assert np.array_equal(samples.images, images) and np.array_equal(samples.masks, masks)
    assert samples.names == samples.groups == ["000000", "000001"] and samples.take([1]).names == ["000001"]
    for path in (tmp_path / "cut").glob("*/000000.png"):
        Image.open(path).resize((8, 8), 0).save(path)
    with pytest.raises(InputError, match=r".*000001.png: is 16 x 16 pixels, but .*000000.png is 8 x 8"):
        read_samples(cut, TYPES)


def test_windows_are_pieces_of_the_whole_images(tmp_path: Path) -> None:
    root = write_real(tmp_path / "x", 3, 0)
    view = View((16, 16), True, (), 1.0)
    whole = read_real(root, TYPES, view)
    windows = as_shown(whole, view)
    assert whole.names == ["bright/x001", "dark/x000", "dark/x002"] and whole.images[0].shape == (32, 32, 3)
    assert windows.images.shape == (3 * WINDOWS, 16, 16, 3) and windows.names[WINDOWS] == "dark/x000//0"
    odd = replace(windows, names=["a/part#1//0", "a/part#1//1", "a/part#2//0"])
    assert sources(odd) == ["a/part#1", "a/part#1", "a/part#2"]
    assert windows.groups[WINDOWS : 2 * WINDOWS] == ["dark/x000"] * WINDOWS
    for image, mask, group in zip(windows.images, windows.masks, windows.groups, strict=True):
        source = whole.images[whole.names.index(group)]
        places = np.lib.stride_tricks.sliding_window_view(source, (16, 16, 3)).reshape(-1, 16, 16, 3)
        assert (places == image).all(axis=(1, 2, 3)).any() and mask.any()
    assert np.array_equal(as_shown(read_real(root, TYPES, view), view).images, windows.images)
    view = View((16, 16))  # stretched, once each
    assert as_shown(read_real(root, TYPES, view), view).images.shape == (3, 16, 16, 3)


def test_groups_and_defect_free_images(tmp_path: Path) -> None:
    root, groups = write_real(tmp_path / "x", 3, 0, good=2), tmp_path / "groups.csv"
    groups.write_text("x000.png,a\nx001.png,b\ndark/x002.png,a\ngood/0.png,c\ngood/1.png,c\n")
    assert read_real(root, TYPES, View((8, 8)), groups=str(groups)).groups == ["b", "a", "a"]
    good = read_good(root, TYPES, View((8, 8)), groups=str(groups))
    assert good.names == ["good/0", "good/1"] and good.groups == ["c", "c"]
    assert [image.shape for image in good.images] == [(8, 8, 3)] * 2 and not any(mask.any() for mask in good.masks)
    assert [image.shape for image in read_good(root, TYPES, View((8, 8), True)).images] == [(32, 32, 3)] * 2
    assert len(read_good(write_real(tmp_path / "none", 1, 0), TYPES, View((8, 8)))) == 0


def test_label_maps_have_to_agree(tmp_path: Path) -> None:
    root, samples = write_real(tmp_path / "data", 3, 0), write_samples(tmp_path / "samples", *draw(2, 1))
    both, labels = {"--real": root, "--samples": samples}, tmp_path / "data/dataset.json"
    assert common_class_names(both) == TYPES
    labels.write_text(json.dumps({"label_map": {"bright": 1, "dark": 2}}))
    with pytest.raises(InputError, match="--samples .* dark, bright, .*--real .* bright, dark"):
        common_class_names(both)
    labels.unlink()
    assert common_class_names(both) == TYPES
    with pytest.raises(InputError, match="--real .*dataset.json"):
        common_class_names({"--real": root})


def test_networks_trained_on_windows_say_so_in_the_manifest(tmp_path: Path) -> None:
    crops = {"data.fit": "random_crop", "data.crop_from": 32, "data.crop_defect": 0.5}
    net = save_untrained(tmp_path / "net", "small", **crops, **{"model.class_cond": False})
    generator = DefectGen.load(None, str(net), device="cpu", precision="fp32")
    generator.generate_into(str(tmp_path / "cut"), 1, generator.settings(step_inference=1000, num_steps=2))
    assert view_of(str(tmp_path / "cut"), (16, 16)) == View((16, 16), True, (32, 32), 0.5)
