"""Defects in photographs of any size: what is far from them stays to the bit, and detail finer than training's too."""

import numpy as np
import pytest
from scipy.ndimage import label
from test_conditions import far_from

from guided_diffusion import InputError
from guided_diffusion.generation.insertion import find_scale, find_windows, insert, paste

QUICK = {"num_steps": 4, "margin": 2}


def photograph_of(height, width, seed=0):
    return np.random.default_rng(seed).integers(60, 200, (height, width, 3), dtype=np.uint8)


def mask_of(height, width, *boxes):
    """Index mask with rectangles (type, top, left, height, width)."""
    mask = np.zeros((height, width), np.uint8)
    for kind, top, left, own, across in boxes:
        mask[top : top + own, left : left + across] = kind
    return mask


@pytest.mark.parametrize(
    ("shape", "scale", "margin", "boxes"),
    [  # the first has one at the border
        ((150, 210), (2.3, 1.7), 2, [(1, 10, 20, 12, 9), (2, 100, 150, 30, 20), (3, 0, 190, 8, 20)]),
        ((70, 300), (2, 2), 2, [(1, 30, 40, 6, 200)]),  # longer than a window of the training
        ((40, 50), (4, 4), 0, [(2, 5, 30, 9, 9)]),  # in a photograph smaller than a window
        ((60, 80), (0.5, 0.5), 2, [(1, 20, 20, 5, 5)]),  # enlarged for the networks
        ((90, 90), (4, 4), 0, [(1, 40, 3, 1, 80)]),  # thinner than a pixel of the training
    ],
)
def test_what_is_far_from_a_defect_stays(generator, shape, scale, margin, boxes):
    photograph, mask = photograph_of(*shape), mask_of(*shape, *boxes)
    batch = generator.insert(photograph, mask, seeds=(0, 1), scale=scale, num_steps=4, margin=margin)
    assert batch.images.shape == (2, *shape, 3) and (batch.masks == mask).all()
    outside = far_from(mask, margin, scale)
    for image in batch.images:
        assert np.array_equal(image[outside], photograph[outside])
        pieces, count = label(mask)
        assert all((image != photograph)[pieces == k].mean() > 0.5 for k in range(1, count + 1))
    assert (batch.images[0] != batch.images[1]).any()


@pytest.mark.parametrize("margin", [0, 3])
def test_at_the_size_of_the_training_it_is_what_generate_gives(generator, margin):
    photograph, mask = photograph_of(32, 32), mask_of(32, 32, (2, 9, 12, 8, 6))
    given = {"num_steps": 4, "margin": margin}
    expected = generator.generate([0], seed=3, masks=mask[None], backgrounds=photograph[None], **given).images[0]
    image = generator.insert(photograph, mask, seeds=[3], scale=1, **given).images[0]
    assert np.array_equal(image[mask > 0], expected[mask > 0])
    for beside in range(1, margin + 1):  # the change fades out over the margin
        whole = expected[9 - beside, 13].astype(float) - photograph[9 - beside, 13]
        faded = photograph[9 - beside, 13] + (margin + 0.5 - beside) / margin * whole
        assert np.abs(image[9 - beside, 13] - faded).max() <= 0.51


def test_photographs_in_one_batch_come_out_as_alone(generator):
    shapes = [(70, 90), (50, 64), (40, 40)]
    photographs = [photograph_of(*shape, seed) for seed, shape in enumerate(shapes)]
    masks = [mask_of(*shape, (1 + k, 8, 9, 9, 7), (1, 30, 28, 6, 6)) for k, shape in enumerate(shapes)]
    settings = generator.settings(**QUICK)
    how = {"seed": 0, "progress": lambda pairs: pairs, "on_out_of_memory": None}
    together = insert(generator, photographs, masks, [4, 5, 6], (1.5, 1.5), 4, settings, **how)
    for k, image in enumerate(together):
        alone = insert(generator, [photographs[k]], [masks[k]], [4 + k], (1.5, 1.5), 1, settings, **how)[0]
        assert np.abs(alone.astype(int) - image).max() <= 1


def test_detail_finer_than_the_trainings_is_the_photographs():
    photograph, mask = photograph_of(128, 128), mask_of(128, 128, (1, 40, 40, 40, 40))
    (window,) = find_windows(photograph, mask, (4, 4), (32, 32), 8, 2)
    result = photograph.copy()
    paste(result, window, np.clip(window.image.astype(int) + 30, 0, 255).astype(np.uint8))
    change = result.astype(int) - photograph
    assert (change[44:76, 44:76] == 30).all()  # its grain is what it was
    assert (change[far_from(mask, 2, (4, 4))] == 0).all()
    steps = np.abs(np.diff(change[60, :, 0]))
    assert 0 < steps.max() <= 6  # and it fades out


def test_windows_of_close_defects_are_one_and_each_draws_its_own_alone():
    mask = mask_of(200, 200, (1, 20, 20, 5, 5), (2, 20, 32, 5, 5), (3, 150, 150, 5, 5))
    first, second = find_windows(photograph_of(200, 200), mask, (2, 2), (32, 32), 8, 2)
    assert set(np.unique(first.mask)) == {0, 1, 2} and set(np.unique(second.mask)) == {0, 3}
    assert (first.rows, first.columns) == (slice(0, 64), slice(0, 64)) and second.mask.shape == (32, 32)
    mask = mask_of(200, 200, (1, 20, 20, 5, 5), (2, 20, 46, 5, 5))
    first, second = find_windows(photograph_of(200, 200), mask, (2, 2), (32, 32), 8, 2)
    assert first.columns.stop > 51 and second.columns.start < 20  # both see both
    assert set(np.unique(first.mask)) == {0, 1} and set(np.unique(second.mask)) == {0, 2}
    mask = mask_of(20, 30, (1, 5, 5, 4, 4))  # a margin beyond the photograph is all of it
    assert find_windows(photograph_of(20, 30), mask, (1, 1), (32, 32), 8, 2**16)[0].near.all()


@pytest.mark.parametrize("slope", [0, 0.4, 1])
def test_a_line_thinner_than_a_pixel_of_the_training_stays_whole(slope):
    mask = mask_of(128, 128, *((1, 10 + round(slope * across), 10 + across, 1, 1) for across in range(100)))
    (window,) = find_windows(photograph_of(128, 128), mask, (4, 4), (32, 32), 8, 2)
    assert label(window.mask, np.ones((3, 3)))[1] == 1
    length = (window.mask > 0).any(axis=0).sum()
    assert length == pytest.approx(25, abs=2)


def test_scales():
    assert find_scale(None, (2.0, 3.0)) == (2, 3) and find_scale([4], ()) == (4, 4) == find_scale(4, (1, 1))
    for given, recorded, words in ((None, (), "does not tell"), ([1, 2, 3], (), "one number or two"), (0, (), "0.001")):
        with pytest.raises(InputError, match=f"scale.*{words}"):
            find_scale(given, recorded)


@pytest.mark.parametrize(
    ("photograph", "mask", "words"),
    [
        (photograph_of(32, 40), mask_of(32, 32), r"photograph: uint8 \[32, 40, 3\], expected uint8 \[32, 32, 3\]"),
        (photograph_of(32, 32), mask_of(32, 32) / 2, "mask: float64"),
        (photograph_of(32, 32), mask_of(32, 32, (9, 0, 0, 4, 4)), "type 9, but the networks know 3"),
    ],
)
def test_what_cannot_be_drawn(generator, photograph, mask, words):
    with pytest.raises(InputError, match=words):
        generator.insert(photograph, mask, scale=1, **QUICK)
