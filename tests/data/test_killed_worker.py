"""What is said where a loader process is killed for real."""

import os
import re
import signal
from collections import deque
from multiprocessing import active_children

import pytest
from helpers import open_pairs
from toy import toy_text

from bridgetower_train.config import DataConfig, ModelConfig, TrainConfig
from bridgetower_train.data.dataset import make_loader
from bridgetower_train.data.worker import killed_worker

DATA = DataConfig(workers=1, prefetch=2)


@pytest.fixture
def batches(small_corpus, request):
    """Batches from a worker that was started by a context; the worker's pid."""
    config = TrainConfig(
        global_batch=4, model=ModelConfig(image_size=64, patch_size=64, max_text_len=12),
        data=DataConfig(root=str(small_corpus), corpora={"small": 1.0}, lanes=2),
    )  # fmt: skip
    before = set(active_children())
    batches = iter(make_loader(open_pairs(config, toy_text()), 0, 1, 4, 1, 0, 1, 2, request.param, pin_memory=False))
    next(batches)
    (worker,) = set(active_children()) - before
    return batches, worker.pid


def kill_and_go_on(batches, worker, signum):
    os.kill(worker, signum)
    deque(batches, maxlen=0)


@pytest.mark.parametrize(
    ("batches", "signum", "how"),
    [("fork", signal.SIGKILL, "Killed"), ("fork", signal.SIGBUS, "Bus error"), ("forkserver", signal.SIGKILL, None)],
    indirect=["batches"],
)
def test_the_error_says_what_to_change(batches, signum, how):
    batches, worker = batches
    with pytest.raises(RuntimeError) as met:
        kill_and_go_on(batches, worker, signum)
    said = str(killed_worker(met.value, DATA))
    # Torch's signal handler knows more of a child, but what it raises is lost where it interrupts a destructor.
    known = [rf"\(pid {worker}\) is killed by signal: {how}"] if how else []
    assert re.match(
        "|".join(f"loader worker {p}: " for p in [*known, rf"(\(pid\(s\) {worker}\) )?ended unexpectedly"]), said
    )
    assert "Lower data.workers=1 or data.prefetch=2" in said


def test_other_errors_are_left_alone():
    assert killed_worker(RuntimeError("Connection closed by peer"), DATA) is None
