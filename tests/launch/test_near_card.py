"""launch/near_card.py, on what hl-smi lists."""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.training.runs import PATH, ROOT

SCRIPT = ROOT / "launch" / "near_card.py"

TOPOLOGY = """modID   CPU Affinity    NUMA Affinity
-----   ------------    -------------
0       0-39, 80-119    0
1       0-39, 80-119    0
2       0-39, 80-119    0
3       0-39, 80-119    0
4       40-79, 120-159          1
5       40-79, 120-159          1
6       40-79, 120-159          1
7       40-79, 120-159          1
"""
"""Of a host with two sockets of 40 cores with two threads each."""

SHOW = "import os; print(os.environ.get('HLS_MODULE_ID'), sorted(os.sched_getaffinity(0)), os.environ.get('HCL_CPU_AFFINITY'))"


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("near_card", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "siblings", lambda processor: {processor % 80, processor % 80 + 80})
    return module


@pytest.fixture
def place(tmp_path):
    """What a rank finds that is started so, where hl-smi prints `topology`."""
    tool = tmp_path / "hl-smi"

    def start(topology: str | None, **env: str) -> list[str]:
        if topology is not None:
            tool.write_text(f"#!/bin/sh\ncat <<'END'\n{topology}END\n")
            tool.chmod(0o755)
        command = [sys.executable, SCRIPT, sys.executable, "-c", SHOW]
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("HLS_", "HABANA_", "LOCAL_"))
        }
        done = subprocess.run(
            command, env={**clean, "PATH": f"{tmp_path}:{PATH}", **env}, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    return start


def test_ranks_share_the_cores_near_their_cards(script):
    near = list(script.cards(TOPOLOGY).values())
    assert len(near) == 8
    shares = [script.share(near, rank) for rank in range(8)]
    assert shares[1] == {*range(10, 20), *range(90, 100)}
    assert shares[6] == {*range(60, 70), *range(140, 150)}
    assert set().union(*shares) == set(range(160))
    assert sum(map(len, shares)) == 160


def test_a_rank_alone_has_all_cores_near_its_card(script):
    near = script.cards(TOPOLOGY)
    assert script.share([near["5"]], 0) == near["5"]


def test_lists_that_name_no_cores_are_left_out(script):
    assert script.cards("modID CPU\n0   N/A   N/A\n1   3   0\n") == {"1": {3}}


needs_cores = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) != os.cpu_count() or os.cpu_count() < 2, reason="bound already, or one core"
)


@needs_cores
def test_a_rank_is_started_on_its_cores(place):
    table = "0   0   0\n1   1   0\n"
    assert place(table, LOCAL_RANK="1", LOCAL_WORLD_SIZE="2") == "1 [1] 1"
    assert place(table, LOCAL_RANK="0", LOCAL_WORLD_SIZE="2", HABANA_VISIBLE_MODULES="1,0") == "1 [1] 1"
    assert place(table) == "0 [0] 1"


@needs_cores
def test_a_bound_process_keeps_its_cores(place):
    os.sched_setaffinity(0, {0})
    try:
        assert place("0   1   0\n") == "0 [0] None"
    finally:
        os.sched_setaffinity(0, range(os.cpu_count()))


@pytest.mark.parametrize("table", [None, "driver is not loaded\n", "0   N/A   N/A\n"])
def test_without_a_list_a_command_is_only_started(place, table):
    assert place(table) == f"None {sorted(os.sched_getaffinity(0))} None"


def test_more_ranks_than_cards_are_only_started(place):
    assert place("0   0   0\n", LOCAL_RANK="1", LOCAL_WORLD_SIZE="2") == f"None {sorted(os.sched_getaffinity(0))} None"
