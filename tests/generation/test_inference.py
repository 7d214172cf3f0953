"""inference.py while it runs: too little memory, folders that grow, compilation."""

import json
import re

import pytest
from runs import GPU_MEMORY, little_memory, sample_differences, tree


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


@pytest.mark.parametrize(
    ("flags", "limit", "which", "error", "halved", "steps"),
    [
        ((), 2, "t[0] < 400", GPU_MEMORY, [("4", "2")], "34/34"),  # the four in vain of the large network too
        (("--batch_size", "auto"), 1, "True", "MemoryError", [("10", "5"), ("5", "2"), ("2", "1")], "60/60"),
        (("--compile", "on"), 2, "True", "MemoryError", [("4", "2")], "30/30"),  # done without its compiler
    ],
)
def test_too_little_memory_ends_in_images(generate, tmp_path, flags, limit, which, error, halved, steps):
    generate(tmp_path / "small", "--batch_size", limit)
    prelude = little_memory(limit, which, error)
    prelude += "torch.compile = lambda network, **how: network"
    result = generate(tmp_path / "halved", *flags, prelude=prelude)
    assert re.findall("out of memory with (.*) images at a time; going on with (.*)", result.stdout) == halved
    assert re.findall(r"\d+/\d+", result.stderr)[-1] == steps  # where the progress bar ended
    assert tree(tmp_path / "halved") == tree(tmp_path / "small")


def test_an_image_that_does_not_fit_is_one_line(generate, tmp_path):
    result = generate(tmp_path, prelude=little_memory(0), status=2)
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: --image_size 32 32: not even one image at a time fits")
    assert "--precision bf16" in line and tree(tmp_path) == {}


def test_a_folder_grows_whatever_the_batch_size_and_keeps_its_precision(generate, tmp_path):
    generate(tmp_path, "--num_samples", 3, "--batch_size", 3, "--precision", "bf16")
    assert "3 of 10 samples are there already" in generate(tmp_path, "--precision", "auto").stdout
    rows = [json.loads(line) for line in (tmp_path / "manifest.jsonl").open()]
    assert [row["index"] for row in rows] == list(range(10)) and rows[0]["settings"] == rows[9]["settings"]
    assert rows[9]["settings"]["precision"] == "bf16" and rows[0]["settings"]["num_steps"] == [4, 2]


def test_compiled_networks_make_the_same_samples(generate, tmp_path):
    """Ten samples four at a time: two batches go through what torch.compile returns, the last one does not."""
    count = """
import torch
torch.compile = lambda network, **how: lambda x, t: print("compiled batch of", len(x)) or network(x, t)
"""
    generate(tmp_path / "plain")
    result = generate(tmp_path / "fast", "--compile", "on", prelude=count)
    trials, steps = 2, 12  # one of each network, then six of both batches
    assert re.findall(r"compiled batch of (\d+)", result.stdout) == ["4"] * (trials + steps)
    assert sample_differences(tmp_path / "fast", tmp_path / "plain") == (0, 0.0)
