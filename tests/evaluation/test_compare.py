"""evaluate.py compare: cells from flags, figures against their definitions, checkpoints, bad input."""

import json
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import TrainedPair
from evaluating import evaluate, random_extractor
from PIL import Image

from guided_diffusion.data.records import recorded_settings
from guided_diffusion.errors import InputError
from guided_diffusion.evaluation import compare
from guided_diffusion.evaluation.bootstrap import Resampling
from guided_diffusion.evaluation.copies import place
from guided_diffusion.evaluation.fidelity import fine_power, kid
from guided_diffusion.evaluation.image_sets import View, as_shown, read_real, read_samples
from guided_diffusion.evaluation.sample_scores import measure_limits

TYPES = ("scratch", "stain", "pit")
COUNT = 5
HAND_OFFS = (400, 0, 1000)


def run(data: Path, out: Path, *flags: object) -> dict:
    quick = ("--num_steps", 3, "--num_samples", COUNT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "load_extractor", lambda *_: random_extractor())
        evaluate(compare, *flags, *quick, real=data, out=out)
    return json.loads((out / "compare.json").read_text())


@pytest.fixture(scope="module")
def networks(trained_pair: TrainedPair) -> tuple[object, ...]:
    return ("--large", trained_pair.large, "--small", trained_pair.small)


@pytest.fixture(scope="module")
def compared(demo_data: Path, networks: tuple, run_script: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT of a comparison of three hand-offs, with the training images. Shared: do not change it."""
    out = tmp_path_factory.mktemp("compare")
    run_script("draw_demo_data.py", out / "train", "--num_images", 12, "--size", 32, "--seed", 1)
    run(demo_data, out, *networks, "--steps", ",".join(map(str, HAND_OFFS)), "--train", out / "train")
    return out


def name(S: int, sampler: str = "dpmpp_2m", steps: str = "3") -> str:
    return f"s{S}_{sampler}_{steps}_seed0"


@pytest.mark.parametrize(
    ("flags", "first", "last", "names"),
    [
        ("", 0, 1000, [name(S, steps="20") for S in (0, 50, 200, 400, 600, 1000)]),
        ("", 350, 450, [name(S, steps="20") for S in (350, 400, 450)]),
        ("--samplers ddim,dpmpp_2m", 0, 1000, [name(400, sampler, "20") for sampler in ("ddim", "dpmpp_2m")]),
        ("--spacings logsnr,uniform", 350, 450, [name(400, f"dpmpp_2m{s}", "20") for s in ("", "_uniform")]),
        ("--steps 0,400 --num_steps 4,5", 350, 450, [name(S, steps=n) for S in (0, 400) for n in "45"]),
    ],
)
def test_cells_come_from_the_flags(flags: str, first: int, last: int, names: list[str]) -> None:
    compare.add_arguments(parser := ArgumentParser())
    args = parser.parse_args(["--real", "data", *flags.split()])
    cells = compare.make_cells(args, {"": (None, None)}, range(first, last + 1))
    assert [cell.name for cell in cells] == names
    assert all(("uniform" in cell.name) == (cell.settings["spacing"] == "uniform") for cell in cells)


def test_figures_are_as_defined(compared: Path, demo_data: Path) -> None:
    result = json.loads((compared / "compare.json").read_text())
    assert [cell["name"] for cell in result["cells"]] == [name(S) for S in HAND_OFFS]
    assert result["reference"] == name(400) and set(result["real"]) == {"diversity"}
    extract = random_extractor()
    real = as_shown(read_real(str(demo_data), TYPES, View((32, 32))), View((32, 32)))
    train = read_real(str(compared / "train"), TYPES, View((32, 32)))
    limit = measure_limits(train, as_shown(train, View((32, 32))), real)["copy"]["value"]
    y, of_real = extract(real.images), Resampling.draw(real.groups, "compare", "real")

    def resampled(cell: str, seeds: int = 0) -> np.ndarray:
        features = extract(read_samples(str(compared / "cells" / cell), TYPES).images)
        return kid(features, y, Resampling.draw(range(COUNT), "compare", "seeds", seeds), of_real)

    base = resampled(name(400))
    margin = np.quantile(np.abs(base - resampled(f"{name(400)}_again", 1))[1:], 0.95)
    assert result["margin"] == pytest.approx(margin) and margin > 0
    for cell in result["cells"]:
        value, *differences = resampled(cell["name"]) - base
        assert cell["kid"]["value"] == pytest.approx(value + base[0])
        assert cell["difference"]["value"] == pytest.approx(value)
        assert cell["difference"]["interval"] == pytest.approx(np.quantile(differences, [0.025, 0.975]).tolist())
        assert cell["upper_bound"] == pytest.approx(np.quantile(differences, 0.95))
        assert cell["as_good"] == (cell["upper_bound"] < margin)
        samples = read_samples(str(compared / "cells" / cell["name"]), TYPES)
        assert cell["empty"]["value"] == np.mean([not mask.any() for mask in samples.masks])
        assert cell["copies"]["value"] == (place(samples.images, train.images)[0].min(axis=1) < limit).mean()
    assert result["cells"][0]["difference"]["value"] == 0 and result["cells"][0]["as_good"]
    sheet, plot = (Image.open(compared / file) for file in ("compare_sheet.png", "compare.png"))
    assert sheet.height > 3 * 2 * 128 and plot.width > 5 * 200


def test_checkpoints_of_a_training(demo_data: Path, trained_pair: TrainedPair, tmp_path: Path) -> None:
    result = run(demo_data, tmp_path, "--checkpoints", trained_pair.small, "--large", trained_pair.large)
    found = sorted(path.stem for path in (trained_pair.small / "checkpoint").glob("*.pt"))
    assert len(found) > 1 and [cell["name"] for cell in result["cells"]] == [f"{stem}_{name(400)}" for stem in found]
    used = [recorded_settings(str(path))["checkpoints"] for path in tmp_path.glob("cells/*[0-9]")]
    assert [len({own[size] for own in used}) for size in ("large", "small")] == [1, len(found)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "400"], "steps, .*name at least two cells"),
        (["--steps", "0,x"], "steps 0,x: must be whole numbers"),
        (["--steps", "0,400,0"], "name the cell s0_.* twice"),
        (["--samplers", "ddim,ddim"], "name the cell s400_ddim.* twice"),
        (["--samplers", "ddim,dppm"], "unknown sampler 'dppm'"),
        (["--num_samples", 2], "num_samples 2: must be from 4 to"),
        (["--checkpoints", "nowhere"], "checkpoints nowhere: needs 2 checkpoints"),
        (["--checkpoints", "LARGE"], "large: checkpoints takes its place"),
    ],
)
def test_bad_flags_get_one_line(demo_data: Path, networks: tuple, tmp_path: Path, flags: list, message: str) -> None:
    flags = [networks[1] if flag == "LARGE" else flag for flag in flags]
    with pytest.raises(InputError, match=message) as error:
        evaluate(compare, *networks, *flags, real=demo_data, out=tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_the_margin_is_of_another_seed_and_spectra_are_samples_over_real_images(compared, demo_data) -> None:
    result = json.loads((compared / "compare.json").read_text())
    assert recorded_settings(str(compared / "cells" / f"{name(400)}_again"))["seed"] == 1
    real = as_shown(read_real(str(demo_data), TYPES, View((32, 32))), View((32, 32)))
    for cell in result["cells"]:
        samples = read_samples(str(compared / "cells" / cell["name"]), TYPES)
        over = fine_power(samples.images).mean() / fine_power(real.images).mean()
        assert cell["spectrum"]["value"] == pytest.approx(10 * np.log10(over))
