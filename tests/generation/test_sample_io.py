"""Sample folders: their files, going on after a kill, settings that differ, the contact sheet."""

import io
import json
import os
from types import SimpleNamespace

import blobfile as bf
import numpy as np
import pytest
from drawn_formats import pixels
from PIL import Image
from runs import tree

from guided_diffusion.errors import InputError
from guided_diffusion.generation.sample_io import SampleFolder
from guided_diffusion.pictures import colorize, palette

NAMES = ("crack", "hole", "oil stain")
SETTINGS = {"seed": 7, "step_inference": 400, "image_size": (16, 24), "checkpoints": {"large": "a", "small": "b"}}


def make_samples(indices, height=16, width=24):
    """Images and masks that depend on the index alone, as generated ones do; sample 0 has no defect."""
    images = np.stack([np.random.default_rng(i).integers(0, 256, (height, width, 3)) for i in indices])
    masks = np.zeros((len(indices), height, width), np.uint8)
    for mask, index in zip(masks, indices, strict=True):
        mask[2:5, 3 : 3 + index % 4] = index % 4
        mask[8:10, :5] = 3 * (index % 2)
    return images.astype(np.uint8), masks


def fill(folder, *indices):
    folder.add(indices, *make_samples(indices))
    return folder


@pytest.fixture
def folder(tmp_path):
    return SampleFolder(str(tmp_path), NAMES, SETTINGS)


def test_files_of_a_sample(tmp_path, folder):
    assert folder.missing(2) == [0, 1] and not os.listdir(tmp_path)  # making the object writes nothing
    fill(folder, 3)
    (image,), (mask,) = make_samples([3])
    pictures = {
        "defects/oil_stain/000003.png": (mask == 3) * 255,
        "images/000003.png": image,
        "masks/000003.png": colorize(mask),
        "masks_converted_dir/000003.png": mask,
    }
    assert {path for path, data in tree(tmp_path).items() if data} == {*pictures, "manifest.jsonl"}
    for path, expected in pictures.items():
        assert np.array_equal(pixels(tmp_path / path), expected)
    for left in (".tmp-killed", "masks/.tmp-killed", "defects/oil_stain/.tmp-killed", "images/000009.png"):
        (tmp_path / left).touch()  # by a run that was cut off; test_inference.py has each write fail
    fill(SampleFolder(str(tmp_path), NAMES, SETTINGS), 4)
    images = {f"{folder}/000004.png" for folder in ("images", "masks", "masks_converted_dir")}
    assert {path for path, data in tree(tmp_path).items() if data is not None} == {*pictures, "manifest.jsonl", *images}


def test_manifest_describes_each_sample(tmp_path, folder):
    fill(folder, 5, 2)
    folder.add([0, 1], *make_samples([0, 1]), [{"mask": "a"}, {"mask": "b"}])
    rows = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == [0, 1, 2, 5]
    assert [row.get("condition") for row in rows] == [{"mask": "a"}, {"mask": "b"}, None, None]
    stained = {"crack": 3, "oil stain": 10}
    assert [row["types"] for row in rows] == [{}, stained, {"hole": 6}, stained]
    assert rows[2]["settings"] == json.loads(json.dumps({**SETTINGS, "class_names": NAMES})) and rows[2]["seed"] == 7
    for row in rows:
        paths = [row["image"], row["mask"], row["index_mask"], *row["defects"].values()]
        assert all((tmp_path / path).is_file() for path in paths) and list(row["defects"]) == list(row["types"])


@pytest.mark.parametrize(
    ("names", "changed", "said"),
    [
        (NAMES, {"image_size": (16, 32)}, "image_size [16, 24], not [16, 32]"),
        (NAMES, {"checkpoints": {"large": "a", "small": "c"}}, "checkpoints.small 'b', not 'c'"),
        (NAMES, {"sampler": "ddim"}, "sampler None, not 'ddim'"),
        (("crack", "hole"), {}, "class_names ['crack', 'hole', 'oil stain'], not ['crack', 'hole']"),
    ],
)
def test_other_settings_are_refused_and_nothing_is_written(tmp_path, folder, names, changed, said):
    fill(folder, 0, 1)
    (tmp_path / ".tmp-left").write_bytes(b"")
    before = tree(tmp_path)
    with pytest.raises(InputError) as caught:
        SampleFolder(str(tmp_path), names, {**SETTINGS, **changed})
    assert said in str(caught.value) and caught.value.with_flags({}).startswith("--sample_dir: ")
    assert tree(tmp_path) == before


def test_numbers_that_a_manifest_does_not_believe_are_refused(tmp_path, folder):
    with pytest.raises(InputError, match="indices 10000000: must be from 0 to 9,999,999"):
        folder.add([10**7], *make_samples([1]))
    assert not os.listdir(tmp_path)


def test_type_folders_are_safe_and_distinct(tmp_path):
    names = ("a/b", "a b", "..", "", "Riß-1.x", "A_B", "a_b_8", "a_b")
    mask = np.arange(9, dtype=np.uint8).repeat(2).reshape(1, 2, 9)
    SampleFolder(str(tmp_path), names, {}).add([0], np.zeros((1, 2, 9, 3), np.uint8), mask)
    folders = {"a_b", "a_b_2", "type_3", "type_4", "Riß-1.x", "A_B_6", "a_b_8", "a_b_8_8"}
    assert set(os.listdir(tmp_path / "defects")) == folders


@pytest.mark.parametrize(("size", "tile"), [((40, 60), (120, 180)), ((512, 512), (256, 256))])
def test_sheet_shows_images_and_outlines_and_the_legend_of_many_types(tmp_path, size, tile):
    names = [f"a name that is far too long for the caption of a small tile, number {k}" for k in range(1, 31)]
    masks = np.zeros((3, *size), np.uint8)
    masks[:, : size[0] // 4] = 1
    folder = SampleFolder(str(tmp_path), names, {**SETTINGS, "image_size": size})
    folder.add(range(3), np.full((3, *size, 3), (10, 200, 30), np.uint8), masks)
    assert folder.write_contact_sheet(max_samples=2) == str(tmp_path / "contact_sheet.png")
    sheet = pixels(tmp_path / "contact_sheet.png")

    def count(colour):
        return (sheet == np.array(colour, np.uint8)).all(axis=-1).sum()

    # All keeps the image's colour but a line below the region; reducing blends its neighbours.
    line = tile[1] * round(max(tile) / 128)
    kept = 2 * (2 * tile[0] * tile[1] - line)
    assert count((10, 200, 30)) == pytest.approx(kept, rel=0.02 if size[0] > 256 else 0)
    assert all(count(colour) >= 50 for colour in palette(30)[1:]) and max(sheet.shape) < 3000


def test_sheet_needs_samples_and_their_files(tmp_path, folder):
    with pytest.raises(InputError, match="holds no samples"):
        folder.write_contact_sheet()
    fill(folder, 0, 1)
    (tmp_path / "images/000001.png").unlink()
    with pytest.raises(InputError, match=r"images/000001\.png: .*; it is in manifest\.jsonl"):
        folder.write_contact_sheet()


def test_everything_works_in_a_cloud_store(tmp_path, monkeypatch):
    store: dict[str, bytes] = {}

    def below(folder):
        prefix = folder.rstrip("/") + "/"
        return {path[len(prefix) :].split("/")[0] for path in store if path.startswith(prefix)}

    def scandir(folder):
        return [SimpleNamespace(name=name, is_file="." in name, is_dir="." not in name) for name in below(folder)]

    does = {"write_bytes": store.__setitem__, "read_bytes": store.__getitem__, "exists": store.__contains__}
    for name, function in {**does, "remove": store.__delitem__, "isdir": below, "scandir": scandir}.items():
        monkeypatch.setattr(bf, name, function)
    monkeypatch.chdir(tmp_path)
    root = "gs://bucket/samples"
    fill(SampleFolder(root, NAMES, SETTINGS), 0, 1)
    left = [f"{root}/{folder}/000002.png" for folder in ("images", "defects/crack")]  # of a run cut off
    store |= dict.fromkeys(left, b"")
    again = SampleFolder(root, NAMES, SETTINGS)
    assert again.missing(4) == [2, 3]
    assert Image.open(io.BytesIO(store[fill(again, 3).write_contact_sheet()])).mode == "RGB"
    assert not store.keys() & left and len(store[f"{root}/manifest.jsonl"].splitlines()) == 3
    assert os.listdir(tmp_path) == []
