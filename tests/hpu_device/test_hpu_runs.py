"""`bridgetower train device=hpu` on the emulated device, against the same run on the CPU."""

import pytest

from bridgetower_train.devices.hpu import HpuDevice
from tests.hpu_device.conftest import run_python
from tests.tiny import TINY
from tests.training.runs import ROOT, losses, metric_lines

FP32 = ["model.dropout=0", "device.precision=fp32", "optim.clip_norm=1", "optim.schedule=constant", "optim.warmup=0"]
SAME = 1e-4
"""How far float32 losses of the device may be from the CPU's: FusedAdamW adds eps before it corrects the bias, so it counts for
more in the first steps, and tiny gradients for less."""


@pytest.fixture
def on_cpu(reference):
    """The losses of twelve steps on the CPU."""
    return losses(reference(*FP32, "steps=12"))


def assert_near(measured, expected, **bound):
    """The same losses in all the steps that were measured."""
    assert measured
    assert measured == pytest.approx({key: expected[key] for key in measured}, **bound)


@pytest.fixture
def on_hpu(tmp_path, train, hpu):
    """The losses of a run on the device, and what it said."""

    def on_hpu(*options, **more):
        said = train(tmp_path / "hpu", "device=hpu", *FP32, *options, env=hpu, **more)
        return losses(tmp_path / "hpu"), said

    return on_hpu


def own_marks(lines):
    return [(line["by"]) for line in lines if line["call"] == "mark_step" and not line["vendor"]]


def test_lazy(tmp_path, on_cpu, on_hpu, calls):
    options = ["steps=12", "log_every=5", "data.text_buckets=[16]", "data.workers=1"]
    measured, said = on_hpu(*options)
    assert_near(measured, on_cpu, abs=SAME)
    assert "device    hpu (GAUDI2, lazy): as configured; fp32" in said
    assert "graphs    2 of the forward and backward pass, for texts of 16, 24 tokens" in said

    lines = calls()
    assert [line["call"] for line in lines].count("import") == 1
    assert "fork" not in [line["call"] for line in lines]
    assert own_marks(lines) == ["fit", *["forward_backward", "train_step"] * 12]
    # Every vendor call that marks lies between the two: the update.
    marks = [line for line in lines if line["call"] == "mark_step"]
    assert {line["by"] for line in marks if line["vendor"]} == {"step"}
    # Nothing is read from the device between two lines of metrics.
    of_step = [marks[i] for i, line in enumerate(marks) if line["by"] == "train_step"]
    reads = [(line["d2h"], line["scalars"]) for line in of_step]
    assert len(set(reads[:5])) == len(set(reads[5:10])) == len(set(reads[10:])) == 1
    assert reads[4] != reads[5]
    # The tensors of a batch come from page-locked memory, if torch can pin for this device.
    assert (of_step[0]["pinned"] > 0) == HpuDevice.pin_memory
    # Each of the two text lengths costs one graph of forward and backward, and what follows the update one; the vendor's own are
    # one of clipping and six of the groups; a line of metrics has one more.
    compiled = [(line["by"], line["vendor"]) for line in marks if line["compiled"]]
    assert sorted(by for by, vendor in compiled if not vendor) == ["fit", *["forward_backward"] * 2, "train_step"]
    assert len([by for by, vendor in compiled if vendor]) == 7
    assert of_step[-1]["compilations"] == len(compiled) + 1
    assert [line["recompiles"] for line in metric_lines(tmp_path / "hpu")] == [0, 0, 0]


def test_eager(on_cpu, on_hpu, calls):
    measured, said = on_hpu("steps=6", "device.execution=eager")
    assert_near(measured, on_cpu, abs=SAME)
    assert "hpu (GAUDI2, eager)" in said
    assert [line["call"] for line in calls()] == ["import"]


@pytest.mark.slow
def test_compiled(on_cpu, on_hpu, calls):
    measured, _ = on_hpu("steps=4", "device.execution=compile")
    assert_near(measured, on_cpu, abs=SAME)
    compiled = [line["call"] for line in calls()]
    assert "compile" in compiled
    assert "mark_step" not in compiled


def test_graphs_with_accumulated_micro_batches(reference, on_hpu, calls):
    options = ["steps=6", "micro_batch=4", "objective.itc=0"]
    measured, _ = on_hpu(*options, "device.graphs=true")
    assert_near(measured, losses(reference(*FP32, *options)), abs=SAME)
    graphs = [line["call"] for line in calls() if line["call"].startswith("graph")]
    assert graphs == ["graph_capture"] * 2 + ["graph_replay"] * 10


@pytest.mark.parametrize("graphs", ["false", "true"])
def test_two_ranks(on_cpu, on_hpu, calls, graphs):
    measured, _ = on_hpu("steps=6", f"device.graphs={graphs}", ranks=2)
    assert_near(measured, on_cpu, abs=SAME)
    for rank in (0, 1):
        lines = calls(rank)
        assert own_marks(lines) == ["fit", *["forward_backward", "train_step"] * 6]
        assert [line["backend"] for line in lines if line["call"] == "init_process_group"] == ["hccl"]
        assert "allgather" in [line["call"] for line in lines]


def test_two_ranks_with_one_all_reduce_and_moments_in_bf16(on_cpu, on_hpu, calls):
    """A step has one all-reduce for all gradients."""
    options = ["engine.reduce=once", "engine.reduce_precision=bf16", "optim.moments=bf16"]
    measured, _ = on_hpu("steps=6", *options, ranks=2)
    assert_near(measured, on_cpu, rel=1e-4)
    assert [line["by"] for line in calls() if line["call"] == "allreduce"].count("average") == 6


def test_bf16(on_cpu, on_hpu):
    """Within 0.5% of float32: what is off the bf16 list, the losses above all, is not rounded."""
    measured, _ = on_hpu("steps=6", "device.precision=bf16")
    assert measured[1, "loss"] != pytest.approx(on_cpu[1, "loss"], abs=1e-5)
    assert_near(measured, on_cpu, rel=5e-3)


@pytest.mark.parametrize(("first", "then"), [("cpu", "hpu"), ("hpu", "cpu")])
def test_a_run_goes_on_across_devices_without_restarting_the_bias_correction(tmp_path, train, hpu, on_cpu, first, then):
    for device, steps in ((first, 4), (then, 8)):
        train(tmp_path, f"device={device}", *FP32, f"steps={steps}", env=hpu)
    assert_near(losses(tmp_path), on_cpu, abs=SAME)


def test_validation_marks_after_each_forward(tmp_path, on_hpu, calls):
    on_hpu("steps=2", "validation.every=2", "validation.samples=16", "validation.batch=8")
    assert own_marks(calls()) == ["fit", *["forward_backward", "train_step"] * 2, "_losses", "_losses"]


def test_a_task_of_its_own(tmp_path, shapes_root, hpu):
    """Two images a sample; see tests/tasks/mirror.py."""
    options = ["train", *TINY, "task=mirror", f"data.root={shapes_root}", *FP32, "optim.lr=1e-4", "steps=6"]
    for device, environment in (("cpu", {"PYTHONPATH": str(ROOT)}), ("hpu", hpu)):
        arguments = [str(ROOT / "tests/tasks/mirror.py"), *options, f"device={device}", f"run_dir={tmp_path / device}"]
        run_python(arguments, environment)
    expected, measured = (
        [line["loss_mirror"] for line in metric_lines(tmp_path / device)] for device in ("cpu", "hpu")
    )
    assert measured == pytest.approx(expected, abs=SAME)


def test_frozen_parts(on_hpu, reference):
    """And over a resume."""
    freeze = "optim.freeze=[image,text:1]"
    expected = losses(reference(*FP32, "steps=4", freeze))
    on_hpu("steps=2", "checkpoint.every=2", freeze)
    measured, _ = on_hpu("steps=4", freeze)
    assert_near(measured, expected, abs=SAME)
