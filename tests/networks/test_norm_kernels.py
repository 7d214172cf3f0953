"""The GPU's norm against the plain formula in float64: on a GPU as it is, elsewhere in Triton's interpreter."""

import importlib
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from command_line import ROOT, plain_environment

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = ("x", "weight", "bias", "added", "emb")


@pytest.fixture(scope="module")
def norm_kernels():
    name = "guided_diffusion.networks.norm_kernels"
    if DEVICE == "cuda":
        return importlib.import_module(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.delitem(sys.modules, name, raising=False)
        module = importlib.import_module(name)
    module._add = module.tl.standard._sum_combine  # which the interpreter knows, and leaves to NumPy
    return module


def formula(x, weight, bias, added, emb, groups, eps, silu):
    x = x if added is None else x + added[..., None, None]
    y = F.group_norm(x, groups, weight, bias, eps)
    if emb is not None:
        scale, shift = emb[..., None, None].chunk(2, dim=1)
        y = y * (1 + scale) + shift
    return F.silu(y) if silu else y


@pytest.mark.parametrize(
    ("shape", "groups", "offset", "without", "silu", "dtype"),
    [
        ((2, 12, 5, 7), 3, 10, "", True, torch.float32),  # a third of the tile's channels do not exist
        ((2, 12, 5, 7), 3, 10, "", True, torch.bfloat16),
        ((1, 96, 6, 9), 4, -3, "added", True, torch.float32),  # three blocks of channels
        ((2, 5, 9, 4), 1, 1, "emb", False, torch.float32),
        ((3, 8, 1, 1), 4, 1, "added emb", True, torch.float32),
        ((2, 4, 1, 1), 4, 0, "", True, torch.float32),  # groups of one number: y is constant, dx is 0
    ],
)
def test_output_and_gradients(shape, groups, offset, without, silu, dtype, norm_kernels, monkeypatch):
    """x is a window of a larger tensor, dy lies in the other memory format; sums go over several tiles and chunks."""
    monkeypatch.setattr(norm_kernels, "TILE", 128)
    monkeypatch.setattr(norm_kernels, "PROGRAMS", 4)
    torch.manual_seed(0)
    n, c, height, width = shape
    shapes = ((n, c, height + 2, width + 1), (c,), (c,), (n, c), (n, 2 * c))
    tensors = {name: torch.randn(shape, device=DEVICE) for name, shape in zip(NAMES, shapes, strict=True)}
    tensors |= dict.fromkeys(without.split())
    tensors["x"] = (tensors["x"] + offset).to(dtype).to(memory_format=torch.channels_last)
    dy = torch.randn(shape, device=DEVICE).to(dtype)

    def run(function, wide):
        leaves = [t if t is None else t.to(wide or t.dtype).requires_grad_() for t in tensors.values()]
        y = function(leaves[0][..., 1:-1, 1:], *leaves[1:], groups, 1e-5, silu)
        return y, *torch.autograd.grad(y, [leaf for leaf in leaves if leaf is not None], dy.to(y.dtype))

    (y, *ours), exact = run(norm_kernels.fused_group_norm, None), run(formula, torch.float64)
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    for one, other in zip((y, *ours), exact, strict=True):
        tolerance = 5e-3 if one.dtype == torch.bfloat16 else 2e-6
        assert (one.double() - other).norm() < tolerance * max(other.norm(), dy.norm())


COMPILED = """
import torch, triton
from torch._dynamo.backends.common import aot_autograd
from triton.backends.compiler import GPUTarget
class Driver: get_current_target = lambda self: GPUTarget("cuda", 90, 32)
triton.runtime.driver.set_active(Driver())
torch.utils._triton.has_triton = lambda: True  # as where there is a GPU
from guided_diffusion.networks.norm_kernels import fused_group_norm
def record(graph, inputs):
    print(*(node.kwargs["kernel_idx"] for node in graph.graph.nodes if "triton" in str(node.target)))
    return graph.forward
network = torch.compile(fused_group_norm, backend=aot_autograd(fw_compiler=record), fullgraph=True)
shapes = (2, 32, 8, 8), (32,), (32,), (2, 64)
x, w, b, nc = (torch.empty(shape, device="meta", requires_grad=True) for shape in shapes)
network(x, w, b, nc[:, ::2], nc, 8, 1e-5, True).sum().backward()
"""


def test_the_compiler_sees_the_kernels_in_one_graph():
    """Traced on the meta device, with the interpreter off: three launches forward, three backward."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, cwd=ROOT, env=plain_environment()
    )
    assert done.stdout.split("\n")[:2] == ["0 1 2", "3 4 5"], done.stderr


MACHINE_CODE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction
class Driver:
    get_current_device = get_current_stream = lambda self, *_: self.capability
    get_current_target = lambda self: GPUTarget("cuda", self.capability, 32)
def compiled(kernel, *args, **options):
    done = launch(kernel, *args, **options | {"warmup": True})  # which stops where it would start it
    wide = [way for way in ("ld", "st") if f"{way}.global.v4" in done.asm["ptx"]]
    print(done.name, *wide if done.asm["cubin"] else "no code")
launch, JITFunction.run, driver = JITFunction.run, compiled, Driver()
triton.runtime.driver.set_active(driver)
from guided_diffusion.networks.norm_kernels import fused_group_norm
for driver.capability in (80, 90):
    shapes = (2, 128, 8, 8), (128,), (128,), (2, 128), (2, 256)
    inputs = (torch.empty(shape, dtype=torch.bfloat16, requires_grad=True) for shape in shapes)
    fused_group_norm(*inputs, 32, 1e-5, True).sum().backward()
"""


def test_kernels_compile_to_machine_code_that_moves_sixteen_bytes_at_a_time(tmp_path):
    """For GPUs of compute capability 8.0 and 9.0, by the ptxas that comes with Triton; no GPU is needed."""
    environment = {**plain_environment(), "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", MACHINE_CODE]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    told = ["_moments ld", "_statistics", "_apply ld st", "_dots ld", "_gather", "_d_input ld st"]
    assert done.stdout.splitlines() == told * 2, done.stderr
