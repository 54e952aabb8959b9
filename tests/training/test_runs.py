"""What a run computes, seen from outside."""

import json
import math
from pathlib import Path

import pytest

from bridgetower_train import compose
from tests.training.runs import final_weights, metric_lines

GOLDEN = Path(__file__).parents[1] / "golden" / "losses.jsonl"
LOSSES = ("loss", "loss_mlm", "loss_itm", "loss_itc")


def losses(run_dir: Path) -> list[float]:
    return [line[name] for line in metric_lines(run_dir) for name in LOSSES if name in line]


def test_golden_losses(tmp_path, train):
    """Without dropout, whose masks are another with each version of torch: 2.6 and 2.13 agree to 1e-6."""
    train(tmp_path, "steps=10", "model.dropout=0")
    expected = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    assert [{name: line[name] for name in ("step", *LOSSES)} for line in metric_lines(tmp_path)] == [
        {name: value if name == "step" else pytest.approx(value, abs=5e-4) for name, value in line.items()}
        for line in expected
    ]


def test_one_rank_and_two_give_the_same_losses(tmp_path, train):
    train(tmp_path / "one", "steps=20", "model.dropout=0")
    train(tmp_path / "two", "steps=20", "model.dropout=0", ranks=2)
    assert len(losses(tmp_path / "one")) == 80
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)


def test_accumulated_micro_batches_give_the_mean_over_the_global_batch(tmp_path, train):
    """But for the contrast, whose negatives are those of a micro-batch."""
    options = ["steps=10", "model.dropout=0", "objective.itc=0"]
    train(tmp_path / "whole", *options)
    train(tmp_path / "parts", *options, "micro_batch=2")
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)


def test_workers_change_nothing(tmp_path, train):
    train(tmp_path / "none", "steps=8")
    train(tmp_path / "three", "steps=8", "data.workers=3")
    assert metric_lines(tmp_path / "none") == metric_lines(tmp_path / "three")
    assert final_weights(tmp_path / "none") == final_weights(tmp_path / "three")


def test_validation_does_not_disturb_training(tmp_path, train):
    train(tmp_path / "without", "steps=8")
    train(tmp_path / "with", "steps=8", "validation.every=3", "validation.samples=16")
    validated = [line for line in metric_lines(tmp_path / "with") if "val_loss" in line]
    assert [line["step"] for line in validated] == [3, 6, 8]
    assert {"val_loss_mlm", "val_acc_itm", "val_recall_itc", "val_i2t_r1", "val_t2i_r1"} <= set(validated[0])
    assert losses(tmp_path / "with") == losses(tmp_path / "without")
    assert final_weights(tmp_path / "with") == final_weights(tmp_path / "without")


def test_activation_checkpointing_changes_nothing(tmp_path, train):
    train(tmp_path / "kept", "steps=4")
    train(tmp_path / "recomputed", "steps=4", "engine.activation_checkpointing=true")
    assert losses(tmp_path / "recomputed") == pytest.approx(losses(tmp_path / "kept"), abs=1e-6)


def test_bf16_is_near_fp32(tmp_path, train):
    train(tmp_path / "fp32", "steps=4", "model.dropout=0")
    train(tmp_path / "bf16", "steps=4", "model.dropout=0", "device.precision=bf16")
    assert losses(tmp_path / "bf16") != losses(tmp_path / "fp32")
    assert losses(tmp_path / "bf16") == pytest.approx(losses(tmp_path / "fp32"), rel=0.02)


@pytest.mark.slow
def test_compiled_is_near_eager(tmp_path, train):
    train(tmp_path / "eager", "steps=3", "model.dropout=0")
    train(tmp_path / "compiled", "steps=3", "model.dropout=0", "device.execution=compile")
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "eager"), abs=1e-3)


@pytest.mark.parametrize(
    "objective",
    [
        ["objective=mlm_itm"],
        ["objective.itm_negatives=hard"],
        ["objective.itc_form=symmetric"],
        ["objective.itc_form=ms", "objective.itc_dim=256"],
        ["objective.mlm=0"],
    ],
)
def test_other_objectives_train(tmp_path, train, objective):
    train(tmp_path, "steps=3", *objective)
    assert all(math.isfinite(value) for value in losses(tmp_path))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_records(tmp_path, train):
    output = train(
        tmp_path, "steps=30", "optim.lr=1e30", "optim.lr_fusion=1e30", "optim.warmup=0", "guards.max_skipped=4", code=1
    )
    assert "was not finite in 4 updates in a row, from step 2 on" in output
    assert "shapes/000000.tar:shapes-0" in output
    assert "guards.max_skipped" in output
    assert "Traceback" not in output
    assert metric_lines(tmp_path)[-1]["skipped"] == 4


def test_tensorboard_and_wandb_take_the_same_records(tmp_path, train):
    train(tmp_path, "steps=3", "tensorboard=true", "wandb.project=test", env={"WANDB_SILENT": "true"})
    assert list((tmp_path / "tensorboard").glob("events.*"))
    (offline,) = (tmp_path / "wandb").glob("offline-run-*")
    run_id = (tmp_path / "wandb_id").read_text()
    assert offline.name.endswith(run_id)
    train(tmp_path, "steps=5", "wandb.project=test", env={"WANDB_SILENT": "true"})
    assert all(folder.name.endswith(run_id) for folder in (tmp_path / "wandb").glob("offline-run-*"))


def test_the_run_folder_holds_its_configuration(tmp_path, train):
    output = train(tmp_path, "steps=2")
    from bridgetower_train.config import TrainConfig

    config = compose.from_yaml(TrainConfig, tmp_path / "config.yaml")
    assert config.model.width == 64
    assert config.model.vocab_size
    for said in (
        "device    cpu",
        "model     ",
        "data      shapes: 96 images",
        "batch     8 = 1 ranks x 8 pairs",
        "run       2 steps",
    ):
        assert said in output


def test_three_ranks_on_four_lanes_are_refused(tmp_path, train):
    output = train(tmp_path, "steps=2", ranks=3, code=1)
    assert "data.lanes=4: must be a multiple of the 3 ranks; start 2 or 4 ranks" in output
    assert output.count("error: data.lanes") == 1
