"""Torch under the name of a release's build: the fork's versions end in `+git...`, those of the upstream build in `+cpu`."""

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder


class _Renamed(MetaPathFinder):
    """Finds `torch.version` and renames the version in it."""

    def find_spec(self, name, path, target=None):
        if name != "torch.version":
            return None
        spec = PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module.__version__ = module.__version__.partition("+")[0] + self.local

        spec.loader.exec_module = exec_module
        return spec

    local = "+cpu" if os.environ.get("HPU_EMULATION_RELEASE", "").endswith("upstream") else "+git0000000"


sys.meta_path.insert(0, _Renamed())
