"""The first look at the pixels: facts and the perceptual hash."""

import hashlib

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from guided_diffusion.data.index_masks import DrawingRule, Labelled
from guided_diffusion.prepare.layouts import IndexMask, Sample
from guided_diffusion.prepare.survey import ALIKE, HASH_BITS, alike, facts_of, perceptual_hash


def smooth(seed):
    """A photograph-like picture: smooth noise, uint8 [60, 80]."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 8), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((80, 60), Image.Resampling.BICUBIC))


def test_facts_of_a_sample(tmp_path):
    image, mask = smooth(0), np.zeros((60, 80), np.uint8)
    mask[:3, :4], mask[10, :7] = 1, 3
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    sample = Sample(str(tmp_path / "a.png"), IndexMask(str(tmp_path / "m.png")))
    facts = facts_of(sample, 3, DrawingRule())
    assert facts.size == (60, 80) and facts.types == {1: 12, 3: 7} and facts.problem is None
    assert facts.sha256 == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    assert facts_of(Sample(sample.image, None), 3, DrawingRule()).types is None
    assert "m.png" in facts_of(sample, 2, DrawingRule()).problem


def hashed(array):
    return perceptual_hash(Labelled(np.asarray(array), None))


@pytest.mark.parametrize("seed", range(10))
def test_the_same_view_is_alike_whatever_exposure_size_and_compression(seed):
    image = Image.fromarray(smooth(seed))
    others = [
        ImageEnhance.Brightness(image).enhance(0.6),
        ImageEnhance.Contrast(image).enhance(0.7),
        image.resize((50, 41), Image.Resampling.BILINEAR),
    ]
    for other in others:
        assert [pair[:2] for pair in alike([hashed(image)], [hashed(other)])] == [(0, 0)]
    strangers = [hashed(smooth(100 + k)) for k in range(50)]
    assert alike([hashed(image)], strangers) == []
    assert len(hashed(image)) * 4 == HASH_BITS


def test_alike_agrees_with_counting_bits():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, 16, dtype=np.uint8)
    flips = [base ^ np.packbits(rng.permutation(np.arange(128) < k)) for k in range(0, 40, 3)]
    hashes = [flip.tobytes().hex() for flip in flips]
    expected = sorted(
        (bin(int(a, 16) ^ int(b, 16)).count("1"), i, j)
        for i, a in enumerate(hashes)
        for j, b in enumerate(hashes)
        if bin(int(a, 16) ^ int(b, 16)).count("1") <= ALIKE
    )
    assert sorted((bits, i, j) for i, j, bits in alike(hashes, hashes)) == expected
    assert alike([], hashes) == [] == alike(hashes, [])
