"""The look at the pixels: facts, what resizing keeps, and the perceptual hash."""

import numpy as np
import pytest
from drawn_textures import photograph
from PIL import Image, ImageEnhance
from scipy import ndimage

from guided_diffusion.data.image_files import View
from guided_diffusion.prepare.check import Record, alike, keeps_regions, look_at_types, perceptual_hash


def smooth(seed):
    return photograph(seed, (60, 80))[..., 0]


def test_what_resizing_keeps_of_specks():
    rng = np.random.default_rng(0)
    mask = (rng.random((90, 120)) < 0.03) * rng.integers(1, 3, (90, 120)).astype(np.uint8)
    found = look_at_types(mask, View((17, 23)))
    # of less than half a new pixel: the pixel under its middle, as Pillow's nearest
    rows, columns = (((np.arange(n) + 0.5) * side / n).astype(int) for n, side in ((17, 90), (23, 120)))
    for index in (1, 2):
        numbered, count = ndimage.label(mask == index, np.ones((3, 3)))
        kept = [(numbered[np.ix_(rows, columns)] == k + 1).sum() for k in range(count)]
        assert found[index].regions == count and found[index].lost == kept.count(0) > 0
        assert found[index].pixels == (mask == index).sum() and found[index].trained == sum(kept)
    record = Record("", "", "", size=mask.shape, types=found)
    assert [keeps_regions(record, size) for size in ((17, 23), (90, 120))] == [False, True]


@pytest.mark.parametrize("seed", range(5))
def test_the_same_view_is_alike_whatever_exposure_size_and_compression(seed):
    image = Image.fromarray(smooth(seed))
    others = [
        ImageEnhance.Brightness(image).enhance(0.6),
        ImageEnhance.Contrast(image).enhance(0.7),
        image.resize((50, 41), Image.Resampling.BILINEAR),
    ]
    parts = {
        part: [Record(f"{k}", "", "", perceptual_hash=perceptual_hash(np.asarray(one))) for k, one in enumerate(some)]
        for part, some in {"own": [image], "same": others, "others": [smooth(100 + k) for k in range(50)]}.items()
    }
    ((one, other, pairs),) = alike(parts)
    assert (one, other) == ("own", "same") and sorted(theirs.name for _, theirs in pairs) == ["0", "1", "2"]
    assert len(parts["own"][0].perceptual_hash) * 4 == 128
