"""The command line as tests run it: real scripts, real exit statuses, without a start of torch for each run.

Run as a program this is a server: it imports the libraries once and forks for every run. The child has its
own arguments, folder, stdout and stderr, executes the script as `__main__` and exits as any Python does. A
run may get a prelude: code that is executed first, such as one that arranges for a kill at a given moment.
"""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "TORCHELASTIC", "PMI", "OMPI_", "SLURM_")


def plain_environment() -> dict[str, str]:
    """This process's environment without a launcher's variables or a GPU, and with one thread.

    One thread, so that runs are byte for byte repeatable and cheap on a busy machine.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(LAUNCHERS)}
    return kept | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}


def launch(kind: str, script: Path, *arguments: object, prelude: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script by two processes, kind "torchrun" or "mpiexec", or by one, "alone", each after the prelude."""
    start = [sys.executable]
    if kind == "torchrun":
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    if kind == "mpiexec":
        pytest.importorskip("mpi4py", reason="mpi4py is not installed (requirements-dev.txt)")
        program = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
        if program is None:
            pytest.skip("mpiexec is not installed (requirements-dev.txt)")
        start = [program, "-n", "2", sys.executable]
    command = [*start, *([__file__, prelude] if prelude else []), str(script), *map(str, arguments)]
    return subprocess.run(command, env=plain_environment(), capture_output=True, text=True, timeout=180, cwd=ROOT)


class CommandLine:
    """Runs scripts of the repository, one at a time; call close() at the end."""

    def __init__(self) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._server = subprocess.Popen([sys.executable, __file__], env=plain_environment(), cwd=ROOT, **pipes)

    def run(
        self, script: str, *arguments: object, prelude: str = "", timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run scripts/<script>; a run killed by signal N has returncode -N. It is killed after `timeout` s."""
        argv = [str(ROOT / "scripts" / script), *map(str, arguments)]
        with tempfile.TemporaryDirectory() as folder:
            outputs = [Path(folder, "stdout"), Path(folder, "stderr")]
            print(json.dumps([argv, [str(path) for path in outputs], prelude]), file=self._server.stdin, flush=True)
            pid = int(self._server.stdout.readline())
            timer = threading.Timer(timeout, os.kill, (pid, signal.SIGKILL))
            timer.start()
            status = int(self._server.stdout.readline())
            timer.cancel()
            return subprocess.CompletedProcess(argv, status, *(path.read_text() for path in outputs))

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()


def _run(argv: list[str], prelude: str) -> None:
    """Do what `python <argv>` would do, after the prelude."""
    sys.argv, sys.path[0] = argv, str(Path(argv[0]).parent)
    exec(prelude, {})
    runpy.run_path(argv[0], run_name="__main__")


def _serve(argv: list[str], outputs: list[str], prelude: str) -> int:
    """In a child of the server: run what is asked for, and return its exit status."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores it
    try:
        _run(argv, prelude)
    except SystemExit as exit_:
        return exit_.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _run(sys.argv[2:], sys.argv[1])
        sys.exit()
    # What the scripts import, the parts that they import late included.
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401
    import torch._dynamo
    import torch.utils.tensorboard  # noqa: F401

    import guided_diffusion.generation.api
    import guided_diffusion.generation.sample_io
    import guided_diffusion.networks.estimate
    import guided_diffusion.training.train_util  # noqa: F401

    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = _serve(*json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)  # to take down all that was imported would need a second
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
