"""Any canvas: windows that leave no trace where nothing depends on them, and a layout at a fraction of the size."""

import inspect
import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import label

from guided_diffusion import DefectGen, InputError
from guided_diffusion.config import DiffusionConfig
from guided_diffusion.diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.diffusion.samplers import SAMPLERS
from guided_diffusion.diffusion.two_stage import two_stage_sample
from guided_diffusion.generation.mask_bank import MaskBank
from guided_diffusion.generation.sample_io import SampleFolder
from guided_diffusion.generation.upscale import Canvas, to_clean
from guided_diffusion.generation.windows import _axis, windowed
from guided_diffusion.joint_tensor import JointLayout

GLOBAL = float("inf")  # receptive field
DIFFUSION = GaussianDiffusion(DiffusionConfig(), JointLayout(("a", "b")))
QUICK = {"num_steps": 3, "step_inference": 400}


@pytest.fixture(scope="module")
def generator(trained_pair):
    return DefectGen.load(trained_pair.large, trained_pair.small, device="cpu", precision="fp32")


def noise_of(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_masks(count, size):
    masks = np.zeros((count, *size), np.uint8)
    for k in range(count):
        masks[k, 5 : 13 + k, 7 : 20 + 3 * k] = 1 + k % 3
    return masks


def same(a, b):
    return np.array_equal(a.images, b.images) and np.array_equal(a.masks, b.masks)


# --- windows -------------------------------------------------------------------------------------------------------


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
    x = noise_of(2, 4, 23, 50)
    whole = predict(x, 3, (0, 0))
    assert (windowed(predict, (23, 50), (16, 16), receptive_field)(x, 3) - whole).abs().max() < 1e-6
    one = windowed(predict, (23, 50), (23, 50), receptive_field)(x, 3)
    assert torch.equal(one, whole)


def test_a_patch_network_does_not_see_where_windows_meet():
    """A 5 x 5 mean with zeros around each window: only pixels within 2 of a window's edge see it, at little weight."""

    def predict(x, t, place=None):
        return torch.nn.functional.avg_pool2d(x, 5, stride=1, padding=2)

    x = torch.ones(1, 1, 64, 64)
    inner = (..., slice(2, -2), slice(2, -2))
    assert (windowed(predict, (64, 64), (16, 16), 5)(x, 0) - predict(x, 0))[inner].abs().max() < 0.12
    assert (predict(x[..., :16, :16], 0) - 1).abs().max() > 0.6  # what a hard cut would show


def test_every_window_is_told_its_place():
    x = torch.arange(40.0)[:, None] * 100 + torch.arange(48.0)
    seen = []
    windowed(lambda x, t, place: seen.append((place, x[0, 0, 0, 0].item(), x.shape)) or x, (40, 48), (16, 16), GLOBAL)(
        x[None, None], 0
    )
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
    calls = {}
    hooks = [
        network.model.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
        for network in (generator.large, generator.small)
    ]
    for width in (48, 96):
        seen = calls[width] = []
        generator.generate(2, image_size=(32, width), windows="on", **QUICK)
    for hook in hooks:
        hook.remove()
    # One step of the large network, whose windows overlap by 16, and two of the small one, which sees 17 px: by 16 too.
    assert {width: len(seen) for width, seen in calls.items()} == {48: 3 * 2, 96: 3 * 5}
    assert {shape for seen in calls.values() for shape in seen} == {(2, 7, 32, 32)}


def test_at_sizes_up_to_four_training_areas_auto_is_off_and_changes_nothing(generator):
    for size, expected in (((32, 32), "off"), ((64, 64), "off"), ((64, 66), "on"), ((256, 32), "on")):
        assert generator.check_settings(400, image_size=size)["windows"] == expected
    for size in ((32, 32), (16, 24)):  # windows there would be the canvas
        plain = generator.generate(2, image_size=size, windows="off", **QUICK)
        assert same(plain, generator.generate(2, image_size=size, **QUICK))
        assert same(plain, generator.generate(2, image_size=size, windows="on", **QUICK))
    wide = [generator.generate(1, image_size=(32, 130), windows=w, **QUICK) for w in ("auto", "on", "off")]
    assert same(wide[0], wide[1]) and not same(wide[1], wide[2])


def test_a_canvas_in_windows_need_not_be_a_multiple(generator):
    assert generator.generate(1, image_size=(41, 33), windows="on", **QUICK).masks.shape == (1, 41, 33)
    with pytest.raises(InputError, match="41 x 33.*multiples of 2"):
        generator.generate(1, image_size=(41, 33), windows="off", **QUICK)
    with pytest.raises(InputError, match="31 x 32.*multiples of 2"):  # shorter than a window
        generator.generate(1, image_size=(31, 99), windows="on", **QUICK)


def test_samples_in_windows_do_not_depend_on_the_batch(generator):
    options = {"image_size": (32, 47), "windows": "on", "sampler": "ddpm", **QUICK}
    whole = generator.generate(3, **options, batch_size=3)
    parts = generator.generate([2, 0], **options, batch_size=1)
    assert np.abs(parts.images.astype(int) - whole.images[[2, 0]]).max() <= 1


# --- upscale -------------------------------------------------------------------------------------------------------


class Stub:
    """Predicts a constant, and notes what it was asked."""

    def __init__(self, value):
        self.value, self.asked = value, []

    def __call__(self, x_t, t):
        self.asked.append((t, x_t))
        return torch.full_like(x_t, self.value)


def crossing(sampler):
    """Both stubs, the outcome and the keys of the noise, for a layout at 40 x 48 and an image of 80 x 96."""
    large, small, keys = Stub(0.5), Stub(0.25), set()

    def canvas(factor):
        def noise(key):
            keys.add((factor, key))
            return noise_of(1, 6, 80 // factor, 96 // factor, seed=key)

        return Canvas(noise, None)

    out = two_stage_sample(
        canvas(2).noise(1000),
        DIFFUSION,
        large,
        small,
        step_inference=400,
        num_steps=7,
        sampler=sampler,
        noise=canvas(1).noise,
        coarse=canvas(2),
    )
    return large, small, out, keys


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_layout_crosses_at_its_noise_level(sampler):
    large, small, out, keys = crossing(sampler)
    assert all(t >= 400 for t, _ in large.asked) and small.asked[0][0] == 399
    assert len(large.asked) + len(small.asked) == 7
    assert {x.shape for _, x in large.asked} == {(1, 6, 40, 48)} and {x.shape for _, x in small.asked} == {out.shape}
    assert out.shape == (1, 6, 80, 96) and (out - 0.25).abs().max() < 1e-4
    a = DIFFUSION.alpha_bar(399)
    x = small.asked[0][1]
    noise = (x - a**0.5 * 0.5) / (1 - a) ** 0.5  # x_start 0.5 enlarged, all noise new and of unit variance
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    assert (noise - noise_of(*out.shape, seed=1001)).abs().max() < 1e-4
    assert {key for factor, key in keys if factor == 1 and key != 1001} <= set(range(400))  # of a stochastic sampler


def test_the_large_network_ends_at_its_estimate_of_the_clean_image():
    assert to_clean([(999, 700), (700, 399)]) == [(999, 700), (700, -1)]


def test_probabilities_stay_so_and_no_third_type_appears_between_two():
    x_start = torch.zeros(1, 6, 4, 4)
    x_start[:, 3, :, :2], x_start[:, 5, :, 2:] = 1, 1
    canvas = Canvas(lambda key: torch.zeros(1, 6, 8, 8), None)
    enlarged = canvas.receive(x_start, 1.0, 0)
    assert (enlarged[:, 3:].sum(1) == 1).all() and (enlarged[:, 4] == 0).all()
    assert enlarged[0, 5, 0].tolist() == [0, 0, 0, 0.25, 0.75, 1, 1, 1]


def test_each_network_works_at_its_size(generator):
    seen = {"large": set(), "small": set()}
    hooks = [
        getattr(generator, name).model.register_forward_pre_hook(
            lambda module, inputs, name=name: seen[name].add(tuple(inputs[0].shape[2:]))
        )
        for name in seen
    ]
    batch = generator.generate(2, image_size=(48, 64), upscale=2, windows="off", **QUICK)
    assert batch.images.shape == (2, 48, 64, 3) and seen == {"large": {(24, 32)}, "small": {(48, 64)}}
    again = generator.generate([1], image_size=(48, 64), upscale=2, windows="off", **QUICK)
    assert np.abs(again.images.astype(int) - batch.images[1:]).max() <= 1
    generator.generate(1, image_size=(16, 72), upscale=2, windows="on", **QUICK)
    assert seen == {"large": {(24, 32), (8, 32)}, "small": {(48, 64), (16, 32)}}
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("dpmpp_2m", {"windows": "on"}),
        ("ddpm", {"upscale": 2}),
        ("cold", {"upscale": 2}),
        ("dpmpp_2m", {"windows": "on", "upscale": 3}),
    ],
)
def test_what_is_held_comes_out_to_the_bit(generator, options, sampler):
    size = (24, 48)
    masks = some_masks(2, size)
    photographs = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    batch = generator.generate(
        2, image_size=size, masks=masks, backgrounds=photographs, margin=3, sampler=sampler, **options, **QUICK
    )
    assert np.array_equal(batch.masks, masks)
    for image, photograph, mask in zip(batch.images, photographs, masks, strict=True):
        near = torch.nn.functional.max_pool2d(torch.from_numpy(mask)[None].float(), 7, 1, 3)[0].numpy() > 0
        assert np.array_equal(image[~near], photograph[~near])
        assert (image[mask > 0] != photograph[mask > 0]).mean() > 0.9


# --- the mask bank on a larger canvas -------------------------------------------------------------------------------


def test_bank_masks_lie_all_over_a_larger_canvas():
    mask = np.zeros((1, 16, 16), bool)
    mask[0, 6:10, 5:11] = True
    bank = MaskBank({1: mask, 2: mask}, {k: np.ones((16, 16), bool) for k in (1, 2)}, ())
    drawn = [bank.draw_canvas((32, 96), 0, index, 1) for index in range(40)]
    assert {mask.shape for mask in drawn} == {(32, 96)}
    defects = sum(label(mask > 0)[1] for mask in drawn)
    assert 0.8 * 120 < defects <= 120  # three for twelve areas of training; some overlap
    counts = [sum((mask == k).any() for mask in drawn) for k in (1, 2)]
    assert min(counts) == 40  # types take turns, over canvases too
    everywhere = np.mean([mask > 0 for mask in drawn], axis=0).reshape(4, 8, 6, 16).mean(axis=(1, 3))
    assert everywhere.min() > 0
    assert np.array_equal(bank.draw_canvas((32, 96), 0, 7, 1), drawn[7])
    assert np.array_equal(bank.draw_canvas((16, 16), 0, 7, 1), bank.draw(0, 7, 1))


@pytest.mark.parametrize("rows", [slice(0, 9), slice(9, 16), slice(0, 16)])
def test_a_bank_defect_that_the_border_cuts_is_not_cut_within_the_canvas(rows):
    mask = np.zeros((1, 16, 16), bool)
    mask[0, rows, 5:11] = True
    bank = MaskBank({1: mask}, {1: np.ones((16, 16), bool)}, ())
    for index in range(20):
        drawn = bank.draw_canvas((24, 40), 0, index, 1) > 0
        assert drawn.any()
        assert drawn[0].any() or rows.start > 0
        assert drawn[-1].any() or rows.stop < 16


def test_bank_defects_that_two_borders_cut_lie_at_their_own():
    top, bottom = np.zeros((2, 1, 16, 16), bool)
    top[0, :5, 2:6], bottom[0, 12:, 9:13] = True, True
    bank = MaskBank({1: top, 2: bottom}, {k: np.ones((16, 16), bool) for k in (1, 2)}, ())
    for index in range(20):
        drawn = bank.draw_canvas((32, 32), 0, index, types=(1, 2))
        for type_, edge in ((1, 0), (2, -1)):
            own = drawn == type_
            assert (
                own[edge].any() and own.any(axis=1).sum() <= 10
            )  # its own length, stretched: not gone on to the other


# --- what is refused, and what a manifest says ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"windows": "onn"}, r"unknown --windows 'onn' \(did you mean 'on'"),
        ({"upscale": 0}, "--upscale 0: must be 1 or more"),
        ({"upscale": 2, "handoff": "released"}, "--upscale 2: --handoff released"),
        ({"upscale": 2, "step_inference": 0}, "--upscale 2: needs both networks, but --step_inference 0"),
        ({"upscale": 2, "step_inference": 1000}, "--upscale 2: needs both networks, but --step_inference 1000"),
        ({"upscale": 3}, "--upscale 3: does not divide --image_size 32 32; give multiples of 3"),
        ({"upscale": 2, "image_size": (30, 32)}, "15 x 16.*multiples of 2"),
    ],
)
def test_what_cannot_be_is_refused(generator, options, words):
    with pytest.raises(InputError, match=words):
        generator.check_settings(**{"step_inference": 400, **options})


def test_folders_made_before_there_were_windows_can_be_continued(tmp_path):
    def folder(**settings):
        return SampleFolder(str(tmp_path), ["pit"], {"seed": 0, **settings})

    pixels = np.zeros((1, 4, 4), np.uint8)
    folder().add([0], np.zeros((1, 4, 4, 3), np.uint8), pixels)
    assert folder(windows="off", upscale=1).missing(2) == [1]
    with pytest.raises(InputError, match="made with windows off, not on"):
        folder(windows="on", upscale=1)
    with pytest.raises(InputError, match="made with upscale 1, not 2"):
        folder(windows="off", upscale=2)


def test_the_command_line_takes_them_and_the_manifest_says_so(run_script, trained_pair, tmp_path):
    def run(*flags, status=0):
        networks = ("--large_recep", trained_pair.large, "--small_recep", trained_pair.small)
        quick = ("--num_steps", 4, "--precision", "fp32", "--compile", "off", "--num_samples", 1)
        result = run_script("inference.py", *networks, "--sample_dir", tmp_path / "out", *quick, *flags)
        assert result.returncode == status, result.stderr
        return result.stderr

    line = run("--image_size", 64, 96, "--upscale", 5, status=2)
    assert line == "error: --upscale 5: does not divide --image_size 64 96; give multiples of 5\n"
    run("--image_size", 64, 96, "--upscale", 2)
    row = json.loads((tmp_path / "out/manifest.jsonl").read_text())
    assert (row["settings"]["windows"], row["settings"]["upscale"]) == ("on", 2)
    assert Image.open(tmp_path / "out" / row["image"]).size == (96, 64)
    assert "made with upscale 2, not 1" in run("--image_size", 64, 96, status=2)


def test_settings_and_arguments_go_together(generator):
    settings = generator.check_settings(400)
    assert settings.keys() <= inspect.signature(generator.generate).parameters.keys()
    assert (settings["windows"], settings["upscale"]) == ("off", 1)
