"""The error that the loader raises where one of its processes is killed for real: `bridgetower train` explains it."""

import os
import signal
from collections import deque
from multiprocessing import active_children

import pytest
from helpers import open_pairs
from toy import toy_text

from bridgetower_train.config import DataConfig, ModelConfig, TrainConfig
from bridgetower_train.data.loader import make_loader


@pytest.fixture
def batches(small_corpus, request):
    """Batches from a worker that was started by a context; the worker's pid."""
    config = TrainConfig(
        steps="1",
        global_batch=4, model=ModelConfig(image_size=64, patch_size=64, max_text_len=12),
        data=DataConfig(root=str(small_corpus), corpora={"small": 1.0}, lanes=2),
    )  # fmt: skip
    before = set(active_children())
    batches = iter(make_loader(open_pairs(config, toy_text()), 0, 1, 4, 1, 0, 1, 2, request.param, pin_memory=False))
    next(batches)
    (worker,) = set(active_children()) - before
    return batches, worker.pid


@pytest.mark.parametrize(
    ("batches", "signum"),
    [("fork", signal.SIGKILL), ("fork", signal.SIGBUS), ("forkserver", signal.SIGKILL)],
    indirect=["batches"],
)
def test_the_error_names_a_worker(batches, signum):
    batches, worker = batches
    with pytest.raises(RuntimeError, match=r"^DataLoader worker .*(is killed by signal|exited unexpectedly)"):  # noqa: PT012
        os.kill(worker, signum)
        deque(batches, maxlen=0)
