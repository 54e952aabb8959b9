"""What all parts of the stub share: the emulated device, the record of calls, the mode and the release.

Each part names the public source that it follows, by file and commit of github.com/HabanaAI/gaudi-pytorch-bridge, under
python_packages/habana_frameworks/torch unless the path begins elsewhere: 5a56187 is published as 1.19.0; f186e3d is the oldest in
which eager is the default, as since 1.21, and stands for 1.21 here; bcc5172, of 2026, stands for 1.24.

HPU_EMULATION is the compiled emulation; HPU_EMULATION_LOG the folder for the calls of each rank; HPU_EMULATION_RELEASE one of
RELEASES (1.24); HPU_EMULATION_GENERATION 1, 2 or 3 (2).
"""

import importlib.util
import json
import multiprocessing
import os
import re
import sys
from pathlib import Path
from typing import Any

from packaging.version import Version

import torch

RELEASES = ("1.21", "1.24", "1.24-upstream")
"""The last with the first generation, and the two builds of torch that the newest comes with."""

ROOT = str(Path(__file__).parent)
LAZY = os.environ.get("PT_HPU_LAZY_MODE", "0") == "1"  # eager is the default since 1.21
RELEASE = os.environ.get("HPU_EMULATION_RELEASE", "1.24")
GENERATION = int(os.environ.get("HPU_EMULATION_GENERATION", "2"))
MEMORY = {1: 32, 2: 96, 3: 128}
"""Generation -> GiB on the card."""

OWNER = "HPU_EMULATION_OWNER"
"""Set in the environment of a process that has a card, and so of its children: loader workers."""

if RELEASE not in RELEASES:
    raise RuntimeError(f"HPU_EMULATION_RELEASE={RELEASE}: must be one of {', '.join(RELEASES)}")
if LAZY and not (Version(torch.__version__).local or "").startswith(("git", "hpu")):  # __init__.py@f186e3d and @bcc5172
    raise AssertionError(f"Upstream PyTorch version {torch.__version__} is not supported in Lazy mode.")
if multiprocessing.parent_process() is not None and OWNER in os.environ:
    raise RuntimeError(
        "Device acquire failed: habana_frameworks was imported in a child of the process that has the card"
    )
if GENERATION == 1 and RELEASE != "1.21":
    raise RuntimeError(
        "synStatus=8 Device acquire failed: the first generation ended with 1.21"
    )  # the support matrix of 1.22


os.environ[OWNER] = str(os.getpid())


def _load() -> Any:
    path = os.environ["HPU_EMULATION"]
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lists = [os.environ.get(f"PT_HPU_AUTOCAST_{kind}_OPS_LIST") for kind in ("LOWER_PRECISION", "FP32")]
    own = [path or f"{ROOT}/default_{kind}.txt" for path, kind in zip(lists, ("bf16", "fp32"), strict=True)]
    # True by default: scripts/env_flags.yaml@5a56187.
    tanh = os.environ.get("PT_HPU_FORCE_TANH_FOR_GELU", "1").lower() not in ("0", "false")
    module.setup(LAZY, GENERATION > 1, tanh, MEMORY[GENERATION] << 30, *own)
    _keep_recipes(module, os.environ.get("PT_HPU_RECIPE_CACHE_CONFIG", ""))
    return module


def _keep_recipes(module: Any, setting: str) -> None:
    """habana_serialization/recipe_cache_config.cpp@5a56187; four fields since scripts/env_flags.yaml@f186e3d."""
    folder, *rest = setting.split(",")
    assert len(rest) <= 3, "Expected number of parameters extracted from PT_HPU_RECIPE_CACHE_CONFIG"
    assert not folder or Path(folder).is_dir(), "Recipe cache path is expected"
    module.keep_recipes(folder)


device = _load()


def record(call: str, **what: Any) -> None:
    """Write a call, the function of the training code that led to it, whether this package itself made it, and the counts."""
    folder = os.environ.get("HPU_EMULATION_LOG")
    if folder is None:
        return
    frames, own = sys._getframe(1), 0
    while frames is not None and "/bridgetower_train/" not in frames.f_code.co_filename:
        own += frames.f_code.co_filename.startswith(ROOT)
        frames = frames.f_back
    while frames is not None and re.search("/bridgetower_train/(?!devices/)", frames.f_code.co_filename) is None:
        frames = frames.f_back
    by = frames.f_code.co_name if frames is not None else ""
    line = {"call": call, "by": by, "vendor": own > 1, **what, **device.counts()}
    with open(f"{folder}/calls-{os.environ.get('RANK', '0')}.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


os.register_at_fork(after_in_child=lambda: record("fork"))
