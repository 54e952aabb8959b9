"""Frozen parts keep their weights and have no optimizer state, whatever the engine and over a resume."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.training.runs import LOSSES, final_weights, metric_lines, train_here

FREEZE = "optim.freeze=[image,text:1]"


def frozen(name: str) -> bool:
    return "vision_model" in name or "text_model.embeddings" in name or "text_model.encoder.layer.0." in name


def test_a_frozen_run_resumes_and_keeps_its_frozen_weights(shapes_root: Path, tmp_path: Path):
    whole, parts, other = (tmp_path / name for name in ("whole", "parts", "other"))
    options = ["checkpoint.every=2", "optim.schedule=constant", "optim.warmup=0", FREEZE]
    train_here(shapes_root, whole, "steps=4", *options)
    train_here(shapes_root, parts, "steps=2", *options)
    train_here(shapes_root, parts, "steps=4", *options)
    assert metric_lines(parts) == metric_lines(whole)
    assert final_weights(parts) == final_weights(whole)
    train_here(shapes_root, other, "steps=2", "optim.lr=0.01", "optim.lr_fusion=0.01", "optim.lr_heads=0.01", *options)
    last = "checkpoints/step-0000000{}/{}".format
    ours, theirs = load_file(whole / last(4, "model.safetensors")), load_file(other / last(2, "model.safetensors"))
    kept = {name for name in ours if ours[name].equal(theirs[name])}
    assert {name for name in ours if frozen(name)} <= kept
    assert not any(name.endswith("dense.weight") for name in kept if not frozen(name))
    slots = load_file(whole / last(4, "optimizer/state.safetensors"))
    assert {name.rpartition(".")[0] for name in slots} == {name for name in ours if not frozen(name)}


def test_what_is_frozen_cannot_change_on_resume(shapes_root: Path, tmp_path: Path, capfd):
    train_here(shapes_root, tmp_path / "run", "steps=1")
    train_here(shapes_root, tmp_path / "run", "steps=2", FREEZE, code=1)
    assert "optim.freeze was [], is ['image', 'text:1']" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("freeze", "said"),
    [
        ("[image,text,fusion,heads]", "leaves nothing"),
        ("[image:9]", "names more than the"),
        ("[towers]", "'towers' is not a part"),
    ],
)
def test_what_cannot_be_frozen_is_refused(shapes_root: Path, tmp_path: Path, capfd, freeze: str, said: str):
    train_here(shapes_root, tmp_path / "run", "steps=1", f"optim.freeze={freeze}", code=2)
    assert said in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine", ["native", "zero3", *(pytest.param(f"zero{n}", marks=pytest.mark.nightly) for n in (0, 1, 2))]
)
def test_engines_agree(tmp_path: Path, train, reference, engine: str):
    if engine != "native":
        pytest.importorskip("deepspeed")
    options = ["steps=4", "model.dropout=0", "objective.itc=0", FREEZE]
    alone = metric_lines(reference(*options))
    train(tmp_path / "run", *options, f"engine={engine}", "engine.activation_checkpointing=true", ranks=2)
    for line, expected in zip(metric_lines(tmp_path / "run"), alone, strict=True):
        for name in {*LOSSES, "grad_norm"} & expected.keys():
            assert line[name] == pytest.approx(expected[name], rel=1e-4)
