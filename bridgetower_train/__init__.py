"""Pretraining of BridgeTower: model, losses, data, engines and the command line."""

import os

__version__ = "0.1.0"

# Otherwise `import torch` would import a vendor's package, in loader workers too, before its execution mode is known.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
