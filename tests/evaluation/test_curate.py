"""Curating samples: each rule, a person's list, the wish for types, and the command from folder to folder."""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluating import SEGMENTER, SIZE, TYPES, draw, write_real, write_samples
from runs import tree

from guided_diffusion.cli import curate as script
from guided_diffusion.data.prepared import find_samples
from guided_diffusion.data.records import recorded_settings
from guided_diffusion.errors import InputError
from guided_diffusion.evaluation import curation
from guided_diffusion.evaluation.curation import CLIPPED, agreement_limits, curate
from guided_diffusion.evaluation.image_sets import ImageSet
from guided_diffusion.file_io import LOCK_FILE, TEMPORARY_PREFIX, lock_folder, write_atomic
from guided_diffusion.generation.sample_io import SampleFolder

LIMITS = {"copy": {"value": 0.2}, "duplicate": {"value": 0.3}, "speck": {"dark": 6.0, "bright": 4.0}}
COPY = {"name": "dark/x", "distance": 0.1, "copy": True}


def row(name: str, *types: str, **changes: Any) -> dict[str, Any]:
    """A row of score_samples without fault; changes overwrite."""
    return {
        "name": name,
        "types": {name: {"pixels": 20, "share": 0.02, "regions": 1, "largest": 20} for name in types or ("dark",)},
        **{"empty": False, "speck": False, "clipped": 0.0, "agreement": 0.5},
        "nearest_train": {"name": "dark/x", "distance": 0.5, "copy": False},
        "nearest_sample": {"name": "z", "distance": 0.4, "duplicate": False},
        **changes,
    }


def chosen(rows: list[dict], agreement: dict | None = None, near: tuple = (), **options: Any) -> tuple[list, list]:
    """Names of kept, and rows of dropped ones; near: (i, j, distance) of samples that are alike."""
    among = np.full((len(rows), len(rows)), np.inf)
    for i, j, distance in near:
        among[i, j] = among[j, i] = distance
    kept, dropped = curate(rows, among, {**LIMITS, "agreement": agreement}, **options)
    return [row["name"] for row in kept], dropped


def test_the_first_rule_that_applies_is_the_reason() -> None:
    """Each row has the faults of the later ones as well."""
    faults, rows = {}, [row("f", agreement=None)]
    tiny = {"speck": True, "types": {"dark": {"largest": 2}, "bright": {"largest": 3}}}
    all_faults = {"agreement": 0.1}, {"clipped": CLIPPED + 0.01}, {"nearest_train": COPY}, tiny, {"empty": True}
    for name, fault in zip("edcba", all_faults, strict=True):
        faults |= fault
        rows.insert(0, row(name, **faults))
    kept, dropped = chosen(rows, {"dark": 0.3})
    assert kept == ["f"]
    assert [list(row.values()) for row in dropped] == [
        ["a", "empty", "the mask is empty", None, None],
        ["b", "speck", "only specks: the largest, of bright, has 3 px", 3, 4.0],
        ["c", "near-copy", "near-copy of dark/x", 0.1, 0.2],
        ["d", "clipped", "6% more pixels at black or white than real", CLIPPED + 0.01, CLIPPED],
        ["e", "disagreement", "a segmenter sees something else than the mask", 0.1, 0.3],
    ]
    assert chosen(rows)[0] == ["e", "f"]  # agreement is not asked for
    kept, dropped = chosen(rows, {"dark": 0.3}, keep=["a", "c"], drop=["f"])  # a person has the last word
    assert kept == ["a", "c"] and dropped[-1]["rule"] == "list"


def test_limits_of_agreement_are_by_type_and_what_most_real_images_reach() -> None:
    """A sample has to reach the lowest of its types' limits; a type without one asks for nothing."""
    rows = [row("a", "dark", agreement=0.3), row("b", "bright", agreement=0.3)]
    rows += [row("c", "dark", "bright", agreement=0.3), row("d", "dark", "dent", agreement=0.0)]
    assert chosen(rows, {"dark": 0.4, "bright": 0.2})[0] == ["b", "c", "d"]
    masks, values = np.zeros((30, 4, 4), np.uint8), np.linspace(0, 1, 30)
    masks[:20, 0], masks[20:27, 1], masks[:, 3, 3] = 1, 2, 3
    limits = agreement_limits(values, ImageSet(masks, masks, [""] * 30, [""] * 30, ("dark", "bright", "dent"), ""))
    assert limits == pytest.approx({"dark": np.quantile(values[:20], 0.05), "dent": 0.05})  # of bright ones there are 7


def test_of_duplicates_the_best_is_kept() -> None:
    """0-1-2 are a chain: with 1 gone, 0 and 2 are unlike. 3 and 4 are alike, 4 is a copy anyway."""
    rows = [row(str(k), agreement=value) for k, value in enumerate((0.5, 0.4, 0.3, 0.1))]
    rows.append(row("4", agreement=0.9, nearest_train=COPY))
    near = (0, 1, 0.1), (1, 2, 0.2), (3, 4, 0.1)
    kept, dropped = chosen(rows, near=near)
    assert kept == ["0", "2", "3"] and list(dropped[0].values()) == ["1", "duplicate", "near-duplicate of 0", 0.1, 0.3]
    rows[1]["agreement"] = 0.6
    for keep, expected in (((), "13"), ("2", "023"), ("01", "013")):
        assert chosen(rows, near=near, keep=keep)[0] == list(expected)


def test_types_are_balanced_by_the_best_and_the_rarest_chooses_first() -> None:
    rows = [row(f"dark {k}", agreement=k / 10) for k in range(8)]
    rows += [row(f"bright {k}", "bright", agreement=k / 10) for k in range(2)]
    rows += [row(f"both {k}", "dark", "bright", agreement=0.9) for k in range(2)]
    kept, dropped = chosen(rows, per_type=3)
    assert kept == ["dark 7", "bright 1", "both 0", "both 1"] and {row["rule"] for row in dropped} == {"surplus"}
    assert [len(chosen(rows, per_type=wish)[0]) for wish in (9, None)] == [11, 12]  # of ten dark ones nine
    assert chosen(rows, per_type=1, keep=["dark 0", "dark 1"])[0] == ["dark 0", "dark 1", "both 0"]
    rows = [row(f"z {k}", "z", agreement=k / 10) for k in range(2)]
    rows += [row(f"a {k}", "a", agreement=0.5 + k / 10) for k in range(4)]
    rows += [row("both", "a", "z", agreement=0.1)]
    assert chosen(rows, per_type=3)[0] == ["z 0", "z 1", "a 2", "a 3", "both"]


SETTINGS = {"seed": 3, "sampler": "ddim", "image_size": [SIZE, SIZE]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """train and real data sets, and samples: 0 a copy, 1 and 2 alike, 3 empty, 4 mislabelled, 5-11 good."""
    root = tmp_path_factory.mktemp("curate")
    write_real(root / "train", 10, 1)
    write_real(root / "real", 24, 2)
    images, masks = draw(12, 3)
    images[0], masks[0] = (array[4, ::-1] for array in draw(10, 1))
    images[2], masks[2] = images[1], masks[1]
    masks[3], masks[4] = 0, np.roll(masks[4], 16, axis=0)
    write_samples(root / "samples", images, masks, **SETTINGS)
    write_samples(root / "empty", images[:2], 0 * masks[:2], **SETTINGS)
    for part in ("images", "masks_converted_dir"):  # of a killed run: what the manifest does not list does not exist
        shutil.copy(root / "samples" / part / "000007.png", root / "samples" / part / "000077.png")
    return {path.name: path for path in root.iterdir()}


@pytest.fixture
def run(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """OUT of the command, run on the folders with a threshold as segmenter; flags overwrite, a list is written."""

    monkeypatch.setattr(script, "train_agreement_segmenter", lambda sets, *_: len(sets.train) == 10 and SEGMENTER)

    def call(**flags: object) -> Path:
        flags = {name: folders[name] for name in ("samples", "train", "real")} | {"out": tmp_path / "kept"} | flags
        if "list" in flags:
            (tmp_path / "list.json").write_text(flags["list"])
            flags["list"] = tmp_path / "list.json"
        script.main([str(part) for flag, value in flags.items() if value is not None for part in (f"--{flag}", value)])
        return flags["out"]

    return call


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_from_folder_to_folder(run: Callable, folders: dict[str, Path]) -> None:
    before = tree(folders["samples"])
    out = run()
    assert tree(folders["samples"]) == before
    dropped = {row["name"]: row["rule"] for row in lines(out / "dropped.jsonl")}
    assert dropped == {"000000": "near-copy", "000002": "duplicate", "000003": "empty", "000004": "disagreement"}
    assert lines(out / "dropped.jsonl")[0]["reason"] == "near-copy of dark/train004"
    kept = [f"{k:06d}" for k in (1, *range(5, 12))]
    assert lines(out / "kept.jsonl") == [{"name": name, "score": 1.0} for name in kept]
    after = tree(out)
    own = {"manifest.jsonl", "kept.jsonl", "dropped.jsonl", "curate.json", "contact_sheet.png"}
    gone = {path for path in before if any(name in path for name in (*dropped, "000077"))}
    assert set(after) == (set(before) - gone) | own
    assert all(after[path] == before[path] for path in set(after) - own)
    assert [Path(sample.image).stem for sample in find_samples(str(out))] == kept
    settings = dict(recorded_settings(str(out)))
    about = settings.pop("curated")
    assert settings == recorded_settings(str(folders["samples"])) and about["of"] == 12
    assert SampleFolder(str(out), TYPES, {**SETTINGS, "curated": about}).missing(6) == [0, 2, 3, 4]
    with pytest.raises(InputError, match="holds samples made with curated.*another sample_dir"):
        SampleFolder(str(out), TYPES, SETTINGS)  # as inference.py would, to add what is missing

    result = json.loads((out / "curate.json").read_text())
    counts = dict.fromkeys(("near-copy", "duplicate", "empty", "disagreement"), 1)
    assert result["counts"] == {"samples": 12, "kept": 8, "dropped": counts}
    assert result["per_type"] == {"dark": {"samples": 5, "kept": 3}, "bright": {"samples": 6, "kept": 5}}
    assert result["limits"]["agreement"] == {"dark": 1.0, "bright": 1.0}
    assert result["uncurated"]["copies"]["value"] == 1 / 12


LIST = '{"keep": ["000003", "000004"], "drop": ["000011"]}'
ALIKE = {0: "near-copy", 2: "duplicate"}
LIMIT = {"real": None, "min_agreement": 0.2, "list": '{"drop": ["000011"]}'}


@pytest.mark.parametrize(
    ("flags", "dropped", "kept"),
    [
        ({"list": LIST, "per_type": 5, "min_agreement": "off"}, {11: "list"}, 4),
        ({"real": None}, {3: "empty"}, 5),
        (LIMIT, {3: "empty", 4: "disagreement", 11: "list"}, 4),
    ],
)
def test_flags(run: Callable, flags: dict, dropped: dict, kept: int) -> None:
    """A wish and a list; without held-out images only a number limits agreement."""
    out = run(**flags)
    assert {int(row["name"]): row["rule"] for row in lines(out / "dropped.jsonl")} == ALIKE | dropped
    assert json.loads((out / "curate.json").read_text())["per_type"]["bright"] == {"samples": 6, "kept": kept}


def test_bad_input_gets_one_line(run: Callable, folders: dict[str, Path], tmp_path: Path) -> None:
    for flags, message in (
        ({"samples": folders["empty"]}, r"--samples .*: all 2 samples would be dropped \(empty 2\)"),
        ({"per_type": 0}, "--per_type 0: must be from 1 to"),
        ({"min_agreement": "1.5"}, "--min_agreement 1.5: must be auto, off or a number from 0 to 1"),
        ({"list": "{"}, "--list .*: should hold .*is not valid JSON"),
        ({"list": '{"kept": ["000001"]}'}, "--list .*: should hold"),
        ({"list": '{"keep": 1}'}, "--list .*: should hold"),
        ({"list": '{"keep": ["x"], "drop": ["y"]}'}, "--list .*: x is not in --samples"),
        ({"list": LIST.replace("11", "03")}, "--list .*: has 000003 both to keep and to drop"),
    ):
        with pytest.raises(InputError, match=f"^{message}") as caught:
            run(**flags)
        assert "\n" not in str(caught.value) and not (tmp_path / "kept/images").exists()


def test_a_second_run_into_the_folder_ends_in_a_line(run: Callable, tmp_path: Path, monkeypatch) -> None:
    """Also where it waited for the first. What a killed run leaves, its lock and temporaries, is no obstacle."""
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in (LOCK_FILE, f"{TEMPORARY_PREFIX}x"):
        (kept / name).touch()
    with lock_folder(str(kept), "--out"), pytest.raises(InputError, match="--out .*kept: process .* on "):
        run(real=None)
    assert (run(real=None) / "manifest.jsonl").exists()
    monkeypatch.setattr(script, "lock_folder", lambda out, _: nullcontext((Path(out) / "images").mkdir(parents=True)))
    with pytest.raises(InputError, match="--out .*late: is not empty; name a new folder"):
        run(real=None, out=tmp_path / "late")


def test_nothing_that_is_cut_off_passes_for_samples(run, folders, tmp_path, monkeypatch) -> None:
    shutil.copytree(folders["samples"], tmp_path / "cut")
    (gone := tmp_path / "cut/masks/000009.png").unlink()
    with pytest.raises(InputError, match="masks/000009.png, which its manifest.jsonl lists, is gone; put it back"):
        run(samples=tmp_path / "cut", real=None)
    assert not [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    shutil.copy(folders["samples"] / "masks/000009.png", gone)

    def write(path: str, data: bytes, *how: str) -> None:
        if "000009" in path:
            raise InputError(f"no space: {how}")
        write_atomic(path, data)

    monkeypatch.setattr(curation, "write_atomic", write)
    with pytest.raises(InputError, match="no space: .'--out', 'free space, and name a new folder'"):
        run(samples=tmp_path / "cut", real=None)
    assert (tmp_path / "kept/images/000005.png").exists() and not (tmp_path / "kept/curate.json").exists()
    with pytest.raises(InputError, match="holds no images"):
        find_samples(str(tmp_path / "kept"))


def test_without_the_evaluation_requirements(run_script: Callable, folders: dict[str, Path], tmp_path: Path) -> None:
    """One line where a segmenter is needed; all else works."""
    prelude = "import sys\nfor name in ('torchvision', 'timm', 'segmentation_models_pytorch'): sys.modules[name] = None"
    given = ("--samples", folders["samples"], "--train", folders["train"], "--out", tmp_path / "out")
    refused, works = (run_script("curate.py", *given, "--min_agreement", x, prelude=prelude) for x in ("0.5", "off"))
    assert refused.returncode == 2 and refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1 and "requirements-eval.txt" in refused.stderr
    assert works.returncode == 0 and (tmp_path / "out/manifest.jsonl").exists(), works.stderr
