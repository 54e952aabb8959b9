"""The paper model: by hand where one can, and against what was published of real cards."""

import re

import pytest

from bridgetower_train.cli import main
from bridgetower_train.config import ModelConfig, ObjectiveConfig
from bridgetower_train.errors import ConfigError
from bridgetower_train.model.flops import separate_flops_per_sample
from bridgetower_train.planning.arithmetic import WEIGHT_TRAFFIC, all_reduce_time, step
from bridgetower_train.planning.hardware import CARDS, parse
from bridgetower_train.planning.memory import Memory

LARGE = ModelConfig(294, 14, 1024, 24, 24, 6, max_text_len=128, vocab_size=50265)
"""As in the published fine-tune, which pads captions to 128 tokens."""
FINE_TUNE = 3 * separate_flops_per_sample(LARGE, ObjectiveConfig(mlm=0, itm=0))["itc"]
"""FLOPs per sample of the contrastive-only fine-tune."""
MEMORY = Memory(1_000_000, 0, 1e6)


def test_hardware():
    assert parse("gaudi2x512").hosts == 64
    assert parse("gaudi1x8").card is CARDS["gaudi1"]
    for text, part in [("gaudi5x8", "did you mean"), ("gaudi2", "a card and a number"), ("gaudi2x12", "8 or 16")]:
        with pytest.raises(ConfigError, match=part):
            parse(text)


def test_all_reduce_in_one_host_is_the_ring_s():
    assert all_reduce_time(parse("gaudi2x8"), 262.5e9) == pytest.approx(2 * 7 / 8)
    assert all_reduce_time(parse("gaudi2x1"), 1e12) == 0


def test_all_reduce_over_hosts_sends_an_eighth_of_it_out_of_each_card():
    within, both = all_reduce_time(parse("gaudi1x8"), 1e9), all_reduce_time(parse("gaudi1x512"), 1e9)
    assert both - within == pytest.approx(2 * 63 / 64 * 1e9 / 8 / 37.5e9)


def test_step_is_bounded_by_its_slowest_part():
    s = step(parse("gaudi1x512"), 4, 1e12, MEMORY, ObjectiveConfig())
    assert s.compute_time(1e12) == 4
    assert s.memory_time == pytest.approx((WEIGHT_TRAFFIC * 1e6 + 2 * 4 * 1e6) / 1e12)
    assert s.fastest(1e12) == 4
    assert s.slowest(1e12) == 4 + s.reduce_time
    assert s.fastest(1e30) == max(s.memory_time, s.reduce_time)
    contrast = s.reduce_time - step(parse("gaudi1x512"), 4, 1e12, MEMORY, ObjectiveConfig(itc=0)).reduce_time
    assert contrast == pytest.approx(all_reduce_time(parse("gaudi1x512"), 3 * 512 * 4 * 2048))


def test_no_peak_is_made_up_for_the_first_generation():
    assert CARDS["gaudi1"].peak is None


@pytest.mark.parametrize("samples_per_s", [847.7, 904.93, 930.245])
def test_published_gaudi2_runs_lie_within_the_bounds(samples_per_s):
    """8 cards, 48 samples each (facts of optimum-habana's blog and CI): below the peak, above what fp32 would give."""
    cluster = parse("gaudi2x8")
    memory = Memory(866_000_000, 1.7e9, 1.1e9)
    s = step(cluster, 48, FINE_TUNE, memory, ObjectiveConfig(mlm=0, itm=0))
    measured = 48 * 8 / samples_per_s
    assert s.fastest(cluster.card.peak) < measured
    utilisation = s.compute_time(cluster.card.peak) / measured
    assert 0.3 < utilisation < 0.45
    assert s.memory_time + s.reduce_time < measured / 4, "so the bound that counts is that of the products"


def test_plan_prints_a_labelled_table(capsys):
    arguments = ["model=tiny", "model.vocab_size=99", "tokenizer=none", "pairs=[4,8]"]
    assert main(["plan", *arguments, "hardware=gaudi1x16", "device.precision=bf16"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("A model on paper")
    assert "no published peak" in printed
    rows = [line.split("|")[1:-1] for line in printed.splitlines() if re.match(r"\| \d", line)]
    head = next(line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("| pairs"))
    assert [row[1].strip() for row in rows] == ["64", "128"]
    assert {len(row) for row in rows} == {len(head)} == {13}
    assert main(["plan", *arguments, "hardware=gaudi2x16", "tflops=[100]"]) == 0
    assert "step at 100 TFLOP/s" in capsys.readouterr().out
    counted = [float(re.search(r"([0-9.]+) TFLOP per pair", printed)[1])]
    assert main(["plan", *arguments, "hardware=gaudi1x16", "engine.activation_checkpointing=true"]) == 0
    counted.append(float(re.search(r"([0-9.]+) TFLOP per pair", capsys.readouterr().out)[1]))
    assert counted[1] == pytest.approx(counted[0] * 4 / 3, rel=0.02)
    assert main(["plan", "model=tiny"]) == 2
    assert "model.vocab_size" in capsys.readouterr().err
