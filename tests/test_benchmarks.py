"""The benchmark: its baseline computes what ours does, its clock finds planted ratios, its command writes JSON."""

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.released import ReleasedTraining, Variant, compare, random_data, random_model, released_forward
from conftest import tiny_config

from guided_diffusion import load_config
from guided_diffusion.config import Config

CPU = torch.device("cpu")


def network_config(size: str, **changes: Any) -> Config:
    plain = {"data.resolution": 16, "model.channel_mult": [1, 2], "model.norm_groups": 8, "model.dropout": 0.0}
    return load_config(tiny_config(size, **plain, **changes), 3)


@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize("size", ["large", "small"])
def test_the_released_forward_computes_what_the_network_does(size: str, scale_shift: bool) -> None:
    torch.manual_seed(0)
    attention = {"model.attention_downsample": [2]} if size == "large" else {}
    config = network_config(size, **attention, **{"model.use_scale_shift_norm": scale_shift})
    model = random_model(config, CPU).eval()
    x, t = torch.randn(3, config.model.in_channels, 16, 16), torch.tensor([0, 400, 999])
    with torch.no_grad():
        expected, ours = model(x, t), released_forward(model, x, t)
    assert expected.std() > 0 and (ours - expected).norm() < 1e-5 * expected.norm()


def test_an_update_equals_one_of_torch_optim() -> None:
    torch.manual_seed(0)
    config = network_config("large", **{"optimizer.warmup": 0, "optimizer.grad_clip": 0.1})
    training = ReleasedTraining(config, random_model(config, CPU), random_data(config), CPU)
    model, before = copy.deepcopy(training.model), copy.deepcopy(training.ema)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001, weight_decay=0.002)
    x_start = torch.rand(4, config.model.in_channels, 16, 16)
    t, noise = torch.tensor([0, 300, 700, 999]), torch.randn(x_start.shape)
    loss = training.diffusion.training_losses(model, x_start, t, noise)["loss"]
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    assert training.update(x_start, t, noise) == pytest.approx(loss.item(), rel=1e-5)
    each = (network.parameters() for network in (training.model, model, training.ema, before))
    for ours, theirs, ema, old in zip(*each, strict=True):
        moved = (theirs - old).norm()
        assert (ours - theirs).norm() < 0.01 * moved
        assert torch.allclose(ema, old + (1 - 2 / 11) * (ours - old), atol=1e-6)  # decay (1 + 1) / (10 + 1)


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Variant]:
    """step(name, seconds): takes `seconds` of a clock that nothing else moves; or, with fits=False, fails."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def make(name: str, seconds: float, fits: bool = True) -> Variant:
        def build(batch: int) -> Callable[[], None]:
            if not fits:
                raise RuntimeError("CUDA out of memory")
            return lambda: now.append(now.pop() + seconds)

        return Variant(name, build, flops=1e6, precision="fp32")

    return make


def test_ratios_of_planted_timings_and_no_round_when_the_time_is_out(step: Callable[..., Variant]) -> None:
    told: dict[str, list[dict[str, Any]]] = {}
    variants = [step("slow", 0.04), step("fast", 0.01), step("none", 1, fits=False)]
    compare(variants, CPU, {"fp32": 1e9}, told.__setitem__, batch=2, rounds=3)
    slow, fast = told["times"]
    assert [slow["ratio"], *(fast[key] for key in ("from", "ratio", "to"))] == pytest.approx([1, 4, 4, 4])
    assert fast["images/s"] == pytest.approx(200) and fast["readings"] == pytest.approx([0.01] * 3)
    assert fast["of matrix rate"] == pytest.approx(0.2)
    assert told["none failed: RuntimeError: CUDA out of memory"] == []
    compare([step("a", 30.0), step("b", 20.0)], CPU, {"fp32": 1e9}, told.__setitem__, batch=1, until=160)
    assert [row["readings"] for row in told["times"]] == [[30.0] * 2, [20.0] * 2]  # 100 s of setting up, 50 s a round


def test_the_preset_checks_times_and_profiles_and_writes_json(run_script: Callable, tmp_path: Path) -> None:
    quick = """
import torch
from benchmarks import command, released

released.READING = 0
command.PARTS = dict.fromkeys(command.PARTS, 300)  # a busy machine may take long
torch.compile = lambda network, **_: network
"""
    flags = ("--preset", "h100", "--tiny", "--json", tmp_path / "found.json", "--set", "train.precision=fp32")
    result = run_script("benchmark.py", *flags, prelude=quick, timeout=300)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found) == ["settings", "machine", "smoke", "training step, small", "training step, large", "generation"]
    assert list(found["smoke"]) == ["bf16, compile off", "bf16, compile on"]
    assert [check["outcome"] for checks in found["smoke"].values() for check in checks] == ["ok"] * 10
    for part, ways in (("training step, small", 2), ("training step, large", 2), ("generation", 1)):
        times, *costs = found[part].values()
        variants = ["released", "ours, compile off", "ours, compile on"][: 1 + ways]
        assert [row["variant"] for row in times] == variants and [len(rows) for rows in costs] == [10] * ways
    assert found["generation"]["times"][1]["ratio"] > 20  # 3 steps against 1,000


def test_parts_that_crash_or_last_cost_no_other(run_script: Callable, tmp_path: Path) -> None:
    broken = """
import os
from benchmarks import command

command.PARTS = {"machine": 99, "training step, large": 99, "training step, small": -999, "generation": 999}
command.training_variants = lambda config, *_: command.time.sleep(60) if config.model.patch else os.abort()
command.generation_variants = lambda *_: []
"""
    result = run_script("benchmark.py", "--preset", "h100", "--tiny", prelude=broken)
    assert result.returncode == 2 and "training step, small: cut off after" in result.stdout
    assert "training step, large: ended by signal 6" in result.stdout and "generation, times" in result.stdout
