"""The model by itself: size, start, dropout."""

from dataclasses import replace

import pytest
import torch
from helpers import heads, random_batch

from bridgetower_train.config import ModelConfig
from bridgetower_train.model.bridgetower import BridgeTower
from bridgetower_train.model.heads import LinearHead
from bridgetower_train.model.vision import CLIP_MEAN, CLIP_STD, normalize
from bridgetower_train.tasks.pretraining.itc import INITIAL_LOGIT_SCALE
from tests.tiny import SMALL

ALL_HEADS = heads(itc_dim=16)


@pytest.mark.parametrize(
    ("config", "published", "text_pooler"),
    [
        (ModelConfig(vocab_size=50265), 326.35, 768 * 769),
        (ModelConfig(294, 14, 1024, 24, 24, 6, vocab_size=50265), 864.51, 1024 * 1025),
    ],
    ids=["base", "large"],
)
def test_published_sizes(config: ModelConfig, published: float, text_pooler: int):
    with torch.device("meta"):
        model = BridgeTower(config, ())
    parameters = sum(p.numel() for p in model.parameters()) + text_pooler
    assert round(parameters / 1e6, 2) == published


def test_no_buffers():
    """DistributedDataParallel would send them to all ranks in every step."""
    assert not list(BridgeTower(SMALL, ALL_HEADS).buffers())


def test_the_seed_decides_the_start():
    starts = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        starts.append(BridgeTower(SMALL, ALL_HEADS).state_dict())
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])
    assert not torch.equal(starts[0]["itm_score.fc.weight"], starts[2]["itm_score.fc.weight"])


@pytest.mark.parametrize("std", [0.02, 0.12])
def test_start(std):
    torch.manual_seed(0)
    state = BridgeTower(replace(SMALL, init_std=std), ALL_HEADS).state_dict()
    width, depth = SMALL.width, SMALL.vision_layers
    deviations = {
        "attn.in_proj_weight": width**-0.5,
        "attn.out_proj.weight": width**-0.5 * (2 * depth) ** -0.5,
        "mlp.c_fc.weight": (2 * width) ** -0.5,
        "mlp.c_proj.weight": width**-0.5 * (2 * depth) ** -0.5,
        "class_embedding": width**-0.5,
        "vision_model.visual.embeddings.position_embedding.weight": width**-0.5,
        "patch_embedding.weight": (3 * 3 * SMALL.patch_size**2) ** -0.5,
    }
    cross = "bridgetower.cross_modal_"
    layers = ("bridgetower.text_model.encoder.", f"{cross}text_", f"{cross}image_")
    for name, value in state.items():
        norm = ".LayerNorm." in name or ".ln_" in name or "_layernorm." in name
        if name == "logit_scale":
            assert value.item() == pytest.approx(INITIAL_LOGIT_SCALE)
        elif norm:
            assert (value == (1.0 if name.endswith("weight") else 0.0)).all(), name
        elif name.endswith("bias"):
            assert (value == 0).all(), name
        else:
            default = std if name.startswith(layers) else 0.02
            expected = next((d for suffix, d in deviations.items() if name.endswith(suffix)), default)
            rows = value[value.abs().sum(-1) > 0] if value.ndim == 2 else value  # without the padding row
            assert rows.std().item() == pytest.approx(expected, rel=5 / rows.numel() ** 0.5), name


def test_the_padding_row_starts_at_zero():
    embeddings = BridgeTower(SMALL, ()).bridgetower.text_model.embeddings
    assert (embeddings.word_embeddings.weight[1] == 0).all()
    assert (embeddings.position_embeddings.weight[1] == 0).all()


def test_normalize():
    pixels = torch.randint(0, 256, (2, 3, 4, 4)).byte()
    expected = (pixels.double() / 255 - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)
    assert torch.allclose(normalize(pixels, torch.float64), expected, atol=1e-6)
    last = pixels.contiguous(memory_format=torch.channels_last)
    assert torch.equal(normalize(last, torch.float32), normalize(pixels, torch.float32))
    assert torch.equal(normalize(pixels, torch.bfloat16), normalize(pixels, torch.float32).bfloat16())


def test_channels_last_images_encode_the_same():
    model, pixels = BridgeTower(SMALL, ()), random_batch(SMALL, 2).pixel_values
    expected = model.encode_image(pixels).bridged[-1]
    assert torch.allclose(
        model.encode_image(pixels.contiguous(memory_format=torch.channels_last)).bridged[-1], expected, atol=1e-5
    )


def test_small_heads_are_exact_under_autocast():
    head, x = LinearHead(128, 2), torch.randn(4, 128)
    expected = head(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(x), expected)
        assert head(x.bfloat16()).dtype == torch.float32


def test_padding_changes_nothing():
    model, batch = BridgeTower(SMALL, ()).double(), random_batch(SMALL, 3)
    short = int(batch.text_mask.sum(dim=1).min())
    row = int(batch.text_mask.sum(dim=1).argmin())
    padded = model.encode_text(batch.input_ids[row : row + 1], batch.text_mask[row : row + 1])
    cut = model.encode_text(batch.input_ids[row : row + 1, :short], batch.text_mask[row : row + 1, :short])
    assert short < batch.input_ids.shape[1]
    for a, b in zip(padded.bridged, cut.bridged, strict=True):
        assert torch.allclose(a[:, :short], b, atol=1e-12)
