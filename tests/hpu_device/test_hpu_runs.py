"""`bridgetower train device=hpu` on the emulated device, against the same run on the CPU."""

import re
import signal

import pytest

from bridgetower_train.devices.hpu import HpuDevice
from tests.hpu_device.conftest import run_python
from tests.tiny import TINY
from tests.training.runs import ROOT, losses, metric_lines, train_here

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
    """The losses of a run on the device, and what it said; `emulated` are variables of the emulation, without their prefix."""

    def on_hpu(*options, ranks=1, **emulated):
        env = {**hpu, **{f"HPU_EMULATION_{name.upper()}": value for name, value in emulated.items()}}
        said = train(tmp_path / "hpu", "device=hpu", *FP32, *options, env=env, ranks=ranks)
        return losses(tmp_path / "hpu"), said

    return on_hpu


def own_marks(lines):
    """Where the training code marks, from the first step on."""
    marks = [line["by"] for line in lines if line["call"] == "mark_step" and not line["vendor"]]
    return marks[marks.index("fit") :]


STEP = ["count", "forward_backward", "update"]
"""Where a step marks: after its totals, each of its passes, and the update."""


def compilations(lines, first):
    """(of the passes, of the vendor's calls) before the first step, or from then on."""
    begun = [line["by"] for line in lines].index("fit")
    chosen = [line for line in (lines[:begun] if first else lines[begun:]) if line.get("compiled")]
    passes = [line["by"] for line in chosen if line["by"] in ("embed", "_first_pass", "forward_backward", "backward")]
    return passes, len([line for line in chosen if line["vendor"]])


def test_lazy(tmp_path, on_cpu, on_hpu, calls):
    options = ["steps=12", "log_every=5", "data.text_buckets=[16]", "data.workers=1"]
    measured, said = on_hpu(*options)
    assert_near(measured, on_cpu, abs=SAME)
    assert re.search(
        r"^device    hpu \(GAUDI2, lazy\): as configured; lazy: torch \S+ is the vendor's fork; fp32", said, re.M
    )
    assert "graphs    about 2 to compile, for texts of 16, 24 tokens in a micro-batch; about 1 launches a step" in said
    assert re.findall(r"^warm-up   (. of 2: texts of \d+ tokens, \d+) graphs", said, re.M) == [
        "1 of 2: texts of 24 tokens, 11",
        "2 of 2: texts of 16 tokens, 1",
    ]

    lines = calls()
    assert [line["call"] for line in lines].count("import") == 1
    assert "fork" not in [line["call"] for line in lines]
    assert own_marks(lines) == ["fit", *STEP * 12]
    # Every vendor call that marks lies between the two: the update.
    marks = [line for line in lines if line["call"] == "mark_step"]
    assert {line["by"] for line in marks if line["vendor"]} == {"step"}
    # Nothing is read from the device between two lines of metrics.
    begun = [line["by"] for line in marks].index("fit")
    of_step = [line for line in marks[begun:] if line["by"] == "update"]
    reads = [(line["d2h"], line["scalars"]) for line in of_step]
    assert len(set(reads[:5])) == len(set(reads[5:10])) == len(set(reads[10:])) == 1
    assert reads[4] != reads[5]
    # The tensors of a batch come from page-locked memory, if torch can pin for this device.
    assert (of_step[0]["pinned"] > 0) == HpuDevice.pin_memory
    # Each of the two text lengths costs one graph of forward and backward; the vendor's own are one of the temperature's
    # bounds and clipping, and six of the groups. All are compiled before the first step.
    assert compilations(lines, first=True) == (["forward_backward"] * 2, 7)
    assert compilations(lines, first=False) == ([], 0)
    assert [line["recompiles"] for line in metric_lines(tmp_path / "hpu")] == [0, 0, 0]


def test_eager(on_cpu, on_hpu, calls):
    measured, said = on_hpu("steps=6", "device.execution=eager")
    assert_near(measured, on_cpu, abs=SAME)
    assert "hpu (GAUDI2, eager)" in said
    # Seeding a micro-batch does not wait for the operations before.
    assert [(line["call"], line["by"]) for line in calls()] == [
        ("import", "run"),
        ("wait_for_pipeline", "build_engine"),
    ]


@pytest.mark.slow
def test_compiled_by_the_upstream_build(tmp_path, on_cpu, on_hpu, calls):
    """On two ranks with two micro-batches: a graph for each kind of part and shape, which the ranks share."""
    measured, said = on_hpu("steps=4", "micro_batch=2", ranks=2, release="1.24-upstream")
    assert_near(measured, on_cpu, abs=SAME)
    assert "hpu (GAUDI2, compile): as configured; compile: torch" in said
    assert "graphs    about 14 to compile, for texts of 24 tokens in the embedding pass, a micro-batch" in said
    lines = [*calls(0), *calls(1)]
    assert {line["by"] for line in lines if line["call"] == "compile"} == {"top_states", "forward", "_last_layer"}
    # To the stub, a forward pass without gradients is that with them, where the shapes are the same.
    assert len(list((tmp_path / "hpu" / "recipes").iterdir())) == 10
    assert "mark_step" not in [line["call"] for line in lines]


def test_graphs_with_accumulated_micro_batches(reference, on_hpu, calls):
    options = ["steps=6", "micro_batch=4", "objective.itc=0"]
    measured, _ = on_hpu(*options, "device.graphs=true")
    assert_near(measured, losses(reference(*FP32, *options)), abs=SAME)
    graphs = [line["call"] for line in calls() if line["call"].startswith("graph")]
    assert graphs == ["graph_capture"] * 2 + ["graph_replay"] * 12


def test_eight_text_lengths_in_eight_micro_batches(tmp_path, on_hpu, calls):
    """Every kind of pass and every length is compiled before the first step, and a second start compiles nothing."""
    lengths = "data.text_buckets=[10,12,13,14,15,16,18]"
    options = [lengths, "global_batch=16", "data.lanes=8", "micro_batch=2", "log_every=8", "guards.max_recompiles=0"]
    options += ["guards.max_grad_norm_ratio=9"]
    _, said = on_hpu(*options, "steps=8")
    assert "in the embedding pass, the first micro-batch, later ones; about 16 launches a step" in said
    assert "graphs    about 24 to compile" in said
    assert len(re.findall(r"^warm-up ", said, re.M)) == 8
    lines = calls()
    passes, _ = compilations(lines, first=True)
    assert {by: passes.count(by) for by in passes} == {"embed": 8, "_first_pass": 1, "forward_backward": 16}
    assert compilations(lines, first=False) == ([], 0)
    assert {line["recompiles"] for line in metric_lines(tmp_path / "hpu")} == {0}

    _, said = on_hpu(*options, "steps=9")
    assert "resume    from step 8" in said
    assert calls()[-1]["compilations"] == 0


def test_activation_checkpointing(on_cpu, on_hpu, calls, tmp_path):
    """A graph for each block that is recomputed, as planned; nothing that is warmed up shows in losses or weights."""
    measured, said = on_hpu("steps=4", "engine.activation_checkpointing=true")
    assert_near(measured, on_cpu, abs=SAME)
    assert "about 6 to compile, for texts of 24 tokens in a micro-batch; about 6 launches a step" in said
    lines = calls()
    assert own_marks(lines) == ["fit", *["count", *["backward"] * 5, "forward_backward", "update"] * 4]
    assert compilations(lines, first=True) == (["backward"] * 5 + ["forward_backward"], 7)
    assert compilations(lines, first=False) == ([], 0)


@pytest.mark.parametrize(
    ("graphs", "emulated"),
    [
        ("false", {}),
        ("true", {}),
        pytest.param("true", {"release": "1.21", "generation": "1"}, marks=pytest.mark.nightly),
    ],
)
def test_two_ranks(on_cpu, on_hpu, calls, graphs, emulated):
    measured, _ = on_hpu("steps=6", f"device.graphs={graphs}", ranks=2, **emulated)
    assert_near(measured, on_cpu, abs=SAME)
    for rank in (0, 1):
        lines = calls(rank)
        assert own_marks(lines) == ["fit", *STEP * 6]
        assert [line["backend"] for line in lines if line["call"] == "init_process_group"] == ["hccl"]
        assert {"allgather_base", "reduce_scatter_base"} <= {line["call"] for line in lines}


def test_two_ranks_with_one_all_reduce_and_moments_in_bf16(on_cpu, on_hpu, calls):
    """A step, and the warm-up, sum their counts and all gradients."""
    options = ["engine.reduce=once", "engine.reduce_precision=bf16", "optim.moments=bf16"]
    measured, _ = on_hpu("steps=6", *options, ranks=2)
    assert_near(measured, on_cpu, rel=1e-4)
    reduced = [line["by"] for line in calls() if line["call"] == "allreduce" and line["by"] != "to_host"]
    assert reduced == ["count", "average"] * 7


def test_bf16_and_a_validation_that_marks_after_each_forward(on_cpu, on_hpu, calls):
    """Within 0.5% of float32: what is off the bf16 list, the losses above all, is not rounded."""
    validation = ["validation.every=6", "validation.samples=16", "validation.batch=8"]
    measured, _ = on_hpu(
        "steps=6", "device.precision=bf16", *validation, "metrics.layers_every=3", "guards.max_recompiles=0"
    )
    assert measured[1, "loss"] != pytest.approx(on_cpu[1, "loss"], abs=1e-5)
    assert_near(measured, on_cpu, rel=5e-3)
    assert own_marks(calls()) == ["fit", *STEP * 6, "_losses", "_losses"]


@pytest.mark.parametrize(
    ("first", "then", "options"), [("cpu", "hpu", []), ("hpu", "cpu", ["optim.freeze=[image,text:1]"])]
)
def test_a_run_goes_on_across_devices_without_restarting_the_bias_correction(
    tmp_path, shapes_root, train, hpu, reference, first, then, options
):
    """With frozen parts too."""
    for device, steps in ((first, 4), (then, 8)):
        keys = [f"device={device}", *FP32, f"steps={steps}", *options]
        if device == "cpu":
            train_here(shapes_root, tmp_path, *keys)
        else:
            train(tmp_path, *keys, env=hpu)
    assert_near(losses(tmp_path), losses(reference(*FP32, "steps=12", *options)), abs=SAME)


def test_a_rank_that_hangs_ends_the_run(tmp_path, start, hpu):
    """By the watchdog: HCCL waits for ever, whatever its timeout."""
    job = start(tmp_path, "device=hpu", *FP32, "steps=100000", "distributed.timeout=5", ranks=2, env=hpu)
    assert job.wait_for_step(2), job.wait()
    (stopped,) = (p for p in job.family() if p.environ().get("RANK") == "1" and "bridgetower_train" in p.cmdline())
    stopped.send_signal(signal.SIGSTOP)
    assert re.search(
        rf"^error: rank 1 \(host \S+, pid {stopped.pid}\) has not answered for 4 s", job.finish(code=1), re.M
    )


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


@pytest.mark.nightly
@pytest.mark.parametrize("task", ["vqav2", "nlvr2"])
def test_tasks_of_labels(task, tmp_path, options, tasks_root, train, hpu):
    """NLVR2's head has a dropout of its own, which each device draws for itself."""
    rates = [f"optim.{rate}=1e-4" for rate in ("lr", "lr_fusion", "lr_heads")]  # larger ones multiply what is rounded
    keys = [*options(task), *FP32, *rates, "validation.every=0", "steps=4"]
    train(tmp_path / "cpu", *keys, root=tasks_root)
    said = train(tmp_path / "hpu", *keys, "device=hpu", root=tasks_root, env=hpu)
    assert "lazy" in said
    bound = 0.3 if task == "nlvr2" else SAME
    assert_near(losses(tmp_path / "hpu"), losses(tmp_path / "cpu"), abs=bound)
