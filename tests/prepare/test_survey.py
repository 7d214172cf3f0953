"""The look at the pixels: facts, regions against brute force, and the perceptual hash."""

import hashlib

import numpy as np
import pytest
from drawn_textures import photograph
from PIL import Image, ImageEnhance

from guided_diffusion.data.image_files import View
from guided_diffusion.data.prepared import IndexMask, Sample
from guided_diffusion.prepare.check import Record, alike
from guided_diffusion.prepare.survey import HASH_BITS, candidate_sizes, look, look_at_types, perceptual_hash


def smooth(seed):
    return photograph(seed, (60, 80))[..., 0]


@pytest.fixture
def sample(tmp_path):
    mask = np.zeros((60, 80), np.uint8)
    mask[:3, :4], mask[10, :7] = 1, 3
    Image.fromarray(smooth(0)).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    return Sample(str(tmp_path / "a.png"), IndexMask(str(tmp_path / "m.png")))


def look_at(sample, num_defect):
    return look([sample], num_defect, workers=1, description="")[0]


def hashed(hashes):
    return [Record("", "", "", perceptual_hash=one) for one in hashes]


def test_record_of_a_sample(sample, tmp_path):
    record = look_at(sample, 3)
    assert {index: found.pixels for index, found in record.types.items()} == {1: 12, 3: 7}
    assert (record.size, record.problem) == ((60, 80), None)
    assert record.border == (4 + 2 + 1) / 276
    assert record.sha256 == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    good = look_at(Sample(sample.image, None), 3)
    assert good.good and good.types == {} and good.mask == sample.image
    assert "m.png" in look_at(sample, 2).problem


def test_regions_against_brute_force():
    rng = np.random.default_rng(0)
    mask = (rng.random((30, 40)) < 0.3) * rng.integers(1, 3, (30, 40)).astype(np.uint8)
    size = (17, 23)
    found = look_at_types(mask, View(size), ((8, 8), (30, 40)))
    # Pillow's nearest: the pixel under the middle of each new one
    rows = ((np.arange(size[0]) + 0.5) * 30 / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * 40 / size[1]).astype(int)
    for index in (1, 2):
        regions = flood(mask == index)
        kept = [sum(r in rows and c in columns for r, c in region) for region in regions]
        assert found[index].regions == len(regions) and found[index].lost == kept.count(0) > 0
        assert found[index].pixels == found[index].candidates[1] == (mask == index).sum()
        assert found[index].trained == sum(kept) == (mask[np.ix_(rows, columns)] == index).sum()


def flood(where):
    """8-connected regions of bool [H, W], pixel by pixel."""
    left = set(map(tuple, np.argwhere(where).tolist()))
    regions = []
    while left:
        region, front = [], [left.pop()]
        while front:
            r, c = front.pop()
            region.append((r, c))
            near = {(r + dr, c + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)} & left
            left -= near
            front += near
        regions.append(region)
    return regions


def test_candidates_have_the_median_proportions(sample):
    assert candidate_sizes([sample], 8) == ((64, 80),)  # nothing smaller than the shortest side that is suggested
    assert candidate_sizes([], 8) == ()


@pytest.mark.parametrize("seed", range(5))
def test_the_same_view_is_alike_whatever_exposure_size_and_compression(seed):
    image = Image.fromarray(smooth(seed))
    own = hashed([perceptual_hash(np.asarray(image))])
    others = [
        ImageEnhance.Brightness(image).enhance(0.6),
        ImageEnhance.Contrast(image).enhance(0.7),
        image.resize((50, 41), Image.Resampling.BILINEAR),
    ]
    found = alike(own, hashed(perceptual_hash(np.asarray(other)) for other in others))
    assert sorted(j for _, j, _ in found) == [0, 1, 2]
    assert alike(own, hashed(perceptual_hash(smooth(100 + k)) for k in range(50))) == []
    assert len(own[0].perceptual_hash) * 4 == HASH_BITS
