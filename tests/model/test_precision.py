"""What is computed in which precision is what `model.precision` says."""

from collections import defaultdict
from typing import Any

import pytest
import torch
from helpers import pretraining, random_batch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bridgetower_train.config import ObjectiveConfig
from bridgetower_train.model.bridgetower import Pairs, blocks
from bridgetower_train.model.fusion import Bridge, CrossLayer
from bridgetower_train.model.precision import LayerNorm
from bridgetower_train.model.text import TextLayer
from bridgetower_train.model.vision import Block
from tests.tiny import SMALL

PRODUCTS = {"addmm", "mm", "bmm", "convolution", "_scaled_dot_product_flash_attention_for_cpu"}


class Types(TorchDispatchMode):
    """The types of what each operator returns, in blocks and outside."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = False
        self.found: dict[tuple[bool, str], set[torch.dtype]] = defaultdict(set)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name not in ("_to_copy", "cat"):  # the weights of products
            first = next((x for x in tree_leaves(out) if isinstance(x, Tensor) and x.is_floating_point()), None)
            if first is not None:
                self.found[self.inside, name].add(first.dtype)
        return out


def test_the_table_is_what_runs():
    task, types = pretraining(SMALL, ObjectiveConfig(itc_dim=16)), Types()
    for block in blocks(task.model):  # but those with few queries, whose softmax is outside of a kernel
        block.register_forward_pre_hook(
            lambda _, __, kwargs: setattr(types, "inside", "queries" not in kwargs), with_kwargs=True
        )
        block.register_forward_hook(lambda *_: setattr(types, "inside", False))
    batch = random_batch(SMALL, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16), types:
        loss, _ = task.losses(batch, task.counts(batch))
    assert loss.dtype == torch.float32
    inside = {name: kinds for (within, name), kinds in types.found.items() if within}
    assert inside.keys() & PRODUCTS
    views = {"t", "transpose", "view", "_unsafe_view", "expand", "detach", "unsqueeze"}  # of weights
    assert {name: kinds for name, kinds in inside.items() if kinds != {torch.bfloat16} and name not in views} == {}
    outside = {name: kinds for (within, name), kinds in types.found.items() if not within}
    for name in ("embedding", "_log_softmax", "sigmoid"):
        assert outside.get(name, {torch.float32}) == {torch.float32}, name


@pytest.mark.parametrize("kinds", [None, torch.ones(4, dtype=torch.int64)])
def test_the_streams_stay_in_the_type_of_autocast(kinds: Tensor | None):
    """Whatever is added to them: a block or bridge that is given float32 moves twice the bytes."""
    model, batch = pretraining(SMALL, ObjectiveConfig(itc_dim=16)).model, random_batch(SMALL, 4)
    given: dict[str, set[torch.dtype]] = defaultdict(set)

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        given[type(module).__name__] |= {x.dtype for x in args if isinstance(x, Tensor) and x.is_floating_point()}

    for module in model.modules():
        if isinstance(module, (Block, TextLayer, CrossLayer, Bridge)):
            module.register_forward_pre_hook(note)
    rows = torch.arange(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image = model.encode_image(batch.pixel_values, kinds)
        model.fuse(image, model.encode_text(batch.input_ids, batch.text_mask), Pairs(rows, rows, 4))
    assert given == {name: {torch.bfloat16} for name in ("Block", "TextLayer", "CrossLayer", "Bridge")}


def test_layer_norm_is_computed_in_float32():
    """Its statistics are those of the float32 input, whatever it returns."""
    torch.manual_seed(0)
    norm, x = LayerNorm(64), 100 + torch.randn(8, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = norm(x)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, norm(x).to(torch.bfloat16))
    assert norm.double()(x.double()).dtype == torch.float64
