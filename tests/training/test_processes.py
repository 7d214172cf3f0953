"""Several processes, batch sizes and interruptions change neither a training nor the samples.

The real command line under torchrun and mpiexec, on the CPU.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from command_line import launch
from conftest import TrainedPair, tiny_config
from runs import QUICK, assert_same_training, before_replacing, interrupt, sample_differences, tree

# Runs a script as `python` would, and writes down what each rank saw, held and wrote. `stop` is "rank:step":
# that rank alone gets a SIGTERM in that step.
PROBE = """
import hashlib, json, os, runpy, signal, sys
from guided_diffusion import dist_util
from guided_diffusion.training import train_util
from guided_diffusion.data.image_datasets import DefectDataset

report, stop, *sys.argv = sys.argv[1:]
seen, replaced = [], []
batch, run, update_ema, replace = (
    DefectDataset.batch, train_util.TrainLoop.run, train_util.TrainLoop._update_ema, os.replace
)

def noting_batch(self, indices, *arguments):
    seen.append(indices.tolist())
    return batch(self, indices, *arguments)

def stopping_update_ema(loop):
    if stop == f"{dist_util.rank()}:{loop.step}":
        os.kill(os.getpid(), signal.SIGTERM)
    update_ema(loop)

def noting_replace(source, target):
    replaced.append(target)
    replace(source, target)

def digest(model):
    return hashlib.sha256(b"".join(p.numpy().tobytes() for p in model.state_dict().values())).hexdigest()

def reporting_run(loop):
    status = run(loop)
    own = {"step": loop.step, "model": digest(loop.model), "ema": digest(loop.ema), "seen": seen, "replaced": replaced}
    ranks = dist_util.gather_to_zero(own)
    if ranks:
        json.dump(ranks, open(report, "w"))
    return status

DefectDataset.batch, train_util.TrainLoop.run = noting_batch, reporting_run
train_util.TrainLoop._update_ema, os.replace = stopping_update_ema, noting_replace
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
STEPS, BATCH, IMAGES = 4, 3, 12  # two processes see every image once in two steps


# Training


class Training:
    """train.py by two processes, under the probe."""

    def __init__(self, folder: Path, data: Path, repo: Path):
        self.folder, self.data, self.script = folder, data, repo / "scripts" / "train.py"
        self.probe, self.config = folder / "probe.py", folder / "config.yml"
        self.probe.write_text(QUICK + PROBE)
        # A log line only at the end, so that its means reach across saves.
        changes = {"train.iterations": STEPS, "train.eval_interval": STEPS, "data.bs_per_gpu": BATCH}
        self.config.write_text(yaml.safe_dump(tiny_config("large", **{"data.resolution": 16, **changes})))

    def __call__(self, kind: str, name: str, stop: str = "never") -> tuple[subprocess.CompletedProcess, list[dict]]:
        """Train in <folder>/<name>; returns the result and the report of each rank."""
        report = self.folder / "report.json"
        report.unlink(missing_ok=True)
        paths = ("--config", self.config, "--data_dir", self.data, "--work_dir", self.folder / name)
        result = launch(kind, self.probe, report, stop, self.script, *paths)
        assert report.exists(), result.stdout + result.stderr
        return result, json.loads(report.read_text())


@pytest.fixture(scope="module")
def training(demo_data: Path, repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(tmp_path_factory.mktemp("processes"), demo_data, repo)


@pytest.fixture(scope="module")
def with_torchrun(training: Training) -> list[dict]:
    """Reports of an uninterrupted training in <folder>/torchrun."""
    result, ranks = training("torchrun", "torchrun")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("12 images") == 1 and "2 process(es)" in result.stdout  # one rank speaks
    return ranks


def test_ranks_agree_share_no_image_and_only_rank_0_writes(with_torchrun: list[dict]) -> None:
    first, second = with_torchrun
    for key in ("step", "model", "ema"):
        assert first[key] == second[key]
    assert first["model"] != first["ema"] and first["replaced"] and not second["replaced"]
    assert [[len(batch) for batch in rank["seen"]] for rank in with_torchrun] == [[BATCH] * STEPS] * 2
    epochs = [sum((sum(rank["seen"][start : start + 2], []) for rank in with_torchrun), []) for start in (0, 2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(IMAGES))] * 2 and epochs[0] != epochs[1]


def test_stopped_under_mpi_and_resumed_with_torchrun(training: Training, with_torchrun: list[dict]) -> None:
    """A signal to one rank stops both after the same step; what follows equals an uninterrupted run."""
    result, ranks = training("mpiexec", "resumed", stop="1:3")
    assert result.returncode == 128 + signal.SIGTERM, result.stdout + result.stderr
    assert "stopped after step 3, saved" in result.stdout
    assert [rank["step"] for rank in ranks] == [3, 3]
    assert ranks[0]["model"] == ranks[1]["model"] and ranks[0]["ema"] == ranks[1]["ema"]

    result, ranks = training("torchrun", "resumed")
    assert result.returncode == 0, result.stdout + result.stderr
    assert ranks[1]["model"] == with_torchrun[1]["model"] and ranks[1]["ema"] == with_torchrun[1]["ema"]
    (training.folder / "resumed" / "checkpoint" / "diffusion_000003.pt").unlink()  # what the stop added
    assert_same_training(training.folder / "resumed", training.folder / "torchrun")


FP32 = ("--precision", "fp32")  # "auto" could choose differently from run to run

# Generating. ddpm, because it draws noise at every step.


def arguments(pair: TrainedPair, folder: Path, num_samples: int, batch_size: int) -> list[str]:
    paths = ("--large_recep", pair.large, "--small_recep", pair.small, "--sample_dir", folder)
    counts = ("--num_samples", num_samples, "--batch_size", batch_size)
    return list(map(str, (*paths, *counts, "--sampler", "ddpm", "--num_steps", 6, "--seed", 7, *FP32)))


@pytest.fixture(scope="module")
def samples(run_script: Callable, trained_pair: TrainedPair, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """samples(batch_size): the folder of 10 samples, made once by one process."""
    folder = tmp_path_factory.mktemp("samples")

    def made(batch_size: int) -> Path:
        place = folder / f"batch_{batch_size}"
        if not place.exists():
            result = run_script("inference.py", *arguments(trained_pair, place, 10, batch_size))
            assert result.returncode == 0, result.stderr
        return place

    return made


@pytest.mark.parametrize("batch_size", [1, 10])
def test_batch_size_does_not_change_samples(batch_size: int, samples: Callable) -> None:
    levels, pixels = sample_differences(samples(batch_size), samples(4))
    assert levels <= 2 and pixels <= 0.001


def test_the_same_command_writes_the_same_bytes(
    samples: Callable, run_script: Callable, trained_pair: TrainedPair, tmp_path: Path
) -> None:
    assert run_script("inference.py", *arguments(trained_pair, tmp_path, 10, 4)).returncode == 0
    assert tree(tmp_path) == tree(samples(4))


@pytest.mark.parametrize(("kind", "batch_size"), [("torchrun", 4), ("mpiexec", 1)])
def test_two_processes_make_the_same_samples(
    kind: str, batch_size: int, samples: Callable, trained_pair: TrainedPair, repo: Path, tmp_path: Path
) -> None:
    result = launch(kind, repo / "scripts" / "inference.py", *arguments(trained_pair, tmp_path, 10, batch_size))
    assert result.returncode == 0, result.stdout + result.stderr
    levels, pixels = sample_differences(tmp_path, samples(10))
    assert levels <= 2 and pixels <= 0.001
    if batch_size == 1:  # then all processes see batches of one shape
        assert tree(tmp_path) == tree(samples(1))


# Runs a script as `python` would, but the second process has memory for two images only.
SMALL_SECOND = """
import os, runpy, sys
import torch
from guided_diffusion import dist_util
from guided_diffusion.networks.unet import UNet
forward = UNet.forward

def limited(self, x, t):
    if len(x) > 2 and dist_util.rank() == 1:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return forward(self, x, t)

UNet.forward = limited
del sys.argv[0]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_process_with_less_memory_keeps_step_with_the_others(
    samples: Callable, trained_pair: TrainedPair, repo: Path, tmp_path: Path
) -> None:
    """Rounds of 4 and 1 samples on each process, of which the second makes the first in two batches."""
    (tmp_path / "probe.py").write_text(SMALL_SECOND)
    command = arguments(trained_pair, tmp_path / "samples", 10, 4)
    result = launch("torchrun", tmp_path / "probe.py", repo / "scripts" / "inference.py", *command)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("out of memory with 4 images at a time; going on with 2") == 1
    levels, pixels = sample_differences(tmp_path / "samples", samples(10))
    assert levels <= 2 and pixels <= 0.001


@pytest.mark.parametrize(
    "moment",
    [
        interrupt("sample_io.SampleFolder._write_sample", "args[1] == 5"),
        interrupt("sample_io.SampleFolder._write", "args[1].endswith('/masks/000004.png')"),
        before_replacing("/images/000004.png"),
        interrupt("sample_io.SampleFolder._write_manifest", "len(args[0]._lines) == 8"),
        interrupt("sample_io.SampleFolder._write_manifest", "len(args[0]._lines) == 8", before=False),
        before_replacing("/contact_sheet.png"),
    ],
    ids=["between samples", "within one", "within a file", "before the manifest", "after it", "within the sheet"],
)
def test_cut_off_and_continued(
    moment: str, samples: Callable, run_script: Callable, trained_pair: TrainedPair, tmp_path: Path
) -> None:
    command = ("inference.py", *arguments(trained_pair, tmp_path / "samples", 10, 4))
    assert run_script(*command, prelude=moment).returncode == -signal.SIGKILL
    assert tree(tmp_path / "samples") != tree(samples(4))
    result = run_script(*command)
    assert result.returncode == 0, result.stderr
    assert tree(tmp_path / "samples") == tree(samples(4))
