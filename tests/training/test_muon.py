"""Muon against the singular value decomposition, and against itself written out in float64."""

import pytest
import torch

from guided_diffusion.training.muon import COEFFICIENTS, Muon, orthogonal


def iterated(matrix):
    """The Newton-Schulz iteration as it is defined, on the matrix itself, in float64."""
    x, (a, b, c) = matrix.double() / matrix.double().norm(), COEFFICIENTS
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", [(16, 144), (32, 32), (144, 16)])
def test_matrices_become_orthogonal(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    matrices[1] *= 1e4
    matrices[2, :, :3] *= 100
    other = torch.randn(2, 16, 20, generator=torch.Generator().manual_seed(1))  # of the same side as some
    (found, beside), alone = orthogonal([matrices, other]), orthogonal([other])
    assert torch.allclose(beside, alone[0], atol=1e-6)
    for matrix, own in zip(matrices, found, strict=True):
        assert (own - iterated(matrix)).abs().max() < 1e-4
        u, _, v = torch.linalg.svd(matrix.double(), full_matrices=False)
        assert torch.einsum("ij,ij->", own.double(), u @ v) / min(shape) == pytest.approx(1, abs=0.2)
        if shape[0] != shape[1]:  # the smallest singular values of a square one may be near 0
            values = torch.linalg.svdvals(own)
            assert 0.65 < values.min() and values.max() < 1.25
    assert orthogonal([torch.zeros(1, *shape)])[0].abs().max() == 0


def make(optimizer, **options):
    """Parameters, and `optimizer` of them: a convolution, a linear, a matrix too narrow for Muon, a vector."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((24, 16, 3, 3), (40, 20), (7, 32), (32,))
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    return parameters, optimizer(parameters, lr=0.01, weight_decay=0.1, **options)


def gradients(step):
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(parameter.shape, generator=generator) for parameter in make(torch.optim.AdamW)[0]]


def test_three_steps_are_those_of_the_definition():
    (parameters, muon), (plain, adamw) = make(Muon, fused=True), make(torch.optim.AdamW)
    expected = [parameter.detach().double() for parameter in parameters[:2]]
    momenta = [torch.zeros_like(own) for own in expected]
    for step in range(3):
        for own, other, gradient in zip(parameters, plain, gradients(step), strict=True):
            own.grad, other.grad = gradient, gradient.clone()
        for k, gradient in enumerate(gradients(step)[:2]):
            momenta[k] = 0.95 * momenta[k] + 0.05 * gradient.double()
            update = iterated((0.05 * gradient + 0.95 * momenta[k]).flatten(1))
            size = 0.01 * 0.2 * max(update.shape) ** 0.5
            expected[k] = expected[k] * (1 - 0.01 * 0.1) - size * update.view(gradient.shape)
        muon.step()
        adamw.step()
    for own, wanted in zip(parameters, [*expected, *plain[2:]], strict=True):
        assert (own - wanted).abs().max() < 1e-5


def test_no_update_follows_a_gradient_that_is_not_finite():
    parameters, muon = make(Muon, fused=True)
    before = [parameter.detach().clone() for parameter in parameters]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, torch.nan)
    muon.found_inf = torch.ones(())
    muon.step()
    assert all(torch.equal(own, old) for own, old in zip(parameters, before, strict=True))
