"""Parameters partitioned across ranks and assembled again."""

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
def test_every_element_has_one_slice(shapes, ranks, per_parameter, padding):
    tensors = numbered(shapes)
    total = sum(shape.numel() for shape in shapes)
    length = sum(-(-s.numel() // ranks) for s in shapes) if per_parameter else -(-total // ranks) + padding
    partition = FlatPartition(list(tensors), shapes, length, ranks, per_parameter)
    rows_WN = torch.stack([partition.part(rank, lambda name, shape: tensors[name]) for rank in range(ranks)])
    assert sorted(rows_WN[rows_WN > 0].tolist()) == list(range(1, total + 1))
    for name, tensor in partition.assemble(rows_WN):
        assert torch.equal(tensor, tensors[name])
        assert tensor.shape == tensors[name].shape
    if not per_parameter:
        assert rows_WN.flatten()[:total].tolist() == list(range(1, total + 1))


def test_each_parameter_is_split_into_parts_of_one_length():
    shapes = [torch.Size([5]), torch.Size([2, 2])]
    partition = FlatPartition(["p0", "p1"], shapes, 5, 2, True)
    rows = [partition.part(rank, lambda name, shape: numbered(shapes)[name]).tolist() for rank in (0, 1)]
    assert rows == [[1, 2, 3, 6, 7], [4, 5, 0, 8, 9]]
