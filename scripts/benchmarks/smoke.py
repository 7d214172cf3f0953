"""Does all of it run on a GPU, and compute what the CPU computes in float32? Small networks, random weights, a minute.

scripts/benchmark.py --preset h100 calls `smoke` first of all.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import blobfile as bf
import numpy as np
import torch
from benchmarks.released import Rows, random_data, save_random, why

from guided_diffusion.config import Config
from guided_diffusion.data.augment import AUGMENTATIONS
from guided_diffusion.generation.api import DefectGen
from guided_diffusion.keyed_random import numpy_generator, sample_noise
from guided_diffusion.precision import autocast
from guided_diffusion.training.checkpoint import load_checkpoint
from guided_diffusion.training.train_util import TrainLoop

WAYS = (("fp32", "off"), ("bf16", "off"), ("bf16", "on"))  # precision, torch.compile
LIMITS = {"fp32": 0.01, "bf16": 0.1}  # of `distance`; bf16, which rounds to 8 bits, is 0.003 to 0.035 off on the CPU
COUNT = 4  # images at a time, steps of each network in a generation: the last ones as CUDA graphs
GENERATIONS: Mapping[str, dict[str, Any]] = {
    "generate types, guided": {"defects": "balanced", "guidance_scale": 1.5},
    "generate in windows": {"windows": "on", "image_size": (16, 24)},
    "generate for masks and photographs": {},
}


def smoke(pair: Mapping[str, Config], device: torch.device, folder: str, tell: Callable[[str, Rows], None]) -> None:
    """Train, resume and generate in each of WAYS; tell a table after each of these. pair: for 16 x 16 pixels, with
    class_cond and augment. folder: for checkpoints."""
    paths = save_random(pair, folder)
    jobs = {f"train and resume, {size}": partial(train, own, paths[size], folder) for size, own in pair.items()}
    jobs |= {name: partial(generate, list(paths.values()), name) for name in GENERATIONS}
    expected = {name: job(torch.device("cpu"), *WAYS[0])[0] for name, job in jobs.items()}
    for precision, way in WAYS[device.type == "cpu" :]:  # the CPU's first way is the reference
        rows, limit = [], LIMITS[precision]
        for name, job in jobs.items():
            start, row = time.perf_counter(), {"check": name, "error": None, "at most": limit}
            try:
                found, others = job(device, precision, way)
                row["error"] = max(others, *map(distance, found, expected[name]))
                row["outcome"] = "ok" if row["error"] <= limit else "WRONG"
            except Exception as error:  # the next one may do
                row["outcome"] = f"failed: {why(error)}"
            rows.append(row | {"seconds": time.perf_counter() - start})
            tell(f"{precision}, compile {way}", rows)  # after each, as compiling may last beyond the end


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Of masks [N, H, W]: the share of pixels that differ. Of others: the distance over the spread of theirs."""
    if theirs.ndim == 3:
        return float((ours != theirs).mean())
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs - theirs.mean()))


def train(
    config: Config, start: str, folder: str, device: torch.device, precision: str, way: str
) -> tuple[list[np.ndarray], float]:
    """Gradients of one batch; and the distance of a training that is stopped and resumed from one that is not, over the
    way that the weights went."""
    config = replace(config, train=replace(config.train, precision=precision, compile=way))
    work, data, count = bf.join(folder, "work"), random_data(config), config.data.bs_per_gpu
    loop = TrainLoop(config, work, data, None, device, warm_start=load_checkpoint(start, "start"))
    images, masks = data.batch(np.arange(count), numpy_generator("smoke"))
    x_start = config.layout.encode(images, masks).to(device, memory_format=torch.channels_last)
    noise, t = sample_noise(0, range(count), 0, x_start.shape[1:], device), torch.arange(count, device=device) * 300
    told = {"types": config.layout.types_in(masks).to(device)}
    told["augmented"] = torch.zeros(count, AUGMENTATIONS, device=device)
    with autocast(device, precision):
        loop.diffusion.training_losses(partial(loop.network, **told), x_start, t, noise)["loss"].backward()

    def flat(tensors: Iterable[torch.Tensor]) -> np.ndarray:
        return torch.cat([tensor.detach().flatten() for tensor in tensors]).cpu().numpy()

    gradients, before = flat(p.grad for p in loop.model.parameters()), flat(loop.model.parameters())
    loop.model.zero_grad(set_to_none=True)
    for _ in range(2):
        loop.train_step()
    loop.save()
    resumed = TrainLoop(config, work, data, None, device, load_checkpoint(work, "work"))
    for one in (loop, resumed):
        one.train_step()
        one.check_finite()
    through, again = flat(loop.model.parameters()), flat(resumed.model.parameters())
    return [gradients], float(np.linalg.norm(again - through) / np.linalg.norm(through - before))


def generate(
    paths: list[str], name: str, device: torch.device, precision: str, way: str
) -> tuple[list[np.ndarray], float]:
    """Images and masks; and 0."""
    generator, given = DefectGen.load(*paths, device=device, precision=precision), {}
    settings = generator.settings(num_steps=(COUNT, COUNT), **GENERATIONS[name])
    if "masks" in name:
        rng, shape = numpy_generator("smoke"), (COUNT, *settings.image_size)
        given["masks"] = rng.integers(0, generator.layout.num_defect + 1, shape, np.uint8)
        given["backgrounds"] = rng.integers(0, 256, (*shape, 3), np.uint8)
    if way == "on":
        generator.compile(COUNT, settings)
    batch = generator.generate(COUNT, settings, batch_size=COUNT, **given)
    return [batch.images, batch.masks], 0.0
