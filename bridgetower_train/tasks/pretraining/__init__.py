"""Pretraining: masked language modelling, image-text matching and image-text contrast in one step.

`task.py` puts them together; each loss is a file of its own, `reader.py` makes their labels.
"""

from bridgetower_train.tasks.pretraining.task import Pretraining

__all__ = ["Pretraining"]
