"""What train.py makes of its data folder: label maps matched by name, raw folders prepared, and what it says of it; and
guided_diffusion.train, the same training from Python."""

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import tiny_config
from drawn_formats import save
from PIL import Image
from runs import assert_same_training, tree

from guided_diffusion import InputError, load_config, train
from guided_diffusion.training.train_util import TrainLoop

Run = Callable[..., subprocess.CompletedProcess[str]]
ORDER = {"pit": 1, "scratch": 2, "stain": 3}


@pytest.fixture
def run(run_script: Run, tmp_path: Path) -> Run:
    """run(*flags, **keys) -> CompletedProcess of train.py; the configuration is the tiny one with these keys."""

    def run(*flags: object, prelude: str = "", **keys: object) -> subprocess.CompletedProcess[str]:
        changes = {"train.iterations": 1, **{name.replace("__", "."): value for name, value in keys.items()}}
        (tmp_path / "my.yml").write_text(yaml.safe_dump(tiny_config("small", **changes)))
        paths = ("--config", tmp_path / "my.yml", "--work_dir", tmp_path / "work")
        return run_script("train.py", *paths, *flags, prelude=prelude)

    return run


def test_types_are_matched_by_name(run: Run, demo_data: Path, tmp_path: Path) -> None:
    """Another order in the data set than in the YAML, and in the held-out set, changes no number of a training."""
    own = json.loads((demo_data / "dataset.json").read_text())["label_map"]
    other, table = Path(shutil.copytree(demo_data, tmp_path / "other")), np.zeros(4, np.uint8)
    table[list(own.values())] = [ORDER[name] for name in own]
    for path in other.glob("converted_ground_truth/*/*.png"):
        save(path, table[np.asarray(Image.open(path))])
    save(other / "dataset.json", {"label_map": ORDER})
    rows, trained = [], []
    for data in (demo_data, other):
        result = run("--data_dir", data, data__label_map=own, data__val_dir=str(data), train__eval_interval=1)
        assert result.returncode == 0, result.stderr
        lines = [line for line in result.stdout.splitlines() if line.startswith("label map of")]
        how = f"label map of {data}: types are matched by name: pit 1 is 3, scratch 2 is 1, stain 3 is 2 here"
        assert lines == ([how] * 2 if data == other else [])
        assert f"warning: 12 of 12 images of data.val_dir {data} are training images too" in result.stdout
        (row,) = csv.DictReader((tmp_path / "work/progress.csv").read_text().splitlines())
        rows.append({key: text for key, text in row.items() if key not in ("steps_per_s", "cpu_minutes")})
        trained.append(torch.load(next(tmp_path.glob("work/checkpoint/*.pt")))["model"])
        shutil.rmtree(tmp_path / "work")
    assert rows[0] == rows[1] and all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


@pytest.mark.parametrize(
    ("label_map", "held_out", "said"),
    [
        ({"scratch": 1, "stain": 2, "pits": 3}, False, "unknown type 'pit' (did you mean 'pits'?)"),
        ({"scratch": 1, "stain": 2, "dent": 3}, True, "unknown type 'dent' (known: pit, scratch, stain)"),
    ],
)
def test_types_that_the_other_side_lacks_are_refused(run, demo_data, tmp_path, label_map, held_out, said):
    keys = {"data__label_map": label_map}
    if held_out:
        shutil.copytree(demo_data, tmp_path / "val")
        (tmp_path / "val/dataset.json").write_text(json.dumps({"label_map": label_map}))
        keys = {"data__val_dir": str(tmp_path / "val")}
    result = run("--data_dir", demo_data, **keys)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1) and said in result.stderr, result.stderr


def test_folders_that_the_label_map_calls_otherwise_are_refused(run: Run, demo_data: Path, tmp_path: Path) -> None:
    shutil.copytree(demo_data, tmp_path / "data")
    (tmp_path / "data/dataset.json").unlink()
    for path in (tmp_path / "data/converted_ground_truth/pit").iterdir():  # which show pits alone, number 3
        Image.fromarray((np.asarray(Image.open(path)) == 3).astype(np.uint8) * 3).save(path)
    result = run("--data_dir", tmp_path / "data", data__label_map=ORDER)
    assert result.returncode == 2 and "no mask of its folder pit holds 1" in result.stderr, result.stderr


def test_a_raw_folder_is_prepared_first(run: Run, demo_data: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"  # of MVTec's layout: a black and white mask for each image
    shutil.copytree(demo_data / "test", raw / "test")
    for path in demo_data.glob("converted_ground_truth/*/*.png"):
        mask = np.asarray(Image.open(path)) > 0
        save(raw / "ground_truth" / path.parent.name / f"{path.stem}_mask.png", mask.astype(np.uint8) * 255)
    looked = run("--data_dir", raw, "--dry_run")
    assert looked.returncode == 0 and not (tmp_path / "work").exists(), looked.stderr
    assert "layout mvtec (12 images with a defect, types: pit, scratch, stain)" in looked.stdout
    held_out = run("--data_dir", raw, "--dry_run", data__val_dir=str(raw))
    assert held_out.returncode == 2 and "holds no prepared data set" in held_out.stderr
    before = tree(raw)
    result = run("--data_dir", raw)
    assert result.returncode == 0 and "of layout mvtec, prepared into" in result.stdout, result.stderr
    assert f"trained to step 1: look at loss.png and images/ in {tmp_path / 'work'}; with both" in result.stdout
    config = yaml.safe_load((tmp_path / "work/config.yml").read_text())
    assert config["data"]["dir"] == str(tmp_path / "work/data") and config["data"]["label_map"] == ORDER
    made = tree(tmp_path / "work")
    assert "complete: trained to step 1" in run("--data_dir", raw).stdout
    assert tree(raw) == before and tree(tmp_path / "work") == made


def test_a_layout_that_is_a_guess_or_lies_further_down_is_not_prepared(run, demo_data, tmp_path):
    shutil.copytree(demo_data, tmp_path / "above/train")
    shutil.copytree(demo_data, tmp_path / "above/a")
    for path in sorted((demo_data / "test/pit").iterdir()):  # images beside their masks
        (tmp_path / "flat").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "flat" / f"pit_{path.name}")
        mask = (np.asarray(Image.open(demo_data / "converted_ground_truth/pit" / path.name)) > 0).astype(np.uint8)
        Image.fromarray(mask * 255).save(tmp_path / "flat" / f"pit_{path.stem}_mask.png")
    for folder, said in (("above", f"did you mean {tmp_path}/above/train?"), ("flat", "prepare_data.py")):
        for flags in ((), ("--dry_run",)):
            result = run("--data_dir", tmp_path / folder, *flags)
            assert (result.returncode, result.stderr.count("\n")) == (2, 1) and said in result.stderr, result.stderr
    assert not (tmp_path / "work").exists()


def test_a_dry_run_reads_the_data_and_says_what_is_left_out(run: Run, demo_data: Path, tmp_path: Path) -> None:
    result = run("--data_dir", demo_data, "--dry_run", data__num_image_train=1)
    assert result.returncode == 0 and not (tmp_path / "work").exists(), result.stderr
    assert "3 images, types: scratch, stain, pit" in result.stdout and "network            patch" in result.stdout
    assert "left out: 9 of 12 images with a defect (data.num_image_train 1" in result.stdout
    assert "left out" not in run("--data_dir", demo_data, "--dry_run").stdout
    missing = run("--data_dir", tmp_path / "nowhere", "--dry_run")
    assert missing.returncode == 2 and "nowhere: does not exist" in missing.stderr


def test_what_does_not_fit_into_the_memory_is_refused_before_anything_is_written(run, demo_data, tmp_path):
    for key, said in (
        ({"data__resolution": 512}, "a training step takes about"),
        ({"data__fit": "random_crop", "data__crop_from": 8192}, "all of it, held in memory, takes about 3.0 GiB"),
    ):
        prelude = "from guided_diffusion import parallel; parallel.cpu_memory = lambda: 2**30"
        result = run("--data_dir", demo_data, prelude=prelude, **key)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1) and said in result.stderr, result.stderr
    assert not (tmp_path / "work").exists()


def test_it_is_the_training_of_the_command_line_and_goes_on(trained_pair, demo_data, tmp_path, capsys, monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as tests run the command line
    try:
        assert train(tiny_config("large"), demo_data, tmp_path / "a", iterations=4, device="cpu") == str(tmp_path / "a")
        assert_same_training(tmp_path / "a", trained_pair.large)
        config = load_config(tiny_config("small"), num_defect=3)  # it names the types defect_1, ...
        labels = {"data.label_map": {"scratch": 1, "stain": 2, "pit": 3}, "model.class_cond": True}
        with monkeypatch.context() as patch:  # as after Ctrl-C
            patch.setattr(TrainLoop, "run", lambda loop: loop.train_step() or loop.save() or 130)
            with pytest.raises(KeyboardInterrupt):
                train(config, str(demo_data), str(tmp_path / "b"), device="cpu", **labels)
        train(config, str(demo_data), str(tmp_path / "b"), device="cpu", lr=0.002, **labels)
        assert "going on from" in capsys.readouterr().out
    finally:
        torch.set_num_threads(threads)
    config = load_config(str(tmp_path / "b" / "config.yml"))
    assert config.optimizer.lr == 0.002
    masks = [np.asarray(Image.open(path)) for path in (demo_data / "converted_ground_truth").rglob("*.png")]
    shown = [tuple(name for name, k in config.data.label_map.items() if (mask == k).any()) for mask in masks]
    assert sorted(config.data.types_seen) == sorted(shown)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iteration": 5}, r"^unknown key 'iteration' \(did you mean 'iterations'\?\)"),
        ({"target": "x"}, r"^unknown key 'target' \(known: diffusion.target, model.target, optimizer.target\)"),
        ({"iterations": "five"}, "^train.iterations: expected a whole number, got 'five'"),
        ({"data": None}, "^data: missing; name the training set"),
        ({"device": "tpu"}, "^device tpu: unknown device"),
        ({"init": "work/large"}, "^init work/large: lies in work_dir, whose training would go on"),
        ({"resume": "nothing.pt"}, r"^resume nothing\.pt: no such checkpoint file"),
        ({"resume": ""}, r"^resume : no such checkpoint file"),
        ({"resume": "a.pt", "init": "b.pt"}, r"^init and resume a\.pt: a training starts from one"),
    ],
)
def test_errors_name_parameters(arguments, message, demo_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"config": tiny_config("large", **{"data.label_map": {"pit": 1}}), "data": demo_data, "work_dir": "work"}
    with pytest.raises(InputError, match=message):
        train(**{**given, "label_map": {"scratch": 1, "stain": 2, "pit": 3}, "device": "cpu", **arguments})
    assert not list(tmp_path.iterdir())
