"""What this machine and its container have."""

from pathlib import Path

import pytest

from bridgetower_train.host import free_memory


def test_a_container_s_limit_counts(tmp_path: Path):
    machine = free_memory(tmp_path)
    assert 2**20 < machine < 2**50
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) == pytest.approx(machine, rel=0.2)
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert free_memory(tmp_path) == 2_000_000
