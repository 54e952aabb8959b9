"""Scenes on the emulated device, each run by a test in a process of its own: `python scenarios.py NAME`."""

import importlib
import math
import os
import sys
from pathlib import Path

import torch

from bridgetower_train.config import DeviceConfig, ObjectiveConfig, OptimConfig
from bridgetower_train.devices import make_device
from bridgetower_train.errors import ConfigError, UserError
from bridgetower_train.planning.trace import fused
from bridgetower_train.training.recompiles import RecompileGuard
from tests.helpers import pretraining, random_batch
from tests.tiny import SMALL

STUB = Path(__file__).parent / "stub" / "habana_frameworks" / "torch"


def hpu(**config):
    """The device."""
    device, _ = make_device(DeviceConfig(name="hpu", **config))
    return device


def auto():
    """`auto` takes it before anything else."""
    device, why = make_device(DeviceConfig())
    print(device.name, device.execution, why)


def generation():
    """What the first generation lacks is avoided."""
    device = hpu(precision="bf16")
    print(device.generation, device.description, device.peak_flops, device.attention.__name__)
    q = torch.randn(2, 2, 3, 64, device="hpu")
    device.attention(q, q, q, None, 0.0)


def updates(gradients, clip_norm=0.0, moments="fp32"):
    """(weights, first means, what was returned) after updates by such gradients, all on the host."""
    device = hpu()
    weight = torch.nn.Parameter(torch.ones(3, device="hpu"))
    groups = [{"params": [weight], "lr": 0.1, "weight_decay": 0.0}, {"params": [], "lr": 0.1}]
    optimizer = device.adamw(groups, OptimConfig(eps=1e-7, moments=moments))
    assert [group["eps"] for group in optimizer.param_groups] == [1e-7]
    told = []
    for gradient in gradients:
        weight.grad = torch.full((3,), gradient, device="hpu")
        norm = torch.nn.utils.get_total_norm([weight.grad])
        skipped = device.clip_or_skip(optimizer, [weight.grad], norm, clip_norm)
        assert skipped.shape == ()
        optimizer.step()
        told.append((skipped.item(), weight.grad.cpu().norm().item()))
    state = device.optimizer_state(optimizer, optimizer.param_groups[0], weight)
    return weight.detach().cpu(), {name: value.cpu() for name, value in state.items()}, told


def skipped():
    """A skipped update is one by gradients of zero, whatever is not finite and whether or not they are clipped."""
    expected, state, _ = updates((0.5, 0.0, 0.5))
    for clip_norm in (0.0, 10.0):
        for wrong in (math.nan, math.inf):
            weights, kept, told = updates((0.5, wrong, 0.5), clip_norm)
            assert [skip for skip, _ in told] == [0.0, 1.0, 0.0]
            assert torch.equal(weights, expected)
            assert all(torch.equal(kept[name], state[name]) for name in state)


def clipping():
    """Gradients of at most the norm that is asked for."""
    for max_norm, expected in ((0.0, 12**0.5), (1.0, 1.0)):
        _, _, ((skip, norm),) = updates([2.0], max_norm)
        assert skip == 0.0
        assert abs(norm - expected) < 1e-5


def moments():
    """In bf16 they are stored rounded, half as large, and come back from a checkpoint in fp32 as they were."""
    exact, rounded = (updates((0.3, 0.5, 0.7), moments=precision) for precision in ("fp32", "bf16"))
    for name in ("exp_avg", "exp_avg_sq"):
        assert (exact[1][name].dtype, rounded[1][name].dtype) == (torch.float32, torch.bfloat16)
        torch.testing.assert_close(rounded[1][name].float(), exact[1][name], rtol=2**-7, atol=0)
    assert not torch.equal(rounded[0], exact[0])
    torch.testing.assert_close(rounded[0], exact[0], rtol=0, atol=2e-3)
    device = hpu()
    weight = torch.nn.Parameter(torch.ones(3, device="hpu"))
    optimizer = device.adamw([{"params": [weight], "lr": 0.1, "weight_decay": 0.0}], OptimConfig(moments="bf16"))
    (group,) = optimizer.param_groups
    device.load_optimizer_state(optimizer, group, weight, {name: t.float() for name, t in rounded[1].items()})
    again = device.optimizer_state(optimizer, group, weight)
    assert all(torch.equal(again[name].cpu(), rounded[1][name]) for name in again)


def attention_keeps():
    """FusedSDPA keeps no more than the plan's: operands, result and statistics, no matrix of queries x keys."""
    device = hpu(precision="bf16")
    from habana_frameworks.torch import _emulation

    B, H, T, E = 2, 2, 96, 16
    q, k, v = (torch.randn(B, H, T, E, device="hpu", dtype=torch.bfloat16).requires_grad_() for _ in range(3))
    kept = {}
    for name, function in (("device", device.attention), ("plan", fused)):
        before = _emulation.device.counts()["in_use"]
        out = function(q, k, v, None, 0.1)
        assert out.requires_grad
        kept[name] = _emulation.device.counts()["in_use"] - before
        del out
    assert 0 < kept["device"] <= kept["plan"] + B * H * T * 2, kept


def lacks():
    """What the device lacks is refused by the emulation, so that a run that passes does not need it."""
    hpu()
    for make in (
        lambda: torch.zeros(2, dtype=torch.float64, device="hpu"),
        lambda: torch.tensor([2**31]).to("hpu"),
        lambda: torch.zeros(2, dtype=torch.float16, device="hpu"),
    ):
        try:
            make()
        except RuntimeError as error:
            print(error)


def vendor_lists():
    """Under the vendor's own lists the losses still are near float32."""
    device = hpu(precision="bf16")
    torch.manual_seed(0)
    from habana_frameworks.torch import _emulation

    task, batch = pretraining(SMALL, ObjectiveConfig(itc_dim=16), device.attention).to("hpu"), random_batch(SMALL, 4)
    batch = batch.to(device.torch_device)
    exact = {name: value.item() for name, value in task.losses(batch, task.counts(batch))[1].items()}
    for lists in ("ours", "default"):
        if lists == "default":
            _emulation.device.setup(True, True, str(STUB / "default_bf16.txt"), str(STUB / "default_fp32.txt"))
        with device.autocast():
            rounded = {name: value.item() for name, value in task.losses(batch, task.counts(batch))[1].items()}
            product = torch.ones(2, device="hpu") * 2
        worst = max(abs(rounded[name] / exact[name] - 1) for name in exact if name.startswith("loss"))
        print(lists, worst, product.dtype)


def graph_outputs():
    """What a graph gave stays what it was when the graph is replayed."""
    device = hpu(graphs=True)
    task = pretraining(SMALL, ObjectiveConfig(itc_dim=16), device.attention).to("hpu")
    module = device.capture_graphs(task, 1, False)
    first, second = (random_batch(SMALL, 4, seed).to(device.torch_device) for seed in (1, 2))
    loss = module(first, task.counts(first))[1]["loss"]
    before = loss.item()
    assert module(second, task.counts(second))[1]["loss"].item() != before
    assert loss.item() == before


def recompiles():
    """A constant that changes from step to step is another graph each time, and found."""
    device = hpu()
    said = []
    guard = RecompileGuard(device, 2, said.append)
    x = torch.ones(3, device="hpu")
    for step in range(1, 6):
        (x * 2.0).sum()
        device.mark_step()
        guard.check(step, [24])
    assert guard.count == 0
    try:
        for step in range(6, 20):
            (x * float(step)).sum()
            device.mark_step()
            guard.check(step, [24])
    except UserError as error:
        print(step, "\n".join(said), error)


def environments():
    """Each that contradicts the configuration is refused, before anything is imported."""
    for name, value in (("PT_HPU_LAZY_MODE", "0"), ("PT_HPU_AUTOCAST_FP32_OPS_LIST", "/mine.txt")):
        os.environ[name] = value
        try:
            hpu()
        except ConfigError as error:
            print(error)
        del os.environ[name]
    importlib.import_module("habana_frameworks.torch")
    try:
        hpu()
    except ConfigError as error:
        print(error)
    os.environ["PT_HPU_LAZY_MODE"] = "1"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        globals()[name]()
