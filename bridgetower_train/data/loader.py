"""The stock DataLoader around the dataset: the micro-batches of one rank, prepared in other processes."""

import itertools
import time
from collections.abc import Iterator, Sequence

from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from bridgetower_train.data.batch import Batch
from bridgetower_train.data.dataset import PairDataset
from bridgetower_train.data.worker import start_worker
from bridgetower_train.errors import DataError, UserError


class RankSamples(Sampler[list[int]]):
    """The sample indices of one rank, one list per micro-batch, from a step on without end."""

    def __init__(self, rank: int, world_size: int, micro_batch: int, accumulation: int, start_step: int) -> None:
        self.micro_batch, self.accumulation, self.start_step = micro_batch, accumulation, start_step
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        for step in itertools.count(self.start_step):
            first = (step * self.world_size + self.rank) * self.accumulation
            for begin in range(first, first + self.accumulation):
                yield list(range(begin * self.micro_batch, (begin + 1) * self.micro_batch))


class _ReturningErrors(Dataset[Batch | UserError]):
    """Returns a UserError as a value: raised in a worker, torch would wrap it in a traceback."""

    def __init__(self, dataset: PairDataset) -> None:
        self.dataset = dataset

    def __getitems__(self, sample_indices: Sequence[int]) -> Batch | UserError:
        try:
            batch = self.dataset.__getitems__(sample_indices)
            if get_worker_info() is not None:
                # Otherwise the queue's thread would do it, and lose a batch for which there is no room.
                batch.share_memory()
            return batch
        except UserError as error:
            return error
        except RuntimeError as error:
            if "/torch_" not in str(error):  # torch's name of a block of shared memory
                raise
            data = self.dataset.config.data
            return DataError(
                f"/dev/shm has no room for a batch ({str(error).partition(chr(10))[0]}); lower data.workers={data.workers} or "
                f"data.prefetch={data.prefetch}, or give the job more (Docker: --ipc=host or --shm-size)"
            )


class Loader(DataLoader[Batch]):
    """The stock DataLoader, which raises a worker's UserError as such."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        return self._checked(super().__iter__())  # which starts the workers, not only at the first batch

    def _checked(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        try:
            for batch in batches:
                if isinstance(batch, UserError):
                    raise batch
                yield batch
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            if not self.num_workers or str(error).startswith("Caught "):  # raised in a worker, which is still alive
                raise
            # A worker died while it sent a batch: torch reports the reason as soon as it has reaped the child.
            time.sleep(1)
            raise RuntimeError("DataLoader worker exited unexpectedly") from None


def make_loader(
    dataset: PairDataset,
    rank: int,
    world_size: int,
    micro_batch: int,
    accumulation: int,
    start_step: int,
    workers: int,
    prefetch: int,
    mp_context: str,
    pin_memory: bool,
) -> Loader:
    """The micro-batches of `rank` from step `start_step` on, `accumulation` of them per step, without end.

    `workers` processes, started by `mp_context`, each keep `prefetch` micro-batches ready; 0 loads in this process.
    The order does not depend on them.
    """
    assert micro_batch % dataset.order.samples_per_lane == 0
    assert world_size * accumulation * micro_batch == dataset.order.global_batch
    return Loader(
        _ReturningErrors(dataset),  # type: ignore[arg-type]
        batch_sampler=RankSamples(rank, world_size, micro_batch, accumulation, start_step),
        collate_fn=_identity,  # type: ignore[arg-type]
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        multiprocessing_context=mp_context if workers else None,
        worker_init_fn=start_worker,
        pin_memory=pin_memory,
    )


def _identity(batch: Batch) -> Batch:
    return batch
