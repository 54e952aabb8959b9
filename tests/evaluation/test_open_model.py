"""One way to a model: from a run folder, from its export, and from the export on the hub, with the same answers."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from bridgetower_train.cli import main
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.devices import cpu
from bridgetower_train.errors import ConfigError
from bridgetower_train.evaluation.base import open_model
from bridgetower_train.model.attention import Linear
from bridgetower_train.tasks.pretraining.predictor import Predictor
from bridgetower_train.weights import checkpoint as checkpoint_module
from bridgetower_train.weights import saved as weights_saved
from bridgetower_train.weights.checkpoint import step_folders
from bridgetower_train.weights.saved import ATTEMPTS, read_saved
from tests.training.runs import export_here, train_here


@pytest.fixture(scope="session")
def exported(trained_run, tmp_path_factory) -> Path:
    """The export of a run. Do not write to it."""
    return export_here(trained_run, tmp_path_factory.mktemp("exported") / "folder")


@pytest.fixture
def export(exported, tmp_path) -> Path:
    """A copy of it to write to."""
    return Path(shutil.copytree(exported, tmp_path / "export"))


def figures(path: Path) -> dict:
    return {name: entry["figures"] for name, entry in json.loads(path.read_text())["evaluations"].items()}


def change(file: Path, **entries) -> None:
    """Replace entries of a JSON file; None removes one."""
    content = json.loads(file.read_text()) | entries
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def test_an_opened_model_is_made_as_fast_as_one_in_training(trained_run, monkeypatch):
    """By the products of oneDNN, on processors where they are faster."""
    monkeypatch.setattr(cpu, "prefers_onednn", lambda: True)
    opened, _ = open_model(str(trained_run), device="cpu")
    assert {part.product for part in opened.task.model.modules() if isinstance(part, Linear)} == {cpu.product}


EVALUATIONS = (["eval"], ["eval", "masked_lm"], ["eval", "matching"], ["eval", "retrieval", "rerank=4"])


def test_an_export_is_evaluated_as_its_run_is(run_dir, export, shapes_root, capsys):
    for command in EVALUATIONS:
        assert main([*command, f"run_dir={run_dir}"]) == 0
        assert main([*command, f"run_dir={export}", f"root={shapes_root}", "corpus=shapes_heldout"]) == 0
    assert figures(export / "eval.json") == figures(run_dir / "eval.json")
    assert len(figures(export / "eval.json")) == 4
    protocol = json.loads((export / "eval.json").read_text())["evaluations"]["matching on shapes_heldout"]["protocol"]
    assert protocol["model"] == "not known: exported weights do not tell"
    assert protocol["text length"] == 24


def test_an_evaluated_export_is_still_the_same_export(trained_run, export, capsys):
    (export / "eval.json").write_text("{}")
    assert main(["export", f"run_dir={trained_run}", f"out={export}"]) == 0
    assert "already there, byte-identical" in capsys.readouterr().out


def test_an_export_without_our_entry_is_known_by_its_heads(export, trained_run):
    change(export / "config.json", bridgetower_train=None)
    (model, found), (whole, _) = open_model(str(export), device="cpu"), open_model(str(trained_run), device="cpu")
    assert found.config.model.max_text_len == 50
    assert found.config.objective.itc_form == "hf"
    assert found.step is None
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    same = [Predictor(*opened).match(image, ["a red ring"]) for opened in (model, whole)]
    assert torch.equal(*same)


@pytest.mark.parametrize("entry", [True, False])
def test_the_form_of_the_contrast_is_known(shapes_root, tmp_path, entry):
    run_dir, out = tmp_path / "run", tmp_path / "out"
    keys = ["steps=1", "objective.itc_form=ms", "objective.itc_dim=16", "objective.mlm=0"]
    train_here(shapes_root, run_dir, *keys)
    assert main(["export", f"run_dir={run_dir}", f"out={out}"]) == 0
    if not entry:
        change(out / "config.json", bridgetower_train=None)
    (model, found), (whole, _) = open_model(str(out), device="cpu"), open_model(str(run_dir), device="cpu")
    objective = found.config.objective
    assert (objective.itc_form, objective.itc_dim, objective.mlm, objective.itm) == ("ms", 16, 0, 1)
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(*(Predictor(*opened).embed_images(image) for opened in (model, whole)))


def test_an_export_predicts_as_its_run_does(trained_run, exported, shapes_root, tmp_path, capsys):
    image = tmp_path / "image.jpg"
    image.write_bytes(open_corpus(str(shapes_root), "shapes").read(0).image)
    printed = []
    for source in (trained_run, exported):
        keys = [f"run_dir={source}", f"image={image}", "texts=['a <mask> ring']", f"out={tmp_path}/page.html"]
        assert main(["predict", *keys]) == 0
        printed.append(capsys.readouterr().out.replace(str(source), "MODEL"))
    assert printed[0] == printed[1]
    assert "similarity" in printed[0]


def test_a_step_of_a_run(shapes_root, tmp_path):
    run_dir = tmp_path / "run"
    keys = ["steps=2", "checkpoint.every=1"]
    train_here(shapes_root, run_dir, *keys)
    assert open_model(str(run_dir), "1", "cpu")[1].step == 1
    assert open_model(str(run_dir), device="cpu")[1].step == 2
    for step, part in (("7", "there are 1, 2"), ("last", "must be a number, newest or best")):
        with pytest.raises(ConfigError, match=f"step={step}: .*{part}"):
            open_model(str(run_dir), step, "cpu")


def test_a_checkpoint_that_the_run_removes_is_not_the_end(trained_run, monkeypatch):
    """The next newest is read instead."""
    read, tries = weights_saved.load_file, []

    def vanishing(path):
        tries.append(path)
        if len(tries) < ATTEMPTS:
            raise FileNotFoundError(path)
        return read(path)

    monkeypatch.setattr(weights_saved, "load_file", vanishing)
    assert read_saved(str(trained_run))[0].step == 2
    assert len(tries) == ATTEMPTS


def test_a_checkpoint_that_is_removed_while_it_is_verified_is_not_the_end(trained_run, tmp_path, monkeypatch, capsys):
    run_dir = tmp_path / "run"
    shutil.copytree(trained_run, run_dir)
    *_, saved = step_folders(run_dir)
    verify = checkpoint_module.verify

    def overtaken(folder):
        if saved.exists():
            saved.rename(saved.with_name("step-00000003"))
        return verify(folder)

    monkeypatch.setattr(checkpoint_module, "verify", overtaken)
    assert read_saved(str(run_dir))[0].name == "step-00000003"
    assert "skipping" not in capsys.readouterr().out


def test_another_tokenizer_is_refused(run_dir, shapes_root, tmp_path, capsys):
    other = json.loads((shapes_root / "shapes" / "tokenizer.json").read_text())
    other["model"]["merges"] = other["model"]["merges"][:-1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(other))
    config = run_dir / "config.yaml"
    lines = [f"tokenizer: {tmp_path}" if line.startswith("tokenizer:") else line for line in config.open()]
    config.write_text("\n".join(map(str.rstrip, lines)))
    assert main(["eval", f"run_dir={run_dir}"]) == 2
    assert "is not the one that the run was trained with; give that one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (
            lambda folder: (folder / "config.json").unlink(),
            "has neither config.yaml nor config.json; give a run folder",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "config.json: Input should be an object"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer="),
        (lambda folder: change(folder / "config.json", bridgetower_train={"task": "vqa"}), "task=vqa"),
        (lambda folder: change(folder / "config.json", bridgetower_train={"itc_form": "ms"}), "itc_cross_modal_head"),
        (
            lambda folder: change(folder / "config.json", bridgetower_train={"max_text_len": [1]}),
            "is not a BridgeTower",
        ),
        (lambda folder: change(folder / "config.json", hidden_act="relu"), "has a different architecture"),
    ],
)
def test_what_is_no_export_is_refused_with_one_line(export, capsys, damage, part):
    damage(export)
    assert main(["eval", f"run_dir={export}", "corpus=x", "root=/nowhere"]) == 2
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1


def test_what_an_export_does_not_bring_must_be_given(exported, shapes_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for keys, part in (
        ([], "corpus: the model brings no data.validation"),
        (["corpus=shapes"], "root: exported weights bring no data.root"),
    ):
        assert main(["eval", f"run_dir={exported}", *keys]) == 2
        assert part in capsys.readouterr().err
    assert main(["export", f"run_dir={exported}", f"out={tmp_path / 'again'}"]) == 2
    assert "is not a run (it has no config.yaml); give the folder of one" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="only a run has steps"):
        open_model(str(exported), "3")
    out = tmp_path / "results" / "figures.json"
    keys = ["corpus=shapes_heldout", f"root={shapes_root}", f"out={out}"]
    assert main(["eval", "matching", f"run_dir={exported}", *keys]) == 0
    assert list(figures(out)) == ["matching on shapes_heldout"]
    assert not (exported / "eval.json").exists()


@pytest.mark.parametrize("kind", ["run", "export"])
def test_its_model_is_planned(trained_run, exported, shapes_root, kind, capsys):
    source = {"run": trained_run, "export": exported}[kind]
    keys = ["plan", f"data.root={shapes_root}", f"model_from={source}", "hardware=gaudi2x8", "out=null"]
    assert main(keys) == 0
    assert "model       1 M parameters" in capsys.readouterr().out
    assert main([*keys, f"model_from={source}/none"]) == 2
    assert f"model_from={source}/none: no such file or folder" in capsys.readouterr().err
