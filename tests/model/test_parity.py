"""Our model against Hugging Face's classes: the same outputs and gradients from the same random weights."""

from collections.abc import Callable

import pytest
import torch
from helpers import gradients, heads, random_batch, randomize, run_config
from torch import Tensor

from bridgetower_train.bench.hugging_face import HuggingFaceHeads
from bridgetower_train.config import ObjectiveConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.model.bridgetower import BridgeTower, Fused, Pairs
from bridgetower_train.model.vision import normalize
from bridgetower_train.tasks.pretraining.itc import embed_cross, embed_image, embed_text
from tests.tiny import SMALL

ITC_DIM = 24
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def models(request) -> tuple[BridgeTower, HuggingFaceHeads]:
    model = BridgeTower(SMALL, heads(itc_dim=ITC_DIM)).to(request.param)
    randomize(model)
    return model, HuggingFaceHeads(model, run_config(SMALL, ObjectiveConfig(itc_dim=ITC_DIM)))


def outputs_mlm(model: BridgeTower, batch: Batch) -> dict[str, Tensor]:
    return {"logits": model.head("mlm_score")(fuse(model, batch, pooled=0).text)}


def outputs_itm(model: BridgeTower, batch: Batch) -> dict[str, Tensor]:
    return {"logits": model.head("itm_score")(fuse(model, batch, pooled=len(batch.image_id)).pooled)}


def outputs_itc(model: BridgeTower, batch: Batch) -> dict[str, Tensor]:
    image, text = model.encode_image(batch.pixel_values), model.encode_text(batch.input_ids, batch.text_mask)
    pooled = fuse(model, batch, pooled=len(batch.image_id)).pooled
    return {
        "text_embeds": embed_text(model, text.cls),
        "image_embeds": embed_image(model, image, "hf"),
        "cross_embeds": embed_cross(model, pooled),
    }


def fuse(model: BridgeTower, batch: Batch, pooled: int) -> Fused:
    """Each text with its own image: pooled, or the text stream at every place."""
    rows = torch.arange(len(batch.image_id))
    places = torch.arange(batch.input_ids.shape[1]).expand(len(rows) - pooled, -1)
    image, text = model.encode_image(batch.pixel_values), model.encode_text(batch.input_ids, batch.text_mask)
    return model.fuse(image, text, Pairs(rows, rows, pooled, places))


@pytest.mark.parametrize(("name", "outputs"), [("mlm", outputs_mlm), ("itm", outputs_itm), ("itc", outputs_itc)])
def test_outputs_and_gradients(models, name: str, outputs: Callable[[BridgeTower, Batch], dict[str, Tensor]]):
    model, heads = models
    head = getattr(heads, name)
    batch = random_batch(SMALL, 4)
    assert not batch.text_mask.all(), "padded texts are part of the test"
    dtype = next(model.parameters()).dtype
    theirs = head(
        input_ids=batch.input_ids,
        attention_mask=batch.text_mask.long(),
        pixel_values=normalize(batch.pixel_values, dtype),
    )
    ours = outputs(model, batch)
    random = torch.Generator().manual_seed(1)
    loss_ours = loss_theirs = 0.0
    for key, value in ours.items():
        assert_near(value, theirs[key], key)
        weight = torch.randn(value.shape, generator=random, dtype=dtype)
        loss_ours, loss_theirs = loss_ours + (weight * value).sum(), loss_theirs + (weight * theirs[key]).sum()
    loss_ours.backward()
    loss_theirs.backward()
    expected = {k: g for k, g in gradients(head).items() if g.abs().max() > 0}
    actual = gradients(model)
    assert expected.keys() <= actual.keys()
    for key, gradient in actual.items():
        assert_near(gradient, expected.get(key, torch.zeros_like(gradient)), key)


def assert_near(actual: Tensor, expected: Tensor, name: str) -> None:
    """Equal to the tolerance of the type, in proportion to the largest value."""
    difference = (actual - expected).abs().max() / expected.abs().max().clamp(min=1.0)
    assert difference < TOLERANCE[expected.dtype], f"{name}: differs by {difference:.1e}"


def test_names_are_those_of_hugging_face():
    model = BridgeTower(SMALL, heads(itc_dim=ITC_DIM))
    classes = HuggingFaceHeads(model, run_config(SMALL, ObjectiveConfig(itc_dim=ITC_DIM)))
    theirs = {name for head in (classes.mlm, classes.itm, classes.itc) for name in head.state_dict()}
    assert set(model.state_dict()) == theirs
