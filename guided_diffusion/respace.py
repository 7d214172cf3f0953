"""Plans: which timesteps are visited, and by which network.

A plan is a list of pairs (t, t_prev), descending, starting at T-1 and ending (0, -1), where -1 is the clean
image. All functions here are pure.
"""

from __future__ import annotations

import numpy as np

from .errors import InputError

Pair = tuple[int, int]


def check_step_inference(step_inference: int, num_timestep: int) -> None:
    if not 0 <= step_inference <= num_timestep:
        raise InputError(
            f"--step_inference {step_inference}: must be from 0 (large network only) to {num_timestep} "
            "(small network only)"
        )


def make_plan(num_timestep: int, num_steps: int, step_inference: int = 0) -> list[Pair]:
    """Plan with num_steps pairs over T = num_timestep, that visits the hand-off.

    With 0 < step_inference < T the node t = step_inference - 1 is always there, so that the state which
    crosses has exactly its noise level; the steps are shared in proportion to each network's range, at least
    one for each. Within a network the nodes are uniform in t.
    """
    T, S = num_timestep, step_inference
    check_step_inference(S, T)
    two_networks = 0 < S < T
    low = min(T, 2) if not two_networks else 1 + min(S, 2)  # the last node is always t = 0
    if not low <= num_steps <= T:
        raise InputError(f"--num_steps {num_steps}: must be from {low} to {T} with --step_inference {S} and T = {T}")
    if not two_networks:
        return _pairs(_nodes(T - 1, 0, num_steps))
    small = round(num_steps * S / T)
    small = max(small, min(S, 2), num_steps - (T - S))
    small = min(small, S, num_steps - 1)
    large = num_steps - small
    # The large network's last step lands on t = S - 1, which is the small network's first node.
    return _pairs(_nodes(T - 1, S - 1, large + 1)[:-1] + _nodes(S - 1, 0, small))


def split_plan(plan: list[Pair], step_inference: int) -> tuple[list[Pair], list[Pair]]:
    """(large, small): a pair belongs to the network of its t; t >= step_inference is the large one's."""
    large = [pair for pair in plan if pair[0] >= step_inference]
    return large, plan[len(large) :]


def released_plans(num_timestep: int, step_inference: int) -> tuple[list[Pair], list[Pair]]:
    """(large, small) as the released script walks them, for comparison.

    Each network starts at t = its number of steps - 1 and walks down to 0, so the small one gets an already
    denoised image. The step from t = 1 goes to the clean image instead of to t = 0 (the script's slip).
    """
    check_step_inference(step_inference, num_timestep)

    def walk(steps: int) -> list[Pair]:
        return [(t, t - 1 if t > 1 else -1) for t in range(steps - 1, -1, -1)]

    return walk(num_timestep - step_inference), walk(step_inference)


def _nodes(first: int, last: int, count: int) -> list[int]:
    return [int(t) for t in np.linspace(first, last, count).round()]


def _pairs(nodes: list[int]) -> list[Pair]:
    return list(zip(nodes, [*nodes[1:], -1], strict=True))
