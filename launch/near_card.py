"""Starts a command, such as a rank, with its Gaudi card chosen and on cores near it; on other hosts it only starts the command.

    python launch/near_card.py COMMAND...

`hl-smi topo` says which cores a card is near. Ranks of a host whose cards are near the same cores share them equally. A process
that something else has bound, such as Slurm, stays where it is.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

LINE = re.compile(r"\s*(\d+)\s+(\d[\d, -]*?)\s+\d+\s*")
"""A card in what `hl-smi topo -c -N` prints: number of its module, cores, node of memory."""


def main() -> None:
    near = cards(hl_smi())
    modules = os.environ.get("HABANA_VISIBLE_MODULES") or ",".join(sorted(near))
    rank = int(os.environ.get("LOCAL_RANK") or 0)
    used = modules.split(",")[: int(os.environ.get("LOCAL_WORLD_SIZE") or 1)]
    if rank < len(used) and near.keys() >= set(used):
        os.environ.setdefault("HLS_MODULE_ID", used[rank])  # the vendor's package takes this card
        allowed = os.sched_getaffinity(0)
        mine = share([near[module] & allowed for module in used], rank)
        if mine and len(allowed) == os.cpu_count():
            os.sched_setaffinity(0, mine)
            os.environ.setdefault("HCL_CPU_AFFINITY", "1")  # its threads, too, stay on these cores
    os.execvp(sys.argv[1], sys.argv[1:])


def hl_smi() -> str:
    """Its list of cards and cores; nothing where it is missing, fails or hangs."""
    try:
        return subprocess.run(["hl-smi", "topo", "-c", "-N"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def cards(table: str) -> dict[str, set[int]]:
    """Module -> processors near its card."""
    return {found[1]: numbers(found[2]) for found in map(LINE.fullmatch, table.splitlines()) if found}


def share(near: Sequence[set[int]], rank: int) -> set[int]:
    """The processors of one rank, given those near the card of each; the threads of a core stay together."""
    sharing = [number for number, processors in enumerate(near) if processors == near[rank]]
    core = {number: min(siblings(number) & near[rank]) for number in near[rank]}
    cores, part = sorted(set(core.values())), sharing.index(rank)
    mine = cores[part * len(cores) // len(sharing) : (part + 1) * len(cores) // len(sharing)]
    return {number for number in core if core[number] in mine}


def siblings(processor: int) -> set[int]:
    """All threads of its core; itself alone where the system does not say."""
    try:
        return numbers(Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list").read_text())
    except OSError:
        return {processor}


def numbers(text: str) -> set[int]:
    """Those in a list such as `0-39, 80-119`."""
    found: set[int] = set()
    for part in re.findall(r"\d+(?:-\d+)?", text):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


if __name__ == "__main__":
    main()
