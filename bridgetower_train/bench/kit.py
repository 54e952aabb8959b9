"""What the benchmarks share."""

from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch

from bridgetower_train.config import ModelConfig, TrainConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.data.reader import Samples
from bridgetower_train.tasks import task_class

VOCABULARY = 1000
"""Tokens of the synthetic vocabulary where the model's is not set."""
_SPECIAL = 5


class _Vocabulary(NamedTuple):
    """What readers use of a tokenizer, for texts that are random ids."""

    special: npt.NDArray[np.bool_]
    ordinary: npt.NDArray[np.int64]
    mask: int = _SPECIAL - 1


def as_run(config: Any, model: ModelConfig | None = None) -> TrainConfig:
    """The run that a benchmark times: its own model (or `model`), losses, optimizer and device, and a vocabulary."""
    model = model or config.model
    parts = {name: getattr(config, name) for name in ("objective", "optim", "device") if hasattr(config, name)}
    return TrainConfig(model=model.with_vocabulary(model.vocab_size or VOCABULARY), **parts)


def random_batch(run: TrainConfig, size: int) -> Batch:
    """`size` samples of random images and random texts of all lengths, with the labels that the task's reader makes."""
    model, task = run.model, task_class(run)
    assert model.vocab_size is not None
    random = torch.Generator().manual_seed(0)
    L, S, V = model.max_text_len, model.image_size, model.vocab_size
    lengths = torch.linspace(L // 4 + 2, L, size).long()
    mask = torch.arange(L) < lengths[:, None]
    ids = torch.where(mask, torch.randint(_SPECIAL, V, (size, L), generator=random), 1)
    ids[:, 0] = 0
    numbers = np.arange(size)
    special = np.arange(V) < _SPECIAL
    reader = task.reader(run, cast(Any, _Vocabulary(special, np.flatnonzero(~special))))
    return Batch(
        pixel_values=torch.randint(0, 256, (size * reader.images, 3, S, S), generator=random).byte(),
        input_ids=ids,
        text_mask=mask,
        image_id=torch.from_numpy(numbers),
        labels=reader.labels(Samples([], [], numbers, numbers, ids, mask)),
    )
