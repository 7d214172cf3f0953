"""The benchmark: its baseline against our networks and training, its clock against fakes, its command line."""

import copy
import json
import math
import time

import pytest
import torch

from guided_diffusion import load_config
from guided_diffusion.benchmark import timing
from guided_diffusion.benchmark.compare import Subject, Variant, compare
from guided_diffusion.benchmark.generation import generation_variants, scaled
from guided_diffusion.benchmark.released import Recipe, ReleasedTraining, ladder, released_forward
from guided_diffusion.benchmark.report import align, number
from guided_diffusion.benchmark.run import Benchmark, Part
from guided_diffusion.benchmark.timing import Clock, OutOfTime, best_batch, spread, time_limit
from guided_diffusion.benchmark.training import random_data, random_model, training_loop
from guided_diffusion.errors import InputError

CPU = torch.device("cpu")
LARGE = "models.unet.openaiunet.UNetModel"
SMALL = "models.unet.unet_receptive.UNetModel"


def tiny_config(target=LARGE, **overrides):
    params = {"model_channels": 32, "norm_groups": 8, "channel_mult": [1, 2], "num_res_blocks": 1, "num_heads": 2}
    raw = {"model": {"target": target, "params": {"image_size": 16, "attention_downsample": [2], **params}}}
    train = {"train.precision": "fp32", "train.compile": "off", "data.bs_per_gpu": 3}
    return load_config(raw, 2, {**train, **overrides})


def distance(a, b):
    return math.sqrt(sum((x.double() - y.double()).square().sum().item() for x, y in zip(a, b, strict=True)))


def size(tensors):
    tensors = list(tensors)
    return distance(tensors, [torch.zeros_like(tensor) for tensor in tensors])


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(sdpa=True), Recipe(channels_last=True)], ids=str)
@pytest.mark.parametrize("target", [LARGE, SMALL])
@pytest.mark.parametrize("scale_shift", [True, False])
def test_the_baseline_computes_what_our_network_does(recipe, target, scale_shift):
    model = random_model(tiny_config(target, **{"model.use_scale_shift_norm": scale_shift}), CPU).train()
    x, t = torch.randn(2, 6, 16, 16, generator=torch.manual_seed(0)), torch.tensor([3, 800])
    weight = torch.randn(x.shape)
    ours, gradients = (weight * (y := model(x, t))).sum(), None
    ours.backward()
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad()
    z = released_forward(model, x.contiguous(memory_format=recipe.memory_format), t, recipe.sdpa)
    (weight * z).sum().backward()
    assert distance([z], [y]) < 1e-5 * size([y])
    assert distance([p.grad for p in model.parameters()], gradients) < 1e-5 * size(gradients)
    assert min(size([gradient]) for gradient in gradients) > 0  # none is out of reach


def test_the_baseline_drops_out_in_training_only():
    model = random_model(tiny_config(**{"model.dropout": 0.5}), CPU)
    x, t = torch.randn(1, 6, 16, 16), torch.tensor([3])
    a, b = (released_forward(model.train(), x, t) for _ in range(2))
    assert not torch.equal(a, b)
    assert distance([released_forward(model.eval(), x, t)], [model(x, t)]) < 1e-4


@pytest.mark.parametrize("recipe", [recipe for _, recipe in ladder(tiny_config())], ids=str)
def test_a_step_of_the_baseline_is_one_of_ours(recipe):
    """The same batch, timesteps and noise: the same weights and averages, in float32 up to rounding."""
    changes = {"optimizer.lr": 1e-3, "optimizer.grad_clip": 0.5, "optimizer.warmup": 2, "train.loss_weight": "min_snr"}
    config = tiny_config(**changes)
    loop = training_loop(config, CPU)
    baseline = ReleasedTraining(config, copy.deepcopy(loop.model), random_data(config), CPU, recipe)
    start, drawn = [p.detach().clone() for p in loop.model.parameters()], []
    original = loop.diffusion.training_losses

    def recorded(network, *inputs):
        drawn.append(inputs[:3])
        return original(network, *inputs)

    loop.diffusion.training_losses = recorded
    for _ in range(2):
        loop.train_step()
        baseline.update(*drawn[-1])
    moved = distance(loop.model.parameters(), start)
    # by norm: where a gradient is rounding noise, Adam makes a full step of it
    tolerance = (0.3 if recipe.bf16 else 5e-3) * moved
    assert distance(baseline.model.parameters(), loop.model.parameters()) < tolerance
    assert distance(baseline.ema.parameters(), loop.ema.parameters()) < tolerance
    assert math.isnan(baseline.loss) == recipe.loss_on_device  # read by the host, or not
    baseline.step()  # on data of its own
    assert baseline.steps == 3


def test_the_ladder_adds_one_switch_after_the_other():
    rungs = ladder(tiny_config())
    on = [sum(vars(recipe).values()) for _, recipe in rungs]
    assert rungs[0] == ("released", Recipe()) and on == list(range(7)) == list(range(len(vars(Recipe())) + 1))
    assert len(ladder(tiny_config(SMALL))) == 6  # it has no attention


def test_the_best_batch_is_where_throughput_stops_growing():
    rates = {1: 10, 2: 19, 4: 30, 8: 30.5, 16: 100}
    assert best_batch(rates.__getitem__) == (8, {1: 10, 2: 19, 4: 30, 8: 30.5})
    assert best_batch(lambda batch: {2: 5, 4: 4}[batch], 2)[0] == 2
    assert best_batch(float, 4, 32) == (32, {4: 4, 8: 8, 16: 16, 32: 32})
    ticks = iter([True, False])
    assert best_batch(float, 1, 32, in_time=lambda: next(ticks))[0] == 2


def test_the_best_batch_is_the_last_that_fits():
    def throughput(batch):
        if batch > limit:
            raise torch.OutOfMemoryError("full")
        return batch

    limit = 11
    assert best_batch(throughput, 4) == (8, {4: 4, 8: 8, 16: None})
    limit = 1
    with pytest.raises(InputError, match="out of memory at batch 4"):
        best_batch(throughput, 4)


def test_seconds_of_all_steps_follow_from_those_of_some():
    assert scaled([2.0, 3.0], [10, 5], [600, 400]) == pytest.approx(120 + 240)
    assert spread([1, 2, 3, 4, 5]) == {"median": 3, "q1": 2, "q3": 4}


class StepClock(Clock):
    """A clock for which every call takes as long as it adds to `now`."""

    def __init__(self):
        super().__init__(CPU, least=0.0)
        self.now = 0.0

    def seconds(self, call, count=1):
        start = self.now
        for _ in range(count):
            call()
        return (self.now - start) / count


@pytest.mark.parametrize("steps_timed, note", [(3, "600 + 400 steps from 3 + 3 timed"), (None, "")])
def test_the_released_generation_is_scaled_to_all_its_steps(steps_timed, note, monkeypatch, tmp_path):
    """A step of the large network takes 2 s, of the small one 5 s."""
    clock = StepClock()

    def forward(model, x, t):
        clock.now += 5 if model.config.patch else 2
        return x

    monkeypatch.setattr("guided_diffusion.benchmark.generation.released_forward", forward)
    configs = [tiny_config(SMALL), tiny_config(LARGE)]
    settings = {"num_steps": 5, "sampler": "ddim", "spacing": "uniform"}
    options = {"step_inference": 400, "settings": settings, "steps_timed": steps_timed, "batch": 2}
    subject = generation_variants(configs, clock, str(tmp_path), **options)[0].build(2)
    assert subject.measure(2) == 600 * 2 + 400 * 5
    assert note in subject.note and bool(subject.note) == bool(note)


def fakes(clock, seconds, order):
    """Variants whose calls take so many seconds of the fake clock and note themselves in `order`."""

    def build(name):
        def call():
            order.append(name)
            clock.now += seconds[name]

        return lambda batch: Subject(batch, 6e9, "fp32", call)

    return [Variant(name, build(name), 4) for name in seconds]


def test_variants_are_timed_in_turns_and_held_against_the_first():
    clock, order, table = StepClock(), [], {"title": "fakes"}
    variants = fakes(clock, {"a": 2.0, "b": 0.5}, order)
    compare(table, variants, clock, {"fp32": 1e11}, rounds=3)
    assert order == ["a", "a", "b", "b"] + ["a", "b"] * 3  # two calls to warm up, then in turns
    a, b = table["rows"]
    assert a["ratios"] == [1, 1, 1] and b["ratios"] == [4, 4, 4] and b["ratio"]["median"] == 4
    assert b["images_per_s"] == 8 and b["flops_per_s"] == 48e9 and b["share"] == pytest.approx(0.48)
    assert b["readings_s"] == [0.5] * 3 and b["peak_bytes"] is None


def test_a_batch_can_be_that_of_another_variant_or_the_best():
    clock, table = StepClock(), {"title": "fakes"}

    def build(batch):
        def call():
            clock.now += 1 + 0.1 * batch  # 16 brings a third over 8, 32 a quarter, 64 an eighth

        return Subject(batch, 1.0, "bf16", call)

    variants = [Variant("best", build, 0), Variant("same", build, "best"), Variant("own", build, 2)]
    compare(table, variants, clock, {}, rounds=1, batches=(4, 32))
    assert [row["batch"] for row in table["rows"]] == [32, 32, 2]
    assert list(table["rows"][0]["tried_batches"]) == [4, 8, 16, 32] and not table["rows"][1]["tried_batches"]
    assert table["rows"][0]["share"] is None  # no rate was measured


@pytest.mark.parametrize("stop", [OutOfTime, RuntimeError])
def test_what_was_timed_before_a_stop_is_kept(stop):
    clock, order, table = StepClock(), [], {"title": "fakes"}
    variants = fakes(clock, {"a": 1.0, "b": 1.0}, order)

    def raises(batch):
        def call():
            clock.now += 1
            if len(order) > 9:
                raise stop

        return Subject(batch, 1.0, "fp32", call)

    with pytest.raises(stop):
        compare(table, [*variants, Variant("c", raises, 1)], clock, {}, rounds=9)
    assert [len(row["readings_s"]) for row in table["rows"]] == [3, 3, 2]


def test_a_variant_that_cannot_be_built_does_not_stop_the_others():
    clock, table = StepClock(), {"title": "fakes"}

    def fails(batch):
        raise InputError("no compiler")

    a, b = fakes(clock, {"a": 1.0, "b": 1.0}, [])
    with pytest.raises(InputError, match="compiled: no compiler"):
        compare(table, [a, Variant("compiled", fails, 1), b], clock, {}, rounds=1)
    assert [row["variant"] for row in table["rows"]] == ["a", "b"]


def test_every_variant_runs_under_its_own_switches():
    """What one sets for the whole process must not speed up another."""
    before, seen, clock = timing.Flags.now(), [], StepClock()

    def build(name, precision):
        def at_build(batch):
            if precision:
                torch.set_float32_matmul_precision(precision)

            def call():
                clock.now += 1
                seen.append((name, torch.get_float32_matmul_precision()))

            return Subject(batch, 1.0, "fp32", call)

        return Variant(name, at_build, 1)

    variants = [build("plain", None), build("fast", "medium"), build("late", None)]
    compare({"title": "fakes"}, variants, clock, {}, rounds=2)
    assert set(seen) == {("plain", "highest"), ("fast", "medium"), ("late", "highest")}
    assert timing.Flags.now() == timing.DEFAULT_FLAGS
    before.set()


def test_a_part_that_fails_or_runs_out_of_time_leaves_the_others(tmp_path, capsys):
    run = Benchmark(CPU, {}, rounds=1, seconds=None, operators=False, json_path=str(tmp_path / "b.json"), tiny=True)

    def fail():
        raise RuntimeError("no\nluck")

    parts = [Part("slow", lambda: time.sleep(60), 1.1), Part("broken", fail), Part("good", lambda: run.check("x", "y"))]
    assert run.run(parts, total=60) == 1
    found = json.loads((tmp_path / "b.json").read_text())
    status = {part["name"]: part["status"] for part in found["parts"]}
    assert status == {
        "matrix rates": "done",
        "slow": "ran out of its 1 s",
        "broken": "failed: RuntimeError: no luck",
        "good": "done",
    }
    assert found["checks"] == [{"name": "x", "outcome": "y"}] and "x: y" in capsys.readouterr().out
    assert run.run([Part("late", fail)], total=0) == 1 and run.found["parts"][-1]["status"] == "ran out of its 0 s"


def test_a_time_limit_is_lifted_afterwards():
    with pytest.raises(OutOfTime), time_limit(0.01):
        time.sleep(5)
    with time_limit(0.05):
        pass
    time.sleep(0.1)


def test_numbers_and_columns():
    assert [number(v) for v in (0.012345, 1.0, 12.345, 1234.5, 3e-6)] == ["0.0123", "1.00", "12.3", "1230", "0.000003"]
    assert align([("a", "10"), ("bcd", "2")], indent="") == ["a    10", "bcd   2"]


def test_the_gpu_preset_runs_anywhere_when_tiny(run_script, tmp_path):
    file = tmp_path / "found.json"
    result = run_script("benchmark.py", "--preset", "h100", "--device", "cpu", "--tiny", "--json", file, timeout=300)
    assert result.returncode == 0, result.stderr
    found = json.loads(file.read_text())
    assert {part["status"] for part in found["parts"]} == {"done"}
    assert found["settings"]["preset"] == "h100" and found["machine"]["torch"] == torch.__version__
    assert min(found["matrix_rates"].values()) > 0
    for table in found["tables"]:
        first, *others = table["rows"]
        assert first["variant"] == "released" and set(first["ratios"]) == {1.0} and others
        for row in table["rows"]:
            assert row["variant"] in result.stdout and row["share"] > 0
            assert row["images_per_s"] == pytest.approx(row["batch"] / row["seconds"]["median"])
    by_what = [table["what"] for table in found["tables"]]
    assert by_what.count("train") == 6 and by_what.count("generate") == 2
    compiled = [(t["what"], row) for t in found["tables"] for row in t["rows"] if row["variant"] == "ours compiled"]
    assert sorted(what for what, _ in compiled) == ["generate", "train", "train"]
    for row in (row for what, row in compiled if what == "train"):
        assert len(row["operators"]) == 10 and 0 < sum(operator["share"] for operator in row["operators"]) <= 1
    generated = next(table for table in found["tables"] if table["what"] == "generate")
    assert "600 + 400 steps from 10 + 10" in generated["rows"][0]["note"] and "extrapolated" in result.stdout
    out_of_memory = found["checks"][0]
    assert out_of_memory["good"] and out_of_memory["images"] == out_of_memory["asked"] > 0


def test_flags_choose_the_parts(run_script, tmp_path):
    file = tmp_path / "found.json"
    what = ("--what", "train,forward", "--ladder", "--dataset_sizes", "3,30", "--processes", 2, "--batch_size", 1)
    result = run_script("benchmark.py", "--tiny", *what, "--config", "configs/demo_small.yml", "--json", file)
    assert result.returncode == 0, result.stderr
    found = json.loads(file.read_text())
    train, forward, sizes = found["tables"]
    assert [row["variant"] for row in train["rows"]][::6] == ["released", "ours eager"]
    assert [row["variant"] for row in forward["rows"]] == [
        "released",
        "+ bf16 autocast",
        "+ channels_last",
        "ours eager",
    ]
    assert [row["variant"] for row in sizes["rows"]] == ["3 images", "30 images"]
    assert {row["batch"] for table in found["tables"] for row in table["rows"]} == {1}
    (scaling,) = found["checks"]
    one, two = scaling["seconds_per_step"]["1"], scaling["seconds_per_step"]["2"]
    assert scaling["ratios"] == [pytest.approx(2 * one[0] / two[0])]


@pytest.mark.parametrize(
    "flags, text",
    [
        (["--what", "train,sleep"], "--what train,sleep: must be of"),
        (["--what", ""], "nothing to time"),
        (["--batch_size", "many"], "--batch_size many"),
        (["--rounds", 0], "--rounds 0"),
        (["--minutes", -1], "--minutes -1"),
        (["--processes", 1], "--processes 1"),
        (["--dataset_sizes", "25,none"], "--dataset_sizes none"),
        (["--num_steps", "0"], "--num_steps 0"),
        (["--config", "nowhere.yml"], "nowhere.yml"),
        (["--config", "configs/demo_large.yml", "--config", "configs/large_recep.yml"], "--what generate"),
        (["--config", "configs/demo_large.yml", "--config", "configs/small_recep.yml"], "data.resolution"),
        (["--preset", "h100", "--what", "train"], "--what: --preset h100"),
        (["--preset", "h100"], "--preset h100: needs a CUDA GPU"),
        (["--set", "model.width=3"], "model.width"),
        (["--json", "LICENSE/found.json"], "--json"),
    ],
)
def test_bad_flags_are_one_line(run_script, flags, text):
    result = run_script("benchmark.py", *flags)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and text in result.stderr and result.stderr.count("\n") == 1
