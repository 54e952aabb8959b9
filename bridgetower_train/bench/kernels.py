"""`bridgetower bench kernels`: what a compiled step launches, and the bytes that it moves, counted without running it.

The step runs on tensors without data. torch's compiler lowers its parts for this device, which says what is fused, and compiles
nothing. As in `bench.traffic`, each kernel is taken to read its arguments and to write its results once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NoReturn

import torch
from torch import nn
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.graph import GraphLowering
from torch._inductor.ir import MultiOutput
from torch._inductor.scheduler import BaseSchedulerNode, ExternKernelSchedulerNode, NopKernelSchedulerNode
from torch._subclasses import FakeTensorMode

from bridgetower_train.bench.kit import BenchModelConfig, Figures, as_run, bench, forward_backward
from bridgetower_train.bench.traffic import Traffic
from bridgetower_train.config import TrainConfig, at_least
from bridgetower_train.devices import Device, make_device
from bridgetower_train.errors import ConfigError
from bridgetower_train.model.bridgetower import compiled_parts
from bridgetower_train.tasks import task_class

FIGURES = {
    "graphs": "graphs to compile, each with its backward pass",
    "kernels": "kernels that a forward and backward pass launches, operators between compiled parts among them",
    "gb": "10^9 bytes that they read and write",
    "parts": "the same by compiled part; the update is not counted",
    "runs": "graphs that are run",
    "launched": "kernels",
    "fused_gb": "10^9 bytes of what the compiler fuses; between compiled parts, of all operators",
    "attention_gb": "10^9 bytes of the kernels of attention",
    "products_gb": "10^9 bytes of matrix products",
    "other_gb": "10^9 bytes of whatever else the compiler calls",
}
"""What `measure` returns. Rows of `parts`: kinds of compiled parts, forward and backward, and `between`."""

_PRODUCTS = ("mm", "linear", "convolution")


@dataclass(frozen=True)
class BenchKernelsConfig(BenchModelConfig):
    """What is counted."""

    batch: int = 64
    """Pairs of a micro-batch."""

    def __post_init__(self) -> None:
        at_least("batch", self.batch, 2)


@dataclass
class Graph:
    """A forward or backward pass of a part, as it would be compiled."""

    part: str
    """Kind of the part."""
    backward: bool
    kernels: int = 0
    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("fused", "attention", "products", "other"), 0))
    """By what moves them."""
    runs: int = 0
    """In a step."""

    def add(self, node: BaseSchedulerNode) -> None:
        """Count a kernel that the compiler scheduled."""
        if isinstance(node, NopKernelSchedulerNode) or isinstance(node.node, MultiOutput):
            return
        self.kernels += 1
        self.bytes[_group(node)] += node.get_read_write_buffers_sizes()


def measure(config: BenchKernelsConfig) -> Figures:
    """FIGURES. ConfigError where the device's compiler is another than torch's own."""
    device, _ = make_device(replace(config.device, execution="compile"))
    if device.compiler != "inductor":
        raise ConfigError(f"device.name={device.name}: its compiler does not say what it fuses; take cuda or cpu")
    graphs, between = lower(as_run(config), device, config.batch)
    parts: dict[str, dict[str, float]] = {}
    for graph in graphs:
        row = parts.setdefault(f"{graph.part} {'backward' if graph.backward else 'forward'}", {})
        counted: dict[str, float] = {"runs": graph.runs, "launched": graph.runs * graph.kernels}
        counted |= {f"{group}_gb": graph.runs * size / 1e9 for group, size in graph.bytes.items()}
        row |= {name: row.get(name, 0) + value for name, value in counted.items()}
    parts["between"] = {"launched": between.operators.total(), "fused_gb": (between.read + between.written) / 1e9}
    return {
        "graphs": sum(not graph.backward for graph in graphs),
        "kernels": sum(int(row["launched"]) for row in parts.values()),
        "gb": sum(value for row in parts.values() for name, value in row.items() if name.endswith("_gb")),
        "parts": parts,
    }


def lower(config: TrainConfig, device: Device, pairs: int) -> tuple[list[Graph], Traffic]:
    """The graphs of a step of `pairs`, and the traffic between them. Afterwards `device` compiles nothing."""
    graphs, between = list[Graph](), _Between()
    parts: dict[int, str] = {}
    running = ""

    def enter(part: nn.Module, _: Any) -> None:
        nonlocal running
        running = type(part).__name__

    def lowered(gm: torch.fx.GraphModule, inputs: Any, **settings: Any) -> Any:
        graph = Graph(parts.setdefault(settings["graph_id"], running), bool(settings.get("is_backward")))
        with _scheduled(graph):
            compile_fx_inner(gm, inputs, **settings)
        graphs.append(graph)

        def run(given: list[Any]) -> Any:
            graph.runs += 1
            with between.paused():
                return gm(*given)

        run._boxed_call = True  # type: ignore[attr-defined]
        return run

    torch.compiler.reset()
    device.compiler = partial(compile_fx, inner_compile=lowered)  # type: ignore[assignment]
    with FakeTensorMode(), device.torch_device:
        task = task_class(config)(config, device.attention)
        device.compile(task.model)
        for part in compiled_parts(task.model):
            part.register_forward_pre_hook(enter)
        batch, totals = task.blank_batch(config, pairs), torch.ones(3)
        with between:
            forward_backward(lambda: task.losses(batch, totals)[0], device)
    torch.compiler.reset()
    return graphs, between


@contextmanager
def _scheduled(graph: Graph) -> Iterator[None]:
    """Inside the block, which it ends, what is compiled is counted in `graph`, and no code is built."""
    compile_to_module, counted = GraphLowering.compile_to_module, False

    def count(lowering: GraphLowering) -> NoReturn:
        nonlocal counted
        lowering.codegen()
        for node in lowering.scheduler.nodes:
            graph.add(node)
        counted = True
        raise RuntimeError  # only an error ends it, in place of which torch raises its own

    GraphLowering.compile_to_module = count  # type: ignore[assignment, method-assign]
    try:
        yield
    except Exception:
        if not counted:
            raise
    finally:
        GraphLowering.compile_to_module = compile_to_module  # type: ignore[method-assign]


def _group(node: BaseSchedulerNode) -> str:
    if not isinstance(node, ExternKernelSchedulerNode):
        return "fused"
    name = str(getattr(node.node, "python_kernel_name", ""))
    if "attention" in name:
        return "attention"
    return "products" if any(product in name for product in _PRODUCTS) else "other"


class _Between(Traffic):
    """The traffic of what is not in a compiled part."""

    _counts = True

    @classmethod
    def is_infra_mode(cls) -> bool:
        """torch compiles nothing under modes that are not its own."""
        return True

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside the block nothing is counted."""
        self._counts = False
        try:
            yield
        finally:
            self._counts = True

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._counts:
            return super().__torch_dispatch__(function, types, args, kwargs)
        return function(*args, **(kwargs or {}))


run = bench("kernels", measure, FIGURES)
