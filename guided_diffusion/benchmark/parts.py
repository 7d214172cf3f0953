"""The parts that a run is made of, each a function that adds its table or its outcome to the run."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..config import Config
from ..generation.api import DefectGen
from .generation import by_stage, forward_variants, generation_variants, our_generator, shared_out
from .report import number
from .run import Benchmark
from .timing import spread
from .training import dataset_variants, flops_per_image, training_variants
from .worker import seconds_per_step

RUNS, STEPS = 3, 10  # of each number of processes; steps timed in a run


def named(config: Config) -> str:
    """What a table is about, besides what is timed."""
    height, width = config.data.resolution
    kind = "small (patch-level)" if config.model.patch else "large (global)"
    flops = flops_per_image(config) / 1e9
    return f"{kind} network, width {config.model.model_channels}, {height} x {width} px, {number(flops)} GFLOP forward"


def training(
    run: Benchmark,
    config: Config,
    *,
    first_batch: int = 1,
    rounds: int | None = None,
    operators: bool = False,
    **options: Any,
) -> None:
    """A training step; options: of training_variants."""
    run.compare(
        f"training step: {named(config)}",
        training_variants(run.settled(config), run.clock, **options),
        rounds=rounds,
        first_batch=first_batch,
        operators=operators,
        what="train",
        config=config.to_dict(),
    )


def forward(run: Benchmark, config: Config, **options: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        variants = forward_variants(run.settled(config), run.clock, folder, **options)
        run.compare(f"forward pass: {named(config)}", variants, what="forward", config=config.to_dict())


def generation(
    run: Benchmark, configs: Sequence[Config], step_inference: int, first_batch: int = 1, **options: Any
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settled = [run.settled(config) for config in configs]
        variants = generation_variants(settled, run.clock, folder, step_inference=step_inference, **options)
        about = "; ".join(named(config) for config in by_stage(configs))
        run.compare(
            f"generation, hand-off at {shared_out(configs, step_inference)}: {about}",
            variants,
            first_batch=first_batch,
            what="generate",
            configs=[config.to_dict() for config in configs],
        )


def dataset_sizes(run: Benchmark, config: Config, sizes: Sequence[int]) -> None:
    """Seconds per training step of ours by size of the data set."""
    run.compare(
        f"training step of ours by data set: {named(config)}",
        dataset_variants(run.settled(config), run.clock, sizes),
        what="dataset_sizes",
        config=config.to_dict(),
    )


def processes(run: Benchmark, config: Config, count: int) -> None:
    """Training images per second of `count` processes of one thread over those of one, on the CPU, in turns."""
    config, runs, steps = run.settled(config), 1 if run.tiny else RUNS, 1 if run.tiny else STEPS
    seconds: dict[int, list[float]] = {1: [], count: []}
    for _ in range(runs):
        for each in seconds:
            seconds[each].append(seconds_per_step(config, each, steps))
    batch = config.data.bs_per_gpu
    ratios = [count * one / many for one, many in zip(seconds[1], seconds[count], strict=True)]
    found = spread(ratios)
    run.check(
        f"{count} processes against 1, a thread each: {named(config)}, batch {batch}",
        f"{number(found['median'])}x the images per second ({number(found['q1'])}-{number(found['q3'])})",
        ratios=ratios,
        seconds_per_step=seconds,
        batch=batch,
        config=config.to_dict(),
    )


def out_of_memory(
    run: Benchmark, configs: Sequence[Config], step_inference: int, settings: dict[str, Any], images: int
) -> None:
    """Generation in which the first batch does not fit must end in all its images."""
    with tempfile.TemporaryDirectory() as folder:
        generator = our_generator([run.settled(config) for config in configs], run.clock.device, folder)
    step_inference = shared_out(configs, step_inference)
    generate = functools.partial(generator.generate, step_inference=step_inference, **settings)
    with _too_little_memory(generator, run, lambda: generate(1, batch_size=1)) as refused:
        made = len(generate(images, batch_size=images).images)
    refusals = refused()
    good = made == images and refusals > 0
    run.check(
        "out of memory",
        f"{made} of {images} images asked for in one batch, {refusals} allocations refused on the way: "
        + ("good" if good else "NOT as it should be"),
        images=made,
        asked=images,
        refusals=refusals,
        good=good,
    )
    if not good:
        raise RuntimeError("the shortage of memory did not occur, or not all images were made")


@contextmanager
def _too_little_memory(generator: DefectGen, run: Benchmark, once: Callable[[], object]) -> Iterator[Callable[[], int]]:
    """Inside, memory suffices for little more than one image. Yields a function that counts refused allocations.

    On CUDA by a memory fraction, three times what one image takes beside the weights; on the CPU the networks play it.
    """
    clock, device = run.clock, run.clock.device
    if device.type == "cuda":
        before = clock.allocated()
        once()
        one = clock.peak() - before
        clock.free()
        total = torch.cuda.get_device_properties(device).total_memory
        refused = torch.cuda.memory_stats(device)["num_ooms"]
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + 3 * one) / total, device)
        try:
            yield lambda: torch.cuda.memory_stats(device)["num_ooms"] - refused
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return

    refusals = 0

    def refuse(module: nn.Module, arguments: tuple) -> None:
        nonlocal refusals
        if len(arguments[0]) > 2:
            refusals += 1
            raise torch.OutOfMemoryError("out of memory, for the sake of the benchmark")

    hooks = [n.model.register_forward_pre_hook(refuse) for n in (generator.large, generator.small) if n]
    try:
        yield lambda: refusals
    finally:
        for hook in hooks:
            hook.remove()
