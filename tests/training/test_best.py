"""The best checkpoint: kept beside the newest, found again after a kill, and waited for no longer than asked."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bridgetower_train.cli import main
from bridgetower_train.config import CheckpointConfig, DataConfig, TrainConfig, ValidationConfig
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.errors import UserError
from bridgetower_train.evaluation.base import open_model
from bridgetower_train.training.best import BestSoFar
from bridgetower_train.weights.checkpoint import Best, chosen, read_state, step_folders
from bridgetower_train.weights.saved import read_config
from tests.training.runs import final_weights, metric_lines, train_here

VALIDATED = ["validation.every=1", "validation.samples=16", "checkpoint.every=1000"]
WORSENING = [*VALIDATED, "checkpoint.best=val_loss", "optim.lr=0.3", "optim.lr_fusion=0.3", "optim.lr_heads=0.3"]
"""The loss rises in the end."""
RERANKED = ["validation.retrieval=full", "validation.rerank=4"]
STILL = ["optim.lr=0", "optim.lr_fusion=0", "optim.lr_heads=0", "model.dropout=0"]


def steps(run_dir: Path) -> list[int]:
    return [int(folder.name[5:]) for folder in step_folders(run_dir)]


def best_of(run_dir: Path) -> tuple[float, int]:
    """(lowest `val_loss` of the metrics, its step)."""
    return min((line["val_loss"], line["step"]) for line in metric_lines(run_dir) if "val_loss" in line)


@pytest.fixture(scope="module")
def worsened(shapes_root, tmp_path_factory) -> Path:
    """A run whose best checkpoint is far from its last. Do not write to it."""
    run_dir = tmp_path_factory.mktemp("worsened") / "run"
    train_here(shapes_root, run_dir, *WORSENING, "steps=8")
    return run_dir


@pytest.fixture
def copy(worsened, tmp_path) -> Path:
    return Path(shutil.copytree(worsened, tmp_path / "run"))


def test_the_best_is_kept_beside_the_newest(worsened):
    value, step = best_of(worsened)
    assert step < 6
    kept = steps(worsened)
    assert kept[0] == step
    assert kept[-1] == 8
    assert len(kept) <= 3
    best = read_state(step_folders(worsened)[-1])["best"]
    assert (best.metric, best.value, best.step, best.missed) == ("val_loss", value, step, 8 - step)
    assert (worsened / "checkpoints" / "best").read_text() == f"step-{step:08d}"


def test_every_command_takes_it(copy, tmp_path, capsys):
    step = best_of(copy)[1]
    assert open_model(str(copy), "best", "cpu")[1].step == step
    assert main(["eval", "matching", f"run_dir={copy}", "step=best"]) == 0
    (entry,) = json.loads((copy / "eval.json").read_text())["evaluations"].values()
    assert entry["step"] == step
    assert main(["export", f"run_dir={copy}", "step=best", f"out={tmp_path / 'exported'}"]) == 0
    assert f"step {step}\n" in capsys.readouterr().out
    image = tmp_path / "image.jpg"
    image.write_bytes(open_corpus(read_config(copy).data.root, "shapes").read(0).image)
    assert (
        main(["predict", f"run_dir={copy}", "step=best", f"image={image}", "texts=[a]", f"out={tmp_path}/p.html"]) == 0
    )
    assert f"step-{step:08d}" in (tmp_path / "p.html").read_text()


def test_the_report_shows_it_and_the_run_as_it_was_there(copy):
    step = best_of(copy)[1]
    for which, corpus in (("best", "shapes_heldout"), ("newest", "shapes")):
        assert main(["eval", "matching", f"run_dir={copy}", f"step={which}", "samples=8", f"corpus={corpus}"]) == 0
    page = copy / "report.html"
    assert main(["report", f"run_dir={copy}"]) == 0
    whole = page.read_text()
    assert "best val_loss" in whole
    assert "whole, best" in whole
    assert "matching on shapes_heldout" in whole
    assert main(["report", f"run_dir={copy}", "step=best"]) == 0
    there = page.read_text()
    assert f"step {step} of 8" in there
    assert "step-00000008" not in there
    assert "matching on shapes_heldout" in there
    assert "matching on shapes<" not in there


@pytest.mark.parametrize("command", ["eval", "export", "predict", "report"])
@pytest.mark.parametrize(
    ("step", "part"),
    [("77", "step=77: no such checkpoint; there are"), ("last", "step=last: must be a number, newest or best")],
)
def test_a_step_that_does_not_exist_is_one_line(worsened, tmp_path, command, step, part, capsys):
    keys = {"export": [f"out={tmp_path / 'x'}"], "predict": ["texts=[a]", "image=x"]}.get(command, [])
    assert main([command, f"run_dir={worsened}", f"step={step}", *keys]) == 2
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1


def test_a_run_without_a_best_says_so(shapes_root, tmp_path, capsys):
    train_here(shapes_root, tmp_path / "run", "steps=2")
    assert main(["report", f"run_dir={tmp_path / 'run'}", "step=best"]) == 2
    assert "step=best: the run has kept no best checkpoint (checkpoint.best); there are 2" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints" / "best").exists()


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        (
            [*VALIDATED, "checkpoint.best=val_rsum"],
            "val_rsum: the validation does not give it; choose one of val_loss, val_",
        ),
        ([*VALIDATED, "checkpoint.best=loss"], "checkpoint.best=loss: the validation does not give it"),
        (
            [*VALIDATED, "objective.itc=0", "checkpoint.best=val_i2t_r1"],
            "choose one of val_loss, val_loss_mlm",
        ),
        (["checkpoint.best=val_loss"], "checkpoint.best=val_loss: needs validations; set validation.every"),
        (
            [*VALIDATED, "validation.patience=2"],
            "validation.patience=2: needs the metric to wait for in checkpoint.best",
        ),
        (
            [*VALIDATED, "validation.retrieval=full", "objective.itc=0"],
            "validation.retrieval=full: needs itc_text_head",
        ),
        (
            [*VALIDATED, *RERANKED, "objective.itm=0"],
            "validation.rerank: needs itm_score",
        ),
        ([*VALIDATED, "validation.rerank=4"], "validation.rerank=4: needs validation.retrieval=full"),
        (["checkpoint.every=0"], "checkpoint.every=0: must be above 0"),
        (["checkpoint.every=often"], "checkpoint.every=often: must be steps (1000)"),
        (["validation.every=-5"], "validation.every=-5: must be steps (1000)"),
    ],
)
def test_what_cannot_be_is_said_before_the_first_step(shapes_root, tmp_path, keys, part, capsys):
    train_here(shapes_root, tmp_path / "run", "steps=2", *keys, code=2)
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_killed_run_finds_its_best_again(tmp_path, start, train):
    options = [
        *WORSENING,
        "steps=60",
        "checkpoint.every=7",
        "optim.lr=0.01",
        "optim.schedule=constant",
        "optim.warmup=0",
    ]
    train(tmp_path / "whole", *options)
    killed = tmp_path / "killed"
    job = start(killed, *options)
    assert job.wait_for_step(20)
    job.kill()
    train(killed, *options)
    assert metric_lines(killed) == metric_lines(tmp_path / "whole")
    assert steps(killed) == steps(tmp_path / "whole")
    assert final_weights(killed) == final_weights(tmp_path / "whole")
    runs = (killed, tmp_path / "whole")
    ours, theirs = (read_state(chosen(run, "newest", print))["best"] for run in runs)
    assert ours == theirs
    assert (ours.value, ours.step) == best_of(killed)
    assert chosen(killed, "best", print).name == f"step-{ours.step:08d}"


def test_a_run_ends_when_it_has_waited_long_enough(shapes_root, tmp_path, capsys):
    options = [*VALIDATED, *STILL, "checkpoint.best=val_loss", "validation.patience=2", "steps=9"]
    train_here(shapes_root, tmp_path, *options)
    said = "val_loss has not improved in 2 validations (validation.patience=2); it was best at step 1, "
    assert f"ended before its last step: {said}" in capsys.readouterr().out
    assert steps(tmp_path) == [1, 3]
    lines = metric_lines(tmp_path)
    train_here(shapes_root, tmp_path, *options)
    assert f"nothing left to do: {said}" in capsys.readouterr().out
    assert metric_lines(tmp_path) == lines
    train_here(shapes_root, tmp_path, *options, "validation.patience=3")
    assert steps(tmp_path) == [1, 3, 4]


def test_a_best_that_is_gone_is_sought_anew(copy, shapes_root, capsys):
    step = best_of(copy)[1]
    shutil.rmtree(copy / "checkpoints" / f"step-{step:08d}")
    with pytest.raises(UserError, match=f"step=best: no such checkpoint of step {step}; there are"):
        chosen(copy, "best", print)
    train_here(shapes_root, copy, *WORSENING, "steps=9")
    assert f"the best checkpoint, of step {step}, is gone" in capsys.readouterr().out
    assert chosen(copy, "best", print).name == "step-00000009"


def test_a_damaged_best_is_not_loaded(copy):
    (chosen(copy, "best", print) / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="choose another step"):
        open_model(str(copy), "best", "cpu")


CONFIG = TrainConfig(
    data=DataConfig(validation="held_out"),
    checkpoint=CheckpointConfig(best="val_acc_itm"),
    validation=ValidationConfig(every="1", patience=2),
)


def test_which_is_better_follows_from_the_metric():
    said: list[str] = []
    follow = BestSoFar(CONFIG, None, said.append)
    assert [follow.judge(step, {"val_acc_itm": v}) for step, v in enumerate((float("nan"), 0.5, 0.5, 0.6, 0.4))] == [
        False, True, False, True, False,
    ]  # fmt: skip
    assert follow.best is not None
    assert (follow.best.value, follow.best.step, follow.best.missed) == (0.6, 3, 1)
    assert not follow.exhausted
    again = BestSoFar(CONFIG, follow.best, said.append)
    assert not again.judge(5, {"val_acc_itm": float("nan")})
    assert "has not improved in 2 validations" in again.exhausted
    assert not said


def test_a_value_of_another_validation_is_no_measure():
    said: list[str] = []
    found = Best("val_acc_itm", 0.9, 7, 0, BestSoFar(CONFIG, None, said.append).of)
    other = replace(CONFIG, validation=replace(CONFIG.validation, samples=None))
    follow = BestSoFar(other, found, said.append)
    assert said == ["val_acc_itm of step 7 is no longer kept as the best: what is validated has changed"]
    assert follow.judge(8, {"val_acc_itm": 0.1})


def test_intervals_are_durations(shapes_root, tmp_path):
    """480 captions are an epoch of 60 steps."""
    keys = [
        "steps=8",
        "checkpoint.every=16 samples",
        "checkpoint.keep_last=9",
        "validation.every=50%",
        "validation.samples=8",
    ]
    train_here(shapes_root, tmp_path / "a", *keys)
    assert steps(tmp_path / "a") == [2, 4, 6, 8]
    assert [line["step"] for line in metric_lines(tmp_path / "a") if "val_loss" in line] == [4, 8]
    train_here(shapes_root, tmp_path / "b", "steps=8", "checkpoint.every=0.05 epochs", "checkpoint.keep_last=9")
    assert steps(tmp_path / "b") == [3, 6, 8]
    train_here(shapes_root, tmp_path / "c", "steps=2", "checkpoint.every=0.1%")
    assert steps(tmp_path / "c") == [1, 2]
