"""Tasks: what a model is trained for. A new one is a file or a folder here with a `Task`, and a line in TASKS.

May import collectives, config, data, devices and model.
"""

from dataclasses import replace

from bridgetower_train.config import Shape, TrainConfig, one_of
from bridgetower_train.model.flops import forward_flops, training_flops
from bridgetower_train.tasks.base import Task
from bridgetower_train.tasks.classification import NLVR2, SNLIVE, Classes, VQAv2
from bridgetower_train.tasks.contrast import Contrast
from bridgetower_train.tasks.pretraining import Pretraining

TASKS: dict[str, type[Task]] = {
    "pretraining": Pretraining,
    "vqav2": VQAv2,
    "snli_ve": SNLIVE,
    "nlvr2": NLVR2,
    "classes": Classes,
}

__all__ = [
    "TASKS",
    "Contrast",
    "Task",
    "contrast",
    "describe",
    "first_pass_flops",
    "flops_by_shape",
    "known_heads",
    "step_flops",
    "task_class",
]


def task_class(config: TrainConfig) -> type[Task]:
    """The class of `config.task`; ConfigError for an unknown name."""
    one_of("task", config.task, tuple(TASKS))
    return TASKS[config.task]


def known_heads() -> set[str]:
    """Names of all that a task's model may have beside the trunk."""
    return {head.name for task in TASKS.values() for head in task.heads(TrainConfig())}


def step_flops(config: TrainConfig) -> float:
    """FLOPs of a training step, forward and backward, per sample; without the gradients of frozen parts."""
    return training_flops(config.model, task_class(config).work(config), config.optim.freeze)


def flops_by_shape(config: TrainConfig) -> dict[Shape, float]:
    """`step_flops` for each shape that a micro-batch of the run may have."""

    def of(shape: Shape) -> float:
        run = config.on_whole_images if shape.patches is None else config
        return step_flops(replace(run, model=replace(run.model, max_text_len=shape.tokens)))

    return {shape: of(shape) for shape in config.shapes}


def contrast(
    config: TrainConfig, ranks: int, micro_batch: int | None = None, global_batch: int | None = None
) -> Contrast:
    """What is compared on so many ranks, with other sizes than the configured ones where they are given."""
    whole = global_batch or config.global_batch
    micro_batch = micro_batch or config.micro_batch or whole // ranks
    among = task_class(config).compared(config, micro_batch, whole)
    return Contrast(among, micro_batch, whole // ranks // micro_batch, ranks)


def first_pass_flops(config: TrainConfig) -> float:
    """FLOPs per sample of the pass that embeds a micro-batch (Contrast.two_passes)."""
    return forward_flops(config.model, task_class(config).embedding_work(config))


def describe(config: TrainConfig, contrast: Contrast) -> str:
    """What is compared among which pairs, and what it costs, in a line; empty where nothing is."""
    task = task_class(config)
    parts = []
    if contrast.among:
        whole = contrast.micro_batch * contrast.micro_batches * contrast.ranks
        parts.append(
            f"among {contrast.among:,} pairs" + (", the whole global batch" if contrast.among == whole else "")
        )
    if contrast.two_passes:
        more = first_pass_flops(config) / step_flops(config)
        parts.append(f"each micro-batch is embedded first, which adds {more:.0%} to the work of a step")
    if fixed := task.decided_by_micro_batch(config):
        parts.append(f"{fixed} within the {contrast.micro_batch:,} pairs of a micro-batch")
    return "; ".join(parts)
