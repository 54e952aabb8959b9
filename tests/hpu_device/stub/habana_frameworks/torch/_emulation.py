"""What all parts of the stub share: the emulated device, the record of calls, and the mode.

HPU_EMULATION is the compiled emulation; HPU_EMULATION_LOG the folder for the calls of each rank;
HPU_EMULATION_GENERATION 1, 2 or 3 (2).
"""

import importlib.util
import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).parent)
LAZY = os.environ.get("PT_HPU_LAZY_MODE", "0") == "1"  # eager is the default since 1.21
GENERATION = int(os.environ.get("HPU_EMULATION_GENERATION", "2"))

if multiprocessing.parent_process() is not None:
    raise RuntimeError("Device acquire failed: habana_frameworks was imported in a child process")


def _load() -> Any:
    path = os.environ["HPU_EMULATION"]
    spec = importlib.util.spec_from_file_location("hpu_emulation", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lists = [os.environ.get(f"PT_HPU_AUTOCAST_{kind}_OPS_LIST") for kind in ("LOWER_PRECISION", "FP32")]
    own = [path or f"{ROOT}/default_{kind}.txt" for path, kind in zip(lists, ("bf16", "fp32"), strict=True)]
    module.setup(LAZY, GENERATION > 1, *own)
    return module


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
    while frames is not None and "/devices/" in frames.f_code.co_filename:
        frames = frames.f_back
    by = frames.f_code.co_name if frames is not None else ""
    line = {"call": call, "by": by, "vendor": own > 1, **what, **device.counts()}
    with open(f"{folder}/calls-{os.environ.get('RANK', '0')}.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


os.register_at_fork(after_in_child=lambda: record("fork"))
