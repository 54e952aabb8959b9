"""Validation during training: the losses and retrieval on the held-out corpus, always on the same samples."""

import torch
import torch.distributed as dist

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.dataset import open_data
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.devices import Device
from bridgetower_train.distributed import Ranks
from bridgetower_train.evaluation.heldout import load_held_out
from bridgetower_train.evaluation.predictor import Predictor, evaluating
from bridgetower_train.evaluation.retrieval import recall, similarities
from bridgetower_train.tasks import Task, task_class
from bridgetower_train.tasks.pretraining import Pretraining
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
        self.held_out = load_held_out(dataset.corpora[0], config.validation.samples, config.model.image_size)

    def run(self, task: Task) -> dict[str, float]:
        """`val_` metrics: the losses and accuracies of training, and R@1 in both directions among 128 samples."""
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
        if isinstance(task, Pretraining) and task.objective.itc:
            predictor = Predictor(task, self.tokenizer, self.device)
            figures["val_i2t_r1"], figures["val_t2i_r1"] = recall(similarities(predictor, self.held_out))
        return figures
