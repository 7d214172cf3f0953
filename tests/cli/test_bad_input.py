"""Bad input on the real command line: one line that names the fault, exit status 2, nothing written.

A row of CASES is a command and the texts, between bars, that its error line holds. `train` and `generate` are
commands that work until a later flag spoils them; {name} is a path of `given`. What a room refuses by itself is tested
there: here stands how it reaches the user.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TrainedPair, tiny_config
from PIL import Image
from runs import little_memory, tree

from guided_diffusion import create_model, load_config

CHECKPOINT = "checkpoint/diffusion_000004.pt"
COMMANDS = {
    "train": "train.py --config {config} --data_dir {data} --work_dir {own}",
    "generate": "inference.py --large_recep {large} --small_recep {small} --sample_dir {own} "
    "--num_samples 2 --num_steps 4 --precision fp32",
}
TYPES = {"scratch": 1, "stain": 2, "pit": 3}


class Bomb:
    """Unpickling this would create the file `touched`."""

    def __init__(self, touched: Path):
        self.touched = touched

    def __reduce__(self) -> tuple:
        return Path.touch, (self.touched,)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, demo_data: Path, trained_pair: TrainedPair) -> dict[str, object]:
    """What the commands are given, by name: what works, and below `root` what is broken."""
    root = tmp_path_factory.mktemp("given")
    (root / "config.yml").write_text(yaml.safe_dump(tiny_config("large")))
    (root / "malformed.yml").write_text("model:\n  params: [1, 2\ndata: {}\n")
    (root / "file").touch()
    Image.new("RGB", (4, 4)).save(root / "picture.png")
    (root / "empty").mkdir()
    work = shutil.copytree(trained_pair.large, root / "work")
    (shutil.copytree(work, root / "cut") / CHECKPOINT).write_bytes((work / CHECKPOINT).read_bytes()[:1000])
    torch.save({"model": torch.load(work / CHECKPOINT)["model"]}, root / "released.pt")
    torch.save(torch.zeros(3), root / "tensor.pt")
    torch.save({"model": {}, "ema": Bomb(root / "touched")}, root / "bomb.pt")
    paths = {path.stem: path for path in root.iterdir()} | trained_pair._asdict()
    return paths | {"root": root, "data": demo_data, "checkpoint": work / CHECKPOINT}


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(run_script: Run, given: dict[str, object], tmp_path: Path) -> Run:
    """run(text, prelude="") -> CompletedProcess of a command; its own folder is `tmp_path`, which does not exist."""
    tmp_path.rmdir()

    def run(text: str, prelude: str = "") -> subprocess.CompletedProcess[str]:
        first, *rest = text.split()
        words = [*COMMANDS.get(first, first).split(), *rest]
        return run_script(*(word.format(own=tmp_path, **given) for word in words), prelude=prelude)

    return run


CASES = {
    # The data set
    "train.py --config {config} --work_dir {own} --num_defect 3": "--data_dir|missing",
    # The configuration; values that test_config.py refuses are not repeated
    "train --config nowhere.yml": "nowhere.yml|cannot read the configuration file|--config",
    "train --config {malformed}": "malformed.yml|not valid YAML at line 3",
    "train --seed -1": "train.seed|-1",
    "train --network small": "--config|config.yml: is of the large network; use train_large.sh",
    "train --set train.iterations": "--set train.iterations|section.key=value",
    # Checkpoints and folders that a training starts from
    "train.py --config {config} --data_dir {data}": "--work_dir|missing",
    "train --work_dir {file}": "--work_dir|file|cannot write",
    "train --work_dir {data}": "--work_dir|holds a data set or samples; name another",
    "train --work_dir {data}/test/new": "--work_dir|lies among the images or masks of",
    "train --config {config} --work_dir {root}": "--config|config.yml: the resolved configuration is written there",
    "train --work_dir {work} --resume none": f"--resume none|work|already holds|{CHECKPOINT[11:]}",
    "train --set model.model_channels=64 --work_dir {work}": (
        f"{CHECKPOINT}|config.yml|model.model_channels|32 against 64"
    ),
    "train --set model.model_channels=64 --set model.ckpt={checkpoint}": f"model.ckpt|{CHECKPOINT}|32 against 64",
    "train --set model.model_channels=64 --init {released}": "released.pt|time_embed.0.weight: [128, 32] against",
    "train --init {checkpoint} --set model.ckpt=other.pt": "--init and model.ckpt|other.pt|drop",
    "train --init {work}/ --work_dir {work}": "--init|lies in --work_dir|name a new folder",
    # Generating
    "inference.py --sample_dir {own}": "--large_recep and --small_recep|missing",
    "inference.py --small_recep {small} --sample_dir {own}": "--large_recep|missing|--step_inference 400",
    "generate --small_recep {checkpoint}": f"--small_recep|{CHECKPOINT}|global network|--large_recep",
    "generate --num_samples 0": "--num_samples 0|from 1 to 1,000,000",
    "generate --seed -1": "--seed -1",
    "generate --num_defect 5": "--num_defect 5|3 types (scratch, stain, pit)",
    "generate --seperate_channel_loss 1": "--seperate_channel_loss 1|trained with 0",
    # Broken checkpoints, each kind at one flag and one kind at each flag
    "generate --large_recep nowhere.pt": "--large_recep|nowhere.pt|no such checkpoint file",
    "generate --large_recep {cut}": f"--large_recep|{CHECKPOINT}|damaged",
    "generate --large_recep {picture}": "--large_recep|picture.png|not a checkpoint",
    "generate --large_recep {tensor}": "--large_recep|tensor.pt|not a Defect-Gen checkpoint",
    "generate --large_recep {empty}": "--large_recep|empty|no checkpoint in this folder",
    "generate --large_recep {bomb}": "--large_recep|bomb.pt|could run code",
    "generate --small_recep {bomb}": "--small_recep|bomb.pt|could run code",
    "train --resume {bomb}": "--resume|bomb.pt|could run code",
    "train --init {bomb}": "--init|bomb.pt|could run code",
    # The other commands; wrong usage is one line, too
    "generate --sampler foo": "--sampler: invalid choice: 'foo'|dpmpp_2m|--help",
    "curate.py --samples {own} --train {data} --out {data}/test/out": "--out|lies among the images or masks of",
    "curate.py --samples {own}": "required: --train, --out",
    "evaluate.py quality --real {data} --samples no/where": "--samples no/where: does not exist",
    "evaluate.py quality --real {data} --samples {own} --train=": "--train: has no value",
    "evaluate.py compare --large no/where --real {data}": "--large no/where: no such checkpoint file",
    "evaluate.py compare --large {large} --small {small} --real {data} --out {own} --spacings linear": (
        "unknown --spacings 'linear'|logsnr, uniform"
    ),
    "export_data.py no/where {own} --format coco": "SAMPLES no/where: does not exist",
    "benchmark.py --preset h100": "needs a CUDA GPU",
    "draw_demo_data.py {own} --num_images 2": "--num_images",
    "draw_demo_data.py {file}": "file",
}


def check_one_line(result: subprocess.CompletedProcess[str], expected: str) -> None:
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for part in expected.split("|"):
        assert part in result.stderr


def times(root: Path) -> dict[Path, int]:
    return {path: path.is_file() and path.stat().st_mtime_ns for path in root.rglob("*")}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case: str, run: Run, given: dict[str, Any], tmp_path: Path) -> None:
    before = times(given["root"])
    check_one_line(run(case), CASES[case])
    assert times(given["root"]) == before and not tmp_path.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data.label_map": {"stain": 1, "scratch": 2, "pit": 3}}, "scratch, stain, pit against stain, scratch, pit"),
        ({"data.background": False, "data.label_map": {**TYPES, "dent": 4}}, "data.background|True against False"),
    ],
)
def test_networks_that_disagree(changes: dict[str, Any], said: str, run: Run, tmp_path: Path) -> None:
    config = load_config(tiny_config("small", **{"data.label_map": TYPES, **changes}))
    other = tmp_path.with_suffix(".pt")
    torch.save({"model": create_model(config).state_dict(), "config": config.to_dict()}, other)
    check_one_line(run(f"generate --small_recep {other}"), f"{other.name}|disagree in |{said}")


def test_training_that_does_not_fit_into_memory_is_one_line(run: Run, tmp_path: Path) -> None:
    result = run("train", little_memory(0))
    line = result.stderr.splitlines()[-1]  # below the progress bar
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert line.startswith("error: ") and "out of memory on cpu" in line
    assert "train.micro_batch 1" in line and "train.activation_checkpointing" in line and tree(tmp_path) == {}
