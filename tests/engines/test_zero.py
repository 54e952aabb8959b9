"""ZeRO against the native engine, on two real gloo ranks: one process group trains all engines on the same batches."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers import files, random_batch, run_config, run_ranks
from safetensors.torch import load_file
from zero_ranks import CONTRAST, MICRO_BATCHES, MODEL, OBJECTIVE, OPTIM, Traffic, Training, ddp_traffic, held_bytes

from bridgetower_train.config import DeviceConfig
from bridgetower_train.devices.cpu import CpuDevice
from bridgetower_train.devices.hpu import HpuDevice
from bridgetower_train.engines import ENGINES
from bridgetower_train.engines.optim import set_lr
from bridgetower_train.planning.collectives import collective_bytes, link_bytes
from bridgetower_train.planning.memory import measure, states
from bridgetower_train.planning.trace import Platform
from bridgetower_train.tasks.base import evaluating
from bridgetower_train.tasks.pretraining import Pretraining

pytest.importorskip("deepspeed")

RANKS = 2
GOES_ON = {"native": "zero3", "zero0": "zero1", "zero1": "zero2", "zero2": "zero0", "zero3": "native"}
"""Engine -> another one that goes on from its checkpoint."""
AGREEMENT = 2e-4
"""Largest difference of any figure over 20 steps, relative to its size."""


class LikeHpu(CpuDevice):
    """The CPU under the settings that the HPU asks of DeepSpeed."""

    zero_settings = staticmethod(HpuDevice.zero_settings)


def story(rank: int, folder: Path) -> dict[str, Any]:
    """Everything that is told of each engine, on one rank."""
    traffic = Traffic()
    return {name: chapter(name, folder, traffic) for name in ENGINES} | {
        f"like hpu {stage}": Training(f"zero{stage}", LikeHpu(DeviceConfig(name="cpu"), 0)).run(range(2)).lines
        for stage in (1, 2, 3)
    }


def chapter(name: str, folder: Path, traffic: Traffic) -> dict[str, Any]:
    """20 steps undisturbed, halted for a checkpoint at the tenth; two that are skipped; and measurements."""
    before = held_bytes()
    training = Training(name)
    if name == "native":
        ddp_traffic(training.engine, traffic)
    training.run(range(8))
    training.step(8, by_layer=True)
    traffic.bytes.clear()
    training.backward(9, measured=True)
    held = training.held[0] - before
    set_lr(training.engine.optimizer, 1 - 9 / 40)
    training.lines.append({k: float(v) for k, v in training.engine.step().items()})
    sent = dict(traffic.bytes)
    training.save(folder / name / "10")
    training.run(range(10, 14))
    training.save(folder / name / "14")
    training.run(range(14, 20))
    training.save(folder / name / "20")
    training.save(folder / name / "again")
    training.step(20, poisoned=True)
    training.step(20, limit=1e-3)
    training.save(folder / name / "21")
    evaluated = evaluate(training)
    training.step(21)
    lines = training.lines
    del training
    Training(name).load(folder / name / "10").run(range(10, 14)).save(folder / name / "resumed")
    other = Training(GOES_ON[name]).load(folder / name / "10")
    other.save(folder / name / f"as {GOES_ON[name]}")
    other.run(range(10, 14))
    return {"lines": lines, "held": held, "sent": sent, "evaluated": evaluated, "went on": other.lines}


def evaluate(training: Training) -> float:
    """The loss of a batch without dropout, by the whole model."""
    with training.engine.full_params() as task, evaluating(task, training.engine.device):
        return float(task.losses(random_batch(MODEL, 4, seed=1), torch.ones(3))[0])


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    """(folder of checkpoints, what each rank tells)."""
    folder = tmp_path_factory.mktemp("zero")
    return folder, run_ranks(story, RANKS, folder, timeout=300)


def differences(lines: list[dict[str, float]], expected: list[dict[str, float]]) -> float:
    """The largest, relative to the figure or to 1."""
    assert len(lines) == len(expected)
    return max(
        abs(a[name] - b[name]) / max(1.0, abs(b[name]))
        for a, b in zip(lines, expected, strict=True)
        for name in b
        if name in a
    )


@pytest.mark.parametrize("name", ["zero0", "zero1", "zero2", "zero3"])
def test_figures_of_20_steps_are_the_native_engine_s(told, name):
    """With accumulation, clipping, dropout, a schedule, three learning rates and decay of matrices alone."""
    native, lines = (told[1][0][engine]["lines"][:20] for engine in ("native", name))
    assert all(line["grad_norm"] > OPTIM.clip_norm for line in native), "nothing was clipped"
    assert native[19]["loss"] < native[0]["loss"] - 0.3
    worst = differences(lines, native)
    print(f"{name}: {worst:.1e}")
    assert worst < AGREEMENT


@pytest.mark.parametrize("name", ["zero0", "zero1", "zero2", "zero3"])
def test_norms_by_layer_are_the_native_engine_s(told, name):
    native, *others = ({k: v for k, v in tale[engine]["lines"][8].items() if "/" in k} for engine, tale in (
        ("native", told[1][0]), (name, told[1][0]), (name, told[1][1])
    ))  # fmt: skip
    assert len(native) == 3 * 18
    assert others == [pytest.approx(native, rel=1e-4)] * 2


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_vendor_s_settings_compute_the_same(told, stage):
    assert differences(told[1][0][f"like hpu {stage}"], told[1][0]["native"]["lines"][:2]) < AGREEMENT


@pytest.mark.parametrize("name", list(ENGINES))
def test_a_run_resumes_bit_for_bit(told, name):
    folder = told[0] / name
    assert files(folder / "resumed") == files(folder / "14") != files(folder / "10")
    assert set(files(folder / "20")) == {"model.safetensors", "optimizer/state.safetensors"}


@pytest.mark.parametrize("name", list(ENGINES))
def test_another_engine_takes_all_of_a_checkpoint_and_goes_on(told, name):
    folder, tales = told
    assert files(folder / name / f"as {GOES_ON[name]}") == files(folder / name / "10")
    assert differences(tales[0][name]["went on"], tales[0]["native"]["lines"][10:14]) < AGREEMENT


@pytest.mark.parametrize("name", list(ENGINES))
def test_a_loss_that_is_not_finite_on_one_rank_and_a_norm_beyond_the_limit_are_left_out_on_all(told, name):
    folder, tales = told
    for tale in tales:
        poisoned, spike, after = tale[name]["lines"][20:]
        assert poisoned["skipped"] == spike["skipped"] == 1
        assert math.isfinite(spike["grad_norm"])
        assert after["skipped"] == 0
        assert after["loss"] == pytest.approx(tales[tales.index(tale)]["native"]["lines"][22]["loss"], rel=AGREEMENT)
    assert files(folder / name / "21") == files(folder / name / "20")


@pytest.mark.parametrize("name", list(ENGINES))
def test_a_checkpoint_is_whole_and_the_same_each_time(told, name):
    folder = told[0]
    assert files(folder / name / "again") == files(folder / name / "20")
    native, weights = (load_file(folder / engine / "20" / "model.safetensors") for engine in ("native", name))
    assert {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in native.items()}
    assert max(float((weights[k] - native[k]).abs().max()) for k in native) < 2e-3


@pytest.mark.parametrize("name", list(ENGINES))
def test_the_whole_model_is_evaluated(told, name):
    for tale in told[1]:
        assert tale[name]["evaluated"] == pytest.approx(told[1][0]["native"]["evaluated"], rel=AGREEMENT)


def parameters(told: Any) -> int:
    """Of the model."""
    return sum(v.numel() for v in load_file(told[0] / "native" / "20" / "model.safetensors").values())


@pytest.mark.parametrize("name", list(ENGINES))
def test_a_step_sends_what_it_should(told, name):
    """ZeRO-3 gathers some weights more often and some less often than twice: to a tenth."""
    config = run_config(MODEL, OBJECTIVE)
    gathered = measure(config, Platform.on_paper(False, "fp32"), checkpointing=False).gathered(CONTRAST.passes)
    embedding = Pretraining.gathered(config)
    expected: dict[str, float] = {}
    for part in collective_bytes(
        name, parameters(told), RANKS, MICRO_BATCHES, CONTRAST.gathered, embedding, gathered=gathered
    ):
        expected[part.kind] = expected.get(part.kind, 0) + part.size
    sent = told[1][0][name]["sent"]
    print(name, json.dumps(sent), json.dumps(expected))
    assert set(sent) == set(expected)
    for kind, size in expected.items():
        if (name, kind) == ("zero3", "all_gather"):
            assert size == pytest.approx(sent[kind], rel=0.1)
        else:  # padding, and ZeRO-3's norms are a few numbers more
            assert size <= sent[kind] <= size + 100, kind


def test_what_a_step_sends_by_hand():
    assert collective_bytes("zero2", 100, 1) == []
    sizes = {(c.kind, c.what): c.size for c in collective_bytes("zero3", 100, 4, micro_batches=3, gathered=600)}
    assert sizes["reduce_scatter", "gradients"] == 1200
    assert sizes["all_gather", "weights"] == 4 * 600
    by_links = {
        e: sum(link_bytes(c.kind, c.size, 512) for c in collective_bytes(e, 10**9, 512, gathered=2 * 10**9))
        for e in ENGINES
    }
    assert by_links["zero1"] == pytest.approx(by_links["native"]), "a sum for all is a reduction and a gathering"
    assert by_links["zero3"] == pytest.approx(1.5 * by_links["native"])


@pytest.mark.parametrize("name", list(ENGINES))
def test_a_rank_holds_what_it_should(told, name):
    for tale in told[1]:
        expected = sum(states(name, parameters(told), parameters(told), RANKS))
        print(name, tale[name]["held"] / parameters(told), expected / parameters(told))
        assert tale[name]["held"] == pytest.approx(expected, rel=0.1)


def test_ranks_are_left(told):
    assert not dist.is_initialized(), "the engines trained in processes of their own"
