"""How the process of a rank ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

ROOT = Path(__file__).parents[1]

LATE = '''
"""A command of two ranks: a thread of rank 0 lets go of a reduction's tensor just before the interpreter would be finalised."""
import atexit, ctypes, os, sys, time

if __name__ == "__main__" and os.environ["RANK"] == "0":
    atexit.register(ctypes.PyDLL(None).usleep, 2_000_000)  # the last that is done before the finalisation; it keeps the GIL
from dataclasses import dataclass

import torch
import torch.distributed as dist

from bridgetower_train import cli
from bridgetower_train.config import DistributedConfig
from bridgetower_train.distributed import init_ranks


@dataclass(frozen=True)
class LateConfig:
    """How rank 0 ends."""

    end: str = ""


def run(config):
    global ranks  # as threads of a run outlive its process group
    ranks = init_ranks("gloo", DistributedConfig())
    if ranks.rank == 1:
        time.sleep(1)
        dist.all_reduce(torch.zeros(1), group=ranks.control)
        return 0
    dist.all_reduce(torch.zeros(1), group=ranks.control, async_op=True)
    print("all done", end="")
    return eval(config.end)


if __name__ == "__main__":
    cli.COMMANDS["late"] = cli.Command("", module="late")
    sys.exit(cli.entry())
'''


@pytest.mark.parametrize(
    ("end", "code", "error"),
    [("7", 7, ""), ("sys.exit(3)", 3, ""), ("int('x')", 1, "ValueError: invalid literal for int() with base 10: 'x'")],
)
def test_a_rank_ends_with_its_own_code_whatever_threads_still_do(tmp_path, end, code, error):
    script = tmp_path / "late.py"
    script.write_text(LATE)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port, "WORLD_SIZE": 2, "TORCHELASTIC_USE_AGENT_STORE": True}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), "late", f'end="{end}"'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **{k: str(v) for k, v in own.items()}, "RANK": str(rank)},
        )
        for rank in (0, 1)
    ]  # fmt: skip
    (said, errors), (_, others) = [rank.communicate(timeout=100) for rank in ranks]
    assert (ranks[0].returncode, ranks[1].returncode) == (code, 0), errors + others
    assert said == "all done"
    assert errors.strip().endswith(error)
