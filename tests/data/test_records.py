"""manifest.jsonl: what a row must say, and that nothing outside the folder is read, written or deleted for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_formats import refusal
from evaluating import TYPES, draw, write_samples
from runs import tree

from guided_diffusion.data.prepared import find_samples
from guided_diffusion.data.records import files_of, read_manifest, recorded_settings
from guided_diffusion.errors import InputError
from guided_diffusion.export.records import read_export
from guided_diffusion.generation.sample_io import SampleFolder

DEEP = json.loads("[" * 90 + "]" * 90)
WRONG = (None, True, -1, 1.5, "", "images/000001.png", "../secret.png", "/tmp/secret.png", [1], {}, {"x": None}, DEEP)
FAULTS = [  # key, text that the line says, values that are right
    ("index", "its index is no number", ()),
    ("image", "its image is not images/000000.png", ()),
    ("mask", "its mask is not masks/000000.png", ()),
    ("index_mask", "its index_mask is not masks_converted_dir/000000.png", ()),
    ("defects", "defects", ({},)),
    ("types", "its types|it has types", ({},)),
    ("settings", "settings", ()),
    ("seed", "its seed", (None, True, -1)),
    ("condition", "its condition", (None, "", {}, {"x": None})),
]


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    return draw(3, 1)


@pytest.fixture
def folder(tmp_path: Path, drawn: tuple[np.ndarray, np.ndarray]) -> Path:
    """Three samples, and a file beside their folder that is nobody's business."""
    (tmp_path / "secret.png").write_bytes(b"secret")
    return Path(write_samples(tmp_path / "samples", *drawn))


def change(folder: Path, edit: Callable[[list[dict[str, Any]]], object]) -> None:
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    edit(rows)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_rows_come_by_index_with_their_files(folder: Path) -> None:
    change(folder, lambda rows: rows.reverse())
    rows = read_manifest(str(folder))
    assert list(rows) == [0, 1, 2] and recorded_settings(str(folder))["class_names"] == list(TYPES)
    named = [path for row in rows.values() for path in files_of(row)]
    assert sorted(named) == sorted(path for path, data in tree(folder).items() if data and path.endswith(".png"))
    assert read_manifest(str(folder.parent)) is None and recorded_settings(str(folder.parent)) == {}


@pytest.mark.parametrize(("key", "said", "right"), FAULTS)
def test_a_field_of_any_other_kind_is_named_with_its_line(folder: Path, key: str, said: str, right: tuple) -> None:
    text = (folder / "manifest.jsonl").read_text()
    for value in WRONG:
        if (value, type(value)) in [(other, type(other)) for other in right]:
            continue
        change(folder, lambda rows, value=value: rows[0].update({key: value}))
        line = refusal(find_samples, str(folder))
        assert "does not describe a sample (" in line and any(words in line for words in said.split("|")), value
        (folder / "manifest.jsonl").write_text(text)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda rows: rows.append(rows[0]), "line 4 .*its index 0 stands in an earlier line"),
        (lambda rows: rows[2]["settings"].update(seed=9), "line 3 .*settings are not those of the first line"),
        (lambda rows: rows[0]["settings"].update(class_names=[str(k) for k in range(300)]), "up to 255 names"),
        (lambda rows: rows[0]["settings"].update(class_names=["dark", "dark"]), "up to 255 names, each once"),
        (lambda rows: rows[1]["types"].update(dent=3), "line 2 .*types that are not among its class_names"),
        (lambda rows: rows[0]["settings"].update(precision=16), "precision no name"),
        (lambda rows: rows[0]["settings"].update(crops={"crop_from": [0, 8], "crop_defect": 1}), "crops or whole"),
        (lambda rows: rows[0]["settings"].update(whole_size=[0, 8]), "crops or whole"),
        (lambda rows: rows[0]["settings"].update(whole_size=8), "crops or whole"),
        (lambda rows: rows[0]["defects"].update(dark="defects/../000000.png"), "defects are not"),
        (lambda rows: rows[0].update(condition={"types": 1}), "its condition names no types"),
    ],
)
def test_rows_that_contradict_are_refused(folder: Path, edit: Callable, said: str) -> None:
    change(folder, edit)
    with pytest.raises(InputError, match=said):
        read_manifest(str(folder))


@pytest.mark.parametrize(
    "line", ['{"index": 0, "ima', "[" * 9000, '{"a":' * 200 + "1" + "}" * 200, "\0\xff", "[1]", "{}"]
)
def test_a_line_that_is_cut_or_no_object_is_named(folder: Path, line: str) -> None:
    with open(folder / "manifest.jsonl", "a", encoding="latin-1") as file:
        file.write(line)
    assert "manifest.jsonl: line 4 does not describe a sample (" in refusal(read_manifest, str(folder))


@pytest.mark.parametrize("inner", ["images", "masks_converted_dir", "defects/dark", "images/000000.png", "defects"])
def test_a_link_out_of_the_folder_is_refused_and_nothing_happens_behind_it(folder, inner, drawn) -> None:
    outside = (folder / inner).rename(folder.parent / "outside")
    (folder / inner).symlink_to(outside)
    if outside.is_dir():  # inference.py takes a file of this name for the rest of a run that was killed
        (outside / "000077.png").write_bytes(b"mine")
    before = tree(folder.parent)
    images, masks = drawn
    for use in (
        lambda: read_manifest(str(folder)),
        lambda: SampleFolder(str(folder), TYPES, {"seed": 0}).add([5], images[:1], masks[:1]),
        lambda: SampleFolder(str(folder), TYPES, {"seed": 0}).write_contact_sheet(),
        lambda: read_export(str(folder), None, None, keep_good=False),
    ):
        assert "leads out of its folder" in refusal(use)
    assert tree(folder.parent) == before
