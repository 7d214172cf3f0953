"""What the host does beside a GPU: it compiles once, and does not read what the device computes. Checked on the CPU."""

import sys
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from benchmarks.released import random_data
from conftest import make_config, save_untrained
from torch import Tensor
from torch._dynamo.utils import counters

from guided_diffusion import DefectGen
from guided_diffusion.data.image_files import View
from guided_diffusion.training.train_util import TrainLoop

TINY = {"data.resolution": 8, "model.channel_mult": [1], "model.dropout": 0.1}
PLAIN = {"model.class_cond": False}
CONDITIONS = {"train.known_share": 0.7, "train.separate_channel_loss": True, "model.augment": 0.5}
READS = ("item", "tolist", "nonzero", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")
MASKS = np.pad(np.arange(1, 4, dtype=np.uint8).reshape(3, 1, 1).repeat(5, 1).repeat(9, 2), ((0, 0), (4, 3), (3, 8)))
CANVAS = {"num_steps": 4, "image_size": (12, 20)}


def make_loop(size, **changes):
    config = make_config(size, **TINY, **changes)
    return TrainLoop(config, "", random_data(config), None, torch.device("cpu"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return [str(save_untrained(folder / size, size, **TINY)) for size in ("large", "small")]


@pytest.fixture
def strict(monkeypatch):
    """Compiling raises at a graph break and, within strict(), where something is compiled again."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))
    return partial(torch._dynamo.config.patch, error_on_recompile=True)


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
    with strict():
        for _ in range(3):
            loop.train_step()
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


@pytest.mark.parametrize(
    ("options", "given", "at_once", "precision"),
    [
        ({"windows": "on", "guidance_scale": 2.0}, {"masks": MASKS}, 2, "bf16"),
        ({"windows": "off", "defects": "balanced"}, {}, 1, "fp32"),
    ],
)
def test_a_generation_is_compiled_once_and_whole(pair, options, given, at_once, precision, strict, monkeypatch):
    """A last batch that is smaller is not compiled."""
    place = DefectGen._windows
    monkeypatch.setattr(DefectGen, "_windows", lambda *args: (place(*args)[0], at_once))
    generator = DefectGen.load(*pair, device="cpu", precision=precision)
    plain = generator.generate(5, batch_size=2, **CANVAS, **options, **given)
    generator.compile(2, generator.settings(**CANVAS, **options))
    with strict():
        fast = generator.generate(5, batch_size=2, **CANVAS, **options, **given)
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
    loop.draw_batch()  # what each image shows is read once, and where, in its first crop
    for number in range(3 * len(loop.data)):
        loop.data._marked(number // 3, 1 + number % 3)
    reads.clear()
    loop.train_step()
    assert reads == {("draw_known", "__int__"): 1}  # the margin, drawn on the host


def test_a_generation_round_reads_its_end_from_the_device(pair, reads, tmp_path):
    generator = DefectGen.load(*pair, device="cpu", precision="fp32")
    settings = generator.settings(**CANVAS, windows="on", sampler="ddpm", defects="balanced")
    reads.clear()
    generator.generate_into(str(tmp_path), 4, settings, batch_size=2)
    assert reads == {("_generate_batch", "__bool__"): 2, ("decode", "cpu"): 2, ("decode", "numpy"): 2}  # of 2 rounds
