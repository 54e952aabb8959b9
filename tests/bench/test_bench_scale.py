"""`bridgetower bench scale`: every figure is measured. How large they are is not for a test."""

import pytest

from bridgetower_train.bench.scale import BenchScaleConfig, bench_scale
from bridgetower_train.errors import ConfigError


def test_all_figures_are_measured(tmp_path):
    config = BenchScaleConfig(records=100_000, world_size=16, shuffle_window=512, walked=50, scratch=str(tmp_path))
    figures = bench_scale(config)
    assert figures["shards"] == 100
    assert figures["index, MB on a disk"] == pytest.approx(3.4)
    assert figures["windows of a lane in an epoch"] == 13  # 6,250 samples in windows of 512
    assert figures["shards that a host fetches in an epoch, of those due"] == 1
    assert all(value > 0 for name, value in figures.items() if name.endswith((" s", " us")))
    assert not list(tmp_path.iterdir())


def test_it_names_where_it_cannot_write():
    with pytest.raises(ConfigError, match="scratch=/proc: nothing can be written there"):
        bench_scale(BenchScaleConfig(records=10_000, world_size=16, scratch="/proc"))
