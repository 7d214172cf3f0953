"""Augmentation: exact turns, shifts and scales of image and mask alike, and numbers that tell them."""

import numpy as np
import pytest
import torch

from guided_diffusion.data.augment import AUGMENTATIONS, BRIGHTNESS, CONTRAST, GAMMA, SCALE, SHIFT, augment

IMAGES = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
MASKS = torch.randint(0, 4, (6, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


class Draws:
    """A generator that chooses the augmentations named, and draws what it is told."""

    def __init__(self, chosen, mirrored=False, turns=0, normal=0.0):
        self.chosen, self.mirrored, self.turns, self.normal = chosen, mirrored, turns, normal

    def random(self, size):
        if isinstance(size, tuple):
            return np.broadcast_to([0.0 if k in self.chosen else 1.0 for k in range(size[1])], size)
        return np.full(size, 0.0 if self.mirrored else 1.0)

    def standard_normal(self, size):
        return np.full(size, self.normal)

    def integers(self, low, high, size):
        return np.full(size, self.turns)


def test_nothing_is_done_to_the_share_that_is_left():
    images, masks, told = augment(IMAGES, MASKS, 0.0, np.random.default_rng(0))
    assert torch.equal(images, IMAGES.float()) and torch.equal(masks, MASKS) and not told.any()
    told = torch.cat([augment(IMAGES, MASKS, 0.3, np.random.default_rng(k))[2] for k in range(200)])
    # mirrored and turned are drawn again, each as often as not
    shares = [0.15, 0.225, 0.15, *[0.3] * 6]
    assert told.shape == (1200, AUGMENTATIONS)
    assert torch.allclose((told != 0).float().mean(dim=0), torch.tensor(shares), atol=0.04)
    assert told[:, 3:].std(dim=0).numpy() == pytest.approx(0.3**0.5, abs=0.06)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_flips_and_turns_are_exact(mirrored, turns):
    images, masks, told = augment(IMAGES, MASKS, 0.5, Draws((0, 1), mirrored, turns))

    def moved(x):
        turned = torch.rot90(x, -turns, (-2, -1))
        return turned.flip(-1) if mirrored else turned

    assert torch.equal(masks, moved(MASKS))
    assert torch.allclose(images, moved(IMAGES).float(), atol=0.01)
    cos, sin = [(0, 0), (-1, 1), (-2, 0), (-1, -1)][turns]
    assert told[0].tolist() == [mirrored, cos, sin, 0, 0, 0, 0, 0, 0]


def test_what_is_not_square_turns_by_half():
    _, masks, told = augment(IMAGES[:, :, :8], MASKS[:, :8], 0.5, Draws((0, 1), turns=1))
    assert torch.equal(masks, torch.rot90(MASKS[:, :8], 2, (-2, -1))) and told[0, 1] == -2


def test_shift_and_scale_move_image_and_mask_alike():
    pixels = 4
    images, masks, told = augment(IMAGES, MASKS, 0.5, Draws((3,), normal=pixels / 16 / SHIFT))
    inside = slice(0, 16 - pixels)
    assert torch.equal(masks[:, inside, inside], MASKS[:, pixels:, pixels:])
    assert torch.allclose(images[..., inside, inside], IMAGES[..., pixels:, pixels:].float(), atol=0.01)
    assert torch.equal(masks[:, -pixels:, inside], MASKS[:, -pixels:, pixels:].flip(1))  # mirrored from outside
    assert torch.allclose(told[0, 4:6], torch.full((2,), pixels / 16 / SHIFT))
    _, masks, told = augment(IMAGES, MASKS, 0.5, Draws((2,), normal=1 / SCALE))  # twice as large
    assert torch.equal(masks, MASKS[:, 4:12, 4:12].repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert told[0, 3] == pytest.approx(1 / SCALE)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (4, lambda x, z: x + 127.5 * BRIGHTNESS * z),
        (5, lambda x, z: (x - 127.5) * 2 ** (CONTRAST * z) + 127.5),
        (6, lambda x, z: 255 * (x / 255) ** np.exp(GAMMA * z)),
    ],
)
def test_tones_change_the_image_alone(chosen, expected):
    images, masks, told = augment(IMAGES, MASKS, 0.5, Draws((chosen,), normal=0.7))
    assert torch.equal(masks, MASKS)
    assert images.numpy() == pytest.approx(expected(IMAGES.double().numpy(), 0.7).clip(0, 255), abs=1e-3)
    assert told[0].tolist() == pytest.approx([0.7 if k == chosen + 2 else 0 for k in range(AUGMENTATIONS)])
