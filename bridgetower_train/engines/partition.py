"""How ZeRO partitions parameters across ranks.

A parameter group is one flat tensor on each rank, of the same length N on all W ranks. Under ZeRO-1 and 2 the W tensors
concatenated are the group's parameters concatenated, padded with zeros. Under ZeRO-3 each parameter is split into W equal parts,
the last ones padded with zeros, and a rank's tensor is the concatenation of its parts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bridgetower_train.collectives import all_gather_single


@dataclass(frozen=True)
class Slice:
    """`count` elements of a parameter from `start` on, which are at offset `at` of the flat tensor of `rank`."""

    rank: int
    at: int
    start: int
    count: int


@dataclass(frozen=True)
class FlatPartition:
    """One parameter group's partition across ranks."""

    names: list[str]
    shapes: list[torch.Size]
    length: int
    """N."""
    ranks: int
    """W."""
    per_parameter: bool
    """Whether each parameter is split (ZeRO-3), or their concatenation (ZeRO-1 and 2)."""

    def slices(self) -> Iterator[tuple[str, torch.Size, list[Slice]]]:
        """(name, shape, slices in the order of the elements) of every parameter."""
        begin = 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            size = shape.numel()
            part = -(-size // self.ranks)
            if self.per_parameter:
                cut = [Slice(rank, begin, rank * part, min(part, size - rank * part)) for rank in range(self.ranks)]
            else:
                cut = [self._overlap(rank, begin, size) for rank in range(self.ranks)]
            yield name, shape, [piece for piece in cut if piece.count > 0]
            begin += part if self.per_parameter else size
        assert begin <= self.length * (1 if self.per_parameter else self.ranks), "the group is larger than its tensors"

    def _overlap(self, rank: int, begin: int, size: int) -> Slice:
        """The slice on `rank` of a parameter that begins at `begin` of the concatenation."""
        first, last = max(begin, rank * self.length), min(begin + size, (rank + 1) * self.length)
        return Slice(rank, first - rank * self.length, first - begin, last - first)

    def gather(self, flat_N: Tensor) -> Iterator[tuple[str, Tensor]]:
        """(name, full tensor) of every parameter, gathered from all ranks. Collective, and to be exhausted on all of them."""
        gathered = flat_N.new_empty(self.ranks * self.length)
        all_gather_single(gathered, flat_N.detach().contiguous())
        yield from self.assemble(gathered.view(self.ranks, self.length))

    def assemble(self, rows_WN: Tensor) -> Iterator[tuple[str, Tensor]]:
        """(name, full tensor) of every parameter, from the flat tensors of all ranks, one per row."""
        for name, shape, slices in self.slices():
            yield name, torch.cat([rows_WN[s.rank, s.at : s.at + s.count] for s in slices]).view(shape)

    def part(self, rank: int, read: Callable[[str, torch.Size], Tensor]) -> Tensor:
        """The flat tensor of `rank`, on the host; `read` returns each parameter by name and shape, and is called in order."""
        flat_N = torch.zeros(self.length)
        for name, shape, slices in self.slices():
            elements = read(name, shape).flatten()
            for s in slices:
                if s.rank == rank:
                    flat_N[s.at : s.at + s.count] = elements[s.start : s.start + s.count]
        return flat_N
