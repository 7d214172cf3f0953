"""Parts of x_start that are known, in sampling and in training, and the types that are told."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import NAMES, make_config

from guided_diffusion.diffusion.conditioning import Known, draw_conditions, draw_known
from guided_diffusion.diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.diffusion.samplers import SAMPLERS
from guided_diffusion.joint_tensor import JointLayout

DIFFUSION = GaussianDiffusion(make_config())


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_x_t_keeps_to_the_known_at_every_level():
    """A deterministic sampler carries sqrt(alpha_bar) m + sqrt(1 - alpha_bar) eps with one eps all the way."""
    known = Known(normal(1, 7, 16, 16), normal(1, 7, 16, 16, seed=2) > 0)
    noise, seen = normal(1, 7, 16, 16, seed=1), []

    def predict_x0(x_t, t):
        seen.append((t, x_t))
        return torch.zeros_like(x_t)

    x = known.start(noise, DIFFUSION.alpha_bar(999))
    assert torch.equal(x[~known.where], noise[~known.where])
    pairs = [(999, 700), (700, 300), (300, 20)]
    SAMPLERS["ddim"](x, pairs, known.wrap(predict_x0), lambda x: x, DIFFUSION.alpha_bar, None)
    for t, x_t in seen:
        a = DIFFUSION.alpha_bar(t)
        expected = a**0.5 * known.values + (1 - a) ** 0.5 * noise
        assert (x_t - expected)[known.where].abs().max() < 1e-4


@pytest.mark.parametrize("background", [True, False])
def test_what_training_gives(background):
    layout = JointLayout(NAMES, background)
    masks = torch.zeros(3000, 20, 20, dtype=torch.uint8)
    masks[:, 9, 9] = 2
    x_start = layout.encode(torch.zeros(3000, 3, 20, 20, dtype=torch.uint8), masks)
    known = draw_known(x_start, layout, 0.6, torch.Generator().manual_seed(0))
    assert (known[:, 3:] == known[:, 3:4, :1, :1]).all()  # masks whole, or not at all
    masks_given, image_given = known[:, 3, 0, 0], known[:, 0].all(dim=(1, 2))
    part_given = masks_given & known[:, 0].any(dim=(1, 2))
    shares = [(masks_given & ~part_given).float().mean(), image_given.float().mean(), part_given.float().mean()]
    assert all(abs(share - 0.2) < 0.03 for share in shares) and not (image_given & masks_given).any()
    hole = (~known[part_given, 0]).sum(dim=(1, 2))
    side = round(hole[0].item() ** 0.5)  # one margin for a batch
    assert (hole == side**2).all() and side % 2 == 1 and not known[part_given, :3, 9, 9].any()


def test_so_many_are_told_nothing():
    """Half of those that are given a whole photograph; in part it is as any other."""
    config = make_config(**{"train.class_drop": 0.3, "train.known_share": 0.5})
    masks = torch.zeros(2000, 24, 24, dtype=torch.uint8)
    masks[:, 12, 12] = 2
    x_start = config.layout.encode(torch.zeros(2000, 3, 24, 24), masks)
    types, known = draw_conditions(config, x_start, masks, (0, 0, 0))
    whole, some = known[:, :3].flatten(1).all(dim=1), known[:, :3].flatten(1).any(dim=1)
    for rows, share in ((whole, 0.5), (~some, 0.3), (some & ~whole, 0.3)):
        assert abs(types[rows, 0].mean() - share) < 2 / rows.sum() ** 0.5  # 4 standard deviations
    assert (types.sum(dim=1) == 1).all() and not types[:, [1, 3]].any()
    assert abs(known.any(dim=(1, 2, 3)).float().mean() - 0.5) < 0.05


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("separate", [False, True])
def test_the_loss_leaves_out_what_is_given(separate, background):
    losses = {"train.separate_channel_loss": separate, "train.mask_loss_weight": 0.5}
    config = make_config(**{"data.background": background, **losses})
    diffusion, layout = GaussianDiffusion(config), config.layout
    rng = np.random.default_rng(0)
    images, masks = rng.integers(0, 256, (4, 3, 8, 8), np.uint8), rng.integers(0, 4, (4, 8, 8), np.uint8)
    x_start = layout.encode(torch.from_numpy(images), torch.from_numpy(masks))
    noise, output = normal(*x_start.shape), normal(*x_start.shape, seed=1)
    t = torch.tensor([3, 300, 600, 900])
    known = torch.zeros_like(x_start, dtype=torch.bool)
    known[0, 3:], known[1, :3], known[2, 3:], known[2, :3, :4] = True, True, True, True
    seen = []

    def model(x_t, t):
        seen.append(x_t)
        return output

    losses = diffusion.training_losses(model, x_start, t, noise, separate, known)
    assert torch.equal(seen[0], torch.where(known, x_start, diffusion.q_sample(x_start, t, noise)))
    for row in range(4):
        squared = (output[row] - x_start[row]).square() * ~known[row]
        expected = squared.mean()
        if separate:
            logits = output[row, 3:] if background else torch.cat([torch.zeros(1, 8, 8), output[row, 3:]])
            entropy = F.cross_entropy(logits[None], torch.from_numpy(masks[row]).long()[None])
            expected = squared[:3].mean() + 0.5 * (0 if known[row, 3, 0, 0] else entropy)
        assert abs(losses["per_sample"][row] - expected) < 1e-5
    free = diffusion.training_losses(model, x_start, t, noise, separate)["loss"]
    assert torch.equal(diffusion.training_losses(model, x_start, t, noise, separate, ~known & known)["loss"], free)
