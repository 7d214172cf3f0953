"""--extend_types: a grown network starts as the old one, learns the new type, resumes, and generates."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import tiny_config
from PIL import Image
from runs import QUICK, assert_same_training, interrupt, tree

from guided_diffusion import create_model, load_config
from guided_diffusion.config import Config
from guided_diffusion.data.image_datasets import DefectDataset
from guided_diffusion.data.prepared import find_samples, write_released
from guided_diffusion.diffusion.gaussian_diffusion import create_diffusion
from guided_diffusion.errors import InputError
from guided_diffusion.training.checkpoint import Checkpoint, load_checkpoint
from guided_diffusion.training.extend import FIRST, LAST, LAST_BIAS, RARE, extend_types
from guided_diffusion.training.train_util import TrainLoop

OLD = {"crack": 1, "hole": 2}
NEW = {**OLD, "dent": 3}
CPU = torch.device("cpu")
T = torch.tensor([0, 400, 999])

sizes = pytest.mark.parametrize("size", ["large", "small"])
losses = pytest.mark.parametrize("separate", [False, True], ids=["one_loss", "separate_losses"])
backgrounds = pytest.mark.parametrize("background", [True, False], ids=["background", "no_background"])


def make_config(size: str, label_map: dict[str, int], **changes: Any) -> Config:
    return load_config(tiny_config(size, **{"data.label_map": label_map, "data.resolution": 16, **changes}))


def trained(config: Config, released: bool = False) -> Checkpoint:
    """A checkpoint of weights that predict something; the averaged ones are others."""
    torch.manual_seed(0)
    states = []
    for _ in range(2):
        model = create_model(config)
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.1)
        states.append(model.state_dict())
    return Checkpoint("old.pt", "sha", *states, {"state": {}}, 4, None if released else config, torch.ones(13))


def network(config: Config, state: dict) -> torch.nn.Module:
    model = create_model(config).eval()
    model.load_state_dict(state)
    return model.to(memory_format=torch.channels_last)


@sizes
@losses
@backgrounds
def test_the_grown_network_predicts_what_the_old_one_does(size: str, separate: bool, background: bool) -> None:
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
        for k in range(3, 3 + added):
            assert (p[:, k] / p[:, 0]).sub(RARE).abs().max() < 1e-5 * RARE + 1e-6
        assert p[:, 3:].sum(dim=1).max() <= added * RARE


def test_a_released_checkpoint_knows_the_first_types() -> None:
    old, new = make_config("small", OLD), make_config("small", NEW)
    released, named = (extend_types(trained(old, is_released), new, "new.yml") for is_released in (True, False))
    assert all(torch.equal(released.model[name], value) for name, value in named.model.items())
    foreign = trained(new, released=True)
    del foreign.model["out.2.bias"]
    with pytest.raises(InputError, match=r"old\.pt: not a network of this program, .* out\.2\.bias"):
        extend_types(foreign, new, "new.yml")


@pytest.mark.parametrize(
    ("label_map", "changes", "message"),
    [
        ({"hole": 1, "crack": 2, "dent": 3}, {}, r"is \{crack: 1, hole: 2\}, .* \{hole: 1, crack: 2, dent: 3\}; .*"),
        ({"crack": 1, "dent": 2, "hole": 3}, {}, r".* masks too: \{crack: 1, hole: 2, dent: 3\}$"),
        ({"crack": 1}, {}, r".* \{crack: 1\}; .* masks too: \{crack: 1, hole: 2\}$"),
        (OLD, {}, r"no new type, .* new\.yml .* \{crack: 1, hole: 2\}; .* model\.ckpt, .* --resume$"),
        (NEW, {"data.background": False}, r"data\.background: True against False"),
        (NEW, {"model.num_res_blocks": 2}, r"model\.num_res_blocks: 1 against 2"),
        (NEW, {"diffusion.schedule": "linear"}, r"diffusion\.schedule: cosine against linear"),
        (NEW, {"diffusion.num_timestep": 500}, r"diffusion\.num_timestep: 1000 against 500"),
        (NEW, {"diffusion.parameterization": "eps"}, r"diffusion\.parameterization: x0 against eps"),
        (NEW, {"train.separate_channel_loss": True}, r"train\.separate_channel_loss: False against True"),
    ],
)
def test_what_does_not_fit_is_refused(label_map: dict[str, int], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=r"old\.pt.*" + message):
        extend_types(trained(make_config("large", OLD)), make_config("large", label_map, **changes), "new.yml")


@losses
@backgrounds
def test_the_loss_of_old_types_is_the_old_one_and_what_the_new_channel_adds(separate: bool, background: bool) -> None:
    """One loss: a mean over one channel more, its error 0. Separate: more by log(1 + RARE p(background))."""
    changes = {"train.separate_channel_loss": separate, "data.background": background}
    old, new = make_config("large", OLD, **changes), make_config("large", NEW, **changes)
    checkpoint, n = trained(old), old.layout.num_channels
    images, masks = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8), torch.randint(0, 3, (3, 16, 16))
    noise = torch.randn(3, n + 1, 16, 16)

    def loss(config: Config, state: dict) -> torch.Tensor:
        x_start, own = config.layout.encode(images, masks), noise[:, : config.layout.num_channels]
        with torch.no_grad():
            return create_diffusion(config).training_losses(network(config, state), x_start, T, own, separate)

    before = loss(old, checkpoint.model)["per_sample"]
    after = loss(new, extend_types(checkpoint, new, "new.yml").model)["per_sample"]
    expected = before * n / (n + 1)
    if separate:
        x_t = create_diffusion(old).q_sample(old.layout.encode(images, masks), T, noise[:, :n])
        with torch.no_grad():
            p_background = old.layout.log_softmax(network(old, checkpoint.model)(x_t, T)).exp()[:, 0]
        expected = before + old.train.mask_loss_weight * torch.log1p(RARE * p_background).mean(dim=(1, 2))
    assert after.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


@sizes
@losses
def test_training_moves_the_new_channels(size: str, separate: bool, tmp_path: Path) -> None:
    changes = {"train.separate_channel_loss": separate, "model.dropout": 0.0}
    old, new = make_config(size, OLD, **changes), make_config(size, NEW, **changes)
    grown = extend_types(trained(old), new, "new.yml")
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(rng.integers(0, 256, (3, 16, 16), dtype=np.uint8)) for _ in range(4)]
    masks = [torch.from_numpy(rng.integers(0, 4, (16, 16), dtype=np.uint8)) for _ in range(4)]
    data = DefectDataset(images, masks, list("abcd"), (16, 16))
    loop = TrainLoop(new, str(tmp_path), data, None, CPU, warm_start=grown)
    n = old.layout.num_channels
    new_channels = {FIRST: (slice(None), slice(n, None)), LAST: slice(n, None), LAST_BIAS: slice(n, None)}
    for name in new_channels:
        assert torch.equal(loop.model.state_dict()[name], grown.model[name])
        assert torch.equal(loop.ema.state_dict()[name], grown.ema[name])
    loop.train_step()
    for name, at in new_channels.items():
        moved = (loop.model.state_dict()[name] - grown.model[name]).abs()[at]
        assert moved.min() > 1e-5, name  # Adam's first step is the learning rate, 0.0005 here, for any gradient but 0
        assert (loop.ema.state_dict()[name] - grown.ema[name]).abs()[at].min() > 1e-6, name


# On the command line


@pytest.fixture(scope="module")
def extend(run_script: Callable, demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """extend(size, work, *flags, ...) trains on the demo data; extend.old holds a pair trained on two of its types."""
    old = tmp_path_factory.mktemp("old")
    samples = [s for s in find_samples(str(demo_data)) if (np.asarray(Image.open(s.mask.path)) < 3).all()]
    pairs = ((np.asarray(Image.open(s.image)), np.asarray(Image.open(s.mask.path))) for s in samples)
    names = [f"{s.folder}/{Path(s.image).stem}" for s in samples]
    write_released(str(old / "data"), names, pairs, {"scratch": 1, "stain": 2}, {})

    def train(size: str, work: Path, *flags: object, data: Path = demo_data, prelude: str = "", status: int = 0) -> str:
        arguments = ["--config", old / f"{size}.yml", "--data_dir", data, "--work_dir", work]
        result = run_script("train.py", *arguments, *flags, prelude=QUICK + prelude)
        assert result.returncode == status, result.stderr
        return result.stdout

    for size in ("large", "small"):
        (old / f"{size}.yml").write_text(yaml.safe_dump(tiny_config(size, **{"data.resolution": 16})))
        train(size, old / size, data=old / "data")
    train.old = old
    return train


def test_a_pair_learns_a_third_type_and_generates(extend: Callable, run_script: Callable, tmp_path: Path) -> None:
    for size in ("large", "small"):
        old, new = extend.old / size, tmp_path / size / "checkpoint" / "diffusion_000004.pt"
        before, line = tree(old), f"starting from {old}/checkpoint/diffusion_000004.pt"
        assert line in extend(size, tmp_path / size, "--dry_run", "--extend_types", old)
        assert not (tmp_path / size).exists()
        printed = extend(size, tmp_path / size, "--extend_types", old)
        assert line in printed and "scratch, stain, pit" in printed and tree(old) == before
        checkpoint = load_checkpoint(str(new), "-")
        assert checkpoint.step == 4 and checkpoint.config.layout.class_names == ("scratch", "stain", "pit")
        assert checkpoint.model[FIRST][:, 6].abs().mean() > 1e-4 and checkpoint.model[LAST][6].abs().mean() > 1e-4
    # so that masks hold the new type, which four steps do not achieve
    content = torch.load(new)
    content["ema"][LAST_BIAS][6] += 9
    torch.save(content, new)
    pair = ("--large_recep", tmp_path / "large", "--small_recep", tmp_path / "small", "--sample_dir", tmp_path / "out")
    result = run_script("inference.py", *pair, "--num_samples", 2, "--num_steps", 4)
    assert result.returncode == 0, result.stderr
    for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["settings"]["class_names"] == ["scratch", "stain", "pit"] and row["types"]["pit"] > 0
        assert np.asarray(Image.open(tmp_path / "out" / row["index_mask"])).max() == 3


def test_an_interrupted_extension_goes_on_by_the_same_command(extend: Callable, tmp_path: Path) -> None:
    flags = ("--extend_types", extend.old / "large" / "checkpoint" / "diffusion_000002.pt")
    extend("large", tmp_path / "whole", *flags)
    kill = interrupt("train_util.TrainLoop.train_step", "args[0].step == 3")
    extend("large", tmp_path / "work", *flags, prelude=kill, status=-signal.SIGKILL)
    assert "going on from" in extend("large", tmp_path / "work", "--extend_types", tmp_path / "gone")
    assert_same_training(tmp_path / "work", tmp_path / "whole")
