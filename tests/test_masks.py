"""The joint tensor: what is encoded comes back; colours are distinct."""

import numpy as np
import pytest
import torch

from guided_diffusion.data.index_masks import present_types
from guided_diffusion.joint_tensor import JointLayout
from guided_diffusion.pictures import colorize, overlay, palette


def random_pair(num_defect, n=3, size=8):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (n, 3, size, size), dtype=np.uint8))
    masks = torch.from_numpy(rng.integers(0, num_defect + 1, (n, size, size), dtype=np.uint8))
    return images, masks


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("num_defect", [1, 5, 255])
def test_round_trip(num_defect, background):
    layout = JointLayout(tuple(f"t{k}" for k in range(num_defect)), background)
    images, masks = random_pair(num_defect)
    x = layout.encode(images, masks)
    assert x.shape == (3, 3 + background + num_defect, 8, 8) == (3, layout.num_channels, 8, 8)
    assert x[:, :3].min() >= -1 and x[:, :3].max() <= 1 and set(x[:, 3:].unique().tolist()) <= {0.0, 1.0}
    if background:
        assert (x[:, 3:].sum(dim=1) == 1).all()
    decoded_images, decoded_masks = layout.decode(x)
    assert decoded_images.dtype == decoded_masks.dtype == np.uint8
    assert (decoded_images == images.permute(0, 2, 3, 1).numpy()).all()
    assert (decoded_masks == masks.numpy()).all()


def test_without_background_channel_weak_types_are_background():
    x = torch.full((1, 5, 1, 3), 0.1)
    x[0, 4, 0, 1] = 0.49
    x[0, 3, 0, 2] = 0.51
    assert JointLayout(("a", "b"), False).decode(x)[1].tolist() == [[[0, 0, 1]]]


@pytest.mark.parametrize("background", [True, False])
def test_probabilities_are_a_softmax_over_background_and_types(background):
    layout = JointLayout(("a", "b"), background)
    x = torch.randn(2, layout.num_channels, 4, 4)
    p = layout.probabilities(x)
    logits = x[:, 3:] if background else torch.cat([torch.zeros(2, 1, 4, 4), x[:, 3:]], dim=1)
    expected = torch.exp(logits) / torch.exp(logits).sum(dim=1, keepdim=True)
    assert torch.equal(p[:, :3], x[:, :3]) and p.shape == x.shape
    assert torch.allclose(p[:, 3:], expected[:, -(layout.num_channels - 3) :], atol=1e-6)


def test_palette_is_distinct_and_stable():
    colours = palette(255)
    assert len({tuple(c) for c in colours.tolist()}) == 256
    assert (palette(3) == colours[:4]).all() and (colours[0] == 0).all()
    first = colours[1:9].astype(int)
    distances = [np.abs(a - b).sum() for i, a in enumerate(first) for b in first[:i]]
    assert min(distances) >= 80


def test_overlay_colours_defects_and_leaves_the_rest():
    image = np.full((2, 2, 3), 100, np.uint8)
    mask = np.array([[0, 1], [2, 0]], np.uint8)
    mixed = overlay(image, mask, alpha=0.5)
    assert (mixed[mask == 0] == 100).all()
    assert (mixed[0, 1] == ((100 + colorize(mask)[0, 1].astype(int)) / 2).round()).all()


def test_present_types_counts_pixels():
    assert present_types(np.array([[0, 2], [2, 0]]), ("a", "b", "c")) == {"b": 2}


# Machado, Oliveira, Fernandes, "A physiologically-based model for simulation of color vision deficiency" (2009),
# severity 1.0, on linear RGB.
SEEN_BY = {
    "everyone": np.eye(3),
    "protanopes": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopes": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopes": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def cielab(linear):
    """CIE 1976 L*a*b* (D65) of linear RGB [N, 3] in [0, 1]."""
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = linear @ np.transpose(to_xyz) / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("eyes", SEEN_BY)
def test_the_first_eight_colours_differ_for_colour_blind_readers(eyes):
    srgb = palette(8) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lab = cielab(np.clip(linear @ np.transpose(SEEN_BY[eyes]), 0, 1))
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=2) + np.diag(np.full(9, np.inf))
    assert distance.min() > 15  # 2.3 is just noticeable
