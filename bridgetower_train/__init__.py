"""BridgeTower: pretraining, and the trained model in use.

import bridgetower_train as bt

model = bt.load("runs/coco")                      # or an exported folder, or a name on the Hugging Face hub
model.embed_texts(["a dog", "a cat"])             # float32 (2, E), each of length 1
corpus = bt.open_corpus("data", "coco")
bt.train(["experiment=demo", "steps=2"])
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridgetower_train.commands.train import train
    from bridgetower_train.data.shards import open_corpus
    from bridgetower_train.use.model import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "load", "open_corpus", "train"]

# Otherwise `import torch` would import a vendor's package, in loader workers too, before its execution mode is known.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

_HOMES = {
    "Model": "bridgetower_train.use.model",
    "load": "bridgetower_train.use.model",
    "open_corpus": "bridgetower_train.data.shards",
    "train": "bridgetower_train.commands.train",
}
"""Name -> the module that has it; imported at its first use, since the command line and loader workers need none of them."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
