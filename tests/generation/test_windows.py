"""Any canvas: windows that leave no trace where nothing depends on them."""

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, max_pool2d

from guided_diffusion import DefectGen, InputError
from guided_diffusion.generation.windows import _axis, windowed

GLOBAL = float("inf")  # receptive field
QUICK = {"num_steps": 3, "step_inference": 400}


@pytest.fixture(scope="module")
def generator(trained_pair):
    return DefectGen.load(trained_pair.large, trained_pair.small, device="cpu", precision="fp32")


def same(a, b):
    return np.array_equal(a.images, b.images) and np.array_equal(a.masks, b.masks)


@pytest.mark.parametrize("overlap", [0, 3, 7, 8])
@pytest.mark.parametrize("length", [16, 17, 24, 25, 40, 100])
def test_windows_cover_the_axis_and_weights_sum_to_one(length, overlap):
    windows = _axis(length, 16, overlap)
    total = torch.zeros(length)
    for start, weights in windows:
        assert weights.min() > 0
        total[start : start + 16] += weights
    starts = [start for start, _ in windows]
    assert starts[0] == 0 and starts[-1] == length - 16 and (total - 1).abs().max() < 1e-6
    assert all(0 < b - a <= 16 - overlap for a, b in zip(starts, starts[1:], strict=False))
    assert len(starts) == 1 + -(-(length - 16) // (16 - overlap))  # no more than it takes


@pytest.mark.parametrize("receptive_field", [5, GLOBAL])
@pytest.mark.parametrize("predict", [lambda x, t, place: 0.5 * x - t, lambda x, t, place: torch.ones_like(x)])
def test_what_does_not_depend_on_the_window_comes_out_as_without(predict, receptive_field):
    x = torch.randn(2, 4, 23, 50, generator=torch.Generator().manual_seed(0))
    whole = predict(x, 3, (0, 0))
    assert (windowed(predict, (23, 50), (16, 16), receptive_field)(x, 3) - whole).abs().max() < 1e-6
    assert torch.equal(windowed(predict, (23, 50), (23, 50), receptive_field)(x, 3), whole)


def test_a_patch_network_does_not_see_where_windows_meet():
    """A 5 x 5 mean with zeros around each window: only pixels within 2 of a window's edge see it, at little weight."""

    def predict(x, t, place=None):
        return avg_pool2d(x, 5, stride=1, padding=2)

    x = torch.ones(1, 1, 64, 64)
    inner = (..., slice(2, -2), slice(2, -2))
    assert (windowed(predict, (64, 64), (16, 16), 5)(x, 0) - predict(x, 0))[inner].abs().max() < 0.12
    assert (predict(x[..., :16, :16], 0) - 1).abs().max() > 0.6  # what a hard cut would show


def test_every_window_is_told_its_place():
    x = torch.arange(40.0)[:, None] * 100 + torch.arange(48.0)
    seen = []

    def predict(x, t, place):
        seen.append((place, x[0, 0, 0, 0].item(), x.shape))
        return x

    windowed(predict, (40, 48), (16, 16), GLOBAL)(x[None, None], 0)
    assert [place for place, _, _ in seen] == [(top, left) for top in (0, 8, 16, 24) for left in (0, 8, 16, 24, 32)]
    assert all(value == 100 * top + left and shape == (1, 1, 16, 16) for (top, left), value, shape in seen)


def test_windows_that_disagree_blend_smoothly():
    """Neighbours that say 0 and 1, half a window (8 px) apart: no step between pixels above a cut's by far."""
    x = torch.zeros(1, 1, 16, 64)
    out = windowed(lambda x, t, place: x + place[1] // 8 % 2, (16, 64), (16, 16), GLOBAL)(x, 0)[0, 0]
    assert out.min() >= 0 and out.max() <= 1 and (out == out[0]).all()
    assert 0.15 < (out[:, 1:] - out[:, :-1]).abs().max() < 0.2  # sin^2 over 8 px: pi / 2 / 8 at the most


def test_the_windows_in_flight_do_not_grow_with_the_canvas(generator):
    """Both networks, two canvases: pixels that one call of a network gets, and how many calls there are."""
    calls = {48: [], 96: []}
    for width, seen in calls.items():
        hooks = [
            network.model.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0].shape))
            for network in (generator.large, generator.small)
        ]
        generator.generate(2, image_size=(32, width), windows="on", **QUICK)
        for hook in hooks:
            hook.remove()
    # One step of the large network, whose windows overlap by 16, and two of the small one, which sees 17 px: by 16 too.
    assert {width: len(seen) for width, seen in calls.items()} == {48: 3 * 2, 96: 3 * 5}
    assert {tuple(shape) for seen in calls.values() for shape in seen} == {(2, 7, 32, 32)}


def test_at_sizes_up_to_four_training_areas_auto_is_off_and_changes_nothing(generator):
    for size, expected in (((32, 32), "off"), ((64, 64), "off"), ((64, 66), "on"), ((256, 32), "on")):
        assert generator.settings(image_size=size).windows == expected
    for size in ((32, 32), (16, 24)):  # windows there would be the canvas
        plain = generator.generate(2, image_size=size, windows="off", **QUICK)
        assert same(plain, generator.generate(2, image_size=size, **QUICK))
        assert same(plain, generator.generate(2, image_size=size, windows="on", **QUICK))
    wide = [generator.generate(1, image_size=(32, 130), windows=w, **QUICK) for w in ("auto", "on", "off")]
    assert same(wide[0], wide[1]) and not same(wide[1], wide[2])


def test_a_canvas_in_windows_need_not_be_a_multiple(generator):
    assert generator.generate(1, image_size=(41, 33), windows="on", **QUICK).masks.shape == (1, 41, 33)
    for size, windows in (((41, 33), "off"), ((31, 99), "on")):  # the latter is shorter than a window
        with pytest.raises(InputError, match=f"{size[0]} x .*multiples of 2"):
            generator.settings(image_size=size, windows=windows)


def test_samples_in_windows_do_not_depend_on_the_batch(generator):
    options = {"image_size": (32, 47), "windows": "on", "sampler": "ddpm", **QUICK}
    whole = generator.generate(3, **options, batch_size=3)
    parts = generator.generate([2, 0], **options, batch_size=1)
    assert np.abs(parts.images.astype(int) - whole.images[[2, 0]]).max() <= 1


def test_what_is_held_comes_out_to_the_bit_in_windows(generator):
    size, masks = (24, 48), np.zeros((2, 24, 48), np.uint8)
    masks[0, 5:13, 7:20], masks[1, 5:14, 7:40] = 1, 2
    photographs = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    batch = generator.generate(
        2, image_size=size, masks=masks, backgrounds=photographs, margin=3, windows="on", **QUICK
    )
    assert np.array_equal(batch.masks, masks)
    for image, photograph, mask in zip(batch.images, photographs, masks, strict=True):
        near = max_pool2d(torch.from_numpy(mask)[None].float(), 7, 1, 3)[0].numpy() > 0
        assert np.array_equal(image[~near], photograph[~near])
        assert (image[mask > 0] != photograph[mask > 0]).mean() > 0.9
