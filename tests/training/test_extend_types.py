"""--extend_types: a grown network starts as the old one, learns the new type, resumes, and generates."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_config
from PIL import Image
from runs import QUICK, assert_same_training, interrupt, tree
from told import random_weights

from guided_diffusion import create_model, load_config
from guided_diffusion.errors import InputError
from guided_diffusion.file_io import write_json
from guided_diffusion.training.checkpoint import Checkpoint, load_checkpoint
from guided_diffusion.training.extend import FIRST, LAST, LAST_BIAS, RARE, extend_types

OLD = {"crack": 1, "hole": 2}
NEW = {**OLD, "dent": 3}
NAMES = ("scratch", "stain", "pit", "dent")  # of the demo data, and one more
T = torch.tensor([0, 400, 999])


def make_config(size, label_map, **changes):
    return load_config(tiny_config(size, **{"data.label_map": label_map, "data.resolution": 16, **changes}))


def trained(config, released=False):
    """A checkpoint of weights that predict something; the averaged ones are others."""
    states = [random_weights(create_model(config), seed).state_dict() for seed in (0, 1)]
    return Checkpoint("old.pt", "sha", *states, {"state": {}}, 4, None if released else config, torch.ones(13))


def network(config, state):
    model = create_model(config).eval()
    model.load_state_dict(state)
    return model.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", ["large", "small"])
@pytest.mark.parametrize("separate", [False, True], ids=["one_loss", "separate_losses"])
@pytest.mark.parametrize("background", [True, False], ids=["background", "no_background"])
def test_the_grown_network_predicts_what_the_old_one_does(size, separate, background):
    """Bit for bit; kernels older than AVX2 sum more channels in another order."""
    changes = {"train.separate_channel_loss": separate, "data.background": background}
    old, new = make_config(size, OLD, **changes), make_config(size, {**NEW, "stain": 4}, **changes)
    checkpoint, added = trained(old), 2
    grown = extend_types(checkpoint, new, "new.yml")
    assert grown.optimizer is None and grown.log_window is None and grown.step == 0 and grown.config == new
    n = old.layout.num_channels
    x = torch.randn(3, n + added, 16, 16).to(memory_format=torch.channels_last)
    other_noise = x.clone()
    other_noise[:, n:] = 5 * torch.randn(3, added, 16, 16)
    for before, after in ((checkpoint.model, grown.model), (checkpoint.ema, grown.ema)):
        model = network(new, after)
        with torch.no_grad():
            expected = network(old, before)(x[:, :n].contiguous(memory_format=torch.channels_last), T)
            output, same = model(x, T), model(other_noise, T)
        assert torch.equal(output, same)
        if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
            assert torch.equal(output[:, :n], expected)
        assert (output[:, :n] - expected).norm() <= 1e-6 * expected.norm()
        if not separate:
            assert (output[:, n:] == 0).all()
            continue
        p = new.layout.log_softmax(output).exp()  # [N, 1 + types, H, W]
        assert (p[:, 3:] / p[:, :1] - RARE).abs().max() < 1e-5 * RARE + 1e-6


def test_a_released_checkpoint_knows_the_first_types():
    old, new = make_config("small", OLD), make_config("small", NEW)
    released, named = (extend_types(trained(old, is_released), new, "new.yml") for is_released in (True, False))
    assert all(torch.equal(released.model[name], value) for name, value in named.model.items())
    for missing in (FIRST, LAST_BIAS):
        del (foreign := trained(old, released=True)).model[missing]
        with pytest.raises(InputError, match=rf"old\.pt: not a network of this program, .* '{missing}'"):
            extend_types(foreign, new, "new.yml")


@pytest.mark.parametrize(
    ("label_map", "changes", "message"),
    [
        ({"hole": 1, "crack": 2, "dent": 3}, {}, r"is \{crack: 1, hole: 2\}, .* \{hole: 1, crack: 2, dent: 3\}; .*"),
        ({"crack": 1, "dent": 2, "hole": 3}, {}, r".* masks too: \{crack: 1, hole: 2, dent: 3\}$"),
        (OLD, {}, r"no new type, .* new\.yml .* \{crack: 1, hole: 2\}; .* model\.ckpt, .* --resume$"),
        (NEW, {"data.background": False}, r"data\.background: True against False"),
        (NEW, {"train.separate_channel_loss": True}, r"train\.separate_channel_loss: False against True"),
    ],
)
def test_what_does_not_fit_is_refused(label_map, changes, message):
    with pytest.raises(InputError, match=r"old\.pt.*" + message):
        extend_types(trained(make_config("large", OLD)), make_config("large", label_map, **changes), "new.yml")


@pytest.fixture(scope="module")
def four_types(demo_data, tmp_path_factory):
    """The demo data with a fourth type in every mask."""
    data = Path(shutil.copytree(demo_data, tmp_path_factory.mktemp("four") / "data"))
    for path in (data / "converted_ground_truth").rglob("*.png"):
        mask = np.array(Image.open(path))
        mask[:8, :8] = 4
        Image.fromarray(mask).save(path)
    write_json(str(data / "dataset.json"), {"label_map": {name: k for k, name in enumerate(NAMES, start=1)}})
    return data


def test_a_pair_learns_a_fourth_type_and_generates(train, trained_pair, four_types, run_script, tmp_path):
    for old in trained_pair:
        work, files, line = tmp_path / old.name, tree(old), f"starting from {old}/checkpoint/diffusion_000004.pt"
        printed = train(tiny_config(old.name), work, "--data_dir", four_types, "--extend_types", old, prelude=QUICK)
        assert line in printed and ", ".join(NAMES) in printed and tree(old) == files
        checkpoint = load_checkpoint(str(work), "-")
        assert checkpoint.step == 4 and checkpoint.config.layout.class_names == NAMES
        grown = extend_types(load_checkpoint(str(old), "-"), checkpoint.config, "new.yml")
        for name, at in {FIRST: (slice(None), slice(7, None)), LAST: slice(7, None), LAST_BIAS: slice(7, None)}.items():
            for after, before in ((checkpoint.model, grown.model), (checkpoint.ema, grown.ema)):
                assert (after[name] - before[name]).abs()[at].mean() > 1e-5, name  # all that is new is learned
    # so that masks hold the new type, which four steps do not achieve
    content = torch.load(checkpoint.path)
    content["ema"][LAST_BIAS][7] += 9
    torch.save(content, checkpoint.path)
    Path(f"{checkpoint.path}.sha256").unlink()
    pair = ("--large_recep", tmp_path / "large", "--small_recep", tmp_path / "small", "--sample_dir", tmp_path / "out")
    result = run_script("inference.py", *pair, "--num_samples", 2, "--num_steps", 4)
    assert result.returncode == 0, result.stderr
    for row in map(json.loads, (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()):
        assert tuple(row["settings"]["class_names"]) == NAMES and row["types"]["dent"] > 0
        assert np.asarray(Image.open(tmp_path / "out" / row["index_mask"])).max() == 4


def test_an_interrupted_extension_goes_on_by_the_same_command(train, trained_pair, four_types, tmp_path):
    start = ("--data_dir", four_types, "--extend_types", trained_pair.large / "checkpoint" / "diffusion_000002.pt")
    config = tiny_config("large")
    train(config, tmp_path / "whole", *start, prelude=QUICK)
    kill = QUICK + interrupt("train_util.TrainLoop.train_step", "args[0].step == 3")
    train(config, tmp_path / "work", *start, prelude=kill, status=-signal.SIGKILL)
    assert "going on from" in train(config, tmp_path / "work", *start[:3], tmp_path / "gone", prelude=QUICK)
    assert_same_training(tmp_path / "work", tmp_path / "whole")
