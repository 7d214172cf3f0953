"""Round trips: what is drawn in a layout is what its reader finds, and what training sees, pixel by pixel."""

import drawn_annotations
import drawn_formats
import numpy as np
import pytest
from drawn_formats import NAMES, material, numbered

from guided_diffusion.data.image_datasets import DefectDataset
from guided_diffusion.data.index_masks import read_pair
from guided_diffusion.prepare.layouts import Options, read_layout, write_released

CASES = {**drawn_formats.CASES, **drawn_annotations.CASES}


@pytest.fixture
def drawn(request, tmp_path):
    """(root, what is expected) of the data set of a case."""
    root = tmp_path / "drawn"
    return root, CASES[request.param](root, *material(5), NAMES)


every_case = pytest.mark.parametrize("drawn", CASES, indirect=True)


@every_case
def test_the_reader_finds_what_was_drawn(drawn):
    root, expected = drawn
    data = read_layout(str(root), expected.options)
    data.check()
    assert data.format == expected.format
    assert data.label_map == expected.label_map
    assert {sample.name for sample in data.good} == expected.good
    assert sorted(sample.name for sample in data.samples) == sorted(expected.masks)
    assert {sample.name: sample.part for sample in data.samples if sample.part} == expected.parts
    for sample in data.samples:
        image, mask = read_pair(sample, len(NAMES))
        assert mask.dtype == np.uint8 and np.array_equal(mask, expected.masks[sample.name]), sample.name
        if sample.name in expected.images:
            assert np.array_equal(image, expected.images[sample.name]), sample.name


def test_objects_of_defect_spectrum_have_their_published_types(tmp_path):
    for folder, types in {"DS-MVTec/bottle": 3, "DS-DAGM": 5, "DS-VISION/Ring": None}.items():
        CASES["DS-DAGM"](tmp_path / folder, *material(5), NAMES)
        label_map = read_layout(str(tmp_path / folder)).label_map
        assert (label_map and len(label_map)) == types
    assert read_layout(str(tmp_path / "DS-MVTec/bottle")).label_map["contamination"] == 3


@every_case
def test_training_sees_the_same_as_after_conversion(drawn, tmp_path):
    root, expected = drawn
    data = read_layout(str(root), expected.options)
    samples = [sample for sample in data.samples if sample.part in (None, "train")]  # as prepare_data.py splits them
    good = [name if name.startswith("good/") else f"good/{name}" for name in sorted(expected.good)]
    names = [sample.name for sample in samples] + good
    blank = (np.zeros((8, 8), np.uint8), None)
    pairs = [read_pair(sample, len(NAMES)) for sample in samples] + [blank] * len(good)
    write_released(str(tmp_path / "converted"), names, pairs, data.label_map or numbered(NAMES), {})
    for count in (None, 1, 2):
        converted = DefectDataset.load(str(tmp_path / "converted"), len(NAMES), (32, 32), num_image_train=count)
        if count is None:
            assert converted.names == [sample.name for sample in samples]
        if expected.options != Options():  # what must be said, training cannot be told
            continue
        direct = DefectDataset.load(str(root), len(NAMES), (32, 32), num_image_train=count)
        assert direct.names == converted.names
        for ours, theirs in zip(direct.images + direct.masks, converted.images + converted.masks, strict=True):
            assert np.array_equal(ours.numpy(), theirs.numpy())
