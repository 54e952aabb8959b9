"""The CPU's own attention, and its memory."""

import gc
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from bridgetower_train.config import DeviceConfig
from bridgetower_train.devices import cpu, make_device
from bridgetower_train.devices.cpu import CpuDevice, attention, product
from bridgetower_train.model.attention import Linear, attention_mask, sdpa
from bridgetower_train.model.bridgetower import BridgeTower
from bridgetower_train.model.vision import SelfAttention
from tests.tiny import SMALL

SHAPE = (4, 2, 48, 16)


def made() -> tuple[torch.Tensor, torch.Tensor]:
    """Queries, also used as keys, and a mask that hides the last keys."""
    torch.manual_seed(0)
    return torch.randn(SHAPE, requires_grad=True), attention_mask(torch.arange(48)[None] < 40, torch.float32)


@pytest.mark.parametrize("masked", [True, False])
def test_dropout_keeps_the_mean_and_drops_its_share(masked: bool):
    x, mask = made()
    seen = mask if masked else None
    ones = torch.ones_like(x)
    sums = torch.stack([attention(x, x, ones, seen, 0.25)[..., 0] for _ in range(200)])
    assert sums.mean().item() == pytest.approx(1.0, abs=0.01)

    uniform = attention(torch.zeros_like(x), x, torch.eye(48).expand(4, 2, 48, 48), seen, 0.25)
    shown = uniform[..., :40] if masked else uniform
    assert (shown == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert shown.max().item() == pytest.approx(1 / shown.shape[-1] / 0.75)
    assert not masked or not uniform[..., 40:].any(), "what the mask hides is not read"


def test_nearly_no_dropout_is_plain_attention():
    x, mask = made()
    plain, dropped = sdpa(x, x, x, mask, 0.0), attention(x, x, x, mask, 1e-9)
    torch.testing.assert_close(dropped, plain)
    grads = [torch.autograd.grad(out.square().sum(), x)[0] for out in (plain, dropped)]
    torch.testing.assert_close(grads[1], grads[0], atol=1e-4, rtol=1e-4)


def test_the_seed_decides_what_is_dropped():
    x, _ = made()
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        runs.append(attention(x, x, x, None, 0.1))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("execution", ["eager", pytest.param("compile", marks=pytest.mark.slow)])
def test_dropout_modules_of_a_captured_model(execution: str):
    device = make_device(DeviceConfig(name="cpu", execution=execution))[0]
    module = torch.nn.Sequential(torch.nn.Dropout(0.25))
    device.compile(module)
    x = torch.ones(400, 501, requires_grad=True)
    out = module(x)
    assert (out == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert out.mean().item() == pytest.approx(1.0, abs=0.01)
    assert torch.equal(torch.autograd.grad(out.sum(), x)[0], out.detach())
    assert torch.equal(module.eval()(x), x)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_used_again():
    program = """
import resource, torch
from bridgetower_train.config import DeviceConfig
from bridgetower_train.devices import make_device
make_device(DeviceConfig(name="cpu"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10 * 16384, "64 MiB are 16,384 pages: fresh ones would be 20 times that"


def test_peak_bytes_are_those_of_the_tensors_alive_together():
    device, _ = make_device(DeviceConfig(name="cpu"))

    def work() -> None:
        first = torch.ones(1_000_000)
        second = first + 1  # 8 MB with it
        del first, second
        assert torch.ones(1_500_000).sum() > 0  # 6 MB

    assert device.peak_bytes(work) == pytest.approx(8_000_000, rel=0.01)


def test_garbage_of_an_earlier_measurement_is_not_in_the_peak():
    """The allocator knows it, and would report that it is freed."""

    def leave_garbage() -> None:
        garbage = [torch.empty(1 << 20)]
        garbage.append(garbage)

    device = CpuDevice(DeviceConfig(name="cpu"), 0)
    assert device.peak_bytes(leave_garbage) == 4 << 20
    assert device.peak_bytes(lambda: (gc.collect(), torch.empty(1 << 10))) == 4 << 10


SHAPES = [((2, 65, 128), 512, True), ((3, 500, 128), 256, False), ((1, 4), 8, True)]


@pytest.mark.parametrize(("shape", "outputs", "biased"), SHAPES)
def test_products_are_torchs(shape: tuple[int, ...], outputs: int, biased: bool):
    torch.manual_seed(0)
    x = torch.randn(*shape[:-1], 2 * shape[-1])[..., : shape[-1]].requires_grad_()  # not contiguous
    weight = torch.randn(outputs, shape[-1], requires_grad=True)
    bias = torch.randn(outputs, requires_grad=True) if biased else None
    leaves = [leaf for leaf in (x, weight, bias) if leaf is not None]
    found = []
    for function in (product, F.linear):
        out = function(x, weight, bias)
        found.append([out, *torch.autograd.grad(out.square().mean(), leaves)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    frozen = product(x.detach(), weight, None if bias is None else bias.detach())
    assert torch.autograd.grad(frozen.sum(), weight)[0].shape == weight.shape
    for inexact in (x.double(), x.bfloat16()):
        assert torch.equal(
            product(inexact, weight.to(inexact.dtype), None), F.linear(inexact, weight.to(inexact.dtype))
        )


def test_a_captured_model_multiplies_by_the_faster_library(monkeypatch: pytest.MonkeyPatch):
    for preferred in (True, False):
        monkeypatch.setattr(cpu, "prefers_onednn", lambda preferred=preferred: preferred)
        model = BridgeTower(SMALL)
        make_device(DeviceConfig(name="cpu"))[0].compile(model)
        parts = [part for part in model.modules() if isinstance(part, (Linear, SelfAttention))]
        assert {part.product for part in parts} == {product if preferred else F.linear}
