"""The parts of the device, on its emulation."""

import pytest


@pytest.mark.parametrize(
    ("release", "generation", "expected"),
    [
        ("1.21", "1", "1 GAUDI, lazy None sdpa"),
        pytest.param("1.21", "2", "2 GAUDI2, lazy 432000000000000.0 attention", marks=pytest.mark.nightly),
        ("1.24", "3", "3 GAUDI3, lazy 1835000000000000.0 attention"),
    ],
)
def test_generations_and_their_updates(scenario, release, generation, expected):
    environment = {"HPU_EMULATION_RELEASE": release, "HPU_EMULATION_GENERATION": generation}
    said = scenario("generation", "lacks", "skipped", "clipping", "moments", "exact_gelu", **environment)
    assert expected in said
    assert all(float(difference) < 1e-6 for difference in said.splitlines()[-1].split())
    assert "Allocation failed for size" in said
    assert "Double is not supported" in said
    assert "an int64 does not fit the int32" in said
    assert ("Half is not supported" in said) == (generation == "1")


def test_auto_takes_it_before_anything_else_and_rounds_only_what_is_listed(scenario):
    first, ours, default = scenario("auto", "vendor_lists").splitlines()[-3:]
    assert first.startswith("hpu lazy 8 cards found; lazy: torch ")
    assert float(ours.split()[1]) < 1e-2
    assert float(default.split()[1]) < 5e-2
    assert (ours.split()[2], default.split()[2]) == ("torch.float32", "torch.bfloat16")


def test_the_upstream_build_has_no_lazy_mode(scenario):
    said = scenario("bridge", "lazy", "auto", "exact_gelu", HPU_EMULATION_RELEASE="1.24-upstream")
    broken, works, refused, auto, gelu = said.splitlines()[-5:]
    assert broken.startswith("cannot be imported for execution=lazy: AssertionError Upstream PyTorch version")
    assert works == "can be imported for execution=compile, 8 cards"
    assert refused.endswith("use device.execution=compile or eager False")
    assert auto.startswith("hpu compile 8 cards found; compile: torch ")
    assert "is not the vendor's fork" in auto
    assert all(float(difference) < 1e-6 for difference in gelu.split())


def test_the_approximation_of_gelu_is_there_for_who_asks_for_it(scenario):
    worst = scenario("exact_gelu", PT_HPU_FORCE_TANH_FOR_GELU="1").splitlines()[-1].split()
    assert all(1e-4 < float(difference) < 1e-3 for difference in worst)


def test_what_the_emulation_counts_and_refuses(scenario):
    view, gather, backward, peaks = scenario("captures", "peaks").splitlines()[-4:]
    assert view == "in-place view updates are not supported during hpu graph capturing"
    assert gather == backward == "collective nonSFG is not supported during hpu graph capturing"
    merged, apart = map(float, peaks.split())
    assert merged == pytest.approx(1.0, abs=0.05)
    assert apart < 0.7


def test_recomputed_blocks_save_memory_and_a_warm_up_leaves_nothing(scenario):
    peaks, *warm_ups, differ = scenario("activation_checkpointing", "warm_up_leaves_nothing").splitlines()[-4:]
    kept, merged, apart = map(int, peaks.split()[1:])
    assert apart < 0.65 * merged
    assert apart < 0.4 * kept
    assert [line.split(",")[0] for line in warm_ups] == [
        "warm-up   1 of 2: texts of 12 tokens",
        "warm-up   2 of 2: texts of 8 tokens",
    ]
    assert differ == "differ []"


def test_attention_keeps_what_the_plan_counts(scenario):
    scenario("attention_keeps")


def test_graphs_keep_results_and_a_changing_constant_ends_the_run(scenario):
    said = scenario("graph_outputs", "recompiles", "nodes")
    assert said.startswith("8 step 6: 1 graphs compiled for texts of 24 tokens")
    assert "3 graphs were compiled after the warm-up, more than guards.max_recompiles=2" in said


def test_a_conflicting_environment_is_refused(scenario):
    mode, ops, early = scenario("environments").splitlines()[-3:]
    assert mode.endswith("needs 1: unset PT_HPU_LAZY_MODE, or change device.execution")
    assert ops.endswith("unset PT_HPU_AUTOCAST_FP32_OPS_LIST")
    assert "was imported before PT_HPU_LAZY_MODE could be set: export TORCH_DEVICE_BACKEND_AUTOLOAD=0" in early
