"""What tests of the model, the objectives and the engines share."""

import multiprocessing
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bridgetower_train.config import ModelConfig, ObjectiveConfig, TrainConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.data.dataset import PairDataset, open_data
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.model.attention import AttentionFunction, sdpa
from bridgetower_train.model.heads import Head
from bridgetower_train.tasks.pretraining import Pretraining
from bridgetower_train.tasks.pretraining.masking import IGNORE
from tests.tiny import SMALL


def run_config(model: ModelConfig, objective: ObjectiveConfig | None = None) -> TrainConfig:
    """A run of pretraining with that model."""
    return TrainConfig(model=model, objective=objective or ObjectiveConfig())


def pretraining(
    model: ModelConfig, objective: ObjectiveConfig | None = None, attention: AttentionFunction = sdpa
) -> Pretraining:
    """The pretraining task with random weights."""
    return Pretraining(run_config(model, objective), attention)


def heads(**objective: Any) -> tuple[Head, ...]:
    """The heads of pretraining with such an objective."""
    return Pretraining.heads(run_config(SMALL, ObjectiveConfig(**objective)))


def open_pairs(config: TrainConfig, tokenizer: CaptionTokenizer, validation: bool = False) -> PairDataset:
    """The data of a pretraining run."""
    return open_data(config, tokenizer, Pretraining.reader(config, tokenizer), validation)


MASK = 4
"""What stands for `<mask>` in the vocabulary of `SMALL`."""


def random_batch(config: ModelConfig, size: int, seed: int = 0) -> Batch:
    """`size` pairs of random images and padded texts; rows 2 and 3 show the same image where there are that many."""
    assert config.vocab_size is not None
    random = torch.Generator().manual_seed(seed)
    length, places = config.max_text_len, 3
    lengths = torch.randint(places + 2, length + 1, (size,), generator=random)
    lengths[0] = length
    mask = torch.arange(length) < lengths[:, None]
    ids = torch.randint(MASK + 1, config.vocab_size, (size, length), generator=random)
    ids = torch.where(mask, ids, 1)
    ids[:, 0] = 0
    ids[torch.arange(size), lengths - 1] = 2
    positions = torch.stack([1 + torch.randperm(int(n) - 2, generator=random)[:places] for n in lengths])
    labels = ids.gather(1, positions)
    empty = torch.rand(size, places, generator=random) < 0.3
    empty[:, 0] = False
    positions, labels = positions.masked_fill(empty, 0), labels.masked_fill(empty, IGNORE)
    masked = torch.where(empty, ids.gather(1, positions), MASK)
    image_id = torch.arange(100, 100 + size)
    image_id[3:4] = image_id[2:3]
    own = torch.arange(size)
    other = (own + 1) % size
    other = torch.where(image_id[other] == image_id, (other + 1) % size, other)
    return Batch(
        pixel_values=torch.randint(0, 256, (size, 3, config.image_size, config.image_size), generator=random).byte(),
        input_ids=ids,
        text_mask=mask,
        image_id=image_id,
        labels={
            "masked_ids": ids.scatter(1, positions, masked),
            "mlm_positions": positions,
            "mlm_labels": labels,
            "itm_negative": torch.where(image_id[other] == image_id, own, other),
            "text_id": own,
            "itm_hard": torch.ones(size, dtype=torch.bool),
        },
    )


def relabelled(batch: Batch, **labels: Tensor) -> Batch:
    """The batch with other labels."""
    return replace(batch, labels=batch.labels | labels)


def part(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch; negatives must lie within them."""
    negative = batch.labels["itm_negative"][rows] - rows.start
    assert ((negative >= 0) & (negative < rows.stop - rows.start)).all()
    return relabelled(Batch.of({name: tensor[rows] for name, tensor in batch.tensors().items()}), itm_negative=negative)


def randomize(module: torch.nn.Module, seed: int = 0) -> None:
    """Give every parameter a random value, biases and norms too, so that none can be left out unseen."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=random, dtype=torch.float64) * 0.05
            parameter.add_(noise.to(parameter.dtype))


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    """Parameter name -> a copy of its gradient, for those that have one."""
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def files(folder: Path) -> dict[str, bytes]:
    """The files below a folder, with what is in them."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 400.0) -> list[Any]:
    """Call `function(rank, *args)` on `world_size` gloo ranks, each a process of its own; the results in the order of the ranks.

    `function` stands at the top of a test file. Raises what a rank raised, and TimeoutError after `timeout` seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{Path(folder) / 'store'}"
        pipes, processes = [], []
        for rank in range(world_size):
            pipe, end = context.Pipe(duplex=False)
            process = context.Process(target=_rank, args=(end, store, rank, world_size, function, args), daemon=True)
            process.start()
            end.close()
            pipes.append(pipe)
            processes.append(process)
        try:
            return _received(pipes, timeout)
        finally:
            for process in processes:
                process.terminate()
                process.join()


def _received(pipes: list[Connection], timeout: float) -> list[Any]:
    """What each rank gave. The first that fails ends the wait: the others may wait for it."""
    found: dict[Connection, Any] = {}
    until = time.monotonic() + timeout
    while len(found) < len(pipes):
        ready = wait_for([pipe for pipe in pipes if pipe not in found], max(0.0, until - time.monotonic()))
        if not ready:
            raise TimeoutError(
                f"{len(pipes) - len(found)} of {len(pipes)} ranks gave nothing within {timeout:g} seconds"
            )
        for pipe in ready:
            assert isinstance(pipe, Connection)
            ok, found[pipe] = pickle.loads(pipe.recv_bytes())
            if not ok:
                raise AssertionError(f"a rank failed:\n{found[pipe]}")
    return [found[pipe] for pipe in pipes]


def _rank(
    pipe: Connection, store: str, rank: int, world_size: int, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
        dist.barrier()  # a `function` that ends the group at once would break off those that still connect
        # Plain pickling: multiprocessing's own would share the tensors' memory, which ends with this process.
        pipe.send_bytes(pickle.dumps((True, function(rank, *args))))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        pipe.send_bytes(pickle.dumps((False, traceback.format_exc())))
