"""Worker processes: they end with the one that started them, however that ends; one that is killed is an error."""

import os
import subprocess
import sys

import pytest
from command_line import ROOT

SCRIPT = """
import os, signal, sys, time
from guided_diffusion.errors import InputError
from guided_diffusion.parallel import parallel_map

def work(seconds):
    print(os.getpid(), flush=True)
    time.sleep(seconds)
    if seconds == 0.5:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    try:
        list(parallel_map(work, [float(sys.argv[1])] * 2, workers=2, description="work", chunk=1, least=2))
    except InputError:
        sys.exit(2)
"""


@pytest.mark.parametrize("seconds, number, status", [(0, None, 0), (0.5, None, 2), (600, 15, -15), (600, 9, -9)])
def test_workers_end_with_their_parent(seconds, number, status, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, tmp_path / "script.py", str(seconds)]
    parent = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline().strip().isdigit()
    if number is not None:
        parent.send_signal(number)
    parent.communicate(timeout=60)  # until the worker, too, has closed its end of the pipe
    assert parent.returncode == status
