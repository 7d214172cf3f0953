"""The joint tensor: what is encoded comes back, and logits become probabilities."""

import numpy as np
import pytest
import torch

from guided_diffusion.joint_tensor import JointLayout, clip, clip_released


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("num_defect", [1, 5, 255])
def test_round_trip(num_defect, background):
    layout = JointLayout(tuple(f"t{k}" for k in range(num_defect)), background)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (3, 3, 8, 8), dtype=np.uint8))
    masks = torch.from_numpy(rng.integers(0, num_defect + 1, (3, 8, 8), dtype=np.uint8))
    x = layout.encode(images, masks)
    assert x.shape == (3, 3 + background + num_defect, 8, 8) == (3, layout.num_channels, 8, 8)
    assert x[:, :3].min() >= -1 and x[:, :3].max() <= 1 and set(x[:, 3:].unique().tolist()) <= {0.0, 1.0}
    if background:
        assert (x[:, 3:].sum(dim=1) == 1).all()
    for decoded, given in zip(layout.decode(x), (images.permute(0, 2, 3, 1), masks), strict=True):
        assert decoded.dtype == np.uint8 and (decoded == given.numpy()).all()


def test_without_background_channel_weak_types_are_background():
    x = torch.tensor([[0.1, 0.1, 0.51], [0.1, 0.49, 0.1]])  # of two types
    x = torch.cat([torch.zeros(3, 3), x]).reshape(1, 5, 1, 3)
    assert JointLayout(("a", "b"), False).decode(x)[1].tolist() == [[[0, 0, 1]]]


def test_clip_keeps_each_channel_to_its_range():
    x = torch.tensor([-2.0, 0.5, 2.0]).expand(1, 5, 1, 3)
    rgb, masks = [-1.0, 0.5, 1.0], [0.0, 0.5, 1.0]
    assert clip(x)[0, :, 0].tolist() == [rgb] * 3 + [masks] * 2
    assert clip_released(x)[0, :, 0].tolist() == [rgb] * 5


@pytest.mark.parametrize("background", [True, False])
def test_probabilities_are_a_softmax_over_background_and_types(background):
    layout = JointLayout(("a", "b"), background)
    x = torch.randn(2, layout.num_channels, 4, 4)
    p = layout.probabilities(x)
    logits = x[:, 3:] if background else torch.cat([torch.zeros(2, 1, 4, 4), x[:, 3:]], dim=1)
    assert torch.equal(p[:, :3], x[:, :3]) and p.shape == x.shape
    assert torch.allclose(p[:, 3:], logits.softmax(1)[:, 3 - layout.num_channels :], atol=1e-6)
