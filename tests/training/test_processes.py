"""Several processes, under torchrun and mpiexec, change neither a training nor the samples."""

import json
import signal
from functools import cache

import pytest
import yaml
from command_line import ROOT, launch
from conftest import tiny_config
from runs import QUICK, assert_same_training, interrupt, little_memory, sample_differences, tree

# Writes down what each rank saw, held and wrote.
PROBE = """
import hashlib, json, os
from guided_diffusion import dist_util
from guided_diffusion.data.image_datasets import DefectDataset
from guided_diffusion.training.train_util import TrainLoop

seen, replaced, batch, run, replace = [], [], DefectDataset.batch, TrainLoop.run, os.replace

def reporting_run(loop):
    status, own = run(loop), {"step": loop.step, "seen": seen, "replaced": replaced}
    for key in ("model", "ema"):
        weights = b"".join(p.numpy().tobytes() for p in getattr(loop, key).state_dict().values())
        own[key] = hashlib.sha256(weights).hexdigest()
    json.dump(own, open(f"REPORT.{dist_util.rank()}", "w"))
    return status

DefectDataset.batch = lambda self, indices, *rest: seen.append(indices.tolist()) or batch(self, indices, *rest)
os.replace = lambda source, target: replaced.append(target) or replace(source, target)
TrainLoop.run = reporting_run
"""
STEPS, BATCH, IMAGES = 4, 3, 12  # two processes see every image once in two steps


def test_trained_stopped_and_resumed(demo_data, tmp_path):
    """Ranks agree and share no image, rank 0 writes; stopped by a signal to one and resumed, nothing changes."""
    # A log line only at the end, so that its means reach across saves.
    changes = {"train.iterations": STEPS, "train.eval_interval": STEPS, "data.bs_per_gpu": BATCH}
    (tmp_path / "config.yml").write_text(yaml.safe_dump(tiny_config("large", **{"data.resolution": 16, **changes})))

    def train(kind, work_dir, prelude="", status=0):
        prelude = QUICK + PROBE.replace("REPORT", str(tmp_path / "report")) + prelude
        paths = ("--config", tmp_path / "config.yml", "--data_dir", demo_data, "--work_dir", tmp_path / work_dir)
        result = launch(kind, ROOT / "scripts" / "train.py", *paths, prelude=prelude)
        assert result.returncode == status, result.stdout + result.stderr
        ranks = [json.loads((tmp_path / f"report.{rank}").read_text()) for rank in (0, 1)]
        assert all(ranks[0][key] == ranks[1][key] for key in ("step", "model", "ema"))
        return result.stdout, ranks

    printed, ranks = train("torchrun", "whole")
    assert printed.count("12 images") == 1 and "2 process(es)" in printed  # one rank speaks
    assert ranks[0]["model"] != ranks[0]["ema"] and ranks[0]["replaced"] and not ranks[1]["replaced"]
    assert [[len(batch) for batch in rank["seen"]] for rank in ranks] == [[BATCH] * STEPS] * 2
    epochs = [sum((sum(rank["seen"][start : start + 2], []) for rank in ranks), []) for start in (0, 2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(IMAGES))] * 2 and epochs[0] != epochs[1]

    here = "dist_util.rank() == 1 and args[0].step == 3"
    stop = interrupt("train_util.TrainLoop._update_ema", here, action="os.kill(os.getpid(), signal.SIGTERM)")
    printed, stopped = train("mpiexec", "resumed", stop, status=128 + signal.SIGTERM)
    assert "stopped after step 3, saved" in printed and stopped[0]["step"] == 3
    _, resumed = train("torchrun", "resumed")
    assert all(resumed[1][key] == ranks[1][key] for key in ("model", "ema")) and len(resumed[0]["seen"]) == 1
    for added in (tmp_path / "resumed" / "checkpoint").glob("diffusion_000003.*"):  # by the stop
        added.unlink()
    assert_same_training(tmp_path / "resumed", tmp_path / "whole", rel=1e-5)


@pytest.fixture(scope="module")
def make_samples(run_script, trained_pair, tmp_path_factory):
    """make_samples(batch_size, kind="", prelude="") -> folder of 10 samples, output. ddpm draws at each step."""
    given = ("--large_recep", trained_pair.large, "--small_recep", trained_pair.small, "--sampler", "ddpm")
    given += ("--num_samples", 10, "--num_steps", 6, "--seed", 7, "--precision", "fp32")

    @cache
    def make(batch_size, kind="", prelude=""):
        folder = tmp_path_factory.mktemp("samples")
        command = (*given, "--sample_dir", folder, "--batch_size", batch_size)
        script = ROOT / "scripts" / "inference.py"
        result = launch(kind, script, *command, prelude=prelude) if kind else run_script(script.name, *command)
        assert result.returncode == 0, result.stdout + result.stderr
        return folder, result.stdout

    return make


SMALL_SECOND = little_memory(2, "dist_util.rank() == 1")


@pytest.mark.parametrize(
    ("kind", "batch_size", "prelude"),
    [("torchrun", 4, ""), ("mpiexec", 1, ""), ("torchrun", 4, SMALL_SECOND)],
)
def test_two_processes_make_the_same_samples(kind, batch_size, prelude, make_samples):
    """Rounds of 4 and 1 samples on each; one with less memory makes the first in two batches."""
    folder, printed = make_samples(batch_size, kind, prelude)
    levels, pixels = sample_differences(folder, make_samples(10)[0])
    assert levels <= 2 and pixels <= 0.001
    assert printed.count("out of memory with 4 images at a time; going on with 2") == bool(prelude)
    if batch_size == 1:  # then all processes see batches of one shape
        assert tree(folder) == tree(make_samples(1)[0])
