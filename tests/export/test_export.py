"""Exports: every format read back, into which folder it goes, what is refused."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import yaml
from drawn_formats import pixels, refusal
from export_material import SETTINGS, SIZE, TYPES, Sets, check, export, make_sets
from PIL import Image
from pycocotools.coco import COCO
from runs import tree

from guided_diffusion import file_io
from guided_diffusion.cli.export import main
from guided_diffusion.data.prepared import find_samples, read_label_map
from guided_diffusion.errors import InputError
from guided_diffusion.export import records
from guided_diffusion.export.formats import FORMATS
from guided_diffusion.export.records import safe_names
from guided_diffusion.pictures import colorize, palette
from guided_diffusion.prepare.layouts import read_layout
from guided_diffusion.prepare.layouts.drawing import read_labelled

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools itself


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    return make_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def exported(sets: Sets, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each format. Shared: do not change it."""
    return {form: export(sets, tmp_path_factory.mktemp(form) / "my tile", form) for form in FORMATS}


def read(out: Path) -> dict[str, np.ndarray]:
    """Masks by the names of their images, as prepare_data reads them."""
    data = read_layout(str(out))
    assert not data.problems and data.label_map == {name: index for index, name in enumerate(TYPES, 1)}
    masks = {Path(one.image).stem: read_labelled(one, len(TYPES), data.rule).mask for one in data.samples}
    return masks | {Path(one.image).stem: np.zeros(SIZE, np.uint8) for one in data.good}


def source(name: str) -> str:
    return "generated" if name.startswith(("gen_", "images/gen_")) else "real"


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "mvtec"])
def test_masks_read_back_are_the_same(sets: Sets, exported: dict[str, Path], form: str) -> None:
    without = "val_" if form == "defect_spectrum" else "-"
    check(read(exported[form]), {name: mask for name, mask in sets.masks.items() if not name.startswith(without)})


def test_coco_says_more_than_its_masks(sets: Sets, exported: dict[str, Path], tmp_path: Path) -> None:
    """And run lengths and defect-free images come on request."""
    out = export(sets, tmp_path / "out", "coco", "--segmentation", "rle", "--keep_good")
    check(read(out), sets.masks | {name: np.zeros(SIZE, np.uint8) for name in sets.good})
    for folder, part in ((exported["coco"], "train"), (exported["coco"], "val"), (out, "train")):
        content = COCO(str(folder / f"annotations/instances_{part}.json"))
        assert [(c["id"], c["name"]) for c in content.loadCats(content.getCatIds())] == list(enumerate(TYPES, 1))
        for image in content.imgs.values():
            assert image["source"] == source(image["file_name"]) and (image["height"], image["width"]) == SIZE
        for annotation in content.anns.values():
            assert annotation["area"] == content.annToMask(annotation).sum() and annotation["iscrowd"] == 0
            assert isinstance(annotation["segmentation"], dict) == (folder == out)


def test_index_files_say_what_their_readers_want(exported: dict[str, Path]) -> None:
    content = yaml.safe_load((exported["yolo"] / "data.yaml").read_text())
    assert content == {"train": "images/train", "val": "images/val", "names": dict(enumerate(TYPES))}
    namespace: dict = {}
    exec((exported["mmseg"] / "dataset.py").read_text(), namespace)
    for part in ("train", "val"):
        dataset = namespace[f"{part}_dataloader"]["dataset"]
        assert dataset["metainfo"] == {"classes": ("background", *TYPES), "palette": palette(3).tolist()}
        assert dataset["data_prefix"] == {"img_path": f"img_dir/{part}", "seg_map_path": f"ann_dir/{part}"}
    for path in exported["mmseg"].glob("ann_dir/*/*"):
        mask = Image.open(path)
        assert mask.mode == "P" and np.array_equal(np.asarray(mask.convert("RGB")), colorize(np.asarray(mask)))
    for path in exported["hf"].glob("*/metadata.jsonl"):
        for row in map(json.loads, path.read_text().splitlines()):
            assert (path.parent / row["file_name"]).exists()
            mask = pixels(path.parent / row["mask_file_name"])
            assert row["types"] == [TYPES[k - 1] for k in np.unique(mask) if k]
            assert row["source"] == source(row["file_name"]) and row["seed"] == "7" * (row["source"] == "generated")
    out = exported["defect_spectrum"]
    assert read_label_map(str(out)) == {name: k for k, name in enumerate(TYPES, 1)}
    sources = {row["image"]: row["source"] for row in json.loads((out / "dataset.json").read_text())["images"]}
    assert sources == {f"images/{Path(one.image).name}": source(one.name) for one in find_samples(str(out))}
    for path in (out / "masks").iterdir():
        assert np.array_equal(pixels(path), colorize(pixels(out / "masks_converted_dir" / path.name)))


def test_images_are_the_same(exported: dict[str, Path]) -> None:
    out = exported["mmseg"]
    for path, source in json.loads((out / "export.json").read_text())["files"].items():
        written, given = Image.open(out / path), pixels(Path(source))
        if source.endswith((".jpg", "exp10.png", "a b.png", "deep.png")):
            given = np.stack([given // 257] * 3, axis=-1) if "deep" in source else given
            assert np.array_equal(np.asarray(written), given) and written.format == "PNG" and not written.getexif()
        else:
            assert (out / path).read_bytes() == Path(source).read_bytes()


def test_mvtec(sets: Sets, exported: dict[str, Path]) -> None:
    root = exported["mvtec"] / "my_tile"
    assert sorted(path.name for path in (root / "train/good").iterdir()) == ["real_000007.png", "real_000008.png"]
    assert [path.name for path in (root / "test/good").iterdir()] == ["val_000001.png"]
    files = json.loads((exported["mvtec"] / "export.json").read_text())["files"]
    assert files["my_tile/train/good/real_000007.png"].startswith(f"{sets.real}/test/good/whole")
    tested = {Path(path): source for path, source in files.items() if "/test/" in path and "/good/" not in path}
    for path, source in tested.items():
        for given, own in (("/images/", "/masks_converted_dir/"), ("/test/", "/converted_ground_truth/")):
            source = source.replace(given, own)
        truth = pixels(Path(source).with_suffix(".png"))
        mask = pixels(root / "ground_truth" / path.parent.name / f"{path.stem}_mask.png")
        assert np.array_equal(mask, np.where(truth > 0, 255, 0))
        kinds = [k for k in np.unique(truth) if k]
        assert path.parent.name == ("combined" if len(kinds) > 1 else TYPES[kinds[0] - 1].replace(" ", "_"))
    assert len(tested) == len(sets.masks) - 1  # all but the sample without a defect
    assert len(list(root.glob("ground_truth/*/*"))) == len(tested)


def test_the_card_of_hugging_face(sets: Sets, exported: dict[str, Path], tmp_path: Path, capsys) -> None:
    _, head, body = (exported["hf"] / "README.md").read_text().split("---\n", 2)
    head = yaml.safe_load(head)
    assert head["license"] == "unknown" and "synthetic" in head["tags"]
    assert [row["split"] for row in head["configs"][0]["data_files"]] == ["train", "validation"]
    assert "6 generated and 8 real images" in body and SETTINGS["checkpoints"]["large"] in body
    main([sets.real, str(tmp_path / "real"), "--format", "hf"])
    assert "note: left out: 2 defect-free images; --keep_good takes them" in capsys.readouterr().out
    assert "synthetic" not in (tmp_path / "real/README.md").read_text()  # nobody says that these are generated


def test_what_is_left_out_is_said(sets: Sets, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for form in ("yolo", "mmseg", "mvtec"):
        main([sets.samples, str(tmp_path / form), "--format", form])
    export(sets, tmp_path / "coco", "coco")
    printed, good = capsys.readouterr().out, f"left out: {len(sets.good)} defect-free images"
    assert printed.count("note: without --val") == 2 and printed.count(good) == 1
    assert "train/good is missing" in printed and "left out: 1 images with an empty mask" in printed
    assert yaml.safe_load((tmp_path / "yolo/data.yaml").read_text())["val"] == "images/train"
    assert "val_dataloader" not in (tmp_path / "mmseg/dataset.py").read_text()


def test_names_are_safe_and_differ() -> None:
    names = ["a b", "a_b", "A/b", "größe", "x.y", "..", "a_b_2"]
    assert safe_names(names) == ["a_b", "a_b_2", "A_b_3", "gr_e", "x_y", "_", "a_b_2_2"]


@pytest.mark.parametrize("form", FORMATS)
def test_again_writes_nothing_and_a_cut_off_run_goes_on(sets, exported, tmp_path, form, monkeypatch):
    out, written, original = tmp_path / "my tile", [], file_io.write_if_changed

    def killed(path: str, data: bytes, *how: str) -> bool:
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(path)
        return original(path, data, *how)

    monkeypatch.setattr(records, "WRITERS", 1)
    monkeypatch.setattr(file_io, "write_if_changed", killed)
    with pytest.raises(KeyboardInterrupt):
        export(sets, out, form)
    assert json.loads((out / "export.json").read_text()) == {"format": form}
    index_files = {"data.yaml", "dataset.py", "dataset.json", "metadata.jsonl", "instances_train.json"}
    assert not index_files & {path.name for path in out.rglob("*")}
    monkeypatch.setattr(file_io, "write_if_changed", original)
    export(sets, out, form)
    assert tree(out) == tree(exported[form])
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    export(sets, out, form)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_an_export_grows_with_its_samples(sets, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    for way in ("./out", ".//out/"):
        main([sets.samples, way, "--format", "yolo"])
    assert "no files written" in capsys.readouterr().out
    (out / "labels" / "train.cache").write_text("what ultralytics leaves")
    export(sets, out, "yolo")
    real = len(sets.masks) - 6
    assert f"{2 * real + 2} files written" in capsys.readouterr().out  # data.yaml and export.json change
    check(read(out), sets.masks)


def test_what_another_run_wrote_meanwhile_is_refused(sets, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(file_io, "lock_folder", lambda out, _: nullcontext(shutil.copytree(exported["coco"], out)))
    with pytest.raises(InputError, match="holds an export as coco"):
        export(sets, tmp_path / "out", "yolo")


REFUSED = {  # OUT and flags, and a part of the line
    "{new} --format coco --real {pit}": "--real {pit}: its types are pit, but those of SAMPLES {samples} are crack",
    "{new} --format coco --real {samples}": "--real {samples}: holds generated images; name a prepared set",
    "{new} --format defect_spectrum --val {val}": "--val: defect_spectrum has no parts",
    "{new} --format coco --real {real} --val {real}": "--val {real}: is --real too; name images that nothing trains on",
    "{new} --format yolo --segmentation rle": "--segmentation: only --format coco",
    "{new} --format hf --real {broken}": "{broken}/test/pit/grey.png: unreadable or truncated image",
    "{new} --format hf --val {empty}": "--val {empty}: no mask holds a defect",
    "{strange} --format coco": "OUT {strange}: is not empty and holds no export",
    "{file} --format coco": "OUT: cannot write",
    "{yolo} --format coco": "OUT {yolo}: holds an export as yolo; name a new folder",
    "{yolo} --format yolo": "OUT {yolo}: holds 1 files that are not of this export, such as images/mine.png",
    "{samples}/new --format coco": "lies in SAMPLES {samples}",
    "{real}/new --format coco --real {real}": "lies in --real {real}",
    "{root} --format coco": "lies in SAMPLES {samples} or around it",
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders by the names in REFUSED."""
    root = tmp_path_factory.mktemp("places")
    sets = make_sets(root)
    for name, content in (("pit/dataset.json", '{"label_map": {"pit": 1}}'), ("strange/export.json", "[1]")):
        (root / name).parent.mkdir()
        (root / name).write_text(content)
    (root / "file").touch()
    broken = shutil.copytree(sets.real, root / "broken") / "test/pit/grey.png"
    broken.write_bytes(broken.read_bytes()[:200])
    for mask in shutil.copytree(sets.val, root / "empty").glob("converted_ground_truth/*/*"):
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(mask)
    main([sets.samples, str(root / "yolo"), "--format", "yolo"])
    (root / "yolo/images/mine.png").touch()
    return {path.name: str(path) for path in (root / "new", *root.iterdir())} | {"root": str(root)}


@pytest.mark.parametrize("command", REFUSED)
def test_bad_input_is_refused_before_anything_is_written(places: dict[str, str], command: str) -> None:
    before = tree(Path(places["root"]))
    line = refusal(main, [places["samples"], *(word.format(**places) for word in command.split())])
    assert REFUSED[command].format(**places) in line
    assert tree(Path(places["root"])) == before
