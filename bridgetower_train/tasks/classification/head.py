"""The head of Microsoft's fine-tuning, with the names of its parameters: `NAME.0`, `NAME.1`, `NAME.3`."""

import torch.nn.functional as F
from torch import Tensor, nn

from bridgetower_train.model.attention import Linear
from bridgetower_train.model.heads import Float32Linear
from bridgetower_train.model.precision import LayerNorm


class TwoLayerHead(nn.Sequential):
    """Linear, LayerNorm, GELU, Linear: (..., in_features) -> logits (..., labels), in float32 or higher."""

    def __init__(self, in_features: int, hidden: int, labels: int, eps: float, dropout: float = 0.0) -> None:
        """`dropout`: of the input."""
        super().__init__(
            Linear(in_features, hidden), LayerNorm(hidden, eps=eps), nn.GELU(), Float32Linear(hidden, labels)
        )
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(x, self.dropout, self.training)
        for layer in self:
            x = layer(x)
        return x
