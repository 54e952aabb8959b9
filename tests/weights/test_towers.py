"""Towers from CLIP and RoBERTa: the same hidden states as transformers' own classes."""

import pytest
import torch
from helpers import random_batch
from safetensors.torch import save_file

from bridgetower_train.model.vision import normalize
from tests.tiny import SMALL
from tests.weights.conftest import clip_vision, openai_names, roberta, save_torchscript


def assert_same_images(model, clip) -> None:
    """Each block's output after the final norm."""
    pixels = torch.randint(0, 256, (2, 3, model.config.image_size, model.config.image_size)).byte()
    with torch.no_grad():
        theirs = clip(normalize(pixels, torch.float32), output_hidden_states=True, interpolate_pos_encoding=True)
        norm = getattr(clip, "vision_model", clip).post_layernorm
        visual = model.bridgetower.vision_model.visual
        ours = visual(pixels, model.config.vision_layers)
        for depth, state in enumerate(ours):
            torch.testing.assert_close(
                visual.ln_post(state), norm(theirs.hidden_states[depth + 1]), atol=1e-5, rtol=1e-5
            )
        assert theirs.hidden_states[-1].std() > 0.1


@pytest.mark.parametrize("image_size", [32, 72], ids=["as it is", "interpolated"])
@pytest.mark.parametrize(
    "form", ["folder", "sharded", "bin", "safetensors", "openai state dict", "openai torchscript", "whole clip"]
)
def test_image_tower_equals_clip(build, tmp_path, form, image_size):
    clip = clip_vision()
    source = tmp_path / "clip"
    if form == "folder":
        clip.save_pretrained(source)
    elif form == "sharded":
        clip.save_pretrained(source, max_shard_size="500KB")
        assert len(list(source.glob("*.safetensors"))) > 2
    elif form == "bin":
        source.mkdir()
        torch.save(clip.state_dict(), source / "pytorch_model.bin")
        clip.config.to_json_file(source / "config.json")
    elif form == "safetensors":
        source = tmp_path / "tower.safetensors"
        save_file(clip.state_dict(), source)
    elif form == "whole clip":
        from transformers import CLIPConfig, CLIPModel, CLIPTextConfig

        small = CLIPTextConfig(
            hidden_size=64, num_hidden_layers=1, num_attention_heads=1, intermediate_size=64, vocab_size=99
        )
        whole = CLIPModel(
            CLIPConfig(text_config=small.to_dict(), vision_config=clip.config.to_dict(), projection_dim=32)
        )
        whole.vision_model.load_state_dict({n.removeprefix("vision_model."): t for n, t in clip.state_dict().items()})
        whole.save_pretrained(source)
    else:
        source = tmp_path / "ViT.pt"
        names = openai_names(clip)
        torch.save(names, source) if "state dict" in form else save_torchscript(names, source)
    model, said = build(vision=source, image_size=image_size)
    assert_same_images(model, clip)
    assert "55 tensors" in said[0]
    assert ("4 x 4 to 9 x 9" in said[0]) == (image_size == 72)
    assert "text tower" in said[-1]
    assert "image tower" not in said[-1]


@pytest.mark.parametrize("form", ["folder", "masked lm", "bin"])
def test_text_tower_equals_roberta(build, text, tmp_path, form):
    model_theirs = roberta(text.vocab_size)
    source = tmp_path / "roberta"
    if form == "folder":
        model_theirs.save_pretrained(source)
    elif form == "masked lm":
        from transformers import RobertaForMaskedLM

        whole = RobertaForMaskedLM(model_theirs.config)
        whole.roberta.load_state_dict(model_theirs.state_dict(), strict=False)
        whole.save_pretrained(source)
    else:
        source.mkdir()
        old = {f"roberta.{name}": t for name, t in model_theirs.state_dict().items()}
        old["roberta.embeddings.position_ids"] = torch.arange(20)[None]
        torch.save(old, source / "pytorch_model.bin")
    model, said = build(text=source)
    batch = random_batch(SMALL, 4)
    assert not batch.text_mask.all()
    with torch.no_grad():
        theirs = model_theirs(batch.input_ids, batch.text_mask.long(), output_hidden_states=True).hidden_states
        ours = model.bridgetower.text_model(batch.input_ids, batch.text_mask, 4)
    for state, expected in zip(ours, theirs[1:], strict=True):
        torch.testing.assert_close(state[batch.text_mask], expected[batch.text_mask], atol=1e-5, rtol=1e-5)
    assert said[-1] == (
        "random: fusion encoder, image tower, itc_cross_modal_head, itc_image_head, itc_text_head, itm_score, logit_scale, "
        "mlm_score"
    )


def test_both_towers(build, text, tmp_path):
    clip = clip_vision()
    clip.save_pretrained(tmp_path / "clip")
    roberta(text.vocab_size).save_pretrained(tmp_path / "roberta")
    model, said = build(vision=tmp_path / "clip", text=tmp_path / "roberta")
    assert_same_images(model, clip)
    assert len(said) == 3
    assert "tower" not in said[-1]
