"""Which samples of a step are compared with each other, and what that takes.

Pairs have places in the global batch: the micro-batches of the first rank in their order, then those of the second, and so on.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Contrast:
    """Groups of consecutive samples of the global batch, whichever micro-batches and ranks have them."""

    among: int
    """Samples of a group (Task.compared); 0: none are compared."""
    micro_batch: int
    micro_batches: int
    """Of a rank and step."""
    ranks: int

    @property
    def two_passes(self) -> bool:
        """Whether a group is in several micro-batches of a rank, which are then embedded before their gradients are computed."""
        return self.micro_batches > 1 and self.among > 0 and self.micro_batch % self.among > 0

    @property
    def rows(self) -> int:
        """Samples of a rank that are compared at once."""
        return self.micro_batch * (self.micro_batches if self.two_passes else 1)

    @property
    def columns(self) -> int:
        """Samples that these are compared with: the fewest that hold whole groups."""
        return math.lcm(self.among, self.rows) if self.among else 0

    @property
    def gathered(self) -> int:
        """Samples of a rank whose embeddings go to all ranks in a step; 0: none."""
        return self.rows * (self.ranks > 1 and self.columns > self.rows)

    @property
    def passes(self) -> int:
        """Forward and backward passes of a step, of which each gathers the weights that ZeRO-3 shards."""
        return self.micro_batches * (3 if self.two_passes else 2)
