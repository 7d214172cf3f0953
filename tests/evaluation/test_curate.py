"""Curating samples: each rule, a person's list, the wish for types, and the command from folder to folder."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_textures import textures

from guided_diffusion.cli import curate as script
from guided_diffusion.data.prepared import find_samples, write_released
from guided_diffusion.errors import InputError
from guided_diffusion.evaluation import scores as segmentation
from guided_diffusion.evaluation.curation import CLIPPED, agreement_limits, curate, read_list
from guided_diffusion.evaluation.image_sets import ImageSet
from guided_diffusion.evaluation.sample_scores import Scores
from guided_diffusion.generation.sample_io import SampleFolder, recorded_settings

TYPES = ("crack", "pit")
THRESHOLDS = {"copy": {"value": 0.2}, "duplicate": {"value": 0.3}, "speck": {"crack": 6.0, "pit": 4.0}}


def row(name: str, *types: str, **changes: Any) -> dict[str, Any]:
    """A row of score_samples without fault; changes overwrite."""
    return {
        "name": name,
        "types": {name: {"pixels": 20, "share": 0.02, "regions": 1, "largest": 20} for name in types or ("crack",)},
        **{"empty": False, "speck": False, "clipped": 0.0, "agreement": 0.5},
        "nearest_train": {"name": "crack/x", "distance": 0.5, "copy": False},
        "nearest_sample": {"name": "z", "distance": 0.4, "duplicate": False},
        **changes,
    }


def scores(*rows: dict[str, Any], duplicates: list[tuple[int, int, float]] = ()) -> Scores:
    return Scores(list(rows), THRESHOLDS, {}, list(duplicates))


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [row["name"] for row in rows]


def faulty() -> list[dict[str, Any]]:
    """A sample for each rule that tells of a sample by itself, with the later faults as well."""
    disagreeing = {"agreement": 0.1}
    clipped = {"clipped": CLIPPED + 0.01, **disagreeing}
    copied = {"nearest_train": {"name": "crack/x", "distance": 0.1, "copy": True}, **clipped}
    tiny = {"crack": {"largest": 2}, "pit": {"largest": 3}}
    return [
        row("a", empty=True, **{**copied, "agreement": None}),
        row("b", speck=True, types=tiny, **copied),
        row("c", **copied),
        row("d", **clipped),
        row("e", **disagreeing),
        row("f", agreement=None),
    ]


def test_the_first_rule_that_applies_is_the_reason() -> None:
    curated = curate(scores(*faulty()), min_agreement=0.3)
    assert curated.kept == [{"name": "f", "score": 0.4}]  # no agreement: the distance to the nearest sample
    assert [tuple(row.values()) for row in curated.dropped] == [
        ("a", "empty", "the mask is empty", None, None),
        ("b", "speck", "only specks: the largest, of pit, has 3 px", 3, 4.0),
        ("c", "near-copy", "near-copy of crack/x", 0.1, 0.2),
        ("d", "clipped", "6% more pixels at black or white than real", CLIPPED + 0.01, CLIPPED),
        ("e", "disagreement", "a segmenter sees something else than the mask", 0.1, 0.3),
    ]
    assert list(curated.dropped[0]) == ["name", "rule", "reason", "score", "limit"]
    assert names(curate(scores(*faulty())).kept) == ["e", "f"]  # agreement is not asked for
    # A person has the last word.
    curated = curate(scores(*faulty()), min_agreement=0.3, keep=["a", "c"], drop=["f"])
    assert names(curated.kept) == ["a", "c"] and curated.dropped[-1]["rule"] == "list"


def test_limits_of_agreement_are_by_type_and_what_most_real_images_reach() -> None:
    """A sample has to reach the lowest of its types' limits; a type without one asks for nothing."""
    rows = [row("a", "crack", agreement=0.3), row("b", "pit", agreement=0.3), row("c", "crack", "pit", agreement=0.3)]
    rows += [row("d", "dent", agreement=0.0), row("e", "crack", "dent", agreement=0.0)]
    assert names(curate(scores(*rows), min_agreement={"crack": 0.4, "pit": 0.2}).dropped) == ["a"]
    masks, values = np.zeros((30, 4, 4), np.uint8), np.linspace(0, 1, 30)
    masks[:20, 0], masks[20:27, 1], masks[:, 3, 3] = 1, 2, 3
    real = ImageSet(masks, masks, [""] * 30, [""] * 30, ("crack", "pit", "dent"), "")
    limits = agreement_limits(values, real)
    assert limits == pytest.approx({"crack": np.quantile(values[:20], 0.05), "dent": 0.05})  # of pits there are 7


def test_of_duplicates_the_best_is_kept() -> None:
    """0-1-2 are a chain: with 1 gone, 0 and 2 are unlike. 3 and 4 are alike, 4 is a copy anyway."""
    rows = [row("0", agreement=0.5), row("1", agreement=0.4), row("2", agreement=0.3)]
    rows += [row("3", agreement=0.1), row("4", agreement=0.9, nearest_train=faulty()[2]["nearest_train"])]
    pairs = [(0, 1, 0.1), (1, 2, 0.2), (3, 4, 0.1)]
    curated = curate(scores(*rows, duplicates=pairs))
    assert names(curated.kept) == ["0", "2", "3"]
    assert list(curated.dropped[0].values()) == ["1", "duplicate", "near-duplicate of 0", 0.1, 0.3]
    rows[1]["agreement"] = 0.6
    assert names(curate(scores(*rows, duplicates=pairs)).kept) == ["1", "3"]
    assert names(curate(scores(*rows, duplicates=pairs), keep=["2"]).kept) == ["0", "2", "3"]
    assert names(curate(scores(*rows, duplicates=pairs), keep=["0", "1"]).kept) == ["0", "1", "3"]


def test_types_are_balanced_by_the_best() -> None:
    rows = [row(f"crack {k}", "crack", agreement=k / 10) for k in range(8)]
    rows += [row(f"pit {k}", "pit", agreement=k / 10) for k in range(2)]
    rows += [row(f"both {k}", "crack", "pit", agreement=0.9) for k in range(2)]
    curated = curate(scores(*rows), per_type=3)
    assert names(curated.kept) == ["crack 7", "pit 1", "both 0", "both 1"]
    assert curated.wanting == {} and {row["rule"] for row in curated.dropped} == {"surplus"}
    curated = curate(scores(*rows), per_type=9)
    assert curated.wanting == {"pit": 5} and len(curated.kept) == 11  # of ten cracks nine
    kept = names(curate(scores(*rows), per_type=1, keep=["crack 0", "crack 1"]).kept)
    assert kept[:2] == ["crack 0", "crack 1"] and len(kept) == 3
    assert curate(scores(*rows)).wanting == {} and len(curate(scores(*rows)).kept) == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ('{"kept": ["a"]}', "should hold"),
        ('{"keep": [1]}', "should hold"),
        ('{"keep": ["x"], "drop": ["y"]}', r"names x, which is not in --samples \(2 such names\)"),
        ('{"keep": ["a"], "drop": ["b", "a"]}', "has a both to keep and to drop"),
    ],
)
def test_bad_lists_get_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^--list {path}: {message}") as caught:
        read_list(str(path), ["a", "b"])
    assert "\n" not in str(caught.value)
    path.write_text('{"drop": ["a"]}')  # a side may be missing
    assert read_list(str(path), ["a", "b"]) == (set(), {"a"})


SIZE = 32
SETTINGS = {"seed": 3, "sampler": "ddim", "image_size": [SIZE, SIZE]}


def draw_set(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Textures with one bright or dark box each, cracks and pits in turn."""
    images, masks = textures(count, SIZE, SIZE, seed), np.zeros((count, SIZE, SIZE), np.uint8)
    for k in range(count):
        top, left = np.random.default_rng([seed, k]).integers(0, SIZE - 6, 2)
        images[k, top : top + 4, left : left + 5] = 250 if k % 2 else 5
        masks[k, top : top + 4, left : left + 5] = 1 + k % 2
    return images, masks


class Threshold:
    """A segmenter that calls dark pixels cracks and bright ones pits."""

    provenance = {"network": "threshold"}

    def predict(self, images: np.ndarray) -> list[np.ndarray]:
        return [np.where(im.mean(-1) < 10, 1, np.where(im.mean(-1) > 245, 2, 0)).astype(np.uint8) for im in images]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """train and real data sets, and samples: 0 a copy, 1 and 2 alike, 3 empty, 4 mislabelled, 5-11 good."""
    root = tmp_path_factory.mktemp("curate")
    for name, (count, seed) in {"train": (10, 1), "real": (24, 2)}.items():
        stems = [f"{TYPES[k % 2]}/{name}{k:03d}" for k in range(count)]
        write_released(str(root / name), stems, zip(*draw_set(count, seed), strict=True), {"crack": 1, "pit": 2}, {})
    images, masks = draw_set(12, 3)
    images[0] = draw_set(10, 1)[0][4, ::-1]
    masks[0] = draw_set(10, 1)[1][4, ::-1]
    images[2], masks[2] = images[1], masks[1]
    masks[3] = 0
    masks[4] = np.roll(masks[4], 16, axis=0)
    folder = SampleFolder(str(root / "samples"), TYPES, SETTINGS)
    folder.add(range(12), images, masks)
    folder.write_contact_sheet()
    for part in ("images", "masks_converted_dir"):  # of a killed run: what the manifest does not list does not exist
        shutil.copy(root / "samples" / part / "000007.png", root / "samples" / part / "000077.png")
    return {name: root / name for name in ("train", "real", "samples")}


@pytest.fixture
def run(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run the command on the folders with the threshold as segmenter; flags overwrite."""
    monkeypatch.setattr(segmentation, "train_agreement_segmenter", lambda *args, **keywords: (Threshold(), None))

    def call(**flags: object) -> None:
        flags = {**folders, "device": "cpu", **flags}
        script.main([str(part) for flag, value in flags.items() if value is not None for part in (f"--{flag}", value)])

    return call


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_from_folder_to_folder(run: Callable, folders: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    before, out = content(folders["samples"]), tmp_path / "kept"
    run(out=out)
    assert content(folders["samples"]) == before
    dropped = {row["name"]: row["rule"] for row in lines(out / "dropped.jsonl")}
    assert dropped == {"000000": "near-copy", "000002": "duplicate", "000003": "empty", "000004": "disagreement"}
    assert lines(out / "dropped.jsonl")[0]["reason"] == "near-copy of crack/train004"
    assert lines(out / "kept.jsonl") == [{"name": f"{k:06d}", "score": 1.0} for k in (1, *range(5, 12))]

    after = content(out)
    own = {"manifest.jsonl", "kept.jsonl", "dropped.jsonl", "curate.json", "contact_sheet.png"}
    gone = {path for path in before if any(name in path for name in (*dropped, "000077"))}
    assert set(after) == (set(before) - gone) | own
    assert all(after[path] == before[path] for path in set(after) - own)

    assert [Path(sample.image).stem for sample in find_samples(str(out))] == [f"{k:06d}" for k in (1, *range(5, 12))]
    settings = recorded_settings(str(out))
    about = settings.pop("curated")
    assert settings == recorded_settings(str(folders["samples"])) and about["of"] == 12
    assert SampleFolder(str(out), TYPES, {**SETTINGS, "curated": about}).missing(6) == [0, 2, 3, 4]
    with pytest.raises(InputError, match="holds samples made with curated.*another sample_dir"):
        SampleFolder(str(out), TYPES, SETTINGS)  # as inference.py would, to add what is missing

    result = json.loads((out / "curate.json").read_text())
    assert result["counts"] == {"samples": 12, "kept": 8, "dropped": dict(Counter(dropped.values()))}
    assert result["per_type"] == {"crack": {"samples": 5, "kept": 3}, "pit": {"samples": 6, "kept": 5}}
    assert result["limits"]["agreement"] == {"crack": 1.0, "pit": 1.0}
    assert result["uncurated"]["copies"]["value"] == 1 / 12
    printed = capsys.readouterr().out
    assert [line.split() for line in printed.splitlines() if "pit " in line][-1] == "| pit | 6 | 5 | 0 |".split()
    assert f"8 of 12 samples in {out}" in printed


def test_a_wish_and_a_list(run: Callable, tmp_path: Path, capsys: Any) -> None:
    chosen = tmp_path / "list.json"
    chosen.write_text('{"keep": ["000003", "000004"], "drop": ["000011"]}')
    run(out=tmp_path / "kept", list=chosen, per_type=5, min_agreement="off")
    assert {"000003", "000004"} <= set(names(lines(tmp_path / "kept/kept.jsonl")))
    dropped = {row["name"]: row["rule"] for row in lines(tmp_path / "kept/dropped.jsonl")}
    assert dropped == {"000000": "near-copy", "000002": "duplicate", "000011": "list"}
    assert "| pit | 6 | 4 | 1 |".split() in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert json.loads((tmp_path / "kept/curate.json").read_text())["limits"]["agreement"] is None


@pytest.mark.parametrize(("wish", "disagreeing"), [("auto", []), (0.2, [("000004", 0.0, 0.2)])])
def test_without_held_out_images_only_a_number_limits_agreement(
    run: Callable, tmp_path: Path, wish: object, disagreeing: list
) -> None:
    run(out=tmp_path / "kept", real=None, min_agreement=wish)
    dropped = lines(tmp_path / "kept/dropped.jsonl")
    found = [(row["name"], row["score"], row["limit"]) for row in dropped if row["rule"] == "disagreement"]
    assert found == disagreeing and "near-copy" in {row["rule"] for row in dropped}


def test_bad_input_gets_one_line(run: Callable, folders: dict[str, Path], tmp_path: Path) -> None:
    out, full, empty = tmp_path / "kept", tmp_path / "full", tmp_path / "none"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    SampleFolder(str(empty), TYPES, SETTINGS).add([0, 1], *(array * 0 for array in draw_set(2, 3)))
    other = tmp_path / "other"
    write_released(str(other), ["dent/a"], zip(*draw_set(1, 1), strict=True), {"dent": 1, "pit": 2}, {})
    for flags, message in (
        ({"out": full}, f"--out {full}: is not empty; name a new folder"),
        ({"samples": tmp_path / "gone"}, "--samples .*gone: has no manifest.jsonl; name a folder that inference.py"),
        ({"samples": empty}, r"--samples .*: all 2 samples would be dropped \(empty 2\)"),
        ({"train": other}, "--train .*: its types are dent, pit, but those of --samples .* are crack, pit"),
        ({"real": tmp_path / "gone"}, "--real .*gone.* does not exist|no manifest"),
        ({"per_type": 0}, "--per_type 0: must be at least 1"),
        ({"min_agreement": "most"}, "--min_agreement most: must be auto, off or a number from 0 to 1"),
        ({"list": tmp_path / "gone"}, "--list .*gone: cannot be read"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            run(**{"out": out, **flags})
        assert "\n" not in str(caught.value)
        assert not (out / "images").exists()


def test_without_the_evaluation_requirements(run_script: Callable, folders: dict[str, Path], tmp_path: Path) -> None:
    """One line where a segmenter is needed; all else works."""
    prelude = "import sys\nfor name in ('torchvision', 'timm', 'segmentation_models_pytorch'): sys.modules[name] = None"
    arguments = [part for name in ("samples", "train") for part in (f"--{name}", folders[name])]
    for out, least, status in (("one", "0.5", 2), ("two", "off", 0)):
        own = ("--out", tmp_path / out, "--min_agreement", least, "--device", "cpu")
        result = run_script("curate.py", *arguments, *own, prelude=prelude)
        assert result.returncode == status, result.stderr
        assert (tmp_path / out / "manifest.jsonl").exists() == (status == 0)
        if status:
            assert result.stderr.startswith("error: curate.py: ") and result.stderr.count("\n") == 1
            assert "requirements-eval.txt" in result.stderr
