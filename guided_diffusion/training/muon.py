"""Muon: AdamW, but updates of matrices and convolutions are made orthogonal. Small sets need fewer steps with it."""

from collections.abc import Sequence

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
        """One update from the gradients, none where self.found_inf is above 0. Those that Muon took are gone then.

        All parameters at a time, as far as that goes: on a GPU each operation by itself would be a launch."""
        stopped = getattr(self, "found_inf", None)
        for group in self.param_groups:
            taken = [one for one in group["params"] if one.grad is not None and self.takes(one)]
            states = [self.state[parameter] for parameter in taken]
            for parameter, state in zip(taken, states, strict=True):
                if not state:
                    state["step"] = torch.zeros((), device=parameter.device)  # AdamW wants one of all that it loads
                    state["momentum_buffer"] = torch.zeros_like(parameter)
            gradients, momenta = [one.grad for one in taken], [state["momentum_buffer"] for state in states]
            if taken:
                torch._foreach_add_([state["step"] for state in states], 1)
                torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
                torch._foreach_lerp_(gradients, momenta, MOMENTUM)  # Nesterov's: this gradient once more
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in taken:
                by_shape.setdefault(parameter.shape, []).append(parameter)
            stacks = [torch.stack([one.grad.flatten(1) for one in alike]) for alike in by_shape.values()]
            keep = 1 - group["lr"] * group["weight_decay"]
            if taken:
                torch._foreach_mul_(taken, keep if stopped is None else torch.where(stopped > 0, 1.0, keep))
            for (shape, alike), update in zip(by_shape.items(), orthogonal(stacks), strict=True):
                update = -group["lr"] * LIKE_ADAMW * max(update.shape[1:]) ** 0.5 * update
                update = update if stopped is None else torch.where(stopped > 0, 0.0, update)
                torch._foreach_add_(alike, list(update.view(-1, *shape)))
            for parameter in taken:
                parameter.grad = None  # AdamW passes it over
        super().step()


def orthogonal(stacks: Sequence[Tensor]) -> list[Tensor]:
    """About U V^T of matrices U S V^T, in stacks [N, rows, columns]: singular values come to lie in 0.7 to 1.2.

    Newton-Schulz iterations of the Gram matrices alone, which are smaller, of all with the same side together."""
    tall = [one.mT if one.shape[1] < one.shape[2] else one for one in stacks]
    tall = [one / one.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7) for one in tall]
    by_side: dict[int, list[int]] = {}
    for place, one in enumerate(tall):
        by_side.setdefault(one.shape[2], []).append(place)
    a, b, c = COEFFICIENTS
    for places in by_side.values():
        gram = torch.cat([tall[place].mT @ tall[place] for place in places])
        product = torch.eye(gram.shape[1], device=gram.device)
        for step in range(STEPS):
            factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            factor.diagonal(dim1=1, dim2=2).add_(a)
            product = product @ factor
            if step < STEPS - 1:
                gram = gram @ factor @ factor
        parts = product.split([len(tall[place]) for place in places])
        for place, part in zip(places, parts, strict=True):
            tall[place] = tall[place] @ part
    return [one.mT if given.shape[1] < given.shape[2] else one for given, one in zip(stacks, tall, strict=True)]
