"""Training losses averaged between two log lines, on the device, so that no step waits for the host."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .. import dist_util

QUARTILES = 4  # of the timesteps
PARTS = ("loss", "rgb", "mask", "grad_norm")


class LossWindow:
    """Running sums since the last report; `sums` is all its state, and goes into the checkpoint."""

    def __init__(self, num_timestep: int, device: torch.device):
        self.num_timestep = num_timestep
        # steps, the parts, then loss and count of every quartile
        self.sums = torch.zeros(1 + len(PARTS) + 2 * QUARTILES, device=device)

    def add(self, losses: Mapping[str, Tensor], t: Tensor) -> None:
        """Add one step: its scalar PARTS, and "per_sample" [N] at timesteps t [N]."""
        n = 1 + len(PARTS)
        self.sums[0] += 1
        self.sums[1:n] += torch.stack([losses[part].detach() for part in PARTS])
        quartile = t * QUARTILES // self.num_timestep
        self.sums[n : n + QUARTILES].index_add_(0, quartile, losses["per_sample"])
        self.sums[n + QUARTILES :].index_add_(0, quartile, torch.ones_like(losses["per_sample"]))

    def report(self) -> dict[str, float]:
        """Means over the steps added and over ranks, "loss_q1".."loss_q4" by timestep quartile; then start anew."""
        dist_util.average_([self.sums])
        steps, *rest = self.sums.tolist()
        self.sums.zero_()
        values = {part: total / steps for part, total in zip(PARTS, rest, strict=False)}
        totals, counts = rest[len(PARTS) : -QUARTILES], rest[-QUARTILES:]
        for i, (total, count) in enumerate(zip(totals, counts, strict=True), start=1):
            if count:
                values[f"loss_q{i}"] = total / count
        return values
