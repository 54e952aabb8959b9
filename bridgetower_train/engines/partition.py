"""Where the ranks keep the parameters that ZeRO divides among them.

A parameter group is one flat tensor on each rank, of the same length N on all W ranks. Under ZeRO-1 and 2 the W tensors in a row
are the group's parameters in a row, with zeros at the end. Under ZeRO-3 each parameter is cut into W equal parts, the last ones
filled up with zeros, and a rank's tensor is its parts in a row.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Slice:
    """`count` elements of a parameter, from its `start` on: they lie at `at` of the flat tensor of `rank`."""

    rank: int
    at: int
    start: int
    count: int


@dataclass(frozen=True)
class FlatPartition:
    """One group's parameters over the ranks."""

    names: list[str]
    shapes: list[torch.Size]
    length: int
    """N."""
    ranks: int
    """W."""
    each_cut: bool
    """Whether each parameter is cut (ZeRO-3) or all of them in a row (ZeRO-1 and 2)."""

    def places(self) -> Iterator[tuple[str, torch.Size, list[Slice]]]:
        """(name, shape, places in the order of the elements) of every parameter."""
        begin = 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            size = shape.numel()
            part = -(-size // self.ranks)
            if self.each_cut:
                cut = [Slice(rank, begin, rank * part, min(part, size - rank * part)) for rank in range(self.ranks)]
            else:
                cut = [self._overlap(rank, begin, size) for rank in range(self.ranks)]
            yield name, shape, [place for place in cut if place.count > 0]
            begin += part if self.each_cut else size
        assert begin <= self.length * (1 if self.each_cut else self.ranks), "the flat tensors hold less than the group"

    def _overlap(self, rank: int, begin: int, size: int) -> Slice:
        """What `rank` has of a parameter that lies in the row from `begin` on."""
        first, last = max(begin, rank * self.length), min(begin + size, (rank + 1) * self.length)
        return Slice(rank, first - rank * self.length, first - begin, last - first)

    def whole(self, flat_N: Tensor) -> Iterator[tuple[str, Tensor]]:
        """(name, full tensor) of every parameter, from the flat tensors of all ranks. Called on all of them, to the end."""
        gathered = flat_N.new_empty(self.ranks * self.length)
        dist.all_gather(list(gathered.chunk(self.ranks)), flat_N.detach().contiguous())
        yield from self.assembled(gathered.view(self.ranks, self.length))

    def assembled(self, rows_WN: Tensor) -> Iterator[tuple[str, Tensor]]:
        """(name, full tensor) of every parameter, from the flat tensors of all ranks, one below the other."""
        for name, shape, places in self.places():
            yield name, torch.cat([rows_WN[p.rank, p.at : p.at + p.count] for p in places]).view(shape)

    def part(self, rank: int, read: Callable[[str, torch.Size], Tensor]) -> Tensor:
        """The flat tensor of `rank`, on the host, of parameters each of which `read` gives, by name and shape, in order."""
        flat_N = torch.zeros(self.length)
        for name, shape, places in self.places():
            elements = read(name, shape).flatten()
            for place in places:
                if place.rank == rank:
                    flat_N[place.at : place.at + place.count] = elements[place.start : place.start + place.count]
        return flat_N
