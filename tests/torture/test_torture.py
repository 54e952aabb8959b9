"""The tool itself, with a few kills."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.nightly
def test_a_few_kills_lose_nothing(tmp_path):
    command = [sys.executable, "-m", "tests.torture", "--kills", "5", "--steps", "8", "--out", tmp_path / "table.md"]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=1800)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.endswith("verdict: nothing was lost\n")
    assert "| what | times | longest time to end, s |" in (tmp_path / "table.md").read_text()
