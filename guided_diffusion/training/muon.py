"""Muon: AdamW, but updates of matrices and convolutions are made orthogonal. Small sets need fewer steps with it."""

import torch
from torch import Tensor

MOMENTUM = 0.95
LEAST_SIDE = 16  # of a matrix, for its singular values to matter
LIKE_ADAMW = 0.2  # root mean square of AdamW's updates, in units of the learning rate
STEPS, COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for weights whose matrix [out, in * k * k] has no
    side below LEAST_SIDE, scaled as in Moonlight (Liu et al. 2025, arXiv 2502.16982, eq. 4), so that `lr` and
    `weight_decay` mean what they do for AdamW; AdamW for all others."""

    @staticmethod
    def takes(parameter: Tensor) -> bool:
        """Whether Muon updates it, not AdamW."""
        return parameter.ndim > 1 and min(len(parameter), parameter[0].numel()) >= LEAST_SIDE

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update from the gradients, none where self.found_inf is above 0. Those that Muon took are gone then."""
        stopped = getattr(self, "found_inf", None)
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None and self.takes(parameter):
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                updates = orthogonal(torch.stack([self._momentum(parameter).flatten(1) for parameter in parameters]))
                size = group["lr"] * LIKE_ADAMW * max(updates.shape[1:]) ** 0.5
                for parameter, update in zip(parameters, updates.view(-1, *shape), strict=True):
                    new = parameter * (1 - group["lr"] * group["weight_decay"]) - size * update
                    parameter.copy_(new if stopped is None else torch.where(stopped > 0, parameter, new))
                    parameter.grad = None  # AdamW passes it over
        super().step()

    def _momentum(self, parameter: Tensor) -> Tensor:
        """Nesterov's: of the gradients so far and, once more, of this one."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)  # AdamW wants one of every state that it loads
            state["momentum_buffer"] = torch.zeros_like(parameter)
        state["step"] += 1
        momentum = state["momentum_buffer"].lerp_(parameter.grad, 1 - MOMENTUM)
        return parameter.grad.lerp(momentum, MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """About U V^T of matrices U S V^T, [N, rows, columns]: singular values come to lie in 0.7 to 1.2.

    Newton-Schulz iterations of the Gram matrix, which is smaller than the matrix itself.
    """
    if wide := matrices.shape[1] < matrices.shape[2]:
        matrices = matrices.mT
    matrices = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    gram, (a, b, c) = matrices.mT @ matrices, COEFFICIENTS
    product = unit = torch.eye(len(gram[0]), device=gram.device)
    for step in range(STEPS):
        factor = a * unit + b * gram + c * (gram @ gram)
        product = product @ factor
        if step < STEPS - 1:
            gram = gram @ factor @ factor
    matrices = matrices @ product
    return matrices.mT if wide else matrices
