"""Tasks that choose among answers or classes, by a head on the fused pair of image and text.

`task.py` has what they share; each task has its own file. A record of their corpora has several texts, each with an id and a
label of its own (docs/data.md).
"""

from bridgetower_train.tasks.classification.classes import Classes
from bridgetower_train.tasks.classification.nlvr2 import NLVR2
from bridgetower_train.tasks.classification.snli_ve import SNLIVE
from bridgetower_train.tasks.classification.task import Classification
from bridgetower_train.tasks.classification.vqav2 import VQAv2

__all__ = ["NLVR2", "SNLIVE", "Classes", "Classification", "VQAv2"]
