"""Plans: descending, from T-1 to the clean image, through the hand-off."""

import pytest

from guided_diffusion.errors import InputError
from guided_diffusion.respace import make_plan, released_plans, split_plan

T = 1000


@pytest.mark.parametrize("step_inference", [0, 1, 2, 50, 400, 999, 1000])
@pytest.mark.parametrize("num_steps", [1000, 999, 50, 7, 3])
def test_plan_invariants(step_inference, num_steps):
    plan = make_plan(T, num_steps, step_inference)
    nodes = [t for t, _ in plan]
    assert len(plan) == num_steps
    assert nodes[0] == T - 1 and plan[-1] == (0, -1)
    assert all(a > b for a, b in zip(nodes, nodes[1:], strict=False))
    assert [t_prev for _, t_prev in plan] == [*nodes[1:], -1]
    large, small = split_plan(plan, step_inference)
    assert large + small == plan
    assert all(t >= step_inference for t, _ in large) and all(t < step_inference for t, _ in small)
    if 0 < step_inference < T:
        assert large and small
        assert large[-1][1] == step_inference - 1 == small[0][0]


def test_full_plan_visits_every_timestep():
    assert make_plan(T, T, 400) == [(t, t - 1) for t in range(T - 1, -1, -1)]


def test_steps_are_shared_in_proportion_to_the_ranges():
    large, small = split_plan(make_plan(T, 50, 400), 400)
    assert (len(large), len(small)) == (30, 20)


@pytest.mark.parametrize("step_inference, num_steps", [(400, 2), (1, 1), (0, 1), (400, 1001), (400, 0)])
def test_too_few_or_too_many_steps_name_the_range(step_inference, num_steps):
    with pytest.raises(InputError, match=f"--num_steps {num_steps}: must be from"):
        make_plan(T, num_steps, step_inference)


@pytest.mark.parametrize("step_inference", [-1, 1001])
def test_step_inference_out_of_range(step_inference):
    with pytest.raises(InputError, match=f"--step_inference {step_inference}: must be from 0"):
        make_plan(T, 50, step_inference)


def test_released_plans_restart_each_network_at_its_number_of_steps():
    large, small = released_plans(T, 400)
    assert [t for t, _ in large] == list(range(599, -1, -1))
    assert [t for t, _ in small] == list(range(399, -1, -1))
    assert large[-3:] == [(2, 1), (1, -1), (0, -1)]  # the slip: from t = 1 straight to the clean image
    assert released_plans(T, 1000)[0] == [] and released_plans(T, 0)[1] == []
