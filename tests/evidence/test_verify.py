"""`bridgetower verify`: files with the names and shapes of the published ones, of tiny models."""

import json
from dataclasses import replace

import pytest
import torch
from helpers import randomize
from PIL import Image
from safetensors.torch import load_file, save_file

from bridgetower_train.cli import main
from bridgetower_train.config import ObjectiveConfig, TrainConfig
from bridgetower_train.evidence import published
from bridgetower_train.evidence.published import Example, Published
from bridgetower_train.evidence.verify import table, verify
from bridgetower_train.tasks.pretraining import Pretraining
from bridgetower_train.weights.export import exported_weights
from bridgetower_train.weights.hf_files import model_description
from tests.conftest import image
from tests.tiny import SMALL
from tests.weights.conftest import clip_vision, export_here, openai_names, roberta, train_here

ALL = ("itm_score", "mlm_score", "itc_text_head", "itc_image_head", "itc_cross_modal_head", "logit_scale")


def microsoft(state):
    """A state dict under Microsoft's names, with some of what else is in their files."""
    found = {"text_transformer.pooler.dense.weight": torch.zeros(2, 2), "vit_model.ln_final.weight": torch.zeros(2)}
    for name, tensor in state.items():
        for ours, theirs in (
            ("bridgetower.vision_model.visual.embeddings.class_embedding", "vit_model.visual.class_embedding"),
            ("bridgetower.vision_model.visual.embeddings.patch_embedding", "vit_model.visual.conv1"),
            (
                "bridgetower.vision_model.visual.embeddings.position_embedding.weight",
                "vit_model.visual.positional_embedding",
            ),
            ("bridgetower.vision_model.", "vit_model."),
            ("bridgetower.text_model.", "text_transformer."),
            ("bridgetower.", ""),
        ):
            name = name.replace(ours, theirs)
        found[name] = tensor
    return found


@pytest.fixture(scope="module")
def root(shapes_root, tmp_path_factory):
    """The files of tiny models under such names."""
    root = tmp_path_factory.mktemp("published")
    train_here(shapes_root, root / "run", "steps=1")
    export_here(root / "run", root / "tiny" / "whole")
    clip_vision(image_size=48).save_pretrained(root / "clip")
    roberta(99).save_pretrained(root / "roberta")
    config = TrainConfig(model=SMALL, objective=ObjectiveConfig(itc=0))
    task = Pretraining(config)
    randomize(task.model)
    torch.save({"state_dict": microsoft(task.model.state_dict())}, root / "theirs.ckpt")
    for number, name in enumerate(("dogs.jpg", "cats.jpg")):
        image(number).save(root / name)
    return root


def tiny(root):
    """The table of these files."""
    from bridgetower_train.weights.saved import read_config

    run = read_config(root / "run")
    vocabulary = len(json.loads((root / "tiny" / "whole" / "vocab.json").read_text()))
    model = run.model.with_vocabulary(vocabulary)
    return [
        Published("tiny/whole", "model", model, ALL, example=True),
        Published("clip", "image tower", SMALL),
        Published("roberta", "text tower", SMALL),
        Published("theirs.ckpt", "model", SMALL, ("mlm_score", "itm_score"), "https://example.org/theirs"),
    ]


CARD = Example(
    "tiny/whole", ("http://example.org/dogs.jpg", "http://example.org/cats.jpg"), ("a red circle", "two"), (1.0, 1.0)
)


def steps(root, out, rows=None, card=CARD, corpus=None):
    """Step -> (verdict, detail, remedy)."""
    report = verify(rows or tiny(root), card, root, corpus, "cpu", out, 300)
    return {step.name: (step.verdict, step.detail, step.remedy) for step in report.steps}


def test_what_is_as_published(root, tmp_path, shapes_root):
    import transformers

    processor = transformers.BridgeTowerProcessor.from_pretrained(root / "tiny" / "whole")
    images = [Image.open(root / name).convert("RGB") for name in ("dogs.jpg", "cats.jpg")]
    model = transformers.BridgeTowerForContrastiveLearning.from_pretrained(root / "tiny" / "whole").eval()
    expected = []
    for texts in (list(CARD.texts), list(CARD.texts[::-1])):
        with torch.no_grad():
            encoding = processor(images, texts, padding=True, return_tensors="pt")
            expected.append(model(**encoding, return_loss=True).loss.item())
    found = steps(
        root, tmp_path, card=replace(CARD, losses=tuple(expected)), corpus=str(shapes_root / "shapes_heldout")
    )
    assert {name: verdict for name, (verdict, _, _) in found.items()} == {
        "tiny/whole: tensors": "ok",
        "tiny/whole: outputs": "ok",
        "tiny/whole: the card's example": "ok",
        "tiny/whole: COCO 1k": "ok",
        "clip: tensors": "ok",
        "clip: outputs": "ok",
        "roberta: tensors": "ok",
        "roberta: outputs": "ok",
        "theirs.ckpt: tensors": "ok",
    }, found
    assert "with ours: " in found["tiny/whole: the card's example"][1]
    assert "RSUM" in found["tiny/whole: COCO 1k"][1]
    assert "positions interpolated" in found["clip: tensors"][1]
    assert (tmp_path / "logs").is_dir()


def test_what_differs_is_named(root, tmp_path):
    folder = tmp_path / "other" / "tiny" / "whole"
    folder.mkdir(parents=True)
    for path in (root / "tiny" / "whole").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    name = "bridgetower.cross_modal_text_pooler.dense.bias"
    weights["bridgetower.more"] = weights.pop(name)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    one = tiny(root)[:1]
    verdict, detail, remedy = steps(tmp_path / "other", tmp_path / "out", one)["tiny/whole: tensors"]
    assert verdict == "failed"
    assert f"missing: {name}" in detail
    assert "unknown: bridgetower.more" in detail
    assert "send this report" in remedy


def test_losses_that_are_not_the_card_s_and_outputs_that_are_not_theirs(root, tmp_path, monkeypatch):
    found = steps(root, tmp_path, tiny(root)[:1])
    assert found["tiny/whole: the card's example"][0] == "failed"
    verdict, _, remedy = found["tiny/whole: COCO 1k"]
    assert (verdict, "dataset_coco.json" in remedy) == ("skipped", True)
    monkeypatch.setattr("bridgetower_train.evidence.verify.NEAR", -1.0)
    assert steps(root, tmp_path, tiny(root)[1:2])["clip: outputs"][0] == "failed"


def test_what_to_fetch_without_files_or_network(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    names = "names=[roberta-base,bridgetower_pt_base.ckpt]"
    assert main(["verify", f"out={tmp_path / 'out'}", f"root={tmp_path}", names, "limit=120"]) == 1
    said = capsys.readouterr().out
    assert f"https://huggingface.co/roberta-base into {tmp_path}/roberta-base" in said
    assert f"put bridgetower_pt_base.ckpt from https://huggingface.co/LooperXX/BridgeTower at {tmp_path}" in said
    assert "0 ok, 0 failed, 2 skipped" in said
    assert main(["verify", f"out={tmp_path / 'out'}", "names=[roberta]"]) == 2
    assert "did you mean 'roberta-base'" in capsys.readouterr().err


def test_the_published_sizes(root):
    """Of the real ones names and shapes are transformers', as far as a model without memory tells."""
    import transformers

    for one in table():
        if one.kind != "model" or one.address:
            continue
        run = TrainConfig(model=one.model)
        with torch.device("meta"):
            theirs = transformers.BridgeTowerForContrastiveLearning(
                transformers.BridgeTowerConfig(**model_description(run))
            )
            mine = exported_weights(Pretraining, Pretraining(run).model.state_dict())
        assert {n: t.shape for n, t in theirs.state_dict().items()}.items() <= {
            n: t.shape for n, t in mine.items()
        }.items()
    assert len(table()) == 10
    assert published.find(table()[-1], root)[0] is None


def test_openai_s_names_are_an_image_tower_too(root, tmp_path):
    torch.save(openai_names(clip_vision(image_size=32)), tmp_path / "ViT.pt")
    one = Published("ViT.pt", "image tower", SMALL, (), "https://example.org")
    assert published.tensors(one, str(tmp_path / "ViT.pt"))[0] == 55
