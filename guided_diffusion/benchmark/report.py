"""The results as aligned text for a person, and the machine they were measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence

import torch

HEADER = (
    "variant",
    "batch",
    "set-up s",
    "s each",
    "(quartiles)",
    "images/s",
    "ratio",
    "(quartiles)",
    "TFLOP/s",
    "of matrix rate",
    "peak GiB",
)


def machine(device: torch.device) -> dict:
    """Processor, cores, threads, GPU and versions."""
    found = {
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_amx_bf16": "amx_bf16" in _cpu_info("flags"),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": properties.name,
            "gpu_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def _cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_info(key: str) -> str:
    """A line of /proc/cpuinfo, where there is one."""
    try:
        with open("/proc/cpuinfo") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith(key)), "")
    except OSError:
        return ""


def describe_machine(found: dict, rates: dict[str, float]) -> str:
    gpu = f"{found['gpu']}, {found['gpu_bytes'] / 2**30:.0f} GiB; " if "gpu" in found else ""
    shown = ", ".join(f"{kind} {number(rate / 1e12)}" for kind, rate in rates.items())
    return (
        f"{gpu}{found['cpu']}, {found['cores']} cores, {found['threads']} threads; torch {found['torch']}\n"
        f"matrix products, TFLOP/s: {shown}"
    )


def describe_table(table: dict) -> str:
    """A table as text: one line a variant, notes and operators below."""
    rows = table["rows"]
    lines = [table["title"]]
    lines += align([HEADER, *map(_cells, rows)]) if rows else ["  nothing measured"]
    lines += [f"  {row['variant']}: {row['note']}" for row in rows if row["note"]]
    for row in rows:
        if row["operators"]:
            lines.append(f"  {row['variant']}: operators by their own time")
            cells = [
                (f"{o['share']:.1%}", f"{o['seconds']:.4f} s", f"x{o['count']}", o["operator"])
                for o in row["operators"]
            ]
            lines += align(cells, left=(3,), indent="    ")
    return "\n".join(lines)


def _cells(row: dict) -> tuple[str, ...]:
    def quartiles(values: dict[str, float]) -> str:
        return f"({number(values['q1'])}-{number(values['q3'])})"

    return (
        row["variant"],
        str(row["batch"]),
        f"{row['setup_s']:.1f}",
        number(row["seconds"]["median"]),
        quartiles(row["seconds"]),
        number(row["images_per_s"]),
        f"{number(row['ratio']['median'])}x",
        quartiles(row["ratio"]),
        number(row["flops_per_s"] / 1e12),
        "-" if row["share"] is None else f"{row['share']:.0%} of {row['share_of']}",
        "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.2f}",
    )


def align(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,), indent: str = "  ") -> list[str]:
    """Columns of equal width; those numbered in `left` start, the others end in line."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        indent
        + "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def number(value: float) -> str:
    """Three significant digits, without an exponent: "0.0123", "12.3", "1230"."""
    if value >= 100:
        return f"{float(f'{value:.3g}'):.0f}"
    text = f"{value:#.3g}".rstrip(".")
    return text if "e" not in text else f"{value:.6f}"
