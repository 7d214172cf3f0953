"""Plans: descending, from T-1 to the clean image, through the hand-off."""

import numpy as np
import pytest

from guided_diffusion.diffusion.gaussian_diffusion import make_betas
from guided_diffusion.diffusion.respace import format_num_steps, log_snr, make_plan, parse_num_steps, split_plan
from guided_diffusion.errors import InputError

T = 1000


def levels(schedule, num_timestep=T):
    """log-SNR by timestep, None for spacing uniform in t."""
    return None if schedule is None else log_snr(np.cumprod(1 - make_betas(schedule, num_timestep)))


def check_plan(plan, num_timestep, step_inference, num_steps):
    nodes = [t for t, _ in plan]
    assert all(type(t) is int for t in nodes)
    assert nodes[0] == num_timestep - 1 and plan[-1] == (0, -1)
    assert all(a > b for a, b in zip(nodes, nodes[1:], strict=False))
    assert [t_prev for _, t_prev in plan] == [*nodes[1:], -1]
    large, small = split_plan(plan, step_inference)
    assert large + small == plan
    assert all(t >= step_inference for t, _ in large) and all(t < step_inference for t, _ in small)
    assert num_steps in (len(plan), (len(large), len(small)))
    if 0 < step_inference < num_timestep:
        assert large and small
        assert large[-1][1] == step_inference - 1 == small[0][0]


@pytest.mark.parametrize("num_timestep", [2, 3, 5, 10, 37])
@pytest.mark.parametrize("schedule", [None, "cosine", "inverse_proportion"])
def test_every_possible_plan_of_a_short_diffusion(num_timestep, schedule):
    """All hand-offs with all numbers of steps, in all or by network; just outside of these: an error."""
    level = levels(schedule, num_timestep)
    for S in range(num_timestep + 1):
        # T-1, S-1 and 0 are nodes
        fewest = len({num_timestep - 1, 0} | ({S - 1} if 0 < S < num_timestep else set()))
        for n in range(fewest, num_timestep + 1):
            check_plan(make_plan(num_timestep, n, S, level), num_timestep, S, n)
        for n in (fewest - 1, num_timestep + 1):
            with pytest.raises(InputError, match=f"num_steps {n}: must be from {fewest} to {num_timestep} "):
                make_plan(num_timestep, n, S, level)
        larges = [0] if S == num_timestep else range(1 if S else min(2, num_timestep), num_timestep - S + 1)
        smalls = [0] if S == 0 else range(min(S, 2), S + 1)
        for large in larges:
            for small in smalls:
                check_plan(make_plan(num_timestep, (large, small), S, level), num_timestep, S, (large, small))
        bounds = rf"from {larges[0]}\+{smalls[0]} to {larges[-1]}\+{smalls[-1]} \(large"
        ends = [(larges[0] - 1, smalls[0]), (larges[0], smalls[0] - 1), (larges[-1] + 1, smalls[-1])]
        for a, b in [*ends, (larges[-1], smalls[-1] + 1)]:
            with pytest.raises(InputError, match=rf"num_steps {a}\+{b}: must be {bounds}"):
                make_plan(num_timestep, (a, b), S, level)


def cosine_level(t):
    """The log-SNR of the cosine schedule of T steps, by its formula."""
    s = 0.008
    alpha_bar = np.cos(((t + 1) / T + s) / (1 + s) * np.pi / 2) ** 2 / np.cos(s / (1 + s) * np.pi / 2) ** 2
    return np.log(alpha_bar / (1 - alpha_bar))


@pytest.mark.parametrize("S, num_steps", [(0, (3, 0)), (0, (12, 0)), (0, (50, 0)), (400, (14, 9))])
def test_log_snr_nodes_by_the_formula(S, num_steps):
    """Nodes uniform in log-SNR after T-1, to the nearest timestep where these do not merge."""
    large, small = split_plan(make_plan(T, num_steps if S else num_steps[0], S, levels("cosine")), S)
    nodes = [t for t, _ in large] + ([S - 1] if S else [])
    assert nodes[:2] == [999, 990]
    for walk in filter(None, (nodes[1:], [t for t, _ in small])):
        wanted, fine = np.linspace(*map(cosine_level, (walk[0], walk[-1])), len(walk)), np.linspace(999, 0, 99_901)
        exact = np.interp(wanted, cosine_level(fine), fine)  # the timesteps, not rounded
        for i, node in enumerate(walk):
            pushed = any(abs(node - other) == 1 for other in walk[max(i - 1, 0) : i + 2])
            assert abs(node - exact[i]) < (2 if pushed else 0.55), (i, node, exact[i])


def test_steps_are_shared_in_proportion_to_the_ranges():
    """Uniform in t, and in log-SNR."""
    for S, n in ((400, 100), (400, 50), (333, 77), (50, 9)):
        small = max(round(n * S / T), 2)
        nodes = [*np.linspace(999, S - 1, n - small + 1).round()[:-1], *np.linspace(S - 1, 0, small).round()]
        assert [t for t, _ in make_plan(T, n, S)] == nodes
    for S, n in ((400, 50), (100, 20), (700, 31)):
        large, small = split_plan(make_plan(T, n, S, levels("cosine")), S)
        share = (cosine_level(0) - cosine_level(S - 1)) / (cosine_level(0) - cosine_level(990))
        assert len(small) == round(n * share) and len(large) == n - len(small)


def test_num_steps_as_text():
    assert parse_num_steps("20") == 20 and parse_num_steps("12+8") == (12, 8)
    assert [format_num_steps(n) for n in (20, (12, 8), [12, 8])] == ["20", "12+8", "12+8"]
    for text in ("", "many", "12+", "1+2+3", "1.5", "12+x"):
        with pytest.raises(InputError, match="num_steps .*: must be a whole number, or two"):
            parse_num_steps(text)
