"""The order in which one forward and backward pass uses a model's weights, module by module, as DeepSpeed's hooks see it."""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bridgetower_train.data.batch import Batch
from bridgetower_train.engines.deepspeed import Autocast
from bridgetower_train.engines.zero_weights import leaves
from bridgetower_train.tasks import Task


@dataclass(frozen=True)
class Use:
    """The begin or the end of what a module does in one of the passes."""

    module: int
    begins: bool
    forward: bool


@dataclass
class Uses:
    """Of one micro-batch. Weights are numbered in the order of `parameters()`, modules as they lie in one another."""

    sizes: list[int]
    """Elements of each weight."""
    events: list[Use] = field(default_factory=list)
    own: list[list[int]] = field(default_factory=list)
    """Weights that each module fetches: its own, a leaf's with those of the modules in it, and others that it reads."""
    whole: list[list[int]] = field(default_factory=list)
    """The same with those of all modules in it."""
    leaves: set[int] = field(default_factory=set)


def record(task: Task, batch: Batch, autocast: Callable[[], AbstractContextManager[Any]]) -> Uses:
    """Run a forward and backward pass of a task that is of no further use."""
    root = Autocast(task, autocast)
    uses = _Recorder(root, leaves(task)).uses
    loss, _ = root(batch, torch.ones(3))
    loss.backward()
    return uses


class _Recorder:
    """Hooks on `root`. What lies in one of the `leaves` is not looked at."""

    def __init__(self, root: nn.Module, leaves: Iterable[nn.Module]) -> None:
        numbers = {id(parameter): number for number, parameter in enumerate(root.parameters())}
        self.uses = Uses([p.numel() for p in root.parameters()])
        self._stack: list[int] = []
        self._fetched: Counter[int] = Counter()
        for module in root.modules():
            if module._parameters:
                module._parameters = _Watched(self, numbers, module._parameters)
        self._hook(root, {id(leaf) for leaf in leaves}, numbers)

    def _hook(self, module: nn.Module, leaves: set[int], numbers: dict[int, int]) -> None:
        uses, number, leaf = self.uses, len(self.uses.own), id(module) in leaves
        uses.own.append([numbers[id(p)] for p in module.parameters(recurse=leaf)])
        uses.whole.append([numbers[id(p)] for p in module.parameters()])
        if leaf:
            uses.leaves.add(number)
        else:
            for child in module.children():
                self._hook(child, leaves, numbers)
        backward = _Backward(self, number)
        module.register_forward_pre_hook(lambda _, args: self._enter(number))
        module.register_forward_hook(lambda *_: self._leave(number))
        module.register_forward_hook(lambda _, __, out: _each(backward.watch_output, out))
        module.register_forward_pre_hook(lambda _, args: backward.watch_inputs(args))

    def _enter(self, module: int) -> None:
        self._stack.append(module)
        self.note(module, begins=True, forward=True)

    def _leave(self, module: int) -> None:
        self._stack.pop()
        self.note(module, begins=False, forward=True)

    def note(self, module: int, begins: bool, forward: bool) -> None:
        """A module begins or ends."""
        (self._fetched.update if begins else self._fetched.subtract)(self.uses.own[module])
        self.uses.events.append(Use(module, begins, forward))

    def read(self, weight: int) -> None:
        """A module reads a weight; where that is not its own it becomes one of those that it fetches."""
        if self._stack and self._fetched[weight] <= 0:
            module = self._stack[-1]
            self.uses.own[module].append(weight)
            self.uses.whole[module].append(weight)
            self._fetched[weight] += 1


class _Watched(dict[str, Any]):
    """A module's parameters, which tell when one is read."""

    def __init__(self, recorder: _Recorder, numbers: dict[int, int], parameters: dict[str, Any]) -> None:
        super().__init__(parameters)
        self._recorder, self._numbers = recorder, numbers

    def __getitem__(self, name: str) -> Any:
        parameter = super().__getitem__(name)
        if parameter is not None:
            self._recorder.read(self._numbers[id(parameter)])
        return parameter


class _Backward:
    """A module's begin in the backward pass, where a gradient reaches an output, and its end, where all have left by its inputs.

    As with DeepSpeed, who calls a module twice loses count of the first call's inputs, and the end of its backward pass.
    """

    def __init__(self, recorder: _Recorder, module: int) -> None:
        self.recorder, self.module, self.inputs = recorder, module, 0

    def watch_output(self, out: Tensor) -> Tensor:
        """`out`, such that its gradient begins the module's backward pass."""
        return _Passed.apply(out, self.begin)  # type: ignore[no-untyped-call,no-any-return]

    def watch_inputs(self, args: Any) -> Any:
        """The inputs, such that the last one's gradient ends it."""
        self.inputs = 0
        return _each(self._watch_input, args)

    def _watch_input(self, given: Tensor) -> Tensor:
        self.inputs += given.requires_grad
        return _Passed.apply(given, self.end)  # type: ignore[no-untyped-call,no-any-return]

    def begin(self) -> None:
        """A gradient has reached an output."""
        self.recorder.note(self.module, begins=True, forward=False)

    def end(self) -> None:
        """A gradient has left by an input."""
        self.inputs -= 1
        if not self.inputs:
            self.recorder.note(self.module, begins=False, forward=False)


class _Passed(torch.autograd.Function):
    """A tensor as it is, and a call when its gradient passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: Any) -> Tensor:  # type: ignore[override]
        ctx.call = call
        return x.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ctx.call()
        return grads[0], None


def _each(function: Any, value: Any) -> Any:
    """`value` with `function` of every tensor in its tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {name: _each(function, item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_each(function, item) for item in value)
    return value
