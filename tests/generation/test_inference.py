"""inference.py while it runs: too little memory, folders that grow, compilation."""

import json
import re

import pytest
from runs import sample_differences, tree

# Calls of a network with more than `limit` images raise `error`, where the expression `which` is true.
LITTLE_MEMORY = """
import torch
from guided_diffusion.networks.unet import UNet
forward = UNet.forward

def limited(self, x, t):
    if len(x) > {limit} and {which}:
        raise {error}
    return forward(self, x, t)

UNet.forward = limited
"""

GPU_MEMORY = 'torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")'


@pytest.fixture
def generate(run_script, trained_pair):
    """generate(folder, *flags, prelude="", status=0): ten samples in six steps, four of them of the large network."""

    def run(folder, *flags, prelude="", status=0):
        paths = ("--large_recep", trained_pair.large, "--small_recep", trained_pair.small, "--sample_dir", folder)
        fixed = ("--num_samples", 10, "--num_steps", "4+2", "--precision", "fp32", "--batch_size", 4)
        result = run_script("inference.py", *paths, *fixed, *flags, prelude=prelude)
        assert result.returncode == status and "Traceback" not in result.stderr, result.stderr
        return result

    return run


def rows_of(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def last_line(result):
    return result.stderr.splitlines()[-1]


def steps_shown(result):
    """Where the progress bar ended, such as "30/30"."""
    return re.findall(r"\d+/\d+", result.stderr)[-1]


@pytest.mark.parametrize(
    ("batch_size", "limit", "which", "error", "halved", "steps"),
    [
        (4, 2, "t[0] < 400", GPU_MEMORY, [("4", "2")], "34/34"),  # the four in vain of the large network too
        ("auto", 1, "True", "MemoryError", [("10", "5"), ("5", "2"), ("2", "1")], "60/60"),
    ],
)
def test_too_little_memory_ends_in_images(generate, tmp_path, batch_size, limit, which, error, halved, steps):
    generate(tmp_path / "small", "--batch_size", limit)
    prelude = LITTLE_MEMORY.format(limit=limit, which=which, error=error)
    result = generate(tmp_path / "halved", "--batch_size", batch_size, prelude=prelude)
    assert re.findall("out of memory with (.*) images at a time; going on with (.*)", result.stdout) == halved
    assert steps_shown(result) == steps and tree(tmp_path / "halved") == tree(tmp_path / "small")


def test_an_image_that_does_not_fit_is_one_line(generate, tmp_path):
    result = generate(tmp_path, prelude=LITTLE_MEMORY.format(limit=0, which=True, error=GPU_MEMORY), status=2)
    assert last_line(result).startswith("error: --image_size 32 32: not even one image at a time fits")
    assert "--precision bf16" in last_line(result) and tree(tmp_path) == {}


def test_a_folder_grows_whatever_the_batch_size_and_keeps_its_precision(generate, tmp_path):
    generate(tmp_path, "--num_samples", 3, "--batch_size", 3, "--precision", "bf16")
    assert "3 of 10 samples are there already" in generate(tmp_path, "--precision", "auto").stdout
    rows = rows_of(tmp_path)
    assert [row["index"] for row in rows] == list(range(10)) and rows[0]["settings"] == rows[9]["settings"]
    assert rows[9]["settings"]["precision"] == "bf16" and rows[0]["settings"]["num_steps"] == [4, 2]


def test_compiled_networks_make_the_same_samples(generate, tmp_path):
    """Ten samples four at a time: two batches go through what torch.compile returns, the last one does not."""
    count = """
import torch
torch.compile = lambda network: lambda x, t: print("compiled batch of", len(x)) or network(x, t)
"""
    generate(tmp_path / "plain")
    result = generate(tmp_path / "fast", "--compile", "on", prelude=count)
    trials, steps = 2, 12  # one of each network, then six of both batches
    assert re.findall(r"compiled batch of (\d+)", result.stdout) == ["4"] * (trials + steps)
    assert sample_differences(tmp_path / "fast", tmp_path / "plain") == (0, 0.0)


def test_a_compiler_that_lacks_memory_is_done_without(generate, tmp_path):
    limited = LITTLE_MEMORY.format(limit=2, which=True, error="MemoryError")
    generate(tmp_path, "--compile", "on", prelude=limited + "torch.compile = lambda network: network")
    assert len(rows_of(tmp_path)) == 10
