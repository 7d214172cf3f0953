"""What generate returns: it shows itself in a notebook, and becomes the sample folder that generate_into writes."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from runs import tree

from guided_diffusion import GeneratedBatch, InputError
from guided_diffusion.data.records import read_manifest
from guided_diffusion.generation.conditions import as_index_masks, read_conditions


def test_a_saved_batch_is_the_folder_that_the_command_line_writes(generator, tmp_path):
    settings = generator.settings(num_steps=4)
    generator.generate_into(str(tmp_path / "written"), 3, settings, seed=5, batch_size=3).write_contact_sheet()
    batch = generator.generate(3, settings, seed=5)
    assert batch.save(str(tmp_path / "saved")) == str(tmp_path / "saved" / "contact_sheet.png")
    assert tree(tmp_path / "saved") == tree(tmp_path / "written")
    for part in (batch[2:], batch[[0, 2]], batch[np.array([True, False, False])]):
        part.save(str(tmp_path / "parts"))
    assert sorted(p.stem for p in (tmp_path / "parts" / "images").iterdir()) == ["000000", "000002"]
    with pytest.raises(InputError, match="^sample_dir: .* holds samples made with seed 5, not 6; use the settings"):
        generator.generate(1, settings, seed=6).save(str(tmp_path / "saved"))
    with pytest.raises(InputError, match="^sample_dir: the batch holds no sample"):
        batch[:0].save(str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_a_notebook_shows_images_beside_their_masks():
    images, masks = np.full((10, 32, 48, 3), 90, np.uint8), np.zeros((10, 32, 48), np.uint8)
    masks[:, 8:24, 8:24] = 2
    batch = GeneratedBatch(images, masks, ("crack", "hole"))
    assert (len(batch), len(list(batch)), len(batch[:0])) == (10, 10, 0)
    shown = np.asarray(Image.open(io.BytesIO(batch[3]._repr_png_())))
    assert shown.shape == (4 * 32, 4 * 2 * 48, 3)
    assert (shown[:, : 4 * 48] == 90).all() and (shown[:, 4 * 48 :] != 90).any()
    sheet = Image.open(io.BytesIO(batch._repr_png_()))
    assert sheet.width > 8 * 144 and batch[:0]._repr_png_() is None


IMAGES, MASKS = np.zeros((3, 8, 8, 3), np.uint8), np.zeros((3, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("images", "masks", "given", "words"),
    [
        (IMAGES / 255, MASKS, {}, "images: float64 .* give uint8"),
        (IMAGES, MASKS.astype(int) - 1, {}, "with a mask int64"),
        (IMAGES, MASKS[:1], {}, "3 images, 1 masks"),
        (IMAGES, MASKS + 2, {}, "hold type 2, but there are 1"),
        (IMAGES, MASKS[:, :4], {}, r"images: uint8 \[8, 8, 3\] with a mask uint8 \[4, 8\]"),
        (IMAGES, MASKS, {"indices": [1, 1, 2]}, "indices: 3 images, 3 masks, 2 numbers"),
        (IMAGES, MASKS, {"indices": [-1, 1, 2]}, "indices -1: must be from 0"),
        (IMAGES, MASKS, {"conditions": [None]}, "1 conditions"),
        (IMAGES, MASKS, {"about": {"x": MASKS}}, "about: Object of type ndarray"),
    ],
)
def test_a_batch_that_is_none_leaves_no_folder(tmp_path, images, masks, given, words):
    with pytest.raises(InputError, match=words):
        GeneratedBatch(images, masks, ("pit",), **given).save(tmp_path / "new")
    with pytest.raises(InputError, match="sample_dir None: must be a path"):
        GeneratedBatch(IMAGES, MASKS, ("pit",)).save(None)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("shape", ["bool", "int64", "2-D", "list", "tensor"])
def test_masks_are_taken_as_notebooks_have_them(generator, shape):
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 10:14] = 1
    of_one_type = as_index_masks(mask > 0, 1)
    given = {"bool": of_one_type, "int64": mask[None].astype(int), "2-D": mask, "list": [mask.tolist()]}
    given["tensor"] = torch.from_numpy(mask)
    batch = generator.generate(2, masks=given[shape], num_steps=3)
    assert batch.masks.dtype == np.uint8 and (batch.masks == mask).all()


def test_masks_of_the_bank_are_those_of_the_command_line(generator, tmp_path):
    settings = generator.settings(num_steps=3)
    told = {"masks": "bank", "seed": 3, "defects": ["pit", "scratch,stain"]}
    held = read_conditions(generator.config, settings, num_samples=4, **told)
    generator.generate_into(str(tmp_path / "written"), 4, settings, held, seed=3, batch_size=4).write_contact_sheet()
    batch = generator.generate(4, settings, **told)
    batch.save(str(tmp_path / "saved"))
    assert tree(tmp_path / "saved") == tree(tmp_path / "written")
    assert (generator.generate([3, 1], settings, **told).masks == batch.masks[[3, 1]]).all()


def test_insertions_of_several_photographs_make_one_folder(generator, tmp_path):
    mask = np.zeros((48, 40), int)
    mask[20:26, 10:16] = 2
    for grey in (60, 120):
        photograph = np.full((48, 40, 3), grey, np.uint8)
        generator.insert(photograph, mask, seeds=(5, 7), scale=1, num_steps=3)[[1]].save(str(tmp_path))
    rows = read_manifest(str(tmp_path))
    told = [(row["condition"], row["settings"]["conditions"]) for row in rows.values()]
    assert told == [({"seed": 7}, {"scale": [1, 1], "margin": 4})] * 2
    assert rows[0]["settings"]["whole_size"] == [32, 32]
    assert [np.asarray(Image.open(tmp_path / row["image"]))[0, 0, 0] for row in rows.values()] == [60, 120]


def test_samples_without_numbers_never_replace_others(tmp_path):
    images, masks = np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 8, 8), np.uint8)
    GeneratedBatch(images, masks, ("crack",), indices=[0, 2]).save(tmp_path)
    GeneratedBatch(images + 9, masks, ("crack",)).save(tmp_path)
    assert sorted(read_manifest(str(tmp_path))) == [0, 2, 3, 4]
    assert not np.asarray(Image.open(tmp_path / "images/000002.png")).any()
