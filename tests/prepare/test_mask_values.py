"""What mask values mean is told by all files of a set: kinds, thresholds, palettes, void, what is refused."""

import json

import numpy as np
import pytest
from drawn_at_random import with_palette
from drawn_formats import refusal, save
from PIL import Image

from guided_diffusion.cli.prepare import main
from guided_diffusion.errors import InputError
from guided_diffusion.prepare.layouts.drawing import decide_bits

REGIONS = np.zeros((6, 12, 12), bool)
for k, region in enumerate(REGIONS):
    region[2 + k % 3 : 7, 3 : 5 + k] = True
SOFT = [0, 40, 90, 150, 210, 255]


def levels(*kinds):
    """Masks of all REGIONS; kinds, in turn: what is (background, defective)."""
    return [np.where(region, *kinds[k % len(kinds)][::-1]).astype(np.uint8) for k, region in enumerate(REGIONS)]


def palette(*colours, swapped=False):
    """Masks of palette files with two colours, the second defective; swapped: which has index 0."""
    return [with_palette(region != swapped, *colours[:: -1 if swapped else 1]) for region in REGIONS]


def dotted(masks, value, where=(0, slice(None))):
    """The masks, with a value in the first row of each."""
    for mask in masks:
        mask[where] = value
    return masks


BLACK, WHITE, RED, BLUE = (0, 0, 0), (255, 255, 255), (200, 0, 0), (0, 0, 200)
SETS = {  # name: masks, flags, what dataset.json tells of them
    "0/100": (levels((0, 100)), "", {"mask_threshold": 0}),
    "0/1, 0/255 and void 9": (dotted(levels((0, 1), (0, 255)), 9), "--void 9", {"mask_threshold": 0, "void": 9}),
    "1 and void 255": (dotted(levels((0, 1)), 255), "--void 255", {"mask_threshold": 0, "void": 255}),
    "palette, red, inverted": (palette(BLACK, RED, swapped=True), "", {"palette": "looks"}),
    "palette beside grey": (palette(BLACK, WHITE, swapped=True)[:3] + levels((0, 255))[3:], "", {"palette": "looks"}),
    "palette": (palette(BLUE, RED), "", {}),
    "inverted": (levels((255, 0)), "--mask_values inverted", {"mask_values": "inverted"}),
    "inverted 0/1": (levels((1, 0)), "--mask_values inverted", {"mask_values": "inverted", "mask_threshold": 0}),
}


def prepare(root, masks, flags, typed):
    """Index masks by number that prepare_data.py makes of masks, in type folders or not, and dataset.json's source."""
    images, drawn, own = ("test", "ground_truth", "crack/") if typed else ("images", "masks", "")
    for k, mask in enumerate(masks):
        save(root / f"in/{images}/{own}{k}.png", np.random.default_rng(k).integers(0, 256, (12, 12, 3), dtype=np.uint8))
        save(root / f"in/{drawn}/{own}{k}.png", mask)
    main([str(root / "in"), str(root / "out"), "--workers", "1", *flags.split()])
    made = [np.array(Image.open(root / f"out/converted_ground_truth/{own}{k}.png")) for k in range(len(masks))]
    return made, json.loads((root / "out/dataset.json").read_text())["source"]


@pytest.mark.parametrize("name", SETS)
def test_where_a_layout_tells_the_type(tmp_path, name):
    masks, flags, told = SETS[name]
    made, source = prepare(tmp_path, masks, flags, typed=True)
    assert np.array_equal(made, REGIONS)
    keys = source.keys() & {"void", "palette", "mask_values", "mask_threshold"}
    assert {key: source[key] for key in keys} == {"mask_threshold": 127, **told}


REFUSED = {  # masks, in type folders, words of the line
    "void?": (dotted(levels((0, 1)), 255), True, "--void 255"),
    "void beside indices?": (dotted(levels((0, 1), (0, 2)), 255), False, "--void 255|--mask_values binary"),
    "types?": (dotted(levels((0, 1)), 2), True, "--mask_values index|--mask_threshold 0"),
    "a type in each file?": (levels((0, 1), (0, 2)), True, "--mask_values index|--mask_threshold 0"),
    "half swapped?": (levels((255, 0), (0, 255)), True, "--mask_values inverted|3 of 6"),
    "swapped 0/1?": (levels((1, 0)), False, "--mask_values inverted, or index"),
    "faint?": (dotted(levels((0, 255)), SOFT * 2)[:5] + levels((0, 1))[5:], True, "5.png|level is 1|--mask_threshold"),
    "palettes differ": (palette(BLACK, RED)[:3] + palette(BLACK, BLUE)[3:], False, "3.png|--mask_values index"),
    "background 1?": (levels((1, 2)), False, "value 0|--mask_values index"),
    "transparent": ([np.dstack([m | 255, m]) for m in levels((0, 255))], True, "transparency"),
    "transparent black": ([np.dstack([m * 0, m * 0, m * 0, m]) for m in levels((0, 255))], False, "transparency"),
    "transparent colours": ([np.dstack([m | 255, m, m, m]) for m in levels((0, 255))], False, "transparency"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_ambiguous_is_refused_with_the_flag_to_use(tmp_path, name):
    masks, typed, words = REFUSED[name]
    flags = "--colormap crack=255,0,0 hole=255,255,255" * (name == "transparent colours")
    line = refusal(prepare, tmp_path, masks, flags, typed)
    assert all(word in line for word in words.split("|")), line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tops", "bits"),
    [
        ([0, 1000, 900], 10),
        ([0, 0], None),
        ([2560, 4000], 12),
        ([16000], 14),
        ([65535, 40000, 3], 16),
        ([180, 200], "--bits 8"),
        ([65535, 4000, 3000], "4000, as of 12 bits"),
        ([4096, 4000, 3900, 3000, 3900], "3900, as of 12 bits"),
    ],
)
def test_the_bits_of_images_are_told_by_all(tops, bits):
    found = {f"{k}.png": top for k, top in enumerate(tops)}
    if isinstance(bits, str):
        with pytest.raises(InputError, match=bits):
            decide_bits(found, None)
        assert decide_bits(found, 16) == 16
    else:
        assert decide_bits(found, None) == bits
