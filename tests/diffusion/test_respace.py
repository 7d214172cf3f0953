"""Plans: descending, from T-1 to the clean image, through the hand-off."""

import numpy as np
import pytest

from guided_diffusion.diffusion.gaussian_diffusion import make_betas
from guided_diffusion.diffusion.respace import (
    format_num_steps,
    log_snr,
    make_plan,
    parse_num_steps,
    released_plans,
    split_plan,
)
from guided_diffusion.errors import InputError

T = 1000


def levels(schedule, num_timestep=T):
    """log-SNR by timestep, None for spacing uniform in t."""
    return None if schedule is None else log_snr(np.cumprod(1 - make_betas(schedule, num_timestep)))


def check_plan(plan, num_timestep, step_inference, large_steps=None, small_steps=None):
    nodes = [t for t, _ in plan]
    assert all(type(t) is int for t in nodes)
    assert nodes[0] == num_timestep - 1 and plan[-1] == (0, -1)
    assert all(a > b for a, b in zip(nodes, nodes[1:], strict=False))
    assert [t_prev for _, t_prev in plan] == [*nodes[1:], -1]
    large, small = split_plan(plan, step_inference)
    assert large + small == plan
    assert all(t >= step_inference for t, _ in large) and all(t < step_inference for t, _ in small)
    if large_steps is not None:
        assert (len(large), len(small)) == (large_steps, small_steps)
    if 0 < step_inference < num_timestep:
        assert large and small
        assert large[-1][1] == step_inference - 1 == small[0][0]


@pytest.mark.parametrize("schedule", [None, "cosine", "linear", "sqrt"])
@pytest.mark.parametrize("step_inference", [0, 1, 2, 50, 400, 989, 991, 995, 999, 1000])
@pytest.mark.parametrize("num_steps", [1000, 999, 50, 20, 7, 3])
def test_plan_invariants(step_inference, num_steps, schedule):
    plan = make_plan(T, num_steps, step_inference, levels(schedule))
    assert len(plan) == num_steps
    check_plan(plan, T, step_inference)


@pytest.mark.parametrize("num_timestep", [2, 3, 5, 10, 37])
@pytest.mark.parametrize("schedule", [None, "cosine", "inverse_proportion"])
def test_every_possible_plan_of_a_short_diffusion(num_timestep, schedule):
    """All hand-offs with all numbers of steps, in all or by network; just outside of these: an error."""
    level = levels(schedule, num_timestep)
    for S in range(num_timestep + 1):
        # T-1, S-1 and 0 are nodes
        fewest = len({num_timestep - 1, 0} | ({S - 1} if 0 < S < num_timestep else set()))
        for n in range(fewest, num_timestep + 1):
            plan = make_plan(num_timestep, n, S, level)
            assert len(plan) == n
            check_plan(plan, num_timestep, S)
        for n in (fewest - 1, num_timestep + 1):
            with pytest.raises(InputError, match=f"num_steps {n}: must be from {fewest} to {num_timestep} "):
                make_plan(num_timestep, n, S, level)
        larges = [0] if S == num_timestep else range(1 if S else min(2, num_timestep), num_timestep - S + 1)
        smalls = [0] if S == 0 else range(min(S, 2), S + 1)
        for large in larges:
            for small in smalls:
                check_plan(make_plan(num_timestep, (large, small), S, level), num_timestep, S, large, small)
        ends = [(larges[0] - 1, smalls[0]), (larges[0], smalls[0] - 1), (larges[-1] + 1, smalls[-1])]
        for pair in [*ends, (larges[-1], smalls[-1] + 1)]:
            with pytest.raises(
                InputError,
                match=rf"num_steps {pair[0]}\+{pair[1]}: must be from {larges[0]}\+{smalls[0]} "
                rf"to {larges[-1]}\+{smalls[-1]} \(large \+ small network\)",
            ):
                make_plan(num_timestep, pair, S, level)


def test_uniform_plans_stay_as_they_were():
    """Sample folders are continued by later versions, so these nodes must not change."""
    for S, n in [(400, 100), (400, 50), (400, 20), (333, 77), (50, 9)]:
        small = min(max(round(n * S / T), 2), S)
        nodes = [*np.linspace(999, S - 1, n - small + 1).round()[:-1], *np.linspace(S - 1, 0, small).round()]
        assert [t for t, _ in make_plan(T, n, S)] == nodes
    assert [t for t, _ in make_plan(T, 30)] == list(np.linspace(999, 0, 30).round())


def cosine_timestep(level):
    """The timestep, not rounded, at which the cosine schedule of T steps has a log-SNR: its formula inverted."""
    s = 0.008
    alpha_bar = 1 / (1 + np.exp(-level)) * np.cos(s / (1 + s) * np.pi / 2) ** 2
    return (np.arccos(np.sqrt(alpha_bar)) * 2 / np.pi * (1 + s) - s) * T - 1


def cosine_level(t):
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
        exact = cosine_timestep(np.linspace(cosine_level(walk[0]), cosine_level(walk[-1]), len(walk)))
        for i, node in enumerate(walk):
            pushed = any(abs(node - other) == 1 for other in walk[max(i - 1, 0) : i + 2])
            assert abs(node - exact[i]) < (2 if pushed else 0.55), (i, node, exact[i])


def test_plans_at_the_ends():
    for schedule in (None, "cosine"):
        for num_steps in (T, (600, 400)):
            assert make_plan(T, num_steps, 400, levels(schedule)) == [(t, t - 1) for t in range(T - 1, -1, -1)]
    for step_inference in (-1, 1001):
        with pytest.raises(InputError, match=f"step_inference {step_inference}: must be from 0"):
            make_plan(T, 50, step_inference)


def test_steps_are_shared_in_proportion_to_the_ranges():
    large, small = split_plan(make_plan(T, 50, 400), 400)
    assert (len(large), len(small)) == (30, 20)
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


def test_released_plans_restart_each_network_at_its_number_of_steps():
    large, small = released_plans(T, 400)
    assert [t for t, _ in large] == list(range(599, -1, -1))
    assert [t for t, _ in small] == list(range(399, -1, -1))
    assert large[-3:] == [(2, 1), (1, -1), (0, -1)]  # the slip: from t = 1 straight to the clean image
    assert released_plans(T, 1000)[0] == [] and released_plans(T, 0)[1] == []
