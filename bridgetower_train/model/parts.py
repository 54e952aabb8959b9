"""The parts of the model, by the names of its parameters: for learning rates and for freezing."""

import re
from collections.abc import Sequence
from typing import NamedTuple

_TOWERS = {"bridgetower.vision_model.": "image", "bridgetower.text_model.": "text"}
_BLOCK = re.compile(r"\.(?:resblocks|layer)\.(\d+)\.")
_LOWEST = re.compile(r"\.(?:embeddings|ln_pre)\.")


class Part(NamedTuple):
    """Where a parameter belongs."""

    name: str
    """`image` or `text` for the towers, `fusion`, or `heads` for everything beside the trunk."""
    depth: int | None
    """In a tower: 0 for the embeddings, n for the n-th block from below, None above them. Elsewhere None."""


def part_of(name: str) -> Part:
    """The part of a parameter of `BridgeTower`, by its name."""
    tower = next((part for prefix, part in _TOWERS.items() if name.startswith(prefix)), None)
    if tower is None:
        return Part("fusion" if name.startswith("bridgetower.") else "heads", None)
    block = _BLOCK.search(name)
    if block:
        return Part(tower, int(block[1]) + 1)
    return Part(tower, 0 if _LOWEST.search(name) else None)


_FUSION = re.compile(r"\.cross_modal_(text|image)_(layers|link_tower)\.(\d+)\.")


def layer_of(name: str) -> str:
    """The layer of a parameter, for people: `text.embeddings`, `text.12`, `text.top`, `fusion.text.6`, `fusion`, `itm_score`.

    Blocks are numbered from 1, from below; a fusion layer has the bridge that leads into it.
    """
    part = part_of(name)
    if part.name == "heads":
        return name.partition(".")[0]
    if part.name == "fusion":
        found = _FUSION.search(name)
        return f"fusion.{found[1]}.{int(found[3]) + (1 if found[2] == 'layers' else 2)}" if found else "fusion"
    return f"{part.name}.{'top' if part.depth is None else part.depth or 'embeddings'}"


def is_frozen(name: str, freeze: Sequence[str]) -> bool:
    """Whether `freeze` (`optim.freeze`) contains the part of a parameter."""
    part = part_of(name)
    return part.name in freeze or (part.depth is not None and part.depth <= frozen_blocks(part.name, freeze, -1))


def frozen_blocks(tower: str, freeze: Sequence[str], blocks: int) -> int:
    """How many of the lowest blocks of a tower `freeze` contains, embeddings included: all `blocks` for the whole tower.

    -1 if not even the embeddings.
    """
    if tower in freeze:
        return blocks
    return max((int(entry.partition(":")[2]) for entry in freeze if entry.startswith(f"{tower}:")), default=-1)
