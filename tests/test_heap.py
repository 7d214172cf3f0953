"""Freed memory that is kept is there again without the system's help."""

import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, torch
from guided_diffusion import heap
heap.keep({wish})
def step():
    kept = [torch.ones(10 << 20) for _ in range(3)]  # 40 MiB each, above what is usually kept
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() >> 20, heap.keeps())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_memory_is_mapped_once(repo):
    """Ten steps of 120 MiB: without keeping, all of it is mapped anew in each."""
    outputs = [
        subprocess.run([sys.executable, "-c", COUNT.format(wish=wish)], cwd=repo, capture_output=True, text=True)
        for wish in (True, False)
    ]
    (kept, yes), (usual, no) = (output.stdout.split() for output in outputs)
    assert (yes, no) == ("True", "False")
    assert int(usual) > 1000 and int(kept) < 0.5 * int(usual)  # MiB
