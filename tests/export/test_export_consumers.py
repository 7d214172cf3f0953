"""Exports as the programs read them that they are for: the masks that come out are those that went in.

scripts/setup_consumers.sh installs these programs; without them, these tests skip. mmsegmentation itself cannot be
installed here: its configuration is read by mmengine, its files by test_export.py.
"""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from export_material import SIZE, TYPES, Sets, check, export, make_sets

from guided_diffusion.evaluation.features import import_torchvision

for module in ("ultralytics", "datasets", "anomalib", "mmengine"):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed here: scripts/setup_consumers.sh", allow_module_level=True)

os.environ.update({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "YOLO_OFFLINE": "true"})
import_torchvision()  # before anything else imports it


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    return make_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def exported(sets: Sets, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each format, with all three sets."""
    forms = ("yolo", "hf", "mvtec", "mmseg")
    return {form: export(sets, tmp_path_factory.mktemp(form) / "tile", form) for form in forms}


@pytest.mark.parametrize("overlap", [True, False])
def test_ultralytics(sets: Sets, exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch, overlap: bool) -> None:
    """Masks as a training at the images' own size gets them, one for all instances of an image or one for each."""
    from ultralytics.cfg import get_cfg
    from ultralytics.data import utils
    from ultralytics.data.dataset import YOLODataset

    monkeypatch.setattr(utils, "check_font", lambda font: None)  # would be downloaded
    data = utils.check_det_dataset(str(exported["yolo"] / "data.yaml"), autodownload=False)
    assert data["names"] == dict(enumerate(TYPES))
    settings = get_cfg(overrides={"mask_ratio": 1, "overlap_mask": overlap})
    top = (SIZE[1] - SIZE[0]) // 2  # what is added above, to make the image square
    masks = {}
    for part in ("train", "val"):
        how = {"imgsz": SIZE[1], "augment": False, "hyp": settings, "data": data, "task": "segment"}
        for item in YOLODataset(img_path=data[part], **how):
            mask = np.zeros(SIZE, np.uint8)
            found = item["masks"].numpy()[:, top : top + SIZE[0]]
            for number, label in enumerate(item["cls"].ravel().tolist()):
                region = found[0] == number + 1 if overlap else found[number] > 0
                assert region.any() and not mask[region].any()
                mask[region] = int(label) + 1
            masks[Path(item["im_file"]).stem] = mask
    check(masks, sets.masks)


def test_datasets(sets: Sets, exported: dict[str, Path], tmp_path: Path) -> None:
    from datasets import load_dataset

    for where in ({"path": "imagefolder", "data_dir": str(exported["hf"])}, {"path": str(exported["hf"])}):
        dataset = load_dataset(**where, cache_dir=str(tmp_path / where["path"].replace("/", "_")))
        assert set(dataset) == {"train", "validation"}
        rows = [row for part in dataset.values() for row in part]
        assert all(row["image"].size == SIZE[::-1] for row in rows)
        masks = [np.asarray(row["mask"]) for row in rows]
        assert sorted(mask.tobytes() for mask in masks) == sorted(mask.tobytes() for mask in sets.masks.values())
        for row, mask in zip(rows, masks, strict=True):
            assert row["types"] == [TYPES[k - 1] for k in np.unique(mask) if k]
        assert [row["source"] for row in dataset["train"]] == ["generated"] * 6 + ["real"] * 7
        assert [row["seed"] for row in dataset["train"]][:7] == ["7"] * 6 + [""]


def test_anomalib(sets: Sets, exported: dict[str, Path]) -> None:
    from anomalib.data import MVTecAD

    module = MVTecAD(root=exported["mvtec"], category="tile", num_workers=0)
    module.prepare_data()
    module.setup()
    assert [Path(item.image_path).name for item in module.train_data] == ["real_000007.png", "real_000008.png"]
    tested = {Path(item.image_path): item.gt_mask.numpy() > 0 for item in module.test_data}
    assert sum(path.parent.name == "good" for path in tested) == 1
    found = [mask.tobytes() for path, mask in tested.items() if path.parent.name != "good"]
    assert sorted(found) == sorted((mask > 0).tobytes() for mask in sets.masks.values() if mask.any())
    generated = {path.stem: mask for path, mask in tested.items() if path.stem.startswith("gen")}
    check(generated, {name: sets.masks[name] > 0 for name in (f"gen_{number:06d}" for number in range(1, 6))})


def test_mmsegmentation(exported: dict[str, Path], tmp_path: Path) -> None:
    from mmengine.config import Config
    from mmengine.fileio import list_dir_or_file

    child = tmp_path / "config.py"
    child.write_text(f'_base_ = "{exported["mmseg"]}/dataset.py"\ntrain_dataloader = dict(batch_size=4)\n')
    config = Config.fromfile(child)
    assert config.train_dataloader.batch_size == 4
    for part in ("train", "val"):
        dataset = config[f"{part}_dataloader"].dataset
        assert dataset.data_root == str(exported["mmseg"])
        assert len(dataset.metainfo.classes) == len(dataset.metainfo.palette) == len(TYPES) + 1
        images, annotations = (Path(dataset.data_root, dataset.data_prefix[k]) for k in ("img_path", "seg_map_path"))
        files = set(list_dir_or_file(images, list_dir=False, suffix=dataset.img_suffix, recursive=True))
        assert files and files == {path.name for path in annotations.glob(f"*{dataset.seg_map_suffix}")}
