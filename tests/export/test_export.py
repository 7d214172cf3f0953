"""Exports: every format read back by a few lines of its own, into which folder it goes, what is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from export_material import SETTINGS, SIZE, TYPES, Sets, inside, make_sets
from PIL import Image
from pycocotools.coco import COCO

from guided_diffusion.cli.export import main
from guided_diffusion.data.prepared import find_samples, read_label_map
from guided_diffusion.errors import InputError
from guided_diffusion.export import records
from guided_diffusion.export.formats import FORMATS
from guided_diffusion.export.records import safe_names
from guided_diffusion.pictures import colorize, palette

every_format = pytest.mark.parametrize("form", FORMATS)


# --- the formats, read back by a few lines each -------------------------------------------------------------------


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    return make_sets(tmp_path_factory.mktemp("sets"))


def export(sets: Sets, out: Path, form: str, *more: str) -> Path:
    """Export the samples, the real and, where the format has parts, the held-out images."""
    arguments = sets.arguments[:2] if form == "defect_spectrum" else sets.arguments
    main([sets.samples, str(out), "--format", form, *arguments, *more])
    return out


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def read_coco(out: Path) -> dict[str, np.ndarray]:
    masks = {}
    for part in ("train", "val"):
        content = COCO(str(out / f"annotations/instances_{part}.json"))
        names = [(c["id"], c["name"], c["color"]) for c in content.loadCats(content.getCatIds())]
        assert names == [(k, name, palette(3)[k].tolist()) for k, name in enumerate(TYPES, 1)]
        for image in content.loadImgs(content.getImgIds()):
            assert image["source"] == ("generated" if image["file_name"].startswith("gen_") else "real")
            assert pixels(out / "images" / image["file_name"]).shape[:2] == (image["height"], image["width"])
            mask = masks[image["file_name"].removesuffix(".png")] = np.zeros(SIZE, np.uint8)
            for annotation in content.loadAnns(content.getAnnIds(imgIds=image["id"])):
                region = content.annToMask(annotation).astype(bool)
                assert annotation["area"] == region.sum() and annotation["iscrowd"] == 0 and not mask[region].any()
                mask[region] = annotation["category_id"]
    return masks


def read_yolo(out: Path) -> dict[str, np.ndarray]:
    content = yaml.safe_load((out / "data.yaml").read_text())
    assert content == {"train": "images/train", "val": "images/val", "names": dict(enumerate(TYPES))}
    masks = {}
    for image in sorted(out.glob("images/*/*.png")):
        mask = masks[image.stem] = np.zeros(pixels(image).shape[:2], np.uint8)
        for line in (out / "labels" / image.parent.name / f"{image.stem}.txt").read_text().splitlines():
            label, *shares = line.split()
            points = np.reshape(np.array(shares, float), (-1, 2))
            assert len(points) >= 3 and points.min() >= 0 and points.max() <= 1
            mask[inside(points * mask.shape[::-1], *mask.shape)] = int(label) + 1
    return masks


def read_mmseg(out: Path) -> dict[str, np.ndarray]:
    namespace: dict = {}
    exec((out / "dataset.py").read_text(), namespace)
    masks = {}
    for part in ("train", "val"):
        dataset = namespace[f"{part}_dataloader"]["dataset"]
        assert dataset["metainfo"] == {"classes": ("background", *TYPES), "palette": palette(3).tolist()}
        folders = [out / dataset["data_prefix"][key] for key in ("img_path", "seg_map_path")]
        assert {path.name for path in folders[0].iterdir()} == {path.name for path in folders[1].iterdir()}
        for path in folders[1].iterdir():
            image = Image.open(path)
            masks[path.stem] = np.asarray(image)
            assert image.mode == "P"
            assert np.array_equal(np.asarray(image.convert("RGB")), colorize(masks[path.stem]))
    return masks


def read_hf(out: Path) -> dict[str, np.ndarray]:
    masks = {}
    for folder in ("train", "validation"):
        for line in (out / folder / "metadata.jsonl").read_text().splitlines():
            row = json.loads(line)
            name = row["file_name"].removesuffix(".png")
            masks[name] = pixels(out / folder / row["mask_file_name"])
            assert row["types"] == [TYPES[k - 1] for k in np.unique(masks[name]) if k]
            generated = name.startswith("gen_")
            assert (row["source"], row["seed"]) == (("generated", "7") if generated else ("real", ""))
            assert (out / folder / row["file_name"]).exists()
    return masks


def read_defect_spectrum(out: Path) -> dict[str, np.ndarray]:
    assert read_label_map(str(out)) == {name: k for k, name in enumerate(TYPES, 1)}
    masks = {Path(sample.image).stem: pixels(sample.mask.path) for sample in find_samples(str(out))}
    for name, mask in masks.items():
        assert np.array_equal(pixels(out / f"masks/{name}.png"), colorize(mask))
    sources = {row["image"]: row["source"] for row in json.loads((out / "dataset.json").read_text())["images"]}
    assert sources == {f"images/{name}.png": "generated" if name[:4] == "gen_" else "real" for name in masks}
    return masks


READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    "coco": read_coco,
    "yolo": read_yolo,
    "mmseg": read_mmseg,
    "hf": read_hf,
    "defect_spectrum": read_defect_spectrum,
}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools itself
@pytest.mark.parametrize(("form", "flags"), [*((form, ()) for form in READERS), ("coco", ("--segmentation", "rle"))])
def test_masks_read_back_are_the_same(sets: Sets, tmp_path: Path, form: str, flags: tuple[str, ...]) -> None:
    masks = READERS[form](export(sets, tmp_path / "out", form, *flags))
    without = "val_" if form == "defect_spectrum" else "-"
    expected = {name: mask for name, mask in sets.masks.items() if not name.startswith(without)}
    assert set(masks) == set(expected)
    for name, mask in expected.items():
        assert np.array_equal(masks[name], mask), name


def test_images_are_the_same(sets: Sets, tmp_path: Path) -> None:
    files = json.loads((export(sets, tmp_path / "out", "mmseg") / "export.json").read_text())["files"]
    for path, source in files.items():
        data = (tmp_path / "out" / path).read_bytes()
        if "deep" in source:
            assert np.array_equal(pixels(tmp_path / "out" / path)[..., 0], pixels(Path(source)) // 257)
        elif source.endswith(".jpg"):
            assert np.array_equal(pixels(tmp_path / "out" / path), pixels(Path(source)))
            assert Image.open(io.BytesIO(data)).format == "PNG"
        else:
            assert data == Path(source).read_bytes()


def test_mvtec(sets: Sets, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = export(sets, tmp_path / "my tile", "mvtec")
    assert "left out: 1 images with an empty mask" in capsys.readouterr().out
    root = out / "my_tile"
    assert sorted(path.name for path in (root / "train/good").iterdir()) == ["real_000007.png", "real_000008.png"]
    assert [path.name for path in (root / "test/good").iterdir()] == ["val_000001.png"]
    files = json.loads((out / "export.json").read_text())["files"]
    assert files["my_tile/train/good/real_000007.png"].startswith(f"{sets.real}/test/good/whole")
    given = {**{f"{sets.samples}/images/{n[4:]}.png": m for n, m in sets.masks.items() if n.startswith("gen")}}
    given |= {str(path): None for path in Path(sets.real).glob("test/good/*")}
    tested = {path: source for path, source in files.items() if "/test/" in path and "/good/" not in path}
    for path, source in tested.items():
        part = Path(path)
        mask = pixels(root / "ground_truth" / part.parent.name / f"{part.stem}_mask.png")
        truth = given.get(source)
        if truth is None:  # a real one
            truth = pixels(Path(source.replace("/test/", "/converted_ground_truth/")).with_suffix(".png"))
        assert np.array_equal(mask, np.where(truth > 0, 255, 0))
        kinds = [k for k in np.unique(truth) if k]
        assert part.parent.name == ("combined" if len(kinds) > 1 else TYPES[kinds[0] - 1].replace(" ", "_"))
    assert len(tested) == len(sets.masks) - 1  # all but the sample without a defect
    assert len(list(root.glob("ground_truth/*/*"))) == len(tested)


def test_defect_free_images_are_taken_on_request(sets: Sets, tmp_path: Path) -> None:
    masks = read_coco(export(sets, tmp_path / "out", "coco", "--keep_good"))
    assert set(masks) == {*sets.masks, *sets.good}
    assert not any(masks[name].any() for name in sets.good)


def test_the_card_of_hugging_face(sets: Sets, tmp_path: Path) -> None:
    text = (export(sets, tmp_path / "out", "hf") / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    head = yaml.safe_load(head)
    assert head["license"] == "unknown" and "synthetic" in head["tags"]
    assert [row["split"] for row in head["configs"][0]["data_files"]] == ["train", "validation"]
    assert "6 generated and 8 real images" in body and "**synthetic**" in body
    crack = [name.partition("_")[0] for name, mask in sets.masks.items() if (mask == 1).any()]
    assert "| crack | {} | {} | {} |".format(*map(crack.count, ("gen", "real", "val"))) in body
    assert SETTINGS["checkpoints"]["large"] in body and '"num_steps": 20' in body


def test_without_held_out_images(sets: Sets, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for form in ("yolo", "mmseg"):
        main([sets.samples, str(tmp_path / form), "--format", form])
    said = capsys.readouterr().out
    assert "note: without --val, data.yaml names the training part as val" in said
    assert "note: without --val, dataset.py has no val_dataloader" in said
    assert yaml.safe_load((tmp_path / "yolo/data.yaml").read_text())["val"] == "images/train"
    assert "val_dataloader" not in (tmp_path / "mmseg/dataset.py").read_text()


def test_any_data_set_can_be_the_samples(sets: Sets, tmp_path: Path) -> None:
    main([sets.real, str(tmp_path / "out"), "--format", "defect_spectrum"])
    masks = read_defect_spectrum(tmp_path / "out")
    assert set(masks) == {name for name in sets.masks if name.startswith("real_")}  # nobody says that it is generated
    main([sets.real, str(tmp_path / "hf"), "--format", "hf"])
    assert "synthetic" not in (tmp_path / "hf/README.md").read_text()


def test_names_are_safe_and_differ() -> None:
    names = ["a b", "a_b", "A/b", "größe", "x.y", "..", "a_b_2"]
    assert safe_names(names) == ["a_b", "a_b_2", "A_b_3", "gr_e", "x_y", "_", "a_b_2_2"]


# --- into which folder ---------------------------------------------------------------------------------------------


@every_format
def test_again_writes_nothing_and_a_cut_off_run_goes_on(
    sets: Sets, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    whole = export(sets, tmp_path / "a" / "out", form)
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    export(sets, whole, form)
    assert "no files written" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()} == before

    cut = tmp_path / "b" / "out"
    written = []

    def killed(path: str, data: bytes) -> bool:
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(path)
        return original(path, data)

    original = records.write_if_changed
    monkeypatch.setattr(records, "WRITERS", 1)
    monkeypatch.setattr(records, "write_if_changed", killed)
    with pytest.raises(KeyboardInterrupt):
        export(sets, cut, form)
    names = {path.name for path in cut.rglob("*") if path.is_file()}
    assert not names & {"data.yaml", "dataset.py", "dataset.json", "metadata.jsonl", "instances_train.json"}
    assert json.loads((cut / "export.json").read_text()) == {"format": form}
    monkeypatch.setattr(records, "write_if_changed", original)
    export(sets, cut, form)
    assert tree(cut) == tree(whole)


def test_an_export_grows_with_its_samples(sets: Sets, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    main([sets.samples, str(out), "--format", "yolo"])
    (out / "labels" / "train.cache").write_text("what ultralytics leaves")
    capsys.readouterr()
    export(sets, out, "yolo")
    real = len(sets.masks) - 6
    assert f"{2 * real + 2} files written" in capsys.readouterr().out  # data.yaml and export.json change
    read_yolo(out)
    with pytest.raises(InputError, match=r"holds 16 files that are not of this export, such as images/train/real_"):
        main([sets.samples, str(out), "--format", "yolo"])


def test_refused_folders(sets: Sets, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "export.json").write_text("[1]")
    with pytest.raises(InputError, match="is not empty and holds no export"):
        export(sets, out, "coco")
    assert tree(out) == {"export.json": b"[1]"}
    with pytest.raises(InputError, match="is a file"):
        export(sets, out / "export.json", "coco")
    other = export(sets, tmp_path / "other", "coco")
    before = tree(other)
    with pytest.raises(InputError, match="holds an export as coco; name a new folder"):
        export(sets, other, "yolo")
    (other / "images" / "mine.png").write_bytes(b"mine")
    with pytest.raises(InputError, match="1 files that are not of this export, such as images/mine.png"):
        export(sets, other, "coco")
    assert tree(other) == {**before, "images/mine.png": b"mine"}
    for folder, flag in ((sets.samples, "SAMPLES"), (sets.real, "--real"), (sets.val, "--val")):
        with pytest.raises(InputError, match=f"lies in {flag}"):
            export(sets, Path(folder) / "out", "coco")
        assert not (Path(folder) / "out").exists()
    with pytest.raises(InputError, match="lies in SAMPLES .* or around it"):
        export(sets, Path(sets.samples).parent, "coco")


def refusal(*arguments: object) -> str:
    with pytest.raises(InputError) as caught:
        main(list(map(str, arguments)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_refused_input(sets: Sets, tmp_path: Path) -> None:
    out = tmp_path / "out"
    coco = (sets.samples, out, "--format", "coco")
    other = tmp_path / "other"
    (other / "test").mkdir(parents=True)
    (other / "dataset.json").write_text('{"label_map": {"pit": 1}}')
    line = refusal(*coco, "--real", other)
    assert f"--real {other}: its types are pit, but those of SAMPLES {sets.samples} are crack, oil stain, pit" in line
    assert "SAMPLES nowhere: is not a folder" in refusal("nowhere", out, "--format", "coco")
    assert "--val: defect_spectrum has no parts" in refusal(*coco[:3], "defect_spectrum", "--val", sets.val)
    assert "--object: only --format mvtec" in refusal(*coco, "--object", "tile")
    assert "--segmentation: only --format coco" in refusal(*coco[:3], "yolo", "--segmentation", "rle")
    assert "--object a/b: must consist of letters" in refusal(*coco[:3], "mvtec", "--object", "a/b")
    assert not out.exists()


def test_a_broken_image_is_found_before_anything_is_written(tmp_path: Path) -> None:
    sets = make_sets(tmp_path)
    broken = Path(sets.real) / "test/pit/grey.png"
    broken.write_bytes(broken.read_bytes()[:200])
    line = refusal(sets.samples, tmp_path / "out", "--format", "hf", "--real", sets.real)
    assert f"{broken}: unreadable or truncated image" in line
    assert not (tmp_path / "out").exists()
    for mask in Path(sets.val).glob("converted_ground_truth/*/*"):
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(mask)
    line = refusal(sets.samples, tmp_path / "out", "--format", "hf", "--val", sets.val)
    assert f"--val {sets.val}: no mask holds a defect" in line


def test_a_rotation_that_only_some_readers_apply_is_not_copied(tmp_path: Path) -> None:
    sets = make_sets(tmp_path)
    path = Path(sets.real) / "test/crack/exp1.png"
    before = pixels(path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(before).save(path, exif=exif)
    main([sets.samples, str(tmp_path / "out"), "--format", "coco", "--real", sets.real])
    written = Image.open(tmp_path / "out/images/real_crack_exp1.png")
    assert not written.getexif() and np.array_equal(np.asarray(written), before)


def test_samples_of_a_run_that_was_cut_off_are_left_out(tmp_path: Path) -> None:
    sets = make_sets(tmp_path)
    manifest = Path(sets.samples) / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:4]))
    main([sets.samples, str(tmp_path / "out"), "--format", "defect_spectrum"])
    assert sorted(read_defect_spectrum(tmp_path / "out")) == [f"gen_{i:06d}" for i in range(4)]
