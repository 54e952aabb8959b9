"""Validation during training: losses and quick evaluations on the held-out corpus, always on the same samples."""

import torch
import torch.distributed as dist

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.dataset import open_data
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.devices import Device
from bridgetower_train.distributed import Ranks
from bridgetower_train.evaluation import EVALUATIONS
from bridgetower_train.evaluation.base import OpenModel
from bridgetower_train.evaluation.eval_set import EvalSet
from bridgetower_train.tasks import Task, task_class
from bridgetower_train.tasks.base import evaluating
from bridgetower_train.training.metrics import to_host


class Validation:
    """Loads the samples once; `run` evaluates the current model and does not affect the order of training."""

    def __init__(self, config: TrainConfig, tokenizer: CaptionTokenizer, device: Device, ranks: Ranks) -> None:
        self.device, self.ranks, self.tokenizer = device, ranks, tokenizer
        dataset = open_data(config, tokenizer, task_class(config).reader(config, tokenizer), validation=True)
        micro_batch, _ = config.rank_batch(ranks.world_size)
        per_rank = config.global_batch // ranks.world_size
        steps = max(1, config.validation.samples // config.global_batch)
        starts = (
            step * config.global_batch + ranks.rank * per_rank + part
            for step in range(steps)
            for part in range(0, per_rank, micro_batch)
        )
        self.batches = [dataset.__getitems__(range(start, start + micro_batch)) for start in starts]
        self.images = EvalSet(dataset.corpora[0], config, config.validation.samples).load()

    def run(self, task: Task) -> dict[str, float]:
        """`val_` metrics: the losses and accuracies of training, and what evaluations add as their `validation`."""
        on_device = [batch.to(self.device.torch_device) for batch in self.batches]
        totals = torch.stack([task.counts(batch) for batch in on_device]).sum(0)
        if self.ranks.world_size > 1:
            dist.all_reduce(totals)
        with evaluating(task, self.device):
            parts = []
            for batch in on_device:
                parts.append(task(batch, totals)[1])
                self.device.mark_step()
        sums = {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}
        unjudged = {metric.name for metric in task.metrics(task.config) if not metric.better}
        figures = {f"val_{name}": value for name, value in to_host(sums, self.ranks).items() if name not in unjudged}
        model = OpenModel(task, self.tokenizer, self.device)
        for evaluation in EVALUATIONS.values():
            if evaluation.validation and not evaluation.lacks(task.config):
                found = evaluation.validation(model, self.images)
                figures |= {f"val_{name}": value for name, value in found.items()}
        return figures
