"""The comparison of precisions, on tiny networks."""

import json

import pytest
import yaml
from conftest import tiny_config
from PIL import Image


@pytest.fixture
def arguments(demo_data, tmp_path):
    config = tmp_path / "tiny.yml"
    config.write_text(yaml.safe_dump(tiny_config("small", **{"model.model_channels": 16, "model.norm_groups": 4})))
    out = tmp_path / "out"
    return ["--config", config, "--data_dir", demo_data, "--out", out, "--num_steps", 10, "--seeds", "0,1"], out


def test_runs_of_a_seed_start_alike_and_are_kept(run_script, arguments):
    command, out = arguments
    result = run_script("compare_precision.py", *command)
    assert result.returncode == 0, result.stderr
    curves = json.loads((out / "curves.json").read_text())
    assert sorted(curves) == ["bf16 0", "bf16 1", "fp32 0", "fp32 1"] and {len(c) for c in curves.values()} == {10}
    for seed in (0, 1):  # the same images, timesteps and noise: only rounding differs at step 1
        assert curves[f"bf16 {seed}"][0] == pytest.approx(curves[f"fp32 {seed}"][0], rel=0.02)
    assert curves["fp32 0"][0] != curves["fp32 1"][0]
    ends = {name: sum(curve[-2:]) / 2 for name, curve in curves.items()}
    assert f"seed 1: fp32 {ends['fp32 1']:.5f}, bf16 {ends['bf16 1']:.5f}" in result.stdout
    largest = max(abs(ends[f"bf16 {s}"] - ends[f"fp32 {s}"]) for s in (0, 1))
    spread = abs(ends["fp32 0"] - ends["fp32 1"])
    words = "NOT within" if largest > spread else "within"
    assert f"one seed {largest:.5f}, spread of the seeds in fp32 {spread:.5f}: {words} the spread" in result.stdout
    assert Image.open(out / "curves.png").size == (990, 550)
    curves["fp32 0"] = [1.0] * 10  # a run that is there is not made again
    (out / "curves.json").write_text(json.dumps(curves))
    assert "seed 0: fp32 1.00000" in run_script("compare_precision.py", *command).stdout


@pytest.mark.parametrize("flag, value", [("--seeds", "a"), ("--num_steps", "3")])
def test_bad_flags_are_one_line(run_script, arguments, flag, value):
    result = run_script("compare_precision.py", *arguments[0], flag, value)
    assert result.returncode == 2 and result.stderr.startswith(f"error: {flag} {value}: ")
    assert not arguments[1].exists()
