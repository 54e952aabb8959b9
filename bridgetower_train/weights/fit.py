"""Do these tensors, and the `config.json` beside them, fit that model? What does not is named."""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bridgetower_train.config import HEAD_WIDTH, ModelConfig
from bridgetower_train.errors import ConfigError, FileError
from bridgetower_train.foreign import read_json
from bridgetower_train.model.heads import Head
from bridgetower_train.weights.names import IMAGE_TOWER, POSITIONS, TEXT_TOWER, WORDS, Tensors

_TABLES = {
    "model.width": (f"{IMAGE_TOWER}ln_post.weight", 0),
    "model.patch_size": (f"{IMAGE_TOWER}embeddings.patch_embedding.weight", -1),
    "model.vocab_size": (WORDS, 0),
    "model.text_positions": (f"{TEXT_TOWER}embeddings.position_embeddings.weight", 0),
}
_LAYERS = {
    "model.vision_layers": f"{IMAGE_TOWER}transformer.resblocks.",
    "model.text_layers": f"{TEXT_TOWER}encoder.layer.",
    "model.fusion_layers": "bridgetower.cross_modal_text_layers.",
}


def fit(given: Tensors, wanted: Tensors, named: str, heads: Sequence[Head] = ()) -> tuple[Tensors, str]:
    """(`given` in the shapes of `wanted`, a note on what was interpolated).

    The image tower's position table is interpolated bicubically to the wanted grid. Otherwise names and shapes must match:
    ConfigError beginning with `named`, the key and its value, lists every name that is missing, unknown or of another shape.
    """
    fitted, note = dict(given), ""
    if POSITIONS in given and POSITIONS in wanted and given[POSITIONS].dim() == 2 and len(given[POSITIONS]):
        before, after = (math.isqrt(len(t) - 1) for t in (given[POSITIONS], wanted[POSITIONS]))
        if before != after and len(given[POSITIONS]) == before**2 + 1:
            fitted[POSITIONS] = interpolate_positions(given[POSITIONS], after)
            note = f"; positions interpolated (bicubic) from {before} x {before} to {after} x {after}"
    wrong = [
        f"{key} is {there} in the file and {here} in this run"
        for key, there in sizes(given, heads).items()
        if (here := sizes(wanted, heads).get(key, there)) != there
    ]
    shapes = {
        f"{name} {tuple(fitted[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in fitted.keys() & wanted.keys()
        if fitted[name].shape != wanted[name].shape
    }
    missing, unknown = wanted.keys() - fitted.keys(), fitted.keys() - wanted.keys()
    faults = {"missing": missing, "unknown": unknown, "of another shape": shapes}
    wrong += [f"{kind}: {listed(names)}" for kind, names in faults.items() if names]
    if wrong:
        raise ConfigError(f"{named}: does not fit the model: {'; '.join(wrong)}")
    return fitted, note


def check_wrapper(given: Tensors, rename: Callable[[Tensors], Tensors], wanted: Tensors, named: str) -> None:
    """ConfigError where all names have the prefix of a wrapper, without which `rename` would give some of those of `wanted`."""
    if wanted.keys() & rename(given).keys():
        return
    words = next(iter(given), "").split(".")
    for prefix in (".".join(words[:count]) + "." for count in range(1, len(words))):
        inner = {name.removeprefix(prefix): t for name, t in given.items() if name.startswith(prefix)}
        if len(inner) == len(given) and wanted.keys() & rename(inner).keys():
            raise ConfigError(
                f"{named}: all its names begin with {prefix!r}, as those of a wrapper do; save them without it"
            )


def interpolate_positions(table: Tensor, grid: int) -> Tensor:
    """Interpolate a position table (1 + n * n, D), of class token and n x n patches, bicubically to grid x grid patches."""
    cls, patches = table[:1].float(), table[1:].float()
    edge = math.isqrt(len(patches))
    image = patches.reshape(1, edge, edge, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(image, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([cls, resized[0].permute(1, 2, 0).reshape(grid * grid, -1)])


def sizes(tensors: Tensors, heads: Sequence[Head] = ()) -> dict[str, int]:
    """Configuration key -> its value, as far as it follows from the shapes and names of `tensors`."""
    tables = _TABLES | {head.size_key: (f"{head.name}.{head.last}.weight", 0) for head in heads if head.size_key}
    shapes = {name: tensor.shape for name, tensor in tensors.items() if tensor.dim()}
    found = {key: shapes[name][axis] for key, (name, axis) in tables.items() if name in shapes}
    if "model.width" not in found and WORDS in shapes:
        found["model.width"] = shapes[WORDS][-1]
    for key, prefix in _LAYERS.items():
        layers = {name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)}
        if layers:
            found[key] = len(layers)
    return found


def check_description(file: Path, key: str, model: ModelConfig, named: str) -> None:
    """ConfigError where a `config.json` beside the weights describes what this model does not do, or cannot be read."""
    if not file.is_file():
        return
    whole = read_description(file, named)
    described = {
        "init.vision": [whole.get("vision_config", whole)],
        "init.text": [whole],
        "init.checkpoint": [whole, whole.get("text_config", {}), whole.get("vision_config", {})],
    }[key]
    expected = {
        "hidden_act": "quick_gelu" if key == "init.vision" else "gelu",
        "layer_norm_eps": model.layer_norm_eps,
        "position_embedding_type": "absolute",
        "link_tower_type": "add",
        "share_cross_modal_transformer_layers": True,
        "share_link_tower_layers": False,
        "share_layernorm": True,
        "remove_last_layer": False,
    }
    for part in described:
        if not isinstance(part, dict):
            raise ConfigError(f"{named}: {file}: its text_config or vision_config is no object; restore the file")
        wrong = [f"{k} is {part[k]!r:.80}, here {v!r}" for k, v in expected.items() if part.get(k, v) != v]
        heads, width = part.get("num_attention_heads"), part.get("hidden_size")
        if isinstance(heads, int) and heads and isinstance(width, int) and width and heads * HEAD_WIDTH != width:
            wrong.append(f"its {heads} attention heads are {width / heads:g} wide, here {HEAD_WIDTH}")
        if wrong:
            raise ConfigError(f"{named}: has a different architecture by its config.json: {'; '.join(wrong)}")


def read_description(file: Path, named: str) -> dict[str, Any]:
    """A `config.json`; ConfigError beginning with `named`, the key and its value, where it is not a JSON object."""
    try:
        return read_json(file, dict[str, Any])
    except (OSError, FileError) as error:
        raise ConfigError(f"{named}: {error}") from None


def listed(names: Iterable[str]) -> str:
    """All `names`; those that differ only in a layer's number are combined: `layer.{0-11}.output.dense.weight`."""
    patterns: dict[str, list[int]] = {}
    for name in names:
        layer = r"(?<=\.)\d+(?=\.)"
        numbers = patterns.setdefault(re.sub(layer, "*", name, count=1), [])
        numbers += map(int, re.findall(layer, name)[:1])
    return ", ".join(pattern.replace("*", _ranges(numbers)) for pattern, numbers in sorted(patterns.items()))


def _ranges(numbers: list[int]) -> str:
    runs = []
    for _, group in itertools.groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        runs.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return f"{{{','.join(runs)}}}" if len(numbers) > 1 else "".join(runs)
