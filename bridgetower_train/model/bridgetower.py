"""BridgeTower (Xu et al., 2022): two towers, and a fusion encoder bridged to the top K blocks of both.

Plain single-device PyTorch with the parameter names of the Hugging Face classes, independent of devices, engines and losses.

Shapes: B images or texts, P pairs, N image tokens, L text tokens, M positions read per text, D width, K fusion layers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bridgetower_train.config import ModelConfig
from bridgetower_train.model.attention import AttentionFunction, Embedding, Linear, attention_mask, sdpa, take
from bridgetower_train.model.fusion import Bridge, CrossLayer, Pooler
from bridgetower_train.model.heads import Head
from bridgetower_train.model.precision import LayerNorm
from bridgetower_train.model.text import TextLayer, TextModel
from bridgetower_train.model.vision import Block, VisionModel

TOKEN_TYPES = "bridgetower.token_type_embeddings.weight"
"""Name of the table of token types: 0 is text, 1 an image, from 2 on further images of a sample."""


@dataclass(frozen=True)
class ImageStates:
    """What the fusion encoder and the contrast read of B images."""

    bridged: list[Tensor]
    """K tensors (B, N, D): outputs of the top K blocks after ln_post, transform and token type; lowest first."""
    cls: Tensor
    """(B, D): ln_post of the last block's class token."""

    def take(self, rows: Tensor) -> "ImageStates":
        """The states of some of the images."""
        return ImageStates([take(x, rows) for x in self.bridged], take(self.cls, rows))


@dataclass(frozen=True)
class TextStates:
    """What the fusion encoder and the contrast read of B texts."""

    bridged: list[Tensor]
    """K tensors (B, L, D): outputs of the top K layers after transform and token type; lowest first."""
    cls: Tensor
    """(B, D): the last layer's first token."""
    mask: Tensor
    """(B, 1, 1, L): the `attention_mask` of the real tokens."""

    def take(self, rows: Tensor) -> "TextStates":
        """The states of some of the texts."""
        return TextStates([take(x, rows) for x in self.bridged], take(self.cls, rows), take(self.mask, rows))


@dataclass(frozen=True)
class Pairs:
    """Which P pairs are fused, and what is read of them."""

    image_rows: Tensor
    """int64 (P,): the image of each pair, a row of ImageStates."""
    text_rows: Tensor
    """int64 (P,): its text, a row of TextStates."""
    pooled: int
    """Number of pairs that are read at the first token of both streams; they come first."""
    positions: Tensor | None = None
    """int64 (P - pooled, M): the token positions at which the text streams of the other pairs are read; None: they are not."""


@dataclass(frozen=True)
class Fused:
    """The results of P fused pairs."""

    pooled: Tensor
    """(pooled, 2 D): the pooled first token of the text stream, then of the image stream."""
    text: Tensor
    """(P - pooled, M, D): the text stream at `Pairs.positions`."""


class Trunk(nn.Module):
    """Towers and fusion encoder: everything except the heads. BridgeTower documents the methods."""

    def __init__(self, config: ModelConfig, attention: AttentionFunction, token_types: int = 2) -> None:
        super().__init__()
        width, layers, eps = config.width, config.fusion_layers, config.layer_norm_eps
        self.layers = layers
        self.vision_model = VisionModel(config, attention)
        self.text_model = TextModel(config, attention)
        self.cross_modal_text_transform = Linear(width, width, std=config.init_std)
        self.cross_modal_image_transform = Linear(width, width, std=config.init_std)
        self.token_type_embeddings = Embedding(token_types, width)
        self.cross_modal_text_layernorm = LayerNorm(width, eps=eps)
        self.cross_modal_image_layernorm = LayerNorm(width, eps=eps)
        self.cross_modal_text_link_tower = nn.ModuleList(Bridge(config) for _ in range(layers - 1))
        self.cross_modal_image_link_tower = nn.ModuleList(Bridge(config) for _ in range(layers - 1))
        self.cross_modal_text_layers = nn.ModuleList(CrossLayer(config, attention) for _ in range(layers))
        self.cross_modal_image_layers = nn.ModuleList(CrossLayer(config, attention) for _ in range(layers))
        self.cross_modal_text_pooler = Pooler(config)
        self.cross_modal_image_pooler = Pooler(config)

    def encode_image(
        self, pixels_B3SS: Tensor, kinds_B: Tensor | None = None, patches_BK: Tensor | None = None
    ) -> ImageStates:
        visual = self.vision_model.visual
        normed = [visual.ln_post(x_BND) for x_BND in visual(pixels_B3SS, self.layers, patches_BK)]
        kind = self._image_type(kinds_B, normed[-1])
        bridged = [self.cross_modal_image_transform(x_BND) + kind for x_BND in normed]
        return ImageStates(bridged, normed[-1][:, 0])

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor) -> TextStates:
        top = self.text_model(ids_BL, mask_BL, self.layers)
        kind = self._token_type(0, top[-1])
        bridged = [self.cross_modal_text_transform(x_BLD) + kind for x_BLD in top]
        return TextStates(bridged, top[-1][:, 0], attention_mask(mask_BL, top[-1].dtype))

    def fuse(self, image: ImageStates, text: TextStates, pairs: Pairs) -> Fused:
        # x is the text stream, y the image stream. Up to the cross-attention of the first layer they have one row per text
        # and per image, from which each pair takes its own there; from then on they have one row per pair.
        x, y = self.cross_modal_text_layernorm(text.bridged[0]), self.cross_modal_image_layernorm(image.bridged[0])
        x_rows: Tensor | None = pairs.text_rows
        y_rows: Tensor | None = pairs.image_rows
        x_mask, mask = text.mask, take(text.mask, pairs.text_rows)
        for k in range(self.layers - 1):
            next_x = self.cross_modal_text_layers[k](x, y, own_mask=x_mask, own_rows=x_rows, other_rows=y_rows)
            next_y = self.cross_modal_image_layers[k](y, x, other_mask=mask, own_rows=y_rows, other_rows=x_rows)
            x = self.cross_modal_text_link_tower[k](text.bridged[k + 1], next_x, pairs.text_rows)
            y = self.cross_modal_image_link_tower[k](image.bridged[k + 1], next_y, pairs.image_rows)
            x_mask, x_rows, y_rows = mask, None, None
        return self._last_layer(take(x, x_rows), take(y, y_rows), mask, pairs)

    def _last_layer(self, x_PLD: Tensor, y_PND: Tensor, mask_P11L: Tensor, pairs: Pairs) -> Fused:
        """The last fusion layer and the poolers, for those tokens only that are read."""
        parts = [pairs.pooled, len(x_PLD) - pairs.pooled]
        (x_cls, x_text), (y_cls, y_text), (mask_cls, mask_text) = (t.split(parts) for t in (x_PLD, y_PND, mask_P11L))
        text_layer, image_layer = self.cross_modal_text_layers[-1], self.cross_modal_image_layers[-1]
        pooled, text = x_PLD.new_empty(0, 2 * x_PLD.shape[-1]), x_PLD.new_empty(0, 0, x_PLD.shape[-1])
        if len(x_cls):
            text_cls = text_layer(x_cls, y_cls, own_mask=mask_cls, queries=x_cls[:, :1])[:, 0]
            image_cls = image_layer(y_cls, x_cls, other_mask=mask_cls, queries=y_cls[:, :1])[:, 0]
            pooled = torch.cat([self.cross_modal_text_pooler(text_cls), self.cross_modal_image_pooler(image_cls)], -1)
        if len(x_text) and pairs.positions is not None:
            queries = x_text.gather(1, pairs.positions[..., None].expand(-1, -1, x_text.shape[-1]))
            text = text_layer(x_text, y_text, own_mask=mask_text, queries=queries)
        return Fused(pooled, text)

    def _image_type(self, kinds_B: Tensor | None, like: Tensor) -> Tensor:
        """The embedding (1, D) of an image, or (B, 1, D) of images of these types, in the type of `like`."""
        if kinds_B is None:
            return self._token_type(1, like)
        embeddings: Tensor = self.token_type_embeddings(kinds_B)[:, None]
        return embeddings.to(like.dtype)

    def _token_type(self, kind: int, like: Tensor) -> Tensor:
        """The embedding (1, D) of text (0) or image (1), in the type of `like`: in float32 it would make a stream float32."""
        embedding: Tensor = self.token_type_embeddings(torch.full((1,), kind, device=like.device))
        return embedding.to(like.dtype)


class BridgeTower(nn.Module):
    """The model: the trunk `bridgetower`, and the heads of a task beside it."""

    def __init__(
        self,
        config: ModelConfig,
        heads: Iterable[Head] = (),
        attention: AttentionFunction = sdpa,
        token_types: int = 2,
    ) -> None:
        super().__init__()
        self.config = config
        self.bridgetower = Trunk(config, attention, token_types)
        for head in heads:
            setattr(self, head.name, head.build(config))

    def head(self, name: str) -> Any:
        """The head of that name: a module or a parameter."""
        return getattr(self, name)

    def encode_image(
        self, pixels_B3SS: Tensor, kinds_B: Tensor | None = None, patches: Tensor | None = None
    ) -> ImageStates:
        """The states of uint8 images (B, 3, S, S), to be used by every pair that an image is in.

        `kinds_B`: the token type of each, int64; None: 1. `patches`: int64 (B, K), the patches of each that are seen, as if there
        were no others (FLIP, Li et al., 2023); None: all.
        """
        return self.bridgetower.encode_image(pixels_B3SS, kinds_B, patches)

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor) -> TextStates:
        """The states of texts: int64 ids (B, L), padded on the right, and their bool mask, True where a token is real."""
        return self.bridgetower.encode_text(ids_BL, mask_BL)

    def fuse(self, image: ImageStates, text: TextStates, pairs: Pairs) -> Fused:
        """Fuse P pairs of these images and texts in one batch, computing only what `pairs` reads."""
        return self.bridgetower.fuse(image, text, pairs)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a model: the units of activation checkpointing and of ZeRO-3's gathering."""
    return [module for module in model.modules() if isinstance(module, (Block, TextLayer, CrossLayer))]


def compiled_parts(model: nn.Module) -> list[nn.Module]:
    """What is compiled, each part by itself: the blocks, the bridges, and the layer norms outside of both.

    What is left runs eagerly: some products, and sums of gradients.
    """
    parts = [module for module in model.modules() if isinstance(module, (Block, TextLayer, CrossLayer, Bridge))]
    inside = {module for part in parts for module in part.modules()}
    return parts + [module for module in model.modules() if isinstance(module, LayerNorm) and module not in inside]
