"""The image tower: CLIP's vision transformer (Radford et al., 2021), all blocks, without its projection.

Shapes: B images, S image edge, N image tokens with the class token, K patches that are seen, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bridgetower_train.config import ModelConfig
from bridgetower_train.model.attention import (
    AttentionFunction,
    Embedding,
    Linear,
    ProductFunction,
    merge_heads,
    split_heads,
    top_states,
)
from bridgetower_train.model.precision import LayerNorm

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""CLIP's mean of red, green and blue, in [0, 1]."""

CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's standard deviation of red, green and blue."""


def normalize(pixels_B3SS: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 images with CLIP's normalisation, computed in float32 or higher, returned as `dtype`."""
    exact = pixels_B3SS.to(torch.promote_types(dtype, torch.float32))
    # Scalars, not tensors: a tensor of constants would be copied from the host in every step.
    channels = [
        exact[:, c].mul(1 / (255 * std)).sub(mean / std)
        for c, (mean, std) in enumerate(zip(CLIP_MEAN, CLIP_STD, strict=True))
    ]
    return torch.stack(channels, dim=1).to(dtype)


class SelfAttention(nn.Module):
    """Attention with one projection for query, key and value, named as in torch.nn.MultiheadAttention."""

    product: ProductFunction = staticmethod(F.linear)
    """The device may replace it."""

    def __init__(self, width: int, layers: int, attention: AttentionFunction) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = Linear(width, width, std=width**-0.5 * (2 * layers) ** -0.5)
        self.attention = attention
        nn.init.normal_(self.in_proj_weight, std=width**-0.5)

    def forward(self, x_BND: Tensor) -> Tensor:
        q, k, v = self.product(x_BND, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        x = self.attention(split_heads(q), split_heads(k), split_heads(v), None, 0.0)
        out: Tensor = self.out_proj(merge_heads(x))
        return out


class MLP(nn.Module):
    """CLIP's feed-forward sublayer, with QuickGELU: x * sigmoid(1.702 x)."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.c_fc = Linear(width, 4 * width, std=(2 * width) ** -0.5)
        self.c_proj = Linear(4 * width, width, std=width**-0.5 * (2 * layers) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        # As SiLU, which saves one tensor for the backward pass instead of two.
        out: Tensor = self.c_proj(F.silu(self.c_fc(x) * 1.702) / 1.702)
        return out


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: ModelConfig, attention: AttentionFunction) -> None:
        super().__init__()
        self.attn = SelfAttention(config.width, config.vision_layers, attention)
        self.ln_1 = LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = MLP(config.width, config.vision_layers)
        self.ln_2 = LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = x_BND + self.attn(self.ln_1(x_BND))
        out: Tensor = x_BND + self.mlp(self.ln_2(x_BND))
        return out


class PatchEmbeddings(nn.Module):
    """Patch embeddings, class token and position embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(config.width) * config.width**-0.5)
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size, bias=False)
        self.position_embedding = Embedding(config.image_tokens, config.width, std=config.width**-0.5)

    def forward(self, pixels_B3SS: Tensor, patches_BK: Tensor | None = None) -> Tensor:
        """uint8 images -> (B, N, D); with `patches_BK` only the class token and those patches, (B, 1 + K, D)."""
        pixels = normalize(pixels_B3SS, self.patch_embedding.weight.dtype)
        patches_BND = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        cls = self.class_embedding.to(patches_BND.dtype).expand(len(patches_BND), 1, -1)
        positions_N = torch.arange(patches_BND.shape[1] + 1, device=patches_BND.device)
        embedded: Tensor = torch.cat([cls, patches_BND], dim=1) + self.position_embedding(positions_N)
        if patches_BK is None:
            return embedded
        tokens_BN = torch.cat([torch.zeros_like(patches_BK[:, :1]), patches_BK + 1], dim=1)
        return embedded.gather(1, tokens_BN[..., None].expand(-1, -1, embedded.shape[-1]))


class Transformer(nn.Module):
    """The blocks of the image tower."""

    def __init__(self, config: ModelConfig, attention: AttentionFunction) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(config, attention) for _ in range(config.vision_layers))


class VisionTransformer(nn.Module):
    """The image tower. The caller applies `ln_post`, which all bridges share, to each block's output."""

    def __init__(self, config: ModelConfig, attention: AttentionFunction) -> None:
        super().__init__()
        self.embeddings = PatchEmbeddings(config)
        self.ln_pre = LayerNorm(config.width, eps=config.layer_norm_eps)
        self.transformer = Transformer(config, attention)
        self.ln_post = LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, pixels_B3SS: Tensor, top: int, patches_BK: Tensor | None = None) -> list[Tensor]:
        """uint8 images -> the outputs (B, N, D) of the last `top` blocks, lowest first; of `patches_BK` alone if given."""
        return top_states(self.transformer.resblocks, self.ln_pre(self.embeddings(pixels_B3SS, patches_BK)), top)


class VisionModel(nn.Module):
    """Contains the image tower, as the Hugging Face class names it."""

    def __init__(self, config: ModelConfig, attention: AttentionFunction) -> None:
        super().__init__()
        self.visual = VisionTransformer(config, attention)
