"""What is computed in which precision under bf16 autocast: the same on every device, whatever lists of operators it has.

| what | precision |
| --- | --- |
| matrix products, convolution, attention | bf16, summed in float32 within a kernel |
| layer norm | computed in float32, returned in bf16 (`LayerNorm`) |
| the streams between blocks, activations, dropout, bridges, poolers | bf16, that of their inputs |
| normalisation of pixels, embedding tables, softmax outside of a kernel | float32 |
| heads of contrast and matching, losses, metrics | float32 (`no_autocast`, `at_least_fp32`) |
| weights, gradients, gradient norm, clipping, AdamW | float32; `optim.moments` and `engine.reduce_precision` may say otherwise |

Without autocast everything keeps the type of the weights.
"""

import torch
from torch import Tensor, nn


def at_least_fp32(x: Tensor) -> Tensor:
    """`x` in float32; float64 stays float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def no_autocast(x: Tensor) -> torch.autocast:
    """A context in which operations on the device of `x` keep the precision of their inputs."""
    return torch.autocast(x.device.type, enabled=False)


def computed_in(x: Tensor) -> torch.dtype:
    """What autocast computes in on the device of `x`; without it the type of `x`."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class LayerNorm(nn.LayerNorm):
    """Layer norm that leaves its stream in autocast's type, as Gaudi's lists do.

    CUDA's autocast returns float32, and everything between products would move twice the bytes.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to(computed_in(x))
