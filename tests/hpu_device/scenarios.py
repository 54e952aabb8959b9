"""Scenes on the emulated device, each run by a test in a process of its own: `python scenarios.py NAME`."""

import importlib
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.checkpoint import checkpoint

from bridgetower_train.config import DataConfig, DeviceConfig, ObjectiveConfig, OptimConfig, Shape, TrainConfig
from bridgetower_train.devices import checks, habana, hpu_checks, make_device
from bridgetower_train.distributed import Ranks
from bridgetower_train.engines import NativeEngine
from bridgetower_train.engines.activation import checkpoint_blocks
from bridgetower_train.engines.optim import set_lr
from bridgetower_train.errors import ConfigError, UserError
from bridgetower_train.planning.trace import fused
from bridgetower_train.tasks import contrast, task_class
from bridgetower_train.training.recompiles import RecompileGuard
from bridgetower_train.training.step import backward
from bridgetower_train.training.warm_up import warm_up
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


def lazy():
    """Where it is not to be had, that is said before the vendor's package is imported."""
    try:
        hpu(execution="lazy")
    except ConfigError as error:
        print(error, "habana_frameworks.torch" in sys.modules)


def bridge():
    """What the doctor says of the vendor's package, in the mode of each execution."""
    for execution in ("lazy", "compile"):
        print(hpu_checks.check_bridge(checks.run, execution).found)


def generation():
    """What the first generation lacks is avoided."""
    device = hpu(precision="bf16")
    print(device.generation, device.description, device.peak_flops, device.attention.__name__)
    q = torch.randn(2, 2, 3, 64, device="hpu")
    device.attention(q, q, q, None, 0.0)


def updates(gradients, clip_norm=0.0, moments="fp32", limit=None):
    """(weights, first means, what was returned) after updates by such gradients, all on the host."""
    device = hpu()
    weight = torch.nn.Parameter(torch.ones(3, device="hpu"))
    groups = [{"params": [weight], "lr": 0.1, "weight_decay": 0.0}, {"params": [], "lr": 0.1}]
    optimizer = device.adamw(groups, OptimConfig(eps=1e-7, moments=moments))
    assert [group["eps"] for group in optimizer.param_groups] == [1e-7]
    told, limit = [], limit and torch.tensor(limit, device="hpu")
    for gradient in gradients:
        weight.grad = torch.full((3,), gradient, device="hpu")
        norm = torch.nn.utils.get_total_norm([weight.grad])
        skipped = device.clip_or_skip(optimizer, [weight.grad], norm, clip_norm, limit)
        assert skipped.shape == ()
        optimizer.step()
        told.append((skipped.item(), weight.grad.cpu().norm().item()))
    state = device.optimizer_state(optimizer, optimizer.param_groups[0], weight)
    return weight.detach().cpu(), {name: value.cpu() for name, value in state.items()}, told


def skipped():
    """A skipped update is one by gradients of zero, for whatever it is skipped and whether or not they are clipped."""
    expected, state, _ = updates((0.5, 0.0, 0.5))
    for clip_norm in (0.0, 10.0):
        for wrong in (math.nan, math.inf, 9.0):
            weights, kept, told = updates((0.5, wrong, 0.5), clip_norm, limit=10.0)
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
    device = hpu()
    for make in (
        lambda: torch.empty({1: 33, 2: 97, 3: 129}[device.generation] << 30, dtype=torch.uint8, device="hpu"),
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
            _emulation.device.setup(
                True, True, False, 1 << 40, str(STUB / "default_bf16.txt"), str(STUB / "default_fp32.txt")
            )
        with device.autocast():
            rounded = {name: value.item() for name, value in task.losses(batch, task.counts(batch))[1].items()}
            product = torch.ones(2, device="hpu") * 2
        worst = max(abs(rounded[name] / exact[name] - 1) for name in exact if name.startswith("loss"))
        print(lists, worst, product.dtype)


def exact_gelu():
    """GELU and its gradient are those of the CPU, not their approximation."""
    hpu()
    x = torch.linspace(-4, 4, 101)
    results = []
    for place in ("cpu", "hpu"):
        given = x.to(place).detach().requires_grad_()
        y = torch.nn.functional.gelu(given)
        y.sum().backward()
        results.append((y.detach().cpu(), given.grad.cpu()))
    print(*(float((a - b).abs().max()) for a, b in zip(*results, strict=True)))


def graph_outputs():
    """What a graph gave stays what it was when the graph is replayed."""
    device = hpu(graphs=True)
    task = pretraining(SMALL, ObjectiveConfig(itc_dim=16), device.attention).to("hpu")
    module = device.capture_graphs(task, 1, False)
    first, second = (random_batch(SMALL, 4, seed).to(device.torch_device) for seed in (1, 2))
    loss = module(first, task.counts(first))[1]["loss_mlm"]
    before = loss.item()
    assert module(second, task.counts(second))[1]["loss_mlm"].item() != before
    assert loss.item() == before


class Captured(torch.nn.Module):
    """Does `work` to what a linear layer gives."""

    def __init__(self, work):
        super().__init__()
        self.linear, self.work = torch.nn.Linear(2, 2), work

    def forward(self, x):
        return self.work(self.linear(x))


class Summed(torch.autograd.Function):
    """A collective in the backward pass."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone()
        dist.all_reduce(grad)
        return grad


def alone():
    """A group of this process."""
    dist.init_process_group("hccl", store=dist.HashStore(), rank=0, world_size=1)


def captures():
    """Collectives and in-place writes to views are refused inside of a graph, forwards and backwards."""
    device = hpu()
    alone()

    def gather(x):
        parts = [torch.empty_like(x)]
        dist.all_gather(parts, x)
        return parts[0] + x

    for work in (lambda x: x[:, 0].mul_(2) + x[:, 0], gather, Summed.apply):
        module = Captured(work).to("hpu")
        device.hpu.ModuleCacher()(model=module)
        try:
            module(torch.ones(3, 2, device="hpu"))
        except RuntimeError as error:
            print(error)


def nodes():
    """A gather into a list costs a copy for each of its tensors; one tensor costs none, nor does what comes from the host."""
    device = hpu()
    alone()
    x, whole = torch.ones(3, 2).to("hpu"), torch.empty(3, 2, device="hpu")
    device.mark_step()
    before = device.compilations()
    torch.ones(5).to("hpu")
    device.mark_step()
    assert device.compilations() == before
    dist.all_gather_into_tensor(whole, x)
    dist.reduce_scatter_tensor(whole, x)
    device.mark_step()
    assert device.compilations() == before
    assert torch.equal(whole.cpu(), x.cpu())
    dist.all_gather([whole], x)
    device.mark_step()
    assert device.compilations() == before + 1


def peaks():
    """Recomputed in the graph of the forward pass, activations take the memory that they take without; in one of its own less."""
    device = hpu()
    counts = habana.module("_emulation").device
    parts = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.SiLU()) for _ in range(8))).to(
        "hpu"
    )

    def step(x, recompute, before):
        for part in parts:
            x = checkpoint(part, x, use_reentrant=False) if recompute else part(x)
            if before and x.requires_grad:
                x.register_hook(lambda grad: device.mark_step())
        x.sum().backward()
        device.mark_step()

    found = {}
    for recompute, before in ((False, False), (True, False), (True, True)):
        x = torch.ones(4096, 64).to("hpu")
        device.mark_step()
        counts.reset_most_used()
        floor = counts.counts()["in_use"]
        step(x, recompute, before)
        parts.zero_grad()
        device.mark_step()
        found[recompute, before] = counts.counts()["most_used"] - floor
    print(*(found[True, before] / found[False, False] for before in (False, True)))


def activation_checkpointing():
    """Blocks that are recomputed save memory only where a graph ends before each of them."""
    device = hpu()
    from habana_frameworks.torch import _emulation

    peaks = []
    for checkpointing in (lambda model: None, checkpoint_blocks, lambda model: checkpoint_blocks(model, device)):
        task = pretraining(SMALL, ObjectiveConfig(itc_dim=16), device.attention).to("hpu")
        checkpointing(task.model)
        batch = random_batch(SMALL, 16).to(device.torch_device)
        totals = task.counts(batch)
        device.mark_step()
        _emulation.device.reset_most_used()
        before = _emulation.device.counts()["in_use"]
        task.losses(batch, totals)[0].backward()
        device.mark_step()
        peaks.append(_emulation.device.counts()["most_used"] - before)
    print("peaks", *peaks)


def warm_up_leaves_nothing():
    """But what is compiled: weights and the optimizer's state after two steps with dropout are the same bits."""
    device = hpu()
    model, data = replace(SMALL, dropout=0.1), DataConfig(lanes=4, text_buckets=[8])
    config = TrainConfig(
        global_batch=8, micro_batch=4, data=data, model=model, objective=ObjectiveConfig(itc_dim=16),
        optim=OptimConfig(clip_norm=1.0),
    )  # fmt: skip
    ends = []
    for warm in (False, True):
        torch.manual_seed(0)
        task = task_class(config)(config, device.attention).to("hpu")
        engine = NativeEngine(task, device, Ranks(0, 1, None), config.optim, accumulates=True)
        if warm:
            before = torch.get_rng_state()
            warm_up(config, engine, contrast(config, 1))
            assert torch.equal(before, torch.get_rng_state())
        for seed in range(2):
            batches = [random_batch(model, 4, 2 * seed + number).to(device.torch_device) for number in range(2)]
            backward(engine, batches, contrast(config, 1), device.seed)
            set_lr(engine.optimizer, 1.0)
            engine.step()
        ends.append({name: t.clone() for tensors in engine.snapshot().values() for name, t in tensors.items()})
    assert ends[0].keys() == ends[1].keys()
    print("differ", [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])])


def recompiles():
    """A constant that changes from step to step is another graph each time, and found."""
    device = hpu()
    said = []
    guard = RecompileGuard(device, 2, said.append)
    x = torch.ones(3, device="hpu")
    for step in range(1, 6):
        (x * 2.0).sum()
        device.mark_step()
        guard.check(step, [Shape(24)])
    assert guard.count == 0
    try:
        for step in range(6, 20):
            (x * float(step)).sum()
            device.mark_step()
            guard.check(step, [Shape(24)])
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
    sys.stdout.flush()
    os._exit(0)  # as `bridgetower` ends: threads of torch that still run would end the interpreter by abort
