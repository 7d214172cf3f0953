"""Bad input on the real command line: one line that names the fault, exit status 2, nothing written.

A case spoils something on the bench and gives the command; its error line holds each of the texts between the bars.
What a room refuses by itself is tested there: here stands how it reaches the user.
"""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from command_line import plain_environment
from conftest import TrainedPair, tiny_config
from PIL import Image
from runs import tree

from guided_diffusion import create_model, load_config

Command = tuple[str, ...]
FOUR_TYPES = {"scratch": 1, "stain": 2, "pit": 3, "dent": 4}
CHECKPOINT = "diffusion_000004.pt"


class Bomb:
    """Unpickling this would create the file `touched`."""

    def __init__(self, touched: Path):
        self.touched = touched

    def __reduce__(self) -> tuple:
        return Path.touch, (self.touched,)


class Bench:
    """A folder of one's own, and commands that work until something in it is spoilt."""

    def __init__(self, folder: Path, demo_data: Path, pair: TrainedPair):
        self.folder, self._demo_data, self._pair = folder, demo_data, pair
        self.work, self.samples, self.config = folder / "work", folder / "samples", folder / "config.yml"

    def train(self, *flags: object, data_dir: object = None, without: str = "", size: str = "large", **changes: Any):
        """train.py on a configuration with these changes. Without `data_dir`: on this bench's data, or the demo's."""
        if not self.config.exists():
            self.config.write_text(yaml.safe_dump(tiny_config(size, **changes)))
        own = self.folder / "data"
        data_dir = data_dir or (own if own.exists() else self._demo_data)
        named = {"--config": self.config, "--data_dir": data_dir, "--work_dir": self.work}
        return "train.py", *(part for flag in named if flag != without for part in (flag, named[flag])), *flags

    def extend(self, path: object, **changes: Any) -> Command:
        return self.train("--extend_types", path, **{"data.label_map": FOUR_TYPES, **changes})

    def warm(self, path: object, **changes: Any) -> Command:
        return self.train(**{"model.ckpt": str(path), **changes})

    def generate(self, *flags: object, large: Path | None = None, small: Path | None = None) -> Command:
        """inference.py on the trained pair, or on other checkpoints."""
        pair = ("--large_recep", large or self._pair.large, "--small_recep", small or self._pair.small)
        fixed = ("--num_samples", 2, "--num_steps", 4, "--precision", "fp32")
        return "inference.py", *pair, "--sample_dir", self.samples, *fixed, *flags

    def data(self, path: str = "") -> Path:
        """A copy of the demo data on this bench, or a file in it."""
        return shutil.copytree(self._demo_data, self.folder / "data") / path

    def work_dir(self, path: str = "") -> Path:
        """A copy of the trained large network's work_dir as --work_dir, or a file in it."""
        return shutil.copytree(self._pair.large, self.work) / path

    def checkpoint(self) -> Path:
        return Path(shutil.copy(self._pair.large / "checkpoint" / CHECKPOINT, self.folder))

    def untrained(self, size: str, **changes: Any) -> Path:
        """A checkpoint of fresh weights, by a configuration with changes."""
        label_map = {name: FOUR_TYPES[name] for name in ("scratch", "stain", "pit")}
        config = load_config(tiny_config(size, **{"data.label_map": label_map, **changes}))
        return self.saved({"model": create_model(config).state_dict(), "config": config.to_dict()}, "untrained.pt")

    def released(self) -> Path:
        return self.saved({"model": torch.load(self.checkpoint())["model"]}, "released.pt")

    def saved(self, content: Any, name: str) -> Path:
        torch.save(content, self.folder / name)
        return self.folder / name

    def bomb(self) -> Path:
        return self.saved({"model": {}, "ema": Bomb(self.folder / "touched")}, "bomb.pt")

    def file(self, name: str, content: bytes = b"something else") -> Path:
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def empty(self, path: str = "empty") -> Path:
        (self.folder / path).mkdir(parents=True)
        return self.folder / path


def truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:1000])
    return path


def then(*steps: Any) -> Any:
    """What the last step gives."""
    return steps[-1]


GT = "converted_ground_truth"
WIDE_MASK = Image.fromarray(np.array([[0, 4] * 16] * 32, np.uint8))
WIDTHS = "another architecture|time_embed.0.weight|[128, 32]|[256, 64]"
UNREADABLE = "|truncated or not a checkpoint"
CASES: dict[str, tuple[Callable[[Bench], Command], str]] = {
    # The data set
    "data missing": (lambda b: b.train(data_dir="nowhere"), "nowhere|does not exist"),
    "data in another layout": (
        lambda b: then(b.data(GT).rename(b.folder / "data/ground_truth"), b.train("--num_defect", 3)),
        "data: holds no prepared data set|test/ + converted_ground_truth/|python scripts/prepare_data.py",
    ),
    "held-out data in another layout": (
        lambda b: b.train("--set", f"data.val_dir={b.empty('other/images').parent}"),
        "other|holds no prepared data set|scripts/prepare_data.py",
    ),
    "data not named": (lambda b: b.train("--num_defect", 3, without="--data_dir"), "--data_dir|missing"),
    "data a number": (lambda b: b.train(without="--data_dir", **{"data.dir": 7}), "config.yml|data.dir|a text|7"),
    "dataset.json": (lambda b: then(b.data("dataset.json").write_text("{"), b.train()), "dataset.json|not valid JSON"),
    "mask value": (
        lambda b: then(WIDE_MASK.save(b.data(f"{GT}/pit/002.png")), b.train()),
        f"{GT}/pit/002.png|holds value 4|num_defect is 3|more types than said?",
    ),
    "image truncated": (
        lambda b: then(truncate(b.data("test/stain/001.png")), b.train()),
        "test/stain/001.png|truncated image",
    ),
    # The configuration
    "config missing": (
        lambda b: b.train("--config", "nowhere.yml"),
        "nowhere.yml|cannot read the configuration file|--config",
    ),
    "config malformed": (
        lambda b: then(b.file("config.yml", b"model:\n  params: [1, 2\ndata: {}\n"), b.train()),
        "config.yml|not valid YAML at line 3",
    ),
    "config no text": (
        lambda b: then(b.file("config.yml", bytes(range(128, 256))), b.train()),
        "config.yml|not valid YAML",
    ),
    "config no mapping": (
        lambda b: then(b.file("config.yml", b"- model\n"), b.train()),
        "config.yml|expected the sections diffusion, model",
    ),
    # Checkpoints and folders that a training starts from
    "work_dir not named": (lambda b: b.train(without="--work_dir"), "--work_dir|missing"),
    "work_dir is a file": (lambda b: then(b.file("work"), b.train()), "--work_dir|work|cannot write"),
    "work_dir below a file": (
        lambda b: b.train("--work_dir", b.file("work") / "below"),
        "--work_dir|work/below|cannot write",
    ),
    "resume truncated": (
        lambda b: then(truncate(b.work_dir(f"checkpoint/{CHECKPOINT}")), b.train()),
        CHECKPOINT + UNREADABLE,
    ),
    "resume none": (
        lambda b: then(b.work_dir(), b.train("--resume", "none")),
        f"--resume none|work|already holds|{CHECKPOINT}",
    ),
    "warm start width": (lambda b: b.warm(b.checkpoint(), **{"model.model_channels": 64}), f"{CHECKPOINT}|{WIDTHS}"),
    "extension of the other network": (
        lambda b: then(b.train(size="small", **{"data.label_map": FOUR_TYPES}), b.extend(b.checkpoint())),
        f"{CHECKPOINT}|config.yml|disagree in model.patch|False against True",
    ),
    "extension of a released one": (
        lambda b: b.extend(b.released(), **{"model.model_channels": 64}),
        f"released.pt|{WIDTHS}",
    ),
    "extension and warm start": (
        lambda b: b.extend(b.checkpoint(), **{"model.ckpt": "other.pt"}),
        "--extend_types and model.ckpt|other.pt|drop",
    ),
    "extension in place": (lambda b: b.extend(b.work_dir()), "--extend_types|lies in --work_dir|name a new folder"),
    # Generating
    "no checkpoint": (lambda b: ("inference.py", "--sample_dir", b.samples), "--large_recep and --small_recep|missing"),
    "one checkpoint": (
        lambda b: ("inference.py", *b.generate()[3:]),
        "--large_recep|missing|--step_inference 400",
    ),
    "released": (
        lambda b: b.generate(large=b.released()),
        "--large_recep|carries no configuration|--large_recep_config",
    ),
    "exchanged": (
        lambda b: b.generate(small=b.checkpoint()),
        f"--small_recep|{CHECKPOINT}|global network|--large_recep",
    ),
    "released of other depth": (
        lambda b: then(
            b.train(**{"model.channel_mult": [1, 1, 1]}),
            b.generate("--large_recep_config", b.config, "--num_defect", 3, large=b.released()),
        ),
        "released.pt|another architecture|input_blocks|is in the configuration but not in",
    ),
    "sample_dir below a file": (
        lambda b: b.generate("--sample_dir", b.file("samples") / "below"),
        "--sample_dir|samples/below|cannot write",
    ),
    "sample_dir of someone else": (
        lambda b: then((b.empty("samples/images") / "holiday.png").touch(), b.generate()),
        "--sample_dir|samples|images/|no manifest.jsonl",
    ),
}
SOURCES: dict[str, Callable[[Bench, Path], Command]] = {
    "--resume": lambda b, path: b.train("--resume", path),
    "--extend_types": Bench.extend,
    "model.ckpt": Bench.warm,
    "--large_recep": lambda b, path: b.generate(large=path),
    "--small_recep": lambda b, path: b.generate(small=path),
}
BROKEN: dict[str, tuple[Callable[[Bench], Path], str]] = {
    "missing": (lambda b: Path("nowhere.pt"), "nowhere.pt|no such checkpoint file"),
    "code": (Bench.bomb, "bomb.pt|could run code"),
    "truncated": (lambda b: truncate(b.checkpoint()), CHECKPOINT + UNREADABLE),
    "pickle": (lambda b: b.file("raw.pt", pickle.dumps({"ema": Bomb(b.folder / "touched")})), "raw.pt|not"),
    "tensor": (lambda b: b.saved(torch.zeros(3), "tensor.pt"), "tensor.pt|not a Defect-Gen checkpoint"),
    "empty": (lambda b: b.file("empty.pt", b""), f"empty.pt{UNREADABLE}"),
    "empty folder": (Bench.empty, "empty|no checkpoint in this folder"),
}
CASES |= {
    f"{flag} {name}": (lambda b, make=make, give=give: give(b, make(b)), f"{flag}|{said}")
    for flag, give in SOURCES.items()
    for name, (make, said) in list(BROKEN.items())[: 7 if "recep" in flag else 3]
}
CASES |= {
    f"resume {key}": (
        lambda b, key=key, value=value: then(b.work_dir(), b.train(**{key: value})),
        f"{CHECKPOINT}|config.yml|{key}|{said}",
    )
    for key, value, said in (
        ("model.model_channels", 64, "32 against 64"),
        ("model.channel_mult", [1, 2], "[1, 1] against [1, 2]"),
        ("diffusion.schedule", "linear", "cosine against linear"),
    )
}
CASES |= {  # values in the YAML file; those that test_config.py refuses are not repeated
    f"config {key} {value}": (lambda b, key=key, value=value: b.train(**{key: value}), f"config.yml|{said}")
    for key, value, said in (
        ("model", [1], "model: expected a section|[1]"),
        ("model.params", 5, "model.params|got 5"),
        ("model.model_chanels", 32, "'model.model_chanels'|did you mean 'model.model_channels'?"),
        ("model.patch", True, "model.patch|model.target"),
        ("model.channel_mult", "1, 2", "model.channel_mult|a list|'1, 2'"),
        ("model.attention_downsample", [4], "model.attention_downsample|4|[1, 2]"),
        ("data.label_map", ["pit"], "data.label_map|name: index pairs"),
        ("data.resolution", [32, 33], "data.resolution|32 x 33|multiple of 2"),
        ("optimizer.lr", float("inf"), "optimizer.lr|a number|inf"),
        ("optimizer.lr", 0, "optimizer.lr|above 0"),
        ("optimizer.cosine_decay", 1, "optimizer.cosine_decay|true or false"),
    )
}
CASES |= {
    f"train {flags}": (lambda b, flags=flags: b.train(*flags.split()), said)
    for flags, said in {
        "--num_defect 0": "num_defect|0|from 1 to 255",
        "--num_defect 5": "num_defect is 5|3 types: scratch, stain, pit",
        "--seed -1": "train.seed|-1",
        "--device tpu": "--device tpu|unknown device",
        "--set train.iterations": "--set train.iterations|section.key=value",
        "--set train.iteration=5": "'train.iteration'|did you mean 'train.iterations'?",
        "--set trian.iterations=5": "'trian.iterations'|train.iterations",
        "--set train.iterations=many": "train.iterations|'many'",
        "--set train.iterations=[1": "--set train.iterations=[1|not valid YAML",
        "--set data.val_dir=7": "data.val_dir|a text|7",
    }.items()
}
CASES |= {
    f"generate {flags}": (lambda b, flags=flags: b.generate(*flags.split()), said)
    for flags, said in {
        "--step_inference 1001": "--step_inference 1001|0|1000",
        "--num_steps 1": "--num_steps 1|from 3 to 1000",
        "--num_steps 4+4+4": "--num_steps 4+4+4|whole number|12+8",
        "--handoff released": "--num_steps 4|leave it out",
        "--num_samples 0": "--num_samples 0|at least 1",
        "--batch_size 0": "--batch_size 0|at least 1",
        "--batch_size many": "--batch_size many|auto|at least 1",
        "--seed -1": "--seed -1",
        "--image_size 32 33": "32 x 33|multiples of 2",
        "--image_size 0 32": "0 x 32|--image_size",
        "--image_size 32 -32": "32 x -32|--image_size",
        "--num_defect 5": "--num_defect 5|3 types (scratch, stain, pit)",
        "--seperate_channel_loss 1": "--seperate_channel_loss 1|trained with 0",
        "--device tpu": "--device tpu|unknown device",
    }.items()
}
CASES |= {
    f"networks disagree {said}": (
        lambda b, changes=changes: b.generate(small=b.untrained("small", **changes)),
        f"untrained.pt|disagree in {next(iter(changes))}|{said}",
    )
    for changes, said in (
        ({"diffusion.schedule": "linear"}, "cosine against linear"),
        ({"diffusion.num_timestep": 500}, "1000 against 500"),
        ({"diffusion.parameterization": "eps"}, "x0 against eps"),
        ({"data.label_map": {"scratch": 1, "stain": 2}}, "scratch, stain, pit against scratch, stain;"),
        ({"data.label_map": {"scratch": 2, "stain": 1, "pit": 3}}, "scratch, stain, pit against stain, scratch, pit"),
        ({"data.background": False, "data.label_map": FOUR_TYPES}, "True against False"),
    )
}


@pytest.fixture
def bench(tmp_path: Path, demo_data: Path, trained_pair: TrainedPair) -> Bench:
    return Bench(tmp_path, demo_data, trained_pair)


def check_one_line(result: subprocess.CompletedProcess[str], expected: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for part in expected.split("|"):
        assert part in result.stderr


@pytest.mark.parametrize(("spoil", "expected"), CASES.values(), ids=CASES)
def test_bad_input(spoil: Callable, expected: str, bench: Bench, run_script: Callable) -> None:
    command = spoil(bench)
    before = tree(bench.folder)
    check_one_line(run_script(*command), expected)
    assert tree(bench.folder) == before


def test_the_bomb_is_one(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "touched")))
    assert (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["data missing", "--large_recep missing"])
def test_it_is_the_same_in_a_python_of_its_own(name: str, bench: Bench, repo: Path) -> None:
    script, *arguments = CASES[name][0](bench)
    command = [sys.executable, repo / "scripts" / script, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=plain_environment(), timeout=120)
    check_one_line(result, "nowhere")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--sampler heun", "argument --sampler: invalid choice: 'heun'"),
        ("--weights best", "argument --weights: invalid choice: 'best'"),
        ("--num_samples few", "argument --num_samples: invalid int value: 'few'"),
        ("--colour red", "unrecognized arguments: --colour red"),
    ],
)
def test_unknown_flags_are_refused_with_the_usage(
    flags: str, expected: str, bench: Bench, run_script: Callable
) -> None:
    result = run_script(*bench.generate(*flags.split()))
    assert result.returncode == 2 and result.stderr.startswith("usage: inference.py")
    assert expected in result.stderr.splitlines()[-1] and tree(bench.folder) == {}


def test_fewer_images_than_the_batch_work(bench: Bench, run_script: Callable) -> None:
    result = run_script(*bench.train("--set", "data.num_image_train=1", "--set", "train.iterations=1"))
    assert result.returncode == 0, result.stderr
    assert "3 images" in result.stdout and "batch 4" in result.stdout
    assert (bench.work / "checkpoint" / "diffusion_000001.pt").exists()


def test_dry_run_touches_nothing(bench: Bench, run_script: Callable) -> None:
    command = bench.train("--dry_run")
    before = tree(bench.folder)
    result = run_script(*command)
    assert (result.returncode, result.stderr) == (0, "")
    assert "global, " in result.stdout and "parameters" in result.stdout and tree(bench.folder) == before


def test_training_that_does_not_fit_into_memory_is_one_line(bench: Bench, run_script: Callable) -> None:
    prelude = """
import torch
from guided_diffusion.networks.nn import AttentionBlock
def forward(self, x):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
AttentionBlock.forward = forward
"""
    result = run_script(*bench.train(), prelude=prelude)
    assert "train.micro_batch 1" in (line := check_last_line(result, "out of memory on cpu"))
    assert "train.activation_checkpointing" in line and not (bench.work / "checkpoint").exists()


def test_a_loss_that_diverges_keeps_the_last_good_checkpoint(bench: Bench, run_script: Callable) -> None:
    before = tree(bench.work_dir("checkpoint"))
    flags = [*("--set", "optimizer.lr=1e30"), *("--set", "train.iterations=9")]
    result = run_script(*bench.train(*flags, **{"train.save_ckpt_interval": 9}))
    assert "at step 6;" in check_last_line(result, "the loss is not finite")  # the update of step 5 spoils the weights
    assert tree(bench.work / "checkpoint") == before


def check_last_line(result: subprocess.CompletedProcess[str], expected: str) -> str:
    """An error that stands below the progress bar."""
    line = result.stderr.splitlines()[-1]
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    assert line.startswith("error: ") and expected in line
    return line
