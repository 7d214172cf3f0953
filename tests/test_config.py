"""Configurations: released files load unchanged, derived numbers are right, every slip has its line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import ROOT

from guided_diffusion import load_config
from guided_diffusion.config_file import parse_override
from guided_diffusion.errors import InputError

GLOBAL = "models.unet.openaiunet.UNetModel"
PATCH = "models.unet.unet_receptive.UNetModel"
# The released YAML files, from the facts in fixtures/README.md.
RELEASED = """
diffusion:
  target: diffusion.base_diffusion.ColdDiffusion
  params: {parameterization: x0, schedule: cosine, num_timestep: 1000}
data:
  bs_per_gpu: 2
  num_workers: 1
  params: {dir: somewhere, resolution: 256, num_image_train: 5}
optimizer:
  params: {lr: 0.0001, weight_decay: 0.002}
train: {iterations: 160000, log_image_interval: 10000, save_ckpt_interval: 10000, max_images: 8, eval_interval: 10}
"""


def test_numbers_and_paths_of_python_are_plain():
    given = {"train.iterations": np.int64(3), "optimizer.lr": np.float32(0.5), "data.val_dir": Path("a")}
    config = load_config(minimal(), np.int64(2), given)
    assert (config.train.iterations, config.optimizer.lr, config.data.val_dir) == (3, 0.5, "a")
    assert load_config(config.to_dict()) == config  # through JSON
    with pytest.raises(InputError, match="num_defect 2.5: must be a whole number"):
        load_config(minimal(), 2.5)


@pytest.mark.parametrize("name, num_defect, channels", [("large", 5, 9), ("small", 2, 6)])
def test_released_files_load_unchanged(shared_dir, tmp_path, name, num_defect, channels):
    params = json.loads((shared_dir / "fixtures" / f"released_{name}.json").read_text())["config"]
    model = {"target": GLOBAL if name == "large" else PATCH, "params": params, "ckpt": None}
    path = tmp_path / f"{name}.yml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(RELEASED), "model": model}))
    config = load_config(str(path), num_defect)
    assert config.model.in_channels == config.model.out_channels == channels
    assert config.layout.background and config.layout.num_defect == num_defect
    assert config.layout.class_names == tuple(f"defect_{k}" for k in range(1, num_defect + 1))
    assert config.model.patch == (name == "small") and config.model.use_scale_shift_norm == (name == "large")
    assert (config.data.resolution, config.data.bs_per_gpu) == ((256, 256), 2)
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (1e-4, 0.002)
    assert config.train.iterations == 160000 and config.train.loss_weight == "uniform"
    assert load_config(str(path)) == config  # the channels alone say as much
    assert load_config(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


def minimal(**sections):
    base = {"model": {"target": PATCH, "params": {"model_channels": 32, "channel_mult": [1, 2]}}}
    return base | {section: {**base.get(section, {}), **values} for section, values in sections.items()}


@pytest.mark.parametrize(
    ("num_defect", "background", "given", "channels"),
    [(2, None, 0, 6), (2, True, 0, 6), (2, False, 0, 5), (2, None, 5, 5), (1, None, 5, 5)],
)
def test_channels_and_background_are_derived(num_defect, background, given, channels):
    config = load_config(minimal(data={"background": background}), num_defect, {"model.in_channels": given})
    assert config.model.in_channels == config.layout.num_channels == channels
    assert config.layout.background == (channels == 4 + num_defect)


def test_keys_may_stand_in_the_section_or_under_params_and_be_overridden():
    nested, flat = minimal(data={"params": {"resolution": 64}}), minimal(data={"resolution": 64})
    assert load_config(nested, 1) == load_config(flat, 1)
    for key in ("data.resolution", "data.params.resolution"):
        assert load_config(nested, 1, {key: 32}).data.resolution == (32, 32)
    assert load_config(nested, 1, dict([parse_override("optimizer.lr=1e-4")])).optimizer.lr == 1e-4


@pytest.mark.parametrize(
    "sections, num_defect, message",
    [
        ({"train": {"iteration": 5}}, 1, r"unknown key 'train\.iteration' \(did you mean 'train\.iterations'"),
        ({"trian": {"iterations": 5}}, 1, r"unknown key 'trian'.*did you mean 'train'"),
        ({}, None, r"number of defect types unknown; give --num_defect"),
        ({}, 0, r"num_defect: 0 must be from 1 to 255"),
        ({"data": {"label_map": {"a": 1}}}, 2, r"num_defect is 2, but data\.label_map names 1 types: a"),
        ({"model": {"in_channels": 9}}, 3, r"3 \(RGB\) \+ 1 \(background\) \+ 3 \(num_defect\) = 7"),
        ({"model": {"out_channels": 9, "in_channels": 8}}, 4, r"model\.out_channels is 9.*= 8"),
        ({"model": {"params": {"model_channels": 40}}}, 1, r"width 40 must be a multiple of 32.*try 32"),
        ({"model": {"num_head_channels": 24}}, 1, r"num_head_channels: 24 must divide the width"),
        ({"model": {"target": "os.system"}}, 1, r"unknown model\.target 'os\.system'"),
        ({"diffusion": {"schedule": "cosin"}}, 1, r"diffusion\.schedule 'cosin'.*did you mean 'cosine'"),
        ({"data": {"label_map": {"a": 1, "b": 3}}}, None, r"indices \[1, 3\] must be 1\.\.2"),
        ({"diffusion": {"parameterization": "eps"}, "train": {"separate_channel_loss": True}}, 1, r"x0 only"),
        ({"data": {"params": {"dir": "a"}, "dir": "b"}}, 1, r"data\.dir: given twice"),
        ({"data": {"resolution": 64, "fit": "random_crop", "crop_from": 48}}, 1, r"crop_from: 48 x 48 .* 64 x 64"),
        ({"train": {"loggers": ["csv", "wand"]}}, 1, r"unknown train\.loggers 'wand' \(did you mean 'wandb'"),
        ({"train": {"loggers": "csv"}}, 1, r"train\.loggers: expected a list, got 'csv'"),
        ({"data": {"crop_from": 128}}, 1, "crop_from: only with data.fit random_crop"),
    ],
)
def test_wrong_configurations_have_their_line(sections, num_defect, message):
    with pytest.raises(InputError, match=message):
        load_config(minimal(**sections), num_defect)


@pytest.mark.parametrize(
    ("source", "overrides", "message"),
    [
        (None, None, "config None: must be a path"),
        (5, None, "config 5: must be a path"),
        (minimal(), ["train.seed=1"], r"overrides: expected a section with keys, got \['train.seed=1'\]"),
        (minimal(), {5: 1}, "unknown key '5'"),
    ],
)
def test_arguments_of_other_kinds_have_their_line(source, overrides, message):
    with pytest.raises(InputError, match=message):
        load_config(source, 1, overrides)


@pytest.mark.parametrize("pair", ["{}_recep", "demo_{}", "neu_seg_{}", "magnetic_tile_{}", "magnetic_tile_insert_{}"])
def test_shipped_pairs_can_hand_off(pair):
    files = (str(ROOT / "configs" / f"{pair.format(size)}.yml") for size in ("large", "small"))
    large, small = (load_config(file, 3) for file in files)
    assert small.model.patch and not large.model.patch
    assert large.diffusion == small.diffusion and large.layout == small.layout
    assert large.data.resolution == small.data.resolution


BOMB = "a0: &a0 [1, 2]\n" + "".join(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 30))


@pytest.mark.parametrize(
    "text, message",
    [
        ("train: {}\nmodel: {}\ntrain:\n  seed: 1\n", "line 3: the key 'train' is given twice, first in line 1"),
        ("a: &a [*a]", "line 1.*: nested more than 20 deep"),
        (BOMB, "more than 10,000 values"),
        ("a: " + "[" * 3000, "nested more than 20 deep"),
        ("data:\n  flip: !!bool x", r"line 2 \(data\.flip\): 'x' is no bool"),
        ("train:\n  seed: 010", r"\(train\.seed\): '010' is no decimal number"),  # YAML 1.1 reads 8
        ("train: {seed: " + "9" * 5000 + "}", r"'9{59}\.\.\. \(5,002 characters\) is no decimal number"),
        (b"# Gr\xf6\xdfe\nmodel: {}\n", "line 1: .*save it as UTF-8"),
        (b"x" * 2_000_000, "has more than 1,000,000 bytes"),
        ("data: !!set {a}", "line 1: data: expected a section"),
        ("model:\n  params: [1]", r"line 2: model\.params: expected a section with keys, got \[1\]"),
        ("model:\n  target: [a]", r"line 2: model\.target: expected a text, got \['a'\]"),
        ("train:\n  iterations: 0x" + "f" * 5000, r"line 2: train\.iterations: expected a whole number, got a value"),
        ("train:\n  keep_last: 1" + "0" * 38, r"line 2: train\.keep_last: expected a whole number, got 10+$"),
        ("data: {resolution: [64, 1000000000]}", r"data\.resolution: \[64, 1000000000\] must be"),
        ('data: {dir: "a\\0b"}', r"data\.dir: expected a text, got 'a\\x00b'"),
        ('data: {label_map: {"\\ud800": 1}}', r"data\.label_map: expected name: number pairs"),
    ],
)
def test_yaml_that_would_be_misread_names_file_line_and_key(tmp_path, text, message):
    path = tmp_path / "my.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    overrides = {} if "model:\n  target" in str(text) else {"model.target": PATCH}
    with pytest.raises(InputError, match=f"^{path}.*{message}"):
        load_config(str(path), 1, overrides)


def test_lines_are_of_what_the_file_says_and_anchors_may_be_used(tmp_path):
    path = tmp_path / "my.yml"
    path.write_text(f"model: {{target: {PATCH}}}\ndata: &d\n  bs_per_gpu: 2\noptimizer:\n  lr: 1e-3\n")
    assert load_config(str(path), 1).optimizer.lr == 1e-3
    for key, said in (
        ("data.bs_per_gpu", "data.bs_per_gpu: 0 must be"),
        ("data.bs_per_gpus", "unknown key 'data.bs_per_gpus' (did you mean 'data.bs_per_gpu'?)"),
        ("optimiser.lr", "unknown key 'optimiser.lr' (did you mean 'optimizer.lr'?)"),
        ("dat.bs_per_gpu", "unknown key 'dat.bs_per_gpu' (did you mean 'data.bs_per_gpu'?)"),
    ):
        with pytest.raises(InputError, match=f"^{re.escape(said)}"):  # not what the file says
            load_config(str(path), 1, {key: 0})
    with pytest.raises(InputError, match=r"--set train\.seed=\*a: not valid YAML at line 1: found undefined alias"):
        parse_override("train.seed=*a")
