"""Training in one of several processes: `python -m guided_diffusion.benchmark.worker '{"config": ..., "steps": ...}'`.

Rank 0 prints the seconds per step of all of them together.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from .. import dist_util
from ..config import Config
from ..config_file import load_config
from .timing import Clock
from .training import training_loop

LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "TORCHELASTIC", "PMI", "OMPI_", "SLURM_")
WARM_UP = 2  # steps


def main(text: str) -> None:
    task = json.loads(text)
    device = dist_util.setup("cpu")
    loop, clock = training_loop(load_config(task["config"]), device), Clock(device)
    clock.seconds(loop.train_step, WARM_UP)
    dist_util.barrier()

    def steps() -> None:
        for _ in range(task["steps"]):
            loop.train_step()
        dist_util.barrier()

    seconds = clock.seconds(steps) / task["steps"]
    if dist_util.rank() == 0:
        print(json.dumps(seconds), flush=True)
    dist_util.all_done()
    dist_util.leave(0)


def seconds_per_step(config: Config, processes: int, steps: int) -> float:
    """Of a CPU training in so many processes of one thread, each with the configuration's batch."""
    task = json.dumps({"config": config.to_dict(), "steps": steps})
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(LAUNCHERS)}
    root = str(Path(__file__).resolve().parents[2])
    environment = kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", __spec__.name, task]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        print(result.stderr, file=sys.stderr)
        cause = next((line for line in result.stderr.splitlines() if "Error" in line), f"status {result.returncode}")
        raise RuntimeError(f"a training in {processes} process(es) failed: {cause}")
    return json.loads(result.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main(sys.argv[1])
