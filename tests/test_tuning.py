"""What is settled before step 0."""

import pytest
import torch
from training.test_train_util import tiny_config

from guided_diffusion import tuning
from guided_diffusion.networks.estimate import estimate
from guided_diffusion.tuning import CompileError, StepCost, decide_compile, duration, expected, settle

CPU = torch.device("cpu")
AUTO = {"train.precision": "auto", "train.compile": "auto"}


@pytest.fixture
def seconds(monkeypatch):
    """Pretend that a step takes so long, by precision; a compiler is there."""
    times = {"fp32": 2.0, "bf16": 1.0}
    monkeypatch.setattr(
        tuning, "measure_step", lambda config, device, precision: StepCost("cpu", times[precision], None)
    )
    monkeypatch.setattr(tuning, "compiler_lacking", lambda device: "")
    monkeypatch.setitem(tuning.COMPILE_GAIN, "cpu", 1.25)
    return times


@pytest.mark.parametrize("bf16, chosen", [(1.0, "bf16"), (1.98, "fp32"), (3.0, "fp32")])
def test_auto_precision_is_the_faster_one(seconds, bf16, chosen):
    seconds["bf16"] = bf16
    config, cost, reasons = settle(tiny_config(**AUTO), CPU)
    assert config.train.precision == chosen and cost.seconds == seconds[chosen]
    assert f"precision          {chosen} (a step in bf16 is {2 / bf16:.2f} times as fast" in reasons[0]


def test_auto_precision_where_fp32_does_not_fit(seconds, monkeypatch):
    def measure(config, device, precision):
        if precision == "fp32":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return StepCost("cpu", 1.0, None)

    monkeypatch.setattr(tuning, "measure_step", measure)
    config, cost, reasons = settle(tiny_config(**AUTO), CPU)
    assert (config.train.precision, cost.seconds) == ("bf16", 1.0)
    assert reasons[0] == "precision          bf16 (fp32 does not fit into memory)"


def test_auto_compile_needs_a_run_that_earns_it_back(seconds):
    per_second_saved = 1 - 1 / tuning.COMPILE_GAIN["cpu"]
    enough = round(tuning.COMPILE_PATIENCE * tuning.COMPILE_SECONDS["cpu"] / per_second_saved)  # steps of 1 s
    for iterations, step, chosen in ((enough + 2, 0, "on"), (enough - 2, 0, "off"), (enough + 2, 10, "off")):
        config, _, reasons = settle(tiny_config(**AUTO, **{"train.iterations": iterations}), CPU, step)
        assert config.train.compile == chosen and f"torch.compile      {chosen}" in reasons[1]


def test_a_resumed_run_keeps_the_decisions_of_the_earlier_one(seconds):
    earlier = tiny_config(**{"train.precision": "fp32", "train.compile": "off"})
    config, cost, reasons = settle(tiny_config(**AUTO, **{"train.iterations": 10**6}), CPU, 5, earlier)
    assert (config.train.precision, config.train.compile, cost.seconds, reasons) == ("fp32", "off", 2.0, [])
    config, *_ = settle(tiny_config(**{"train.precision": "bf16"}), CPU, 5, earlier)  # what is said wins
    assert config.train.precision == "bf16"


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(tuning.shutil, "which", lambda name: None)
    assert decide_compile(CPU, lambda: 1e9)[0] == "off"
    monkeypatch.setitem(tuning.COMPILE_GAIN, "cpu", 1.25)
    assert decide_compile(CPU, lambda: 1e9) == ("off", "no C++ compiler (g++ or clang++) is installed")
    with pytest.raises(CompileError, match="torch.compile: no C"):
        tuning.compiled(torch.nn.Identity(), tiny_config(), CPU)


def test_a_failing_compiler_is_one_line(monkeypatch):
    def broken(network):
        def run(*args):
            raise RuntimeError("CppCompileError: no\nlong text")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(tuning, "compiler_lacking", lambda device: "")
    with pytest.raises(CompileError) as error:
        tuning.compiled(torch.nn.Identity(), tiny_config(), CPU)
    assert str(error.value) == (
        "torch.compile: failed (CppCompileError: no); turn it off (train.compile off, --compile off)"
    )


def test_a_step_is_the_median_after_one_to_warm_up_scaled_to_the_batch(monkeypatch):
    """A clock that says 9, 1, 3 and 2 s; only a quarter of the batch is computed, as that is enough work."""
    config = tiny_config(**{"data.bs_per_gpu": 8})
    flops = 3 * estimate(config).flops_per_image
    monkeypatch.setattr(tuning, "MAX_FLOPS", 2.5 * flops)
    times, rows = iter([0, 9, 9, 10, 10, 13, 13, 15]), []
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: next(times))
    monkeypatch.setattr(tuning, "MEASURED_SECONDS", 100)
    monkeypatch.setattr(
        tuning, "forward_backward", lambda network, inputs, precision: rows.append((len(inputs[0]), precision))
    )
    assert tuning.measure_step(config, CPU, "bf16") == StepCost("cpu", 4 * 2.0, None)
    assert rows == [(2, "bf16")] * 4


def test_expected_time_and_memory():
    config = tiny_config(**{"train.iterations": 1000, "train.compile": "off"})
    assert expected(config, StepCost("cpu", 0.5, None), 200) == "time               about 7 min for 800 steps"
    assert expected(config, StepCost("cuda", 60, 2**31), 0).endswith("about 16 h 40 min for 1,000 steps, 2.0 GiB")
    assert [duration(s) for s in (3, 99, 101, 6600, 200_000)] == ["3 s", "99 s", "2 min", "1 h 50 min", "2 d 7 h"]
