"""Tasks: what a model is trained for. A new one is a file or a folder here with a `Task`, and a line in TASKS.

May import config, data, devices and model.
"""

from bridgetower_train.config import TrainConfig, one_of
from bridgetower_train.model.flops import training_flops
from bridgetower_train.tasks.base import Task
from bridgetower_train.tasks.pretraining import Pretraining

TASKS: dict[str, type[Task]] = {"pretraining": Pretraining}

__all__ = ["TASKS", "Task", "known_heads", "step_flops", "task_class"]


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
