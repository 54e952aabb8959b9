"""The parts of the device, on its emulation."""

import pytest


@pytest.mark.parametrize(
    ("generation", "expected"),
    [("1", "1 GAUDI, lazy None sdpa"), ("3", "3 GAUDI3, lazy 1835000000000000.0 attention")],
)
def test_generations_and_their_updates(scenario, generation, expected):
    said = scenario("generation", "lacks", "skipped", "clipping", "moments", HPU_EMULATION_GENERATION=generation)
    assert expected in said
    assert "Double is not supported" in said
    assert "an int64 does not fit the int32" in said
    assert ("Half is not supported" in said) == (generation == "1")


def test_auto_takes_it_before_anything_else_and_rounds_only_what_is_listed(scenario):
    first, ours, default = scenario("auto", "vendor_lists").splitlines()[-3:]
    assert first == "hpu lazy 8 cards found"
    assert float(ours.split()[1]) < 1e-2
    assert float(default.split()[1]) < 5e-2
    assert (ours.split()[2], default.split()[2]) == ("torch.float32", "torch.bfloat16")


def test_attention_keeps_what_the_plan_counts(scenario):
    scenario("attention_keeps")


def test_graphs_keep_results_and_a_changing_constant_ends_the_run(scenario):
    said = scenario("graph_outputs", "recompiles")
    assert said.startswith("8 step 6: 1 graphs compiled for texts of 24 tokens")
    assert "3 graphs were compiled after the warm-up, more than guards.max_recompiles=2" in said


def test_a_conflicting_environment_is_refused(scenario):
    mode, ops, early = scenario("environments").splitlines()[-3:]
    assert mode.endswith("needs 1: unset PT_HPU_LAZY_MODE, or change device.execution")
    assert ops.endswith("unset PT_HPU_AUTOCAST_FP32_OPS_LIST")
    assert "was imported before PT_HPU_LAZY_MODE could be set: export TORCH_DEVICE_BACKEND_AUTOLOAD=0" in early
