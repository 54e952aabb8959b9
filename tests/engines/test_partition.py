"""Parameters cut up for the ranks and put together again."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bridgetower_train.engines.partition import FlatPartition

SHAPES = st.lists(st.lists(st.integers(1, 5), max_size=3).map(torch.Size), min_size=1, max_size=6)


def numbered(shapes: list[torch.Size]) -> dict[str, Tensor]:
    """Tensors of these shapes whose elements are 1, 2, 3, ... throughout."""
    ends = torch.tensor([shape.numel() for shape in shapes]).cumsum(0).tolist()
    return {
        f"p{number}": torch.arange(end - shape.numel() + 1.0, end + 1).view(shape)
        for number, (shape, end) in enumerate(zip(shapes, ends, strict=True))
    }


@given(SHAPES, st.integers(1, 7), st.booleans(), st.integers(0, 3))
def test_every_element_has_one_place(shapes, ranks, each_cut, padding):
    tensors = numbered(shapes)
    total = sum(shape.numel() for shape in shapes)
    length = sum(-(-s.numel() // ranks) for s in shapes) if each_cut else -(-total // ranks) + padding
    shards = FlatPartition(list(tensors), shapes, length, ranks, each_cut)
    rows_WN = torch.stack([shards.part(rank, lambda name, shape: tensors[name]) for rank in range(ranks)])
    assert sorted(rows_WN[rows_WN > 0].tolist()) == list(range(1, total + 1))
    for name, tensor in shards.assembled(rows_WN):
        assert torch.equal(tensor, tensors[name])
        assert tensor.shape == tensors[name].shape
    if not each_cut:
        assert rows_WN.flatten()[:total].tolist() == list(range(1, total + 1))


def test_each_parameter_is_cut_in_parts_of_one_length():
    shapes = [torch.Size([5]), torch.Size([2, 2])]
    shards = FlatPartition(["p0", "p1"], shapes, 5, 2, True)
    rows = [shards.part(rank, lambda name, shape: numbered(shapes)[name]).tolist() for rank in (0, 1)]
    assert rows == [[1, 2, 3, 6, 7], [4, 5, 0, 8, 9]]
