"""What the host does beside a GPU: it compiles once, and does not read what the device computes. Checked on the CPU."""

import sys
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from told import make_config, save_untrained
from torch import Tensor
from torch._dynamo.utils import counters

from guided_diffusion import DefectGen
from guided_diffusion.benchmark import random_data
from guided_diffusion.data.image_files import View
from guided_diffusion.generation import api
from guided_diffusion.training.train_util import TrainLoop

PLAIN = {"model.class_cond": False}
CONDITIONS = {"train.known_share": 0.7, "train.separate_channel_loss": True, "model.augment": 0.5}
READS = ("item", "tolist", "nonzero", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")


def make_loop(size, **changes):
    config = make_config(size, **{"data.resolution": 8, "model.dropout": 0.1, **changes})
    return TrainLoop(config, "", random_data(config), None, torch.device("cpu"))


@pytest.fixture
def strict(monkeypatch):
    """Compiling raises at a graph break, and when something is compiled again."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield


@pytest.mark.parametrize(
    ("size", "changes"),
    [
        ("large", PLAIN),
        ("small", PLAIN),
        ("large", {}),  # told types
        ("small", {"train.known_share": 0.7}),
        ("large", {"train.separate_channel_loss": True}),
        ("small", {"train.activation_checkpointing": True}),
        ("large", {"train.micro_batch": 2, **CONDITIONS}),
        ("small", {"train.precision": "bf16", **CONDITIONS}),
    ],
)
def test_a_training_is_compiled_once_and_whole(size, changes, strict):
    loop = make_loop(size, **{"train.compile": "on", **changes})
    for _ in range(3):
        loop.train_step()
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return [str(save_untrained(folder / size, size, **{"data.resolution": 8})) for size in ("large", "small")]


def some_masks():
    masks = np.zeros((3, 12, 20), np.uint8)
    masks[:, 4:9, 3:12] = [[[1]], [[2]], [[3]]]
    return masks


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "options",
    [
        {"windows": "on", "masks": some_masks(), "guidance_scale": 2.0},
        {"windows": "off", "defects": "balanced", "guidance_scale": 1.5},
    ],
)
def test_a_generation_is_compiled_once_and_whole(pair, options, precision, strict, monkeypatch):
    """Windows two at a time, and a last batch that is smaller, which is not compiled."""
    monkeypatch.setattr(api, "windows_at_once", lambda network, settings, *_: 1 + (settings.windows == "on"))
    generator = DefectGen.load(*pair, device="cpu", precision=precision)
    options = {"num_steps": 4, "image_size": (12, 20), **options}
    plain = generator.generate(5, batch_size=2, **options)
    settings = generator.settings(**{key: value for key, value in options.items() if key != "masks"})
    settings = replace(settings, defects=settings.defects or ("none",))
    generator.compile(2, settings)
    fast = generator.generate(5, batch_size=2, **options)
    assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"]
    assert np.abs(plain.images.astype(int) - fast.images).max() <= 1


@pytest.fixture
def reads(monkeypatch):
    """Counts what waits for a device where a tensor lies on one, by function and method."""
    found = Counter()

    def counted(original):
        def read(self, *args, **options):
            found[sys._getframe(1).f_code.co_name, original.__name__] += 1
            return original(self, *args, **options)

        return read

    for name in READS:
        monkeypatch.setattr(Tensor, name, counted(getattr(Tensor, name)))
    return found


def test_a_training_step_reads_nothing_from_the_device(reads):
    loop = make_loop("large", **{"train.micro_batch": 2, "data.flip": "both", "optimizer.grad_clip": 1.0, **CONDITIONS})
    loop.data.view = View((6, 6), True, (), 0.9)
    loop.config = replace(loop.config, data=replace(loop.config.data, resolution=(6, 6)))
    for _ in range(30):  # until each image was read once: where each type is, is kept
        loop.draw_batch()
        loop.step += 1
    reads.clear()
    loop.train_step()
    assert reads == {("draw_known", "__int__"): 1}  # the margin, drawn on the host


def test_a_generation_round_reads_its_end_from_the_device(pair, reads, tmp_path):
    generator = DefectGen.load(*pair, device="cpu", precision="fp32")
    settings = generator.settings(num_steps=4, image_size=(12, 20), windows="on", sampler="ddpm", defects="balanced")
    reads.clear()
    generator.generate_into(str(tmp_path), 4, settings, batch_size=2)
    once = {("_generate_batch", "__bool__"): 2, ("decode", "cpu"): 2, ("decode", "numpy"): 2}
    assert reads == once  # per round: is it a number, and the pixels
