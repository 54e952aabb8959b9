"""`bridgetower bench step` on a tiny model."""

import pytest
import torch
from helpers import pretraining
from tiny import TINY_MODEL

from bridgetower_train.bench.hugging_face import HuggingFaceHeads
from bridgetower_train.bench.kit import as_run, random_batch
from bridgetower_train.bench.step import SEPARATE, BenchStepConfig, losses, measure
from bridgetower_train.config import DeviceConfig, ModelConfig, ObjectiveConfig
from bridgetower_train.devices import make_device
from bridgetower_train.devices.cpu import CpuDevice
from bridgetower_train.engines.graphs import planned_graphs
from bridgetower_train.errors import ConfigError
from bridgetower_train.tasks import contrast

COMPILED = ("first_s", "graphs")
"""Figures of compiled steps alone."""


def test_both_ways_give_the_same_loss():
    """What makes the comparison fair."""
    torch.manual_seed(0)
    model = ModelConfig(
        image_size=32, patch_size=8, width=64, vision_layers=2, text_layers=2, fusion_layers=2, max_text_len=20,
        text_positions=32, vocab_size=99, dropout=0.0,
    )  # fmt: skip
    task = pretraining(model, ObjectiveConfig())
    batch, device = random_batch(task.config, 4), make_device(DeviceConfig(name="cpu"))[0]
    passes = losses(task, HuggingFaceHeads(task.model, task.config), batch, device)
    joint = passes.pop("joint")()
    assert set(passes) == set(SEPARATE["same_losses"])
    assert joint.item() == pytest.approx(sum(loss().item() for loss in passes.values()), abs=1e-5)


def test_ratios_are_those_of_whole_steps(bench, tiny):
    figures = bench("step", *tiny, "batch=3", "repeats=1", without={"of_peak", *COMPILED})
    steps, passes = figures["steps"], {name: row["s"] for name, row in figures["passes"].items()}
    assert all(seconds > 0 for seconds in passes.values())
    assert steps["joint"]["s"] == pytest.approx(passes["joint"] + passes["update"])
    for name in ("same_losses", "one_itm_pair"):
        step = steps[f"hf_{name}"]
        assert step["s"] == pytest.approx(sum(passes[part] for part in SEPARATE[name]) + passes["update"])
        assert figures[name] == pytest.approx(step["s"] / steps["joint"]["s"])
    for step in steps.values():
        assert step["pairs_per_s"] == pytest.approx(3 / step["s"])
        assert step["tflop_per_s"] == pytest.approx(step["gflop_per_pair"] * step["pairs_per_s"] / 1e3)
    work = [steps[name]["gflop_per_pair"] for name in ("joint", "hf_one_itm_pair", "hf_same_losses")]
    assert work == sorted(work)


def test_other_objectives_have_nothing_to_be_compared_with(bench, tiny):
    with pytest.raises(ConfigError, match="compare=false"):
        measure(BenchStepConfig(objective=ObjectiveConfig(itc_form="ms")))
    keys = ("compare=false", "objective.itc=0", "activation_checkpointing=true", "repeats=1")
    figures = bench("step", *tiny, *keys, without={"of_peak", *COMPILED, *SEPARATE})
    assert set(figures["steps"]) == {"joint"}
    assert set(figures["passes"]) == {"joint", "update"}


def test_what_compiling_takes_is_printed(bench, tiny, monkeypatch):
    monkeypatch.setattr(CpuDevice, "compiler", "eager")  # as many graphs, which are run as they were captured
    keys = ("compare=false", "device.execution=compile", "repeats=1")
    figures = bench("step", *tiny, *keys, without={"of_peak", "operators", *SEPARATE})
    run = as_run(BenchStepConfig(model=TINY_MODEL))
    assert figures["graphs"] == planned_graphs(run, contrast(run, 1), "compile").distinct
    assert figures["first_s"] > 0


def test_the_model_of_a_run_is_timed(reference):
    run = as_run(BenchStepConfig(model_from=str(reference("steps=8"))))
    assert (run.model.width, run.model.vision_layers, run.task) == (64, 1, "pretraining")
