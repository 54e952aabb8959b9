"""What a run starts from instead of random weights: published towers, or a whole checkpoint."""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from bridgetower_train.config import InitConfig
from bridgetower_train.data.text import (
    LONGEST_FILE,
    CaptionTokenizer,
    parse_tokenizer,
    read_tokenizer,
    tokenizer_file,
    vocabulary,
)
from bridgetower_train.distributed import Ranks
from bridgetower_train.engines.base import OPTIMIZER
from bridgetower_train.errors import ConfigError, DataError, FileError
from bridgetower_train.foreign import read_bytes, read_json
from bridgetower_train.tasks import Task, known_heads
from bridgetower_train.weights import hub, names
from bridgetower_train.weights.checkpoint import read_state
from bridgetower_train.weights.fit import check_description, check_wrapper, fit
from bridgetower_train.weights.names import Tensors
from bridgetower_train.weights.read import read_tensors
from bridgetower_train.weights.saved import locate

_READERS = {
    "init.vision": (names.image_tower, names.IMAGE_TOWER),
    "init.text": (names.text_tower, names.TEXT_TOWER),
    "init.checkpoint": (names.whole_model, ""),
}


class Inherited(NamedTuple):
    """The optimizer's state of another run, from which this one continues."""

    folder: Path
    """The checkpoint of that run."""
    fresh: frozenset[str]
    """Parameters of heads that it did not have."""
    step: float
    """Updates that went into it."""


class Start(NamedTuple):
    """Where the weights of a new run are from."""

    lines: list[str]
    """To be printed."""
    optimizer: Inherited | None = None
    """With `init.optimizer`."""


def open_tokenizer(given: str, ranks: Ranks) -> CaptionTokenizer:
    """The tokenizer of a run: a file or folder on every host, else a name on the hub.

    Then only rank 0 downloads it, and sends it to the others. ConfigError, DataError or FileError if there is none or it cannot
    be used.
    """
    if not any(ranks.gather_objects(hub.is_name(given))):
        return CaptionTokenizer.load(given)
    path = ranks.on_main(lambda: tokenizer_file(hub.tokenizer(given)))
    data = ranks.bytes_on_main(lambda: read_bytes(path, LONGEST_FILE))
    return CaptionTokenizer(parse_tokenizer(data, str(path)), str(path))


def start_weights(task: Task, config: InitConfig, tokenizer: CaptionTokenizer, ranks: Ranks) -> Start:
    """Load the initial weights that `config` names into the model of `task`, on the host.

    Only rank 0 reads (and downloads, if a name on the hub is given), and broadcasts the weights. ConfigError on every rank
    if something does not fit or cannot be read.
    """
    if not config.named:
        return Start(
            ["random: all weights, by the seed; nothing is named in init.vision, init.text or init.checkpoint"]
        )
    start = ranks.on_main(lambda: _fill(task, config, tokenizer))
    ranks.broadcast(task.model.parameters())
    return start


def _fill(task: Task, config: InitConfig, tokenizer: CaptionTokenizer) -> Start:
    model = task.model
    state = model.state_dict()
    lines, random, left_out, optimizer = [], set(state), set[str](), None
    for key, given in config.named.items():
        named = f"{key}={given}"
        rename, prefix = _READERS[key]
        source = locate(given, named).absolute()  # so that a local folder is not taken for a name on the hub
        check_description(source / "config.json", key, model.config, named)
        if key != "init.vision":
            _check_vocabulary(source, tokenizer, named)
        found = read_tensors(source, named)
        wanted = {name: t for name, t in state.items() if name.startswith(prefix)}
        check_wrapper(found, rename, wanted, named)
        tensors = rename(found)
        if key == "init.checkpoint":
            tensors, wanted, left_out = _same_heads(task.adapt(tensors), wanted)
        fitted, note = fit(tensors, wanted, named, task.heads(task.config))
        with torch.no_grad():
            for name, tensor in fitted.items():
                state[name].copy_(tensor)
        random -= fitted.keys()
        parameters = sum(t.numel() for t in fitted.values()) / 1e6
        lines.append(f"{named}: {len(fitted)} tensors, {parameters:.2f} M parameters, from {source}{note}")
        if config.optimizer:
            optimizer = _inherited(task, source, frozenset(random), named)
            lines.append(f"init.optimizer=true: the optimizer's state after {optimizer.step:,.0f} updates")
    if left_out:
        lines.append(f"ignored, since no loss of this run uses them: {', '.join(sorted(left_out))}")
    return Start([*lines, f"random: {', '.join(sorted(set(map(_part, random)))) or 'nothing'}"], optimizer)


def _inherited(task: Task, source: Path, fresh: frozenset[str], named: str) -> Inherited:
    """The optimizer's state beside the weights at `source`; ConfigError where it is not one of the same trained parameters."""
    if not (source / OPTIMIZER).is_file():
        raise ConfigError(
            f"init.optimizer=true: {named} has no optimizer's state; name a run of this project, or one of its checkpoints"
        )
    trained = {name: p.shape for name, p in task.model.named_parameters() if p.requires_grad and name not in fresh}
    if not trained:
        raise ConfigError(f"init.optimizer=true: this run trains nothing that {named} has trained; remove it")
    try:
        with safe_open(source / OPTIMIZER, framework="pt") as file:
            there = set(file.keys())
            for name, shape in trained.items():
                if f"{name}.exp_avg" not in there:
                    raise ConfigError(
                        f"init.optimizer=true: {named} did not train {name}, this run does; change optim.freeze and objective "
                        "to those of that run, or leave init.optimizer out"
                    )
                found = file.get_slice(f"{name}.exp_avg").get_shape()
                if found != list(shape):
                    raise ConfigError(
                        f"init.optimizer=true: {name} is {found} in {named}, {list(shape)} here; change the model back, or leave "
                        "init.optimizer out"
                    )
            step = float(file.get_tensor(f"{next(iter(trained))}.step"))
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(f"init.optimizer=true: {source / OPTIMIZER} cannot be read: {error}") from None
    return Inherited(source, fresh, step)


def _same_heads(tensors: Tensors, wanted: Tensors) -> tuple[Tensors, Tensors, set[str]]:
    """(`tensors`, `wanted`) without the heads that only one of them has, and the names of those only in `tensors`.

    A head is a module or parameter beside the trunk; a checkpoint has all of a head's tensors or none.
    """
    theirs, ours = ({name.split(".")[0] for name in side} & known_heads() for side in (tensors, wanted))
    left_out, lacking = theirs - ours, ours - theirs
    kept = {name: t for name, t in tensors.items() if name.split(".")[0] not in left_out}
    return kept, {name: t for name, t in wanted.items() if name.split(".")[0] not in lacking}, left_out


def _check_vocabulary(source: Path, tokenizer: CaptionTokenizer, named: str) -> None:
    """ConfigError if the files beside the weights belong to a different tokenizer than the run's."""
    ours = tokenizer.tokenizer.get_vocab()
    try:
        if (source / "state.json").is_file():
            if read_state(source)["identity"].get("tokenizer") != tokenizer.digest:
                raise ConfigError(f"{named}: was trained with another tokenizer; set tokenizer to that run's")
            return
        if (source / "tokenizer.json").is_file():
            theirs = vocabulary(read_tokenizer(source / "tokenizer.json"), str(source / "tokenizer.json"))
        elif (source / "vocab.json").is_file():
            theirs = read_json(source / "vocab.json", dict[str, int])
        else:
            return
    except (FileError, DataError, OSError) as error:
        raise ConfigError(f"{named}: {error}") from None
    differ = sorted(token for token in theirs if ours.get(token) != theirs[token])
    if differ:
        raise ConfigError(
            f"{named}: its tokenizer has another vocabulary: {len(differ)} of its {len(theirs)} tokens, such as {differ[0]!r}, "
            f"have another id here or none (the run's tokenizer has {len(ours)}); set tokenizer to the one beside the weights"
        )


def _part(name: str) -> str:
    """The part of the model that a parameter belongs to."""
    if name.startswith(names.IMAGE_TOWER):
        return "image tower"
    if name.startswith(names.TEXT_TOWER):
        return "text tower"
    return "fusion encoder" if name.startswith("bridgetower.") else name.split(".")[0]
