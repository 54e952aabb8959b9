"""What eager execution launches, and the bytes that it moves: counted by a dispatch mode, with data or without."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_FREE = {
    f"aten::{name}"
    for name in ("_unsafe_view", "detach", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty",
                 "new_empty_strided")
} | {"prim::device"}  # fmt: skip
"""Operators that are no views, and touch no data either."""
_ADAMW = "aten::_fused_adamw_"


class Traffic(TorchDispatchMode):
    """Operators and bytes while it is active; views and allocations do not count.

    Each operator is taken to read its arguments once and to write its results once. What a kernel reads again, and what it
    launches besides, is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: Counter[str] = Counter()
        """Calls by name."""
        self.read = self.written = 0
        """Bytes."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        name = function._schema.name
        if function.is_view or name in _FREE:
            return out
        self.operators[name] += 1
        given = dict(zip((argument.name for argument in function._schema.arguments), args, strict=False)) | kwargs
        self.read += _bytes(given)
        changed = [a.name for a in function._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        if name == _ADAMW and given.get("grad_scale") is None:
            changed.remove("grads")  # its schema says that they are written, but only scaled ones are
        self.written += _bytes([given.get(name) for name in changed]) if changed else _bytes(out)
        return out


def counted(work: Callable[[], object]) -> Traffic:
    """The traffic of `work`."""
    traffic = Traffic()
    with traffic:
        work()
    return traffic


def _bytes(tree: Any) -> int:
    tensors = (x for x in tree_leaves(tree) if isinstance(x, Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
