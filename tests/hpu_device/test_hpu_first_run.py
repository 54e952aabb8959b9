"""`bridgetower doctor --first-run` on the emulated device, with two ranks."""

import pytest

from tests.evidence.first_runs import take
from tests.hpu_device.conftest import run_python

MODES = {
    "1.21": ("lazy", "eager", "compile", "lazy, graphs"),
    "1.24": ("lazy", "eager", "compile", "lazy, graphs"),
    "1.24-upstream": ("eager", "compile"),
}


def steps_of(modes):
    """The steps of a node that offers these executions."""
    return [
        "imports and versions", *(["capture: graphs"] if "lazy, graphs" in modes else []), "capture: compile",
        *(f"losses: {mode}" for mode in modes), "losses: bf16", "activation checkpointing", "planned memory",
        "collectives: 2 ranks", "kill and resume: 2 ranks", *(f"speed: {mode}" for mode in modes), "speed: 2 ranks", "loader",
        "decoding", "decoding on the card",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("release", "generation", "options"),
    [
        ("1.24", "2", ["device.execution=lazy"]),
        pytest.param("1.24", "2", [], marks=pytest.mark.nightly),
        pytest.param("1.21", "1", [], marks=pytest.mark.nightly),
        pytest.param("1.24-upstream", "3", [], marks=pytest.mark.nightly),
    ],
)
def test_the_whole_kit(hpu, tmp_path, release, generation, options):
    """All is as on the CPU, but for the driver and the vendor's distribution, which the emulation lacks."""
    env = {**hpu, "HPU_EMULATION_RELEASE": release, "HPU_EMULATION_GENERATION": generation}
    report = take(
        tmp_path / "out", "device=hpu", "cards=2", *options, run=lambda a: run_python(a, env, code=1, timeout=900)
    )
    modes = ("lazy", "lazy, graphs") if options else MODES[release]
    assert [step.name for step in report.steps] == steps_of(modes)
    failed = {step.name: step.detail for step in report.steps if step.verdict == "failed"}
    assert failed.keys() == {"imports and versions"}, failed
    assert "hl-smi is missing" in failed["imports and versions"]
    assert "habana-torch-plugin is not installed" in failed["imports and versions"]
    assert report.environment["HPU_EMULATION_RELEASE"] == release
    assert {step.name for step in report.steps if step.verdict == "skipped"} == {
        "activation checkpointing", "decoding on the card",
    }  # fmt: skip
