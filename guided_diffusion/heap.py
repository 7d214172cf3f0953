"""Whether the C library keeps memory that was freed, for the next step, or gives it back page by page."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt, bytes
KEEPING = {M_TRIM_THRESHOLD: 2**31 - 1, M_MMAP_THRESHOLD: 2**30}
USUAL = {M_TRIM_THRESHOLD: 2**26, M_MMAP_THRESHOLD: 2**25}  # where glibc's own adjustment ends for large tensors
_keeps = False


def keep(wish: bool = True) -> None:
    """Keep freed memory. A training step on the CPU allocates what the last one freed; without this the system maps
    and clears every page anew, 5 to 9% of a step's CPU time. Does nothing where the C library is not glibc.
    """
    global _keeps
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # musl, macOS, Windows
        return
    for parameter, size in (KEEPING if wish else USUAL).items():
        mallopt(parameter, size)
    _keeps = wish


def keeps() -> bool:
    return _keeps
