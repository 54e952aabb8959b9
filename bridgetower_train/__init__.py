import os

# Else `import torch` would import a vendor's package, in loader workers too, before its execution mode is known.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
