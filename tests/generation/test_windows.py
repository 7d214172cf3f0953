"""Any canvas: windows that leave no trace where nothing depends on them."""

import numpy as np
import pytest
import torch

from guided_diffusion import InputError
from guided_diffusion.generation.windows import _axis, place_windows, windowed

GLOBAL = float("inf")  # receptive field
QUICK = {"num_steps": 3, "step_inference": 400}


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
def test_what_does_not_depend_on_the_window_comes_out_as_without(receptive_field):
    x = torch.randn(2, 4, 23, 50, generator=torch.Generator().manual_seed(0))
    for window, atol in (((16, 16), 1e-6), ((23, 50), 0)):
        predict_x0 = windowed(lambda x, t, places: 0.5 * x - t, place_windows((23, 50), window, receptive_field))
        assert torch.allclose(predict_x0(x, 3), 0.5 * x - 3, rtol=0, atol=atol)


@pytest.mark.parametrize("at_once", [1, 3, 20, 30])
def test_every_window_is_told_its_place(at_once):
    x = torch.arange(40.0)[:, None] * 100 + torch.arange(48.0)
    seen = []

    def predict(x, t, places):
        assert x.shape == (2 * at_once, 1, 16, 16) and x.is_contiguous(memory_format=torch.channels_last)
        seen.extend(zip(places, x[::2, 0, 0, 0].tolist(), strict=True))
        return x

    both = torch.stack([x, -x])[:, None]
    found = windowed(predict, place_windows((40, 48), (16, 16), GLOBAL), at_once)(both, 0)
    assert torch.allclose(found, both, rtol=1e-6)
    places = [place for place, _ in seen]
    assert places[:20] == [(top, left) for top in (0, 8, 16, 24) for left in (0, 8, 16, 24, 32)]
    assert set(places[20:]) <= {(24, 32)} and len(places) < 20 + at_once
    assert all(value == 100 * top + left for (top, left), value in seen)


def test_windows_that_disagree_blend_smoothly():
    """Neighbours that say 0 and 1, half a window (8 px) apart: no step between pixels above a cut's by far."""
    x = torch.zeros(1, 1, 16, 64)
    weights = place_windows((16, 64), (16, 16), GLOBAL)
    out = windowed(lambda x, t, places: x + places[0][1] // 8 % 2, weights)(x, 0)[0, 0]
    assert out.min() >= 0 and out.max() <= 1 and (out == out[0]).all()
    assert 0.15 < (out[:, 1:] - out[:, :-1]).abs().max() < 0.2  # sin^2 over 8 px: pi / 2 / 8 at the most


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
