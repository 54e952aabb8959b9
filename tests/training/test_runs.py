"""What a run computes, seen from outside."""

import json
import math
from pathlib import Path

import pytest

from bridgetower_train import compose
from bridgetower_train.config import TrainConfig
from tests.training.runs import LOSSES, final_weights, losses, metric_lines, train_here

GOLDEN = Path(__file__).parents[1] / "golden" / "losses.jsonl"
PLAIN = ["steps=10", "model.dropout=0"]
"""The run of the golden losses: without dropout, whose masks are another with each version of torch."""


def test_golden_losses(reference):
    """Of torch 2.6 and 2.13, which agree to 1e-6."""
    expected = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    assert [{name: line[name] for name in ("step", *LOSSES)} for line in metric_lines(reference(*PLAIN))] == [
        {name: value if name == "step" else pytest.approx(value, abs=5e-4) for name, value in line.items()}
        for line in expected
    ]


def test_one_rank_and_two_give_the_same_losses(tmp_path, train, reference):
    train(tmp_path, *PLAIN, ranks=2)
    assert len(losses(tmp_path)) == 40
    assert losses(tmp_path) == pytest.approx(losses(reference(*PLAIN)), abs=1e-5)


def test_accumulated_micro_batches_give_the_mean_over_the_global_batch(tmp_path, train, reference):
    output = train(tmp_path, *PLAIN, "micro_batch=2")
    assert "among 8 pairs, the whole global batch; each micro-batch is embedded first, which adds" in output
    assert losses(tmp_path) == pytest.approx(losses(reference(*PLAIN)), abs=1e-5)


def test_workers_change_nothing(tmp_path, train, reference):
    train(tmp_path, "steps=8", "data.workers=3")
    assert metric_lines(tmp_path) == metric_lines(reference("steps=8"))
    assert final_weights(tmp_path) == final_weights(reference("steps=8"))


def test_validation_does_not_disturb_training(tmp_path, train, reference):
    train(tmp_path, "steps=8", "validation.every=3", "validation.samples=16")
    validated = [line for line in metric_lines(tmp_path) if "val_loss" in line]
    assert [line["step"] for line in validated] == [3, 6, 8]
    assert {"val_loss_mlm", "val_acc_itm", "val_recall_itc", "val_i2t_r1", "val_t2i_r1"} <= set(validated[0])
    assert losses(tmp_path) == losses(reference("steps=8"))
    assert final_weights(tmp_path) == final_weights(reference("steps=8"))


def test_activation_checkpointing_changes_nothing(tmp_path, train, reference):
    train(tmp_path, "steps=8", "engine.activation_checkpointing=true")
    assert losses(tmp_path) == pytest.approx(losses(reference("steps=8")), abs=1e-6)


def test_bf16_is_near_fp32(reference):
    bf16, fp32 = losses(reference(*PLAIN, "device.precision=bf16")), losses(reference(*PLAIN))
    assert bf16 != fp32
    assert bf16 == pytest.approx(fp32, rel=0.02)


@pytest.mark.nightly
def test_compiled_is_near_eager(tmp_path, train, reference):
    train(tmp_path, *PLAIN, "device.execution=compile")
    assert losses(tmp_path) == pytest.approx(losses(reference(*PLAIN)), abs=1e-3)


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
def test_other_objectives_train(tmp_path, shapes_root, objective):
    train_here(shapes_root, tmp_path, "steps=3", *objective)
    assert all(math.isfinite(value) for value in losses(tmp_path).values())


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_records(tmp_path, train):
    output = train(
        tmp_path, "steps=30", "optim.lr=1e30", "optim.lr_fusion=1e30", "optim.warmup=0", "guards.max_skipped=4", code=1
    )
    assert "was not finite in 4 updates in a row, from step 2 on" in output
    assert "shapes/000000.tar:shapes-0" in output
    assert "guards.max_skipped" in output
    assert "Traceback" not in output
    assert metric_lines(tmp_path)[-1]["skipped"] == 4


def test_the_run_folder_holds_its_configuration(tmp_path, shapes_root, capsys):
    train_here(shapes_root, tmp_path, "steps=2")
    output = capsys.readouterr().out
    config = compose.from_yaml(TrainConfig, tmp_path / "config.yaml")
    assert config.model.width == 64
    assert config.model.vocab_size
    for said in (
        "device    cpu",
        "model     ",
        "data      shapes: 96 images",
        "batch     8 = 1 rank x 8 samples",
        "run       2 steps",
    ):
        assert said in output


def test_three_ranks_on_four_lanes_are_refused(tmp_path, train):
    output = train(tmp_path, "steps=2", ranks=3, code=1)
    assert "data.lanes=4: must be a multiple of the 3 ranks; start 2 or 4 ranks" in output
    assert output.count("error: data.lanes") == 1
