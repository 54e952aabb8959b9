"""Pretraining: masked language modelling, image-text matching and image-text contrast in one step.

`task.py` combines them; each loss has its own file, and `reader.py` makes their labels.
"""

from bridgetower_train.tasks.pretraining.task import Pretraining

__all__ = ["Pretraining"]
