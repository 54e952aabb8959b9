"""The paper model: by hand where one can, and against what was published of real cards."""

from dataclasses import replace

import pytest

from bridgetower_train.bench.hugging_face import separate_flops
from bridgetower_train.config import ModelConfig, ObjectiveConfig
from bridgetower_train.errors import ConfigError
from bridgetower_train.planning.arithmetic import WEIGHT_TRAFFIC, Step, all_reduce_time, links_times, memory_time
from bridgetower_train.planning.collectives import Collective, collective_bytes
from bridgetower_train.planning.hardware import CARDS, parse
from bridgetower_train.planning.memory import FLOAT32, Precision

LARGE = ModelConfig(294, 14, 1024, 24, 24, 6, max_text_len=128, vocab_size=50265)
"""As in the published fine-tune, which pads captions to 128 tokens."""
FINE_TUNE = 3 * separate_flops(LARGE, ObjectiveConfig(mlm=0, itm=0))["itc"]
"""FLOPs per sample of the contrastive-only fine-tune."""


def test_hardware():
    assert parse("gaudi2x512").hosts == 64
    assert parse("gaudi1x8").card is CARDS["gaudi1"]
    assert parse("h100x64").name == "h100x64"
    for text, part in [("gaudi5x8", "did you mean"), ("gaudi2", "a card and a number"), ("gaudi2x12", "8 or 16")]:
        with pytest.raises(ConfigError, match=part):
            parse(text)
    with pytest.raises(ConfigError, match="gaudi1, gaudi2, gaudi3, a100, h100, h200"):
        parse("tpux8")


def test_every_card_names_its_source():
    for card in CARDS.values():
        assert len(card.source) > 40
        assert card.scale_out < card.scale_up < card.bandwidth < card.memory * 100


def test_all_reduce_in_one_host_is_the_ring_s():
    assert all_reduce_time(parse("gaudi2x8"), 262.5e9) == pytest.approx(2 * 7 / 8)
    assert all_reduce_time(parse("gaudi2x1"), 1e12) == 0


def test_all_reduce_over_hosts_sends_an_eighth_of_it_out_of_each_card():
    within, both = all_reduce_time(parse("gaudi1x8"), 1e9), all_reduce_time(parse("gaudi1x512"), 1e9)
    assert both - within == pytest.approx(2 * 63 / 64 * 1e9 / 8 / 37.5e9)


def test_a_gather_takes_half_of_a_sum():
    cluster = parse("gaudi2x64")
    calls = [Collective("all_reduce", "gradients", 1e9), Collective("all_gather", "weights", 1e9)]
    times = links_times(cluster, [*calls, calls[1]])
    assert times == {
        "gradients": all_reduce_time(cluster, 1e9),
        "weights": pytest.approx(all_reduce_time(cluster, 1e9)),
    }


def test_a_step_lies_between_all_hidden_and_nothing_hidden():
    step = Step(1e12, 1, 0.5, {"gradients": 0.3, "embeddings": 0.1})
    assert step.compute_time(1e12) == 1
    assert step.fastest(1e12) == 1
    assert step.slowest(1e12) == pytest.approx(1.4)
    assert step.expected(1e12) == pytest.approx(1.1), "gradients hide behind the backward pass"
    assert step.fastest(1e30) == 0.5
    assert step.expected(4e12) == pytest.approx(0.5 + 0.4 - 0.3), "no faster than its memory"
    four = Step(1e12, 4, 0.0, {"gradients": 0.3})
    assert four.expected(1e12) == pytest.approx(1.3 - 1 / 6), "only the last micro-batch hides them"
    assert step.fastest(2e12) <= step.expected(2e12) <= step.slowest(2e12)
    once = replace(step, overlaps=False)
    assert once.expected(1e12) == once.slowest(1e12) == pytest.approx(1.4)
    assert once.fastest(1e12) == pytest.approx(1.3), "the rest may be hidden"


def test_memory_time():
    assert memory_time(parse("gaudi1x512"), 10**6, 4e6, 2) == pytest.approx((WEIGHT_TRAFFIC * 1e6 + 2 * 2 * 4e6) / 1e12)


def test_moments_in_bf16_are_read_and_written_in_half():
    times = [memory_time(parse("gaudi2x8"), 10**9, 0.0, 1, precision) for precision in (FLOAT32, Precision(moments=4))]
    assert times[0] - times[1] == pytest.approx(8 * 1e9 / 2.45e12)


def test_no_peak_is_synthetic_for_the_first_generation():
    assert CARDS["gaudi1"].peak is None


@pytest.mark.parametrize("samples_per_s", [847.7, 904.93, 930.245])
def test_published_gaudi2_runs_lie_within_the_bounds(samples_per_s):
    """8 cards, 48 samples each (facts of optimum-habana's blog and CI): below the peak, above what fp32 would give."""
    cluster = parse("gaudi2x8")
    calls = collective_bytes("native", 866_000_000, 8)
    step = Step(48 * FINE_TUNE, 1, memory_time(cluster, 866_000_000, 48 * 1.1e9, 1), links_times(cluster, calls))
    measured = 48 * 8 / samples_per_s
    assert step.fastest(cluster.card.peak) < measured
    utilisation = step.compute_time(cluster.card.peak) / measured
    assert 0.3 < utilisation < 0.45
    assert step.memory_time + step.links_time < measured / 4, "so the bound that counts is that of the products"
