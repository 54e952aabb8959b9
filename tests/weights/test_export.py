"""`bridgetower export`: what transformers makes of the folder, and when there is none."""

import ast
import hashlib
import json
import logging
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from bridgetower_train import compose
from bridgetower_train.cli import main
from bridgetower_train.config import TrainConfig
from bridgetower_train.model.bridgetower import BridgeTower, Pairs
from bridgetower_train.model.vision import CLIP_MEAN, CLIP_STD
from bridgetower_train.pages.model_card import model_card
from bridgetower_train.tasks.pretraining import Pretraining
from bridgetower_train.tasks.pretraining.itc import embed_cross, embed_image, embed_text
from bridgetower_train.weights.checkpoint import verify
from bridgetower_train.weights.export import exported_weights, same_files
from bridgetower_train.weights.hf_files import model_description
from bridgetower_train.weights.saved import read_saved
from tests.hostile.attacks import attack
from tests.rendering import markup
from tests.training.runs import train_here

HEADS = ("mlm_score.", "itm_score.", "itc_text_head.", "itc_image_head.", "itc_cross_modal_head.", "logit_scale")
TEXTS = ["a red circle", "two blue squares and a green triangle at the top", "something else"]


def load(name: str, folder: Path, **options):
    """(one of transformers' classes from the folder, what it reported)."""
    import transformers

    model, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True, **options)
    return model.eval(), report


def ours(run: Path) -> BridgeTower:
    saved, weights = read_saved(str(run))
    model = BridgeTower(saved.config.model, Pretraining.heads(saved.config)).eval()
    model.load_state_dict(weights)
    return model


def pixels_of(encoding) -> Tensor:
    """The uint8 images from which a processor made its `pixel_values`."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return ((encoding["pixel_values"] * std + mean) * 255).round().clamp(0, 255).byte()


def outputs(model: BridgeTower, encoding) -> dict[str, Tensor]:
    """What our model gives for a processor's encoding of pairs."""
    ids, mask = encoding["input_ids"], encoding["attention_mask"].bool()
    with torch.no_grad():
        image, text = model.encode_image(pixels_of(encoding)), model.encode_text(ids, mask)
        rows = torch.arange(len(ids))
        places = torch.arange(ids.shape[1]).expand(len(ids), -1)
        found = {"mlm": model.head("mlm_score")(model.fuse(image, text, Pairs(rows, rows, 0, places)).text)}
        pooled = model.fuse(image, text, Pairs(rows, rows, len(ids))).pooled
        found["itm"] = model.head("itm_score")(pooled)
        if hasattr(model, "itc_cross_modal_head"):
            found["text_embeds"] = embed_text(model, text.cls)
            found["image_embeds"] = embed_image(model, image, "hf")
            found["cross_embeds"] = embed_cross(model, pooled)
    return found


@pytest.fixture(scope="module")
def encoding(folder):
    from transformers import BridgeTowerProcessor

    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (60 + 9 * n, 80, 3), dtype=np.uint8)) for n in range(len(TEXTS))]
    return BridgeTowerProcessor.from_pretrained(folder)(images, TEXTS, padding=True, return_tensors="pt")


CLASSES = [
    "BridgeTowerModel", "BridgeTowerForMaskedLM", "BridgeTowerForImageAndTextRetrieval", "BridgeTowerForContrastiveLearning",
]  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_loads_and_gives_our_outputs(run, folder, encoding, name, caplog):
    logging.getLogger("transformers").propagate = True
    model, report = load(name, folder)
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert all(key.startswith(HEADS) for key in report["unexpected_keys"])
    assert "newly initialized" not in caplog.text
    assert "MISSING" not in caplog.text
    expected = outputs(ours(run), encoding)
    with torch.no_grad():
        found = model(**encoding)
    if name == "BridgeTowerModel":
        assert found.pooler_output.shape == (3, 128)
    elif name == "BridgeTowerForContrastiveLearning":
        for key in ("text_embeds", "image_embeds", "cross_embeds"):
            torch.testing.assert_close(found[key], expected[key], atol=1e-5, rtol=1e-5)
        assert model.logit_scale == load_file(folder / "model.safetensors")["logit_scale"]
    else:
        key = "mlm" if name == "BridgeTowerForMaskedLM" else "itm"
        torch.testing.assert_close(found.logits, expected[key], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("size", "keys"), [("base", 702), ("large", 1038)])
def test_the_published_sizes_have_the_published_keys_and_shapes(size, keys):
    """Without memory for their weights."""
    import transformers

    config = compose.compose(TrainConfig, "train", [f"model={size}"])
    config = replace(config, model=config.model.with_vocabulary(50265))
    described = model_description(config)
    with torch.device("meta"):
        theirs = {
            name: getattr(transformers, name)(transformers.BridgeTowerConfig(**described)).state_dict()
            for name in CLASSES[1:]
        }
        mine = exported_weights(Pretraining, Pretraining(config).model.state_dict())
    assert len(theirs["BridgeTowerForContrastiveLearning"]) == keys
    expected = {name: tensor.shape for state in theirs.values() for name, tensor in state.items()}
    assert {name: tensor.shape for name, tensor in mine.items()} == expected


def test_the_processor_tokenizes_as_training_did(run, folder, encoding):
    ids, mask = read_saved(str(run))[0].tokenizer.encode(TEXTS, encoding["input_ids"].shape[1])
    assert torch.equal(encoding["input_ids"], ids)
    assert torch.equal(encoding["attention_mask"].bool(), mask)
    assert encoding["pixel_values"].shape == (3, 3, 48, 48)


def test_what_the_folder_holds(folder):
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "config.json", "gaudi_config.json", "merges.txt", "model.safetensors", "preprocessor_config.json",
        "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert config["contrastive_hidden_size"] == 40
    assert config["logit_scale_init_value"] == pytest.approx(2.6592, abs=1e-4)
    assert config["architectures"] == ["BridgeTowerForContrastiveLearning"]
    assert json.loads((folder / "gaudi_config.json").read_text()) == {
        "use_fused_adam": True, "use_fused_clip_norm": True, "use_torch_autocast": True,
    }  # fmt: skip
    header = (folder / "model.safetensors").read_bytes()[8:200]
    assert b'"format":"pt"' in header


def test_the_card(run, folder, shapes_root):
    from huggingface_hub import ModelCard

    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "unknown"
    assert card.data.library_name == "transformers"
    (overview,) = json.loads((run / "eval.json").read_text())["evaluations"].values()
    assert {result.metric_name for result in card.data.eval_results} == set(overview["figures"])
    manifest = json.loads((shapes_root / "shapes" / "manifest.json").read_text())
    assert (
        f"| shapes | {manifest['images']:,} | {manifest['captions']:,} | 1 | none needed: drawn by a program |"
        in card.text
    )
    for part in (
        "| steps | 3 of 3 |",
        "| pairs seen | 24,",
        "| carbon | unknown |",
        "| cost | unknown |",
        "about",
        "| hardware | 1 x ",
        " thread, at this checkpoint |",
    ):
        assert part in card.text
    assert f"{run}" not in card.text


def altered(run: Path, root: Path, folder: Path, evil: str, **config: str) -> Path:
    """A copy of the run, below `folder`, where all that its corpora, state and configuration can say is `evil`."""
    data, copy = shutil.copytree(root, folder / "data"), shutil.copytree(run, folder / "run")
    path = data / "shapes" / "manifest.json"
    about = dict.fromkeys(("title", "homepage", "licence", "note"), evil)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extra": {"about": about}}))
    settings = yaml.safe_load((copy / "config.yaml").read_text())
    settings["data"] |= {"root": str(data), "corpora": {"shapes": 1.0, evil: 1.0}}
    settings["init"] |= {"vision": evil, **config}
    (copy / "config.yaml").write_text(yaml.safe_dump(settings))
    (entry,) = (json.loads((copy / "eval.json").read_text()))["evaluations"].values()
    entry |= {"corpus": evil, "figures": {evil: 0.5}}
    (copy / "eval.json").write_text(json.dumps({"evaluations": {f"overview on {evil}": entry}}))
    step = copy / "checkpoints" / "step-00000003"
    state = json.loads((step / "state.json").read_text())
    (step / "state.json").write_text(
        json.dumps(state | {"device": evil, "versions": {"torch": evil}, "host": "a-host"})
    )
    files = json.loads((step / "manifest.json").read_text())
    content = (step / "state.json").read_bytes()
    files["files"]["state.json"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (step / "manifest.json").write_text(json.dumps(files))
    return copy


@attack(57)
@attack(58)
@pytest.mark.parametrize(
    "evil",
    [
        "<script>alert(1)</script>",
        "x\r# Injected\n\n## Injected\n---\n",
        "[a](javascript:alert(1))",
        "`x` *a* | $y$",
        "a\n```\n# b",
    ],
)
def test_the_card_of_a_hostile_run(run, shapes_root, tmp_path, evil):
    def body(copy):
        saved, _ = read_saved(str(copy))
        head, front, text = model_card(saved, evil, str(copy.parent / "data"), evil, None, evil).split("---\n", 2)
        assert (head, yaml.safe_load(front)["license"]) == ("", evil)
        return [kind for kind in markup(text) if kind != "code_inlinecode"], text

    kinds, text = body(altered(run, shapes_root, tmp_path / "hostile", evil))
    evil = "plain"
    assert kinds == body(altered(run, shapes_root, tmp_path / "tame", evil))[0]
    (python,) = re.findall(r"```python\n(.*?)\n```\n", text, re.S)
    assert len(ast.parse(python).body) == 6


@attack(74)
@attack(69)
def test_an_export_does_not_tell_whose_it_is(run, shapes_root, tmp_path, monkeypatch):
    monkeypatch.setattr("bridgetower_train.data.cache.RETRY_DELAYS", ())
    root = tmp_path / "home" / "alice"
    copy = altered(run, shapes_root, root, "plain", text="/home/alice/secret-project/x.bin", vision="openai/clip")
    settings = (copy / "config.yaml").read_text()
    settings = settings.replace(str(root / "data"), "http://alice:s3cr3t@127.0.0.1:9/data?X-Amz-Signature=s3cr3t")
    (copy / "config.yaml").write_text(settings)
    assert main(["export", f"run_dir={copy}", f"out={root / 'out'}"]) == 0
    card = (root / "out" / "README.md").read_text()
    assert "`init.vision=openai/clip`, `init.text=x.bin`" in card
    for path in (root / "out").iterdir():
        content = path.read_bytes()
        for private in ("alice", "s3cr3t", "secret-project", "a-host", str(tmp_path)):
            assert private.encode() not in content, (path.name, private)


def test_a_second_export_is_the_same_in_every_byte(run, folder, tmp_path, capsys):
    options = ["licence=mit", "carbon_kg=1.5", "cost='3 EUR'"]
    for out in ("a", "b", "b"):
        assert main(["export", f"run_dir={run}", f"out={tmp_path / out}", *options]) == 0
    assert "already there, byte-identical" in capsys.readouterr().out
    assert same_files(tmp_path / "a", tmp_path / "b")
    assert not same_files(tmp_path / "a", folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    header = yaml.safe_load((tmp_path / "a" / "README.md").read_text().split("---\n")[1])
    assert header["license"] == "mit"
    assert header["co2_eq_emissions"] == {"emissions": 1500.0}


def test_an_earlier_step(run, tmp_path):
    assert main(["export", f"run_dir={run}", f"out={tmp_path / 'x'}", "step=2"]) == 0
    exported = load_file(tmp_path / "x" / "model.safetensors")
    saved = load_file(run / "checkpoints" / "step-00000002" / "model.safetensors")
    assert all(torch.equal(exported[name], tensor) for name, tensor in saved.items())
    card = (tmp_path / "x" / "README.md").read_text()
    assert "| steps | 2 of 3 |" in card
    assert "was not evaluated" in card


def test_an_export_is_a_start_for_training(run, folder, shapes_root, tmp_path, capsys):
    rates = ["optim.lr=0", "optim.lr_fusion=0", "optim.lr_heads=0"]
    form = ["model.image_size=48", "objective.itc_dim=40"]
    train_here(shapes_root, tmp_path, "steps=1", f"init.checkpoint={folder}", *form, *rates)
    assert "random: nothing" in capsys.readouterr().out
    mine, theirs = (load_file(d / "model.safetensors") for d in (tmp_path / "checkpoints" / "step-00000001", folder))
    assert all(torch.equal(theirs[name], tensor) for name, tensor in mine.items())


@pytest.mark.parametrize(
    ("objective", "classes", "refused"),
    [
        (["objective=mlm_itm"], CLASSES[1:3], CLASSES[3:]),
        (["objective.itc_form=ms", "objective.itc_dim=256"], CLASSES[1:3], CLASSES[3:]),
        (["objective.itc_form=symmetric", "objective.mlm=0"], CLASSES[2:], []),
    ],
)
def test_other_objectives(shapes_root, tmp_path, capsys, objective, classes, refused):
    run_dir, out = tmp_path / "run", tmp_path / "out"
    train_here(shapes_root, run_dir, "steps=1", *objective)
    assert main(["export", f"run_dir={run_dir}", f"out={out}"]) == 0
    printed, card = capsys.readouterr().out, (out / "README.md").read_text()
    for name in [*classes, "BridgeTowerModel"]:
        assert name in printed
        _, report = load(name, out)
        assert not report["missing_keys"]
    for name in refused:
        assert f"`{name}`" in card.split("not to be loaded")[1]
        with pytest.raises(AttributeError, match="contrastive_hidden_size"):
            load(name, out)
    assert ("256 wide" in card) == ("objective.itc_form=ms" in objective)


def test_logit_scale_is_exported_as_the_loss_used_it(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    step = copy / "checkpoints" / "step-00000003"
    weights = load_file(step / "model.safetensors")
    weights["logit_scale"] = torch.tensor(9.0)
    save_file(weights, step / "model.safetensors")
    manifest = json.loads((step / "manifest.json").read_text())
    manifest["files"]["model.safetensors"] = {
        "bytes": (step / "model.safetensors").stat().st_size,
        "sha256": hashlib.sha256((step / "model.safetensors").read_bytes()).hexdigest(),
    }
    (step / "manifest.json").write_text(json.dumps(manifest))
    assert main(["export", f"run_dir={copy}", f"out={tmp_path / 'out'}"]) == 0
    assert load_file(tmp_path / "out" / "model.safetensors")["logit_scale"].exp() == pytest.approx(1000)


def test_from_a_run_in_progress(tmp_path, start):
    """Exported again and again while checkpoints come and go."""
    run_dir = tmp_path / "run"
    job = start(run_dir, "steps=100000", "checkpoint.every=1")
    assert job.wait_for(lambda: len(list(run_dir.glob("checkpoints/step-*[0-9]"))) > 1)
    for number in range(4):
        assert main(["export", f"run_dir={run_dir}", f"out={tmp_path / str(number)}"]) == 0
        _, report = load("BridgeTowerForMaskedLM", tmp_path / str(number))
        assert not report["missing_keys"]
    assert job.process.poll() is None, "the run ended before it was exported"
    job.process.terminate()
    job.finish()
    newest = (run_dir / "checkpoints" / "latest").read_text()
    assert verify(run_dir / "checkpoints" / newest) is None


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["run_dir=/nowhere"], ["run_dir=/nowhere", "not a run"]),
        (["step=7"], ["step=7", "2, 3"]),
        (["tokenizer=/nowhere"], ["tokenizer=/nowhere"]),
        (["tokenizer={other}"], ["is not the one that the run was trained with"]),
        (["out={taken}"], ["out=", "is there already"]),
        (["push=true"], ["repo=owner/name"]),
        (["push=true", "repo=me/model"], ["HF_TOKEN"]),
        (["carbon_kg=-1"], ["carbon_kg=-1"]),
    ],
)
def test_what_cannot_be_exported_leaves_nothing(run, text, tmp_path, capsys, monkeypatch, overrides, parts):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"), raising=False)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("x")
    values = [o.format(other=text.path, taken=taken) for o in overrides]
    given = {o.split("=")[0] for o in values}
    defaults = [f"{k}={v}" for k, v in {"run_dir": run, "out": tmp_path / "out"}.items() if k not in given]
    assert main(["export", *defaults, *values]) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in parts), error
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    assert [path.name for path in taken.iterdir()] == ["thesis.txt"]


@attack(52)
@pytest.mark.parametrize("value", [{"a": 1}, [1], "x", None, 10**400])
def test_figures_that_are_no_numbers_are_refused(run, tmp_path, capsys, value):
    copy, out = shutil.copytree(run, tmp_path / "run"), tmp_path / "out"
    content = json.loads((copy / "eval.json").read_text())
    (entry,) = content["evaluations"].values()
    entry["figures"]["x"] = value
    (copy / "eval.json").write_text(json.dumps(content))
    assert main(["export", f"run_dir={copy}", f"out={out}"]) == 1
    error = capsys.readouterr().err
    assert f"{copy}/eval.json: a figure of its overview is no number" in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_another_export_is_not_overwritten(run, folder, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    (out / "README.md").write_text("mine")
    assert main(["export", f"run_dir={run}", f"out={out}"]) == 2
    assert "contains something else" in capsys.readouterr().err
    assert (out / "README.md").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_transformers_and_the_hub(run, tmp_path):
    """Neither is a dependency of the export."""
    program = (
        "import sys; sys.modules.update(transformers=None, huggingface_hub=None)\n"
        f"from bridgetower_train.cli import main; sys.exit(main(['export', 'run_dir={run}', 'out={tmp_path / 'out'}']))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=400).returncode == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
