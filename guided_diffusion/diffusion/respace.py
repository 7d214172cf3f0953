"""Plans: which timesteps are visited, and by which network.

A plan is a list of pairs (t, t_prev), descending, starting at T-1 and ending (0, -1), where -1 is the clean
image. All functions here are pure.
"""

from collections.abc import Sequence

import numpy as np

from ..errors import InputError, brief

Pair = tuple[int, int]
NumSteps = int | Sequence[int]  # over both networks, or (large, small)

SPACINGS = ("uniform", "logsnr")  # nodes uniform in t, or in log-SNR below the noisy end
# With log-SNR spacing the node after T-1 is at this share of T: above it a cosine schedule holds a third of the
# log-SNR range, and nothing to see.
NOISY_END = 0.99


def parse_num_steps(text: str) -> int | tuple[int, int]:
    """Read "20" as 20 and "12+8" as (12, 8). Raises InputError."""
    try:
        steps = tuple(map(int, text.split("+")))
    except ValueError:
        steps = ()
    if len(steps) not in (1, 2):
        wanted = "a whole number, or two for large + small network, as in 12+8"
        raise InputError(f"`num_steps` {brief(text)}: must be {wanted}")
    return steps if len(steps) == 2 else steps[0]


def format_num_steps(num_steps: NumSteps) -> str:
    """As on the command line: "20" or "12+8"."""
    return str(num_steps) if isinstance(num_steps, int) else "+".join(map(str, num_steps))


def log_snr(alphas_cumprod: np.ndarray) -> np.ndarray:
    """log(alpha_bar / (1 - alpha_bar)) by timestep: float64 [T], falling."""
    return np.log(alphas_cumprod) - np.log1p(-alphas_cumprod)


def make_plan(
    num_timestep: int, num_steps: NumSteps, step_inference: int = 0, log_snr: np.ndarray | None = None
) -> list[Pair]:
    """Plan with num_steps pairs over T = num_timestep, that visits the hand-off.

    With 0 < step_inference < T the node t = step_inference - 1 is always there, so that the state which
    crosses has exactly its noise level. num_steps: the large and the small network's, or their sum, which is
    shared in proportion to each one's range, at least one for each. Within a network the nodes are uniform in t;
    given log_snr (float [T]) they are uniform in that, but for T-1, which the node at NOISY_END follows.
    The range of a network is measured likewise. Raises InputError."""
    T, S = num_timestep, step_inference
    large, small = _share_steps(T, num_steps, S, log_snr)
    if large and small:  # the large network's last step lands on t = S - 1, which is the small network's first node
        nodes = _nodes(T - 1, S - 1, large + 1, log_snr)[:-1] + _nodes(S - 1, 0, small, log_snr)
    else:
        nodes = _nodes(T - 1, 0, large + small, log_snr)
    return list(zip(nodes, [*nodes[1:], -1], strict=True))


def split_plan(plan: list[Pair], step_inference: int) -> tuple[list[Pair], list[Pair]]:
    """(large, small): a pair belongs to the network of its t; t >= step_inference is the large one's."""
    large = [pair for pair in plan if pair[0] >= step_inference]
    return large, plan[len(large) :]


def released_plans(num_timestep: int, step_inference: int) -> tuple[list[Pair], list[Pair]]:
    """(large, small) as the released script walks them, for comparison.

    Each network starts at t = its number of steps - 1 and walks down to 0, so the small one gets an already
    denoised image. The step from t = 1 goes to the clean image instead of to t = 0 (the script's slip)."""

    def walk(steps: int) -> list[Pair]:
        return [(t, t - 1 if t > 1 else -1) for t in range(steps - 1, -1, -1)]

    return walk(num_timestep - step_inference), walk(step_inference)


def _share_steps(T: int, num_steps: NumSteps, S: int, log_snr: np.ndarray | None) -> tuple[int, int]:
    """Steps of the large and of the small network."""
    # Each that takes part has a first node; T-1 and S-1 are the first nodes, and t = 0 is always the last.
    least = min(T - S, 1 if S else 2), min(S, 2)
    most = T - S, S
    with_S = f"with `step_inference` {S} and T = {T}"
    if not isinstance(num_steps, int):
        large, small = num_steps
        if not (least[0] <= large <= most[0] and least[1] <= small <= most[1]):
            wanted = f"from {least[0]}+{least[1]} to {most[0]}+{most[1]} (large + small network)"
            raise InputError(f"`num_steps` {large}+{small}: must be {wanted} {with_S}")
        return large, small
    if not sum(least) <= num_steps <= T:
        raise InputError(f"`num_steps` {num_steps}: must be from {sum(least)} to {T} {with_S}")
    if not 0 < S < T:
        return (0, num_steps) if S else (num_steps, 0)
    part, whole = S, T
    if log_snr is not None:
        top = _noisy_end(T)
        part, whole = log_snr[0] - log_snr[min(S - 1, top)], log_snr[0] - log_snr[top]
    small = round(num_steps * part / whole)
    small = max(small, least[1], num_steps - most[0])
    small = min(small, most[1], num_steps - least[0])
    return num_steps - small, small


def _nodes(first: int, last: int, count: int, log_snr: np.ndarray | None) -> list[int]:
    """`count` distinct timesteps from first down to last; count is from 2 (1 if these are one) to all of them."""
    head: list[int] = []
    if log_snr is None:
        t = np.linspace(first, last, count)
    else:
        top = _noisy_end(len(log_snr))
        if first > top > last:
            head, first = [first], top
        levels = np.linspace(log_snr[last], log_snr[first], count - len(head))[::-1]
        t = np.append(head, np.interp(levels, log_snr[::-1], np.arange(len(log_snr))[::-1]))
    # Rounded to whole timesteps, and pushed down where two would merge, but leaving room for those that follow.
    i = np.arange(count)
    t = np.maximum(np.minimum.accumulate(t.round() + i), last + count - 1) - i
    return [int(node) for node in t]


def _noisy_end(T: int) -> int:
    return max(1, min(round(NOISY_END * T), T - 2))
