"""Bad input on the real command line: one line that names the fault, exit status 2, nothing written.

Each case is a function that spoils something on the bench and returns the command; its decorator says what
the error line must contain.
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

Command = tuple[str, list[str]]
CASES: list = []


def case(*expected: str) -> Callable:
    """Add a function (bench) -> command to the cases; `expected` are parts of its error line."""

    def add(spoil: Callable[[Bench], Command]) -> Callable:
        CASES.append(pytest.param(spoil, expected, id=spoil.__name__))
        return spoil

    return add


def config_case(name: str, changes: dict[str, Any], *expected: str) -> None:
    """Add a case that is a good training but for some values in the YAML file."""
    CASES.append(pytest.param(lambda bench: bench.train(**changes), ("config.yml", *expected), id=name))


def flag_case(name: str, script: str, flags: str, *expected: str) -> None:
    """Add a case that is a good command but for some more flags."""

    def command(bench: Bench) -> Command:
        return bench.train(*flags.split()) if script == "train" else bench.generate(*flags.split())

    CASES.append(pytest.param(command, expected, id=name))


class Bench:
    """A folder of one's own, and commands that work until something in it is spoilt."""

    def __init__(self, folder: Path, demo_data: Path, pair: TrainedPair):
        self.folder, self._demo_data, self._pair = folder, demo_data, pair
        self.work, self.samples, self.config = folder / "work", folder / "samples", folder / "config.yml"

    def train(self, *flags: object, data_dir: object = None, **changes: Any) -> Command:
        """train.py on a configuration with these changes. Without `data_dir`: on this bench's data, or the demo's."""
        if not self.config.exists():
            self.config.write_text(yaml.safe_dump(tiny_config("large", **changes)))
        own = self.folder / "data"
        data_dir = data_dir or (own if own.exists() else self._demo_data)
        arguments = ["--config", self.config, "--data_dir", data_dir, "--work_dir", self.work, *flags]
        return "train.py", list(map(str, arguments))

    def generate(self, *flags: object, large: Path | None = None, small: Path | None = None) -> Command:
        """inference.py on the trained pair, or on other checkpoints."""
        large, small = large or self._pair.large, small or self._pair.small
        arguments = ["--large_recep", large, "--small_recep", small, "--sample_dir", self.samples]
        arguments += ["--num_samples", 2, "--num_steps", 4, "--precision", "fp32", *flags]
        return "inference.py", list(map(str, arguments))

    def data(self) -> Path:
        """A copy of the demo data on this bench."""
        return shutil.copytree(self._demo_data, self.folder / "data")

    def mask(self) -> Path:
        return self.data() / "converted_ground_truth" / "pit" / "002.png"

    def image(self) -> Path:
        return self.data() / "test" / "stain" / "001.png"

    def work_dir(self) -> Path:
        """A copy of the trained large network's work_dir as --work_dir."""
        return shutil.copytree(self._pair.large, self.work)

    def checkpoint(self) -> Path:
        """A copy of the trained large network's checkpoint."""
        return Path(shutil.copy(self._pair.large / "checkpoint" / "diffusion_000004.pt", self.folder))

    def untrained(self, size: str = "small", label_map: dict | None = None, **changes: Any) -> Path:
        """A checkpoint of fresh weights, by a configuration with changes."""
        label_map = label_map or {"scratch": 1, "stain": 2, "pit": 3}
        config = load_config(tiny_config(size, **{"data.label_map": label_map, **changes}))
        path = self.folder / f"untrained_{size}.pt"
        torch.save({"model": create_model(config).state_dict(), "config": config.to_dict()}, path)
        return path

    def file(self, name: str, content: bytes = b"something else") -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path


def truncate(path: Path) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


# The data set


@case("nowhere", "does not exist")
def data_missing(bench: Bench) -> Command:
    return bench.train(data_dir="nowhere")


@case("data", "holds no data set", "test/ + converted_ground_truth/")
def data_empty(bench: Bench) -> Command:
    (bench.folder / "data").mkdir()
    return bench.train("--num_defect", 3)


@case("data/test", "holds no images")
def data_without_images(bench: Bench) -> Command:
    for name in ("test", "converted_ground_truth"):
        (bench.folder / "data" / name).mkdir(parents=True)
    return bench.train("--num_defect", 3)


@case("config.yml", "is not a folder")
def data_is_a_file(bench: Bench) -> Command:
    return bench.train(data_dir=bench.config)


@case("--data_dir", "missing")
def data_not_named(bench: Bench) -> Command:
    script, arguments = bench.train("--num_defect", 3)
    at = arguments.index("--data_dir")
    return script, arguments[:at] + arguments[at + 2 :]


@case("config.yml", "data.dir", "a text", "7")
def data_named_by_a_number(bench: Bench) -> Command:
    script, arguments = bench.train(**{"data.dir": 7})
    at = arguments.index("--data_dir")
    return script, arguments[:at] + arguments[at + 2 :]


@case("data.json", "dataset.json", "not valid JSON")
def data_json_malformed(bench: Bench) -> Command:
    data = bench.data().rename(bench.folder / "data.json")  # any name will do for a folder
    (data / "dataset.json").write_text("{")
    return bench.train(data_dir=data)


@case("nowhere/else", "does not exist")
def held_out_data_missing(bench: Bench) -> Command:
    return bench.train("--set", "data.val_dir=nowhere/else")


@case("test/pit/002.png", "no mask for this image")
def image_without_mask(bench: Bench) -> Command:
    bench.mask().unlink()
    return bench.train()


@case("converted_ground_truth/stain/001.png", "no image for this mask")
def mask_without_image(bench: Bench) -> Command:
    bench.image().unlink()
    return bench.train()


@case("converted_ground_truth/pit/002.png", "30 x 32", "test/pit/002.png is 32 x 32")
def mask_of_other_size(bench: Bench) -> Command:
    Image.new("L", (30, 32)).save(bench.mask())
    return bench.train()


@case("converted_ground_truth/pit/002.png", "holds value 4", "num_defect is 3", "more types than said?")
def mask_value_above_num_defect(bench: Bench) -> Command:
    Image.fromarray(np.array([[0, 4] * 16] * 32, np.uint8)).save(bench.mask())
    return bench.train()


@case("converted_ground_truth/pit/002.png", "holds value 255", "num_defect is 3", "0/255 mask?")
def mask_of_0_and_255(bench: Bench) -> Command:
    Image.fromarray(np.array([[0, 255] * 16] * 32, np.uint8)).save(bench.mask())
    return bench.train()


@case("converted_ground_truth/pit/002.png", "mode RGB", "RGB mask?")
def mask_in_colour(bench: Bench) -> Command:
    Image.new("RGB", (32, 32), (200, 0, 0)).save(bench.mask())
    return bench.train()


@case("test/stain/001.png", "is not an image")
def image_unreadable(bench: Bench) -> Command:
    bench.image().write_text("<html>404</html>")
    return bench.train()


@case("test/stain/001.png", "truncated image")
def image_truncated(bench: Bench) -> Command:
    truncate(bench.image())
    return bench.train()


@case("converted_ground_truth/pit/002.png", "truncated image")
def mask_truncated(bench: Bench) -> Command:
    truncate(bench.mask())
    return bench.train()


# The configuration


@case("config.yml", "cannot read the configuration file", "--config")
def config_missing(bench: Bench) -> Command:
    command = bench.train()
    bench.config.unlink()
    return command


@case("config.yml", "not valid YAML at line 3")
def config_malformed(bench: Bench) -> Command:
    bench.file("config.yml", b"model:\n  params: [1, 2\ndata: {}\n")
    return bench.train()


@case("config.yml", "not valid YAML")
def config_not_text(bench: Bench) -> Command:
    bench.file("config.yml", bytes(range(128, 256)))
    return bench.train()


@case("config.yml", "expected the sections diffusion, model")
def config_not_a_mapping(bench: Bench) -> Command:
    bench.file("config.yml", b"- model\n")
    return bench.train()


for section in ("model", "data"):
    config_case(f"{section}_wrong_type", {section: [1]}, f"{section}: expected a section", "[1]")
    config_case(f"{section}_params_wrong_type", {f"{section}.params": 5}, f"{section}.params", "got 5")


config_case("unknown_section", {"modle": {}}, "unknown key 'modle'", "did you mean 'model'?")
config_case("unknown_key", {"model.model_chanels": 32}, "'model.model_chanels'", "did you mean 'model.model_channels'?")
config_case("unknown_target", {"model.target": "os.system"}, "model.target 'os.system'")
config_case("unknown_schedule", {"diffusion.schedule": "cosin"}, "'cosin'", "did you mean 'cosine'?")
config_case("wrong_type_number", {"model.model_channels": "wide"}, "model.model_channels", "number", "'wide'")
config_case("not_finite", {"optimizer.lr": float("inf")}, "optimizer.lr", "a number", "inf")
config_case("patch_is_no_key", {"model.patch": True}, "model.patch", "model.target")
config_case("wrong_type_whole", {"train.iterations": 1.5}, "train.iterations", "a whole number", "1.5")
config_case("wrong_type_truth", {"optimizer.cosine_decay": 1}, "optimizer.cosine_decay", "true or false")
config_case("wrong_type_list", {"model.channel_mult": "1, 2"}, "model.channel_mult", "a list", "'1, 2'")
config_case("wrong_type_label_map", {"data.label_map": ["pit"]}, "data.label_map", "name: index pairs")
config_case("label_map_gap", {"data.label_map": {"a": 1, "b": 3}}, "data.label_map", "[1, 3]", "1..2")
config_case("key_twice", {"data.params": {"flip": "none"}}, "data.flip", "given twice")
config_case("channels_do_not_add_up", {"model.in_channels": 9}, "model.in_channels is 9", "+ 3", "= 7")
config_case("out_channels", {"model.out_channels": 8}, "model.out_channels is 8", "= 7")
config_case("without_background", {"data.background": False, "model.in_channels": 7}, "+ 0", "= 6")
config_case("width", {"model.model_channels": 48}, "model.model_channels", "48", "multiple of 32")
config_case("levels", {"data.resolution": [32, 33]}, "data.resolution", "32 x 33", "multiple of 2")
config_case("levels_4", {"model.channel_mult": [1, 1, 1, 1], "data.resolution": 36}, "36 x 36", "multiple of 8")
config_case("heads", {"model.num_head_channels": 24}, "model.num_head_channels", "24", "32")
config_case("attention", {"model.attention_downsample": [4]}, "model.attention_downsample", "4", "[1, 2]")
config_case("learning_rate", {"optimizer.lr": 0}, "optimizer.lr", "above 0")
config_case("iterations", {"train.iterations": 0}, "train.iterations", "at least 1")
config_case(
    "separate_losses_with_eps",
    {"train.separate_channel_loss": True, "diffusion.parameterization": "eps"},
    "separate_channel_loss",
    "x0 only",
)
flag_case("num_defect_0", "train", "--num_defect 0", "num_defect", "0", "from 1 to 255")
flag_case("num_defect_5", "train", "--num_defect 5", "num_defect is 5", "3 types: scratch, stain, pit")
flag_case("negative_seed", "train", "--seed -1", "train.seed", "-1")
flag_case("unknown_device", "train", "--device tpu", "--device tpu", "unknown device")
flag_case("set_without_value", "train", "--set train.iterations", "--set train.iterations", "section.key=value")
flag_case(
    "set_unknown_key", "train", "--set train.iteration=5", "'train.iteration'", "did you mean 'train.iterations'?"
)
flag_case("set_unknown_section", "train", "--set trian.iterations=5", "'trian.iterations'", "train.iterations")
flag_case("set_wrong_type", "train", "--set train.iterations=many", "train.iterations", "'many'")
flag_case("set_malformed", "train", "--set train.iterations=[1", "--set train.iterations=[1", "not valid YAML")
flag_case("set_data_dir_wrong_type", "train", "--set data.val_dir=7", "data.val_dir", "a text", "7")


# The work_dir and the checkpoints that a training starts from


@case("--work_dir", "missing")
def work_dir_not_named(bench: Bench) -> Command:
    script, arguments = bench.train()
    at = arguments.index("--work_dir")
    return script, arguments[:at] + arguments[at + 2 :]


@case("--work_dir", "work", "cannot write")
def work_dir_is_a_file(bench: Bench) -> Command:
    bench.file("work")
    return bench.train()


@case("--work_dir", "work/below", "cannot write")
def work_dir_below_a_file(bench: Bench) -> Command:
    bench.work = bench.file("work") / "below"
    return bench.train()


@case("--resume", "nowhere.pt", "no such checkpoint file")
def resume_missing(bench: Bench) -> Command:
    return bench.train("--resume", "nowhere.pt")


@case("diffusion_000004.pt", "truncated or not a checkpoint")
def resume_truncated(bench: Bench) -> Command:
    truncate(bench.work_dir() / "checkpoint" / "diffusion_000004.pt")
    return bench.train()


@case("diffusion_000004.pt", "config.yml", "model.model_channels", "32 against 64")
def resume_other_width(bench: Bench) -> Command:
    bench.work_dir()
    return bench.train(**{"model.model_channels": 64})


@case("diffusion_000004.pt", "config.yml", "model.channel_mult", "[1, 1] against [1, 2]")
def resume_other_levels(bench: Bench) -> Command:
    bench.work_dir()
    return bench.train(**{"model.channel_mult": [1, 2]})


@case("diffusion_000004.pt", "config.yml", "diffusion.schedule", "cosine against linear")
def resume_other_schedule(bench: Bench) -> Command:
    bench.work_dir()
    return bench.train(**{"diffusion.schedule": "linear"})


@case("--resume none", "work", "already holds", "diffusion_000004.pt")
def resume_none_in_a_used_work_dir(bench: Bench) -> Command:
    bench.work_dir()
    return bench.train("--resume", "none")


@case("model.ckpt", "nowhere.pt", "no such checkpoint file")
def warm_start_missing(bench: Bench) -> Command:
    return bench.train(**{"model.ckpt": "nowhere.pt"})


@case("model.ckpt", "diffusion_000004.pt", "truncated or not a checkpoint")
def warm_start_truncated(bench: Bench) -> Command:
    return bench.train(**{"model.ckpt": str(truncate(bench.checkpoint()))})


@case("diffusion_000004.pt", "another architecture", "time_embed.0.weight", "[128, 32]", "[256, 64]")
def warm_start_other_width(bench: Bench) -> Command:
    return bench.train(**{"model.ckpt": str(bench.checkpoint()), "model.model_channels": 64})


FOUR_TYPES = {"scratch": 1, "stain": 2, "pit": 3, "dent": 4}


def extend(bench: Bench, path: object, **changes: Any) -> Command:
    return bench.train("--extend_types", path, **{"data.label_map": FOUR_TYPES, **changes})


@case("--extend_types", "nowhere.pt", "no such checkpoint file")
def extension_missing(bench: Bench) -> Command:
    return extend(bench, "nowhere.pt")


@case("--extend_types", "empty", "no checkpoint in this folder")
def extension_of_an_empty_folder(bench: Bench) -> Command:
    (bench.folder / "empty").mkdir()
    return extend(bench, bench.folder / "empty")


@case("--extend_types", "diffusion_000004.pt", "no new type", "{scratch: 1, stain: 2, pit: 3}", "model.ckpt")
def extension_without_a_new_type(bench: Bench) -> Command:
    return bench.train("--extend_types", bench.checkpoint())


@case(
    "diffusion_000004.pt", "{scratch: 1, stain: 2, pit: 3}", "config.yml", "masks too: {scratch: 1, stain: 2, pit: 3,"
)
def extension_of_other_numbers(bench: Bench) -> Command:
    label_map = {"dent": 1, "pit": 2, "scratch": 3, "stain": 4}
    return extend(bench, bench.checkpoint(), **{"data.label_map": label_map})


@case("diffusion_000004.pt", "config.yml", "disagree in model.model_channels", "32 against 64")
def extension_of_other_width(bench: Bench) -> Command:
    return extend(bench, bench.checkpoint(), **{"model.model_channels": 64})


@case("diffusion_000004.pt", "config.yml", "disagree in model.patch", "False against True")
def extension_of_the_other_network(bench: Bench) -> Command:
    bench.config.write_text(yaml.safe_dump(tiny_config("small", **{"data.label_map": FOUR_TYPES})))
    return extend(bench, bench.checkpoint())


@case("released.pt", "another architecture", "time_embed.0.weight", "[128, 32]", "[256, 64]")
def extension_of_a_released_one_of_other_width(bench: Bench) -> Command:
    return extend(bench, released(bench), **{"model.model_channels": 64})


@case("--extend_types and model.ckpt", "other.pt", "drop")
def extension_and_warm_start(bench: Bench) -> Command:
    return extend(bench, bench.checkpoint(), **{"model.ckpt": "other.pt"})


@case("--extend_types", "lies in --work_dir", "name a new folder")
def extension_in_place(bench: Bench) -> Command:
    return extend(bench, bench.work_dir())


class Bomb:
    """Unpickling this would create the file `touched`."""

    def __init__(self, touched: Path):
        self.touched = touched

    def __reduce__(self) -> tuple:
        return Path.touch, (self.touched,)


def bomb(bench: Bench, raw: bool) -> Path:
    content = {"model": {}, "ema": Bomb(bench.folder / "touched")}
    if raw:  # what torch.load reads as its oldest format
        return bench.file("bomb.pt", pickle.dumps(content))
    torch.save(content, bench.folder / "bomb.pt")
    return bench.folder / "bomb.pt"


def test_the_bomb_is_one(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "touched")))
    assert (tmp_path / "touched").exists()


@case("--resume", "bomb.pt", "could run code")
def resume_with_code(bench: Bench) -> Command:
    return bench.train("--resume", bomb(bench, raw=False))


@case("--extend_types", "bomb.pt", "could run code")
def extension_with_code(bench: Bench) -> Command:
    return extend(bench, bomb(bench, raw=False))


@case("model.ckpt", "bomb.pt", "could run code")
def warm_start_with_code(bench: Bench) -> Command:
    return bench.train(**{"model.ckpt": str(bomb(bench, raw=False))})


@case("--large_recep", "bomb.pt", "could run code")
def checkpoint_with_code(bench: Bench) -> Command:
    return bench.generate(large=bomb(bench, raw=False))


@case("--small_recep", "bomb.pt", "not")
def checkpoint_of_plain_pickle_with_code(bench: Bench) -> Command:
    return bench.generate(small=bomb(bench, raw=True))


# Generating

flag_case("step_inference_negative", "inference", "--step_inference -1", "--step_inference -1", "0", "1000")
flag_case("step_inference_1001", "inference", "--step_inference 1001", "--step_inference 1001", "0", "1000")
flag_case("num_steps_1", "inference", "--num_steps 1", "--num_steps 1", "from 3 to 1000")
flag_case("num_steps_1001", "inference", "--num_steps 1001", "--num_steps 1001", "to 1000")
flag_case("num_steps_1+1", "inference", "--num_steps 1+1", "--num_steps 1+1", "from 1+2 to 600+400", "large + small")
flag_case("num_steps_small_only", "inference", "--step_inference 0 --num_steps 9+1", "9+1", "from 2+0 to 1000+0")
flag_case("num_steps_large_only", "inference", "--step_inference 1000 --num_steps 1+9", "1+9", "from 0+2 to 0+1000")
flag_case("num_steps_of_three", "inference", "--num_steps 4+4+4", "--num_steps 4+4+4", "whole number", "12+8")
flag_case("num_steps_no_number", "inference", "--num_steps some", "--num_steps some", "whole number")
flag_case("released_num_steps", "inference", "--handoff released", "--num_steps 4", "leave it out")
flag_case("num_samples_0", "inference", "--num_samples 0", "--num_samples 0", "at least 1")
flag_case("batch_size_0", "inference", "--batch_size 0", "--batch_size 0", "at least 1")
flag_case("batch_size_many", "inference", "--batch_size many", "--batch_size many", "auto", "at least 1")
flag_case("seed_negative", "inference", "--seed -1", "--seed -1")
flag_case("image_size_33", "inference", "--image_size 32 33", "32 x 33", "multiples of 2")
flag_case("image_size_0", "inference", "--image_size 0 32", "0 x 32", "--image_size")
flag_case("image_size_negative", "inference", "--image_size 32 -32", "32 x -32", "--image_size")
flag_case("other_num_defect", "inference", "--num_defect 5", "--num_defect 5", "3 types (scratch, stain, pit)")
flag_case("other_device", "inference", "--device tpu", "--device tpu", "unknown device")


@case("--large_recep and --small_recep", "missing")
def no_checkpoint_named(bench: Bench) -> Command:
    return "inference.py", ["--sample_dir", str(bench.samples)]


@case("--small_recep", "missing", "--step_inference 400")
def one_checkpoint_named(bench: Bench) -> Command:
    script, arguments = bench.generate()
    return script, arguments[:2] + arguments[4:]


@case("--large_recep nowhere.pt", "no such checkpoint file")
def checkpoint_missing(bench: Bench) -> Command:
    return bench.generate(large=Path("nowhere.pt"))


@case("--small_recep", "empty", "no checkpoint in this folder")
def checkpoint_folder_empty(bench: Bench) -> Command:
    (bench.folder / "empty").mkdir()
    return bench.generate(small=bench.folder / "empty")


@case("--large_recep", "diffusion_000004.pt", "truncated or not a checkpoint")
def checkpoint_truncated(bench: Bench) -> Command:
    return bench.generate(large=truncate(bench.checkpoint()))


@case("--large_recep", "empty.pt", "truncated or not a checkpoint")
def checkpoint_of_no_bytes(bench: Bench) -> Command:
    return bench.generate(large=bench.file("empty.pt", b""))


@case("--large_recep", "text.pt", "truncated or not a checkpoint")
def checkpoint_is_text(bench: Bench) -> Command:
    return bench.generate(large=bench.file("text.pt"))


@case("--small_recep", "tensor.pt", "not a Defect-Gen checkpoint")
def checkpoint_of_something_else(bench: Bench) -> Command:
    torch.save(torch.zeros(3), bench.folder / "tensor.pt")
    return bench.generate(small=bench.folder / "tensor.pt")


@case("diffusion_000004.pt", "another architecture", "time_embed.0.weight", "[128, 32]", "[256, 64]")
def checkpoint_of_other_width(bench: Bench) -> Command:
    bench.train(**{"model.model_channels": 64})
    return bench.generate("--large_recep_config", bench.config, large=bench.checkpoint())


@case("--large_recep", "released.pt", "carries no configuration", "--large_recep_config")
def released_checkpoint_without_config(bench: Bench) -> Command:
    return bench.generate(large=released(bench))


@case("released.pt", "another architecture", "input_blocks", "is in the configuration but not in")
def released_checkpoint_of_other_depth(bench: Bench) -> Command:
    large = released(bench)
    bench.train(**{"model.channel_mult": [1, 1, 1]})
    return bench.generate("--large_recep_config", bench.config, "--num_defect", 3, large=large)


def released(bench: Bench) -> Path:
    path = bench.untrained("large")
    torch.save({"model": torch.load(path)["model"]}, bench.folder / "released.pt")
    return bench.folder / "released.pt"


@case("--small_recep", "diffusion_000004.pt", "global network", "--large_recep")
def checkpoints_exchanged(bench: Bench) -> Command:
    return bench.generate(small=bench.checkpoint())


@case("untrained_small.pt", "disagree in diffusion.schedule", "cosine against linear")
def networks_disagree_in_schedule(bench: Bench) -> Command:
    return bench.generate(small=bench.untrained(**{"diffusion.schedule": "linear"}))


@case("untrained_small.pt", "disagree in diffusion.num_timestep", "1000 against 500")
def networks_disagree_in_T(bench: Bench) -> Command:
    return bench.generate(small=bench.untrained(**{"diffusion.num_timestep": 500}))


@case("untrained_small.pt", "disagree in diffusion.parameterization", "x0 against eps")
def networks_disagree_in_parameterization(bench: Bench) -> Command:
    return bench.generate(small=bench.untrained(**{"diffusion.parameterization": "eps"}))


@case("untrained_small.pt", "disagree in data.label_map", "scratch, stain, pit against scratch, stain;")
def networks_know_other_numbers_of_types(bench: Bench) -> Command:
    return bench.generate(small=bench.untrained(label_map={"scratch": 1, "stain": 2}))


@case("untrained_small.pt", "disagree in data.background", "True against False")
def networks_disagree_in_background(bench: Bench) -> Command:
    label_map = {"scratch": 1, "stain": 2, "pit": 3, "dent": 4}
    return bench.generate(small=bench.untrained(label_map=label_map, **{"data.background": False}))


@case("untrained_small.pt", "disagree in data.label_map", "scratch, stain, pit", "stain, scratch, pit")
def networks_disagree_in_label_map(bench: Bench) -> Command:
    return bench.generate(small=bench.untrained(label_map={"scratch": 2, "stain": 1, "pit": 3}))


@case("--sample_dir", "samples/below", "cannot write")
def sample_dir_below_a_file(bench: Bench) -> Command:
    bench.samples = bench.file("samples") / "below"
    return bench.generate()


@case("--sample_dir", "samples", "images/", "no manifest.jsonl")
def sample_dir_of_someone_else(bench: Bench) -> Command:
    (bench.samples / "images").mkdir(parents=True)
    (bench.samples / "images" / "holiday.png").touch()
    return bench.generate()


# The tests


def check_one_line(result: subprocess.CompletedProcess[str], *expected: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for part in expected:
        assert part in result.stderr


@pytest.fixture
def bench(tmp_path: Path, demo_data: Path, trained_pair: TrainedPair) -> Bench:
    return Bench(tmp_path, demo_data, trained_pair)


@pytest.mark.parametrize(("spoil", "expected"), CASES)
def test_bad_input(spoil: Callable, expected: tuple[str, ...], bench: Bench, run_script: Callable) -> None:
    script, arguments = spoil(bench)
    before = tree(bench.folder)
    check_one_line(run_script(script, *arguments), *expected)
    assert tree(bench.folder) == before


@pytest.mark.parametrize("spoil", [data_missing, checkpoint_missing])
def test_it_is_the_same_in_a_python_of_its_own(spoil: Callable, bench: Bench, repo: Path) -> None:
    script, arguments = spoil(bench)
    result = subprocess.run(
        [sys.executable, repo / "scripts" / script, *arguments],
        capture_output=True,
        text=True,
        env=plain_environment(),
        timeout=120,
    )
    check_one_line(result, "nowhere")


def test_samples_of_other_settings_are_not_mixed(bench: Bench, run_script: Callable) -> None:
    assert run_script(*flat(bench.generate())).returncode == 0
    before = tree(bench.folder)
    result = run_script(*flat(bench.generate("--num_samples", 3, "--seed", 1)))
    check_one_line(result, "--sample_dir", "samples", "seed 0, not 1", "manifest.jsonl")
    result = run_script(*flat(bench.generate("--num_samples", 3, "--step_inference", 300)))
    check_one_line(result, "--sample_dir", "step_inference 400, not 300")
    result = run_script(*flat(bench.generate("--num_samples", 3, large=bench.untrained("large"))))
    check_one_line(result, "--sample_dir", "checkpoints.large")
    (bench.folder / "untrained_large.pt").unlink()
    assert tree(bench.folder) == before


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--sampler", "heun"), "argument --sampler: invalid choice: 'heun'"),
        (("--weights", "best"), "argument --weights: invalid choice: 'best'"),
        (("--num_samples", "few"), "argument --num_samples: invalid int value: 'few'"),
        (("--colour", "red"), "unrecognized arguments: --colour red"),
    ],
)
def test_unknown_flags_are_refused_with_the_usage(
    flags: tuple[str, ...], expected: str, bench: Bench, run_script: Callable
) -> None:
    result = run_script(*flat(bench.generate(*flags)))
    assert result.returncode == 2
    assert result.stderr.startswith("usage: inference.py")
    assert expected in result.stderr.splitlines()[-1]
    assert tree(bench.folder) == {}


def test_fewer_images_than_the_batch_work(bench: Bench, run_script: Callable) -> None:
    result = run_script(*flat(bench.train("--set", "data.num_image_train=1", "--set", "train.iterations=1")))
    assert result.returncode == 0, result.stderr
    assert "3 images" in result.stdout and "batch 4" in result.stdout
    assert (bench.work / "checkpoint" / "diffusion_000001.pt").exists()


def test_dry_run_touches_nothing(bench: Bench, run_script: Callable) -> None:
    command = bench.train("--dry_run")
    before = tree(bench.folder)
    result = run_script(*flat(command))
    assert (result.returncode, result.stderr) == (0, "")
    assert "global, " in result.stdout and "parameters" in result.stdout
    assert tree(bench.folder) == before


def test_a_loss_that_diverges_keeps_the_last_good_checkpoint(bench: Bench, run_script: Callable) -> None:
    before = tree(bench.work_dir() / "checkpoint")
    flags = [*("--set", "optimizer.lr=1e30"), *("--set", "train.iterations=9")]
    result = run_script(*flat(bench.train(*flags, **{"train.save_ckpt_interval": 9})))
    check_not_finite(result, step=6)  # the update of step 5 is what spoils the weights
    assert tree(bench.work / "checkpoint") == before


def test_training_that_does_not_fit_into_memory_is_one_line(bench: Bench, run_script: Callable) -> None:
    prelude = """
import torch
from guided_diffusion.networks.nn import AttentionBlock
def forward(self, x):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
AttentionBlock.forward = forward
"""
    result = run_script(*flat(bench.train()), prelude=prelude)
    check_one_line(result, "out of memory on cpu", "train.micro_batch 1", "train.activation_checkpointing")
    assert not bench.work.exists()


def test_a_loss_that_is_not_finite_stops_before_the_update(bench: Bench, run_script: Callable) -> None:
    path = bench.checkpoint()
    content = torch.load(path)
    content["model"]["out.2.bias"][0] = torch.nan
    torch.save(content, path)
    result = run_script(*flat(bench.train(**{"model.ckpt": str(path)})))
    check_not_finite(result, step=1)
    assert not (bench.work / "checkpoint").exists()


def check_not_finite(result: subprocess.CompletedProcess[str], step: int) -> None:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    line = result.stderr.splitlines()[-1]  # above it stands the progress bar
    assert line.startswith("error: ") and f"not finite at step {step};" in line and "work" in line


def flat(command: Command) -> list[str]:
    return [command[0], *command[1]]
