"""A trained model as a folder that transformers' BridgeTower classes load."""

import filecmp
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from bridgetower_train.data.manifest import as_file
from bridgetower_train.errors import ConfigError, UserError
from bridgetower_train.files import atomic_write, sync
from bridgetower_train.tasks import Task, task_class
from bridgetower_train.weights.hf_files import description_files, tokenizer_files
from bridgetower_train.weights.names import TEXT_TOWER, WORDS, Tensors
from bridgetower_train.weights.saved import SavedModel


def exported_weights(task: type[Task], weights: Tensors) -> Tensors:
    """A checkpoint's weights as the classes expect them.

    The text pooler, which no class reads and all of them have, is zero.
    """
    width, zeros = weights[WORDS].shape[1], weights[WORDS].new_zeros
    pooler = f"{TEXT_TOWER}pooler.dense"
    return task.released({**weights, f"{pooler}.weight": zeros(width, width), f"{pooler}.bias": zeros(width)})


def exported_files(task: type[Task], weights: Tensors) -> dict[str, Tensors]:
    """File -> its tensors: the whole model, or the trunk and its head apart."""
    whole = exported_weights(task, weights)
    if not task.head_file:
        return {"model.safetensors": whole}
    trunk = {name: tensor for name, tensor in whole.items() if name.startswith("bridgetower.")}
    return {
        "model.safetensors": trunk,
        task.head_file: {name: tensor for name, tensor in whole.items() if name not in trunk},
    }


def write_export(saved: SavedModel, weights: Tensors, card: str, calibration: Mapping[str, float], out: Path) -> bool:
    """Write all of `out` or nothing; False where it was there already, byte-identical.

    `card` is its README.md; `calibration` as in `hf_files.model_description`. ConfigError where `out` contains something else.
    """
    config = saved.config
    task = task_class(config)
    contents = {
        **description_files(config, calibration),
        **task.exported(config).files,
        **({task.names_file: as_file(saved.names)} if task.names_file else {}),
        **tokenizer_files(saved.tokenizer, config.model.text_positions, f"tokenizer={config.tokenizer}"),
        "README.md": card,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(8)}.tmp")
    temporary.mkdir()  # with the rights that the umask leaves, unlike mkdtemp's
    try:
        for name, content in contents.items():
            atomic_write(temporary / name, content)
        for name, part in exported_files(task, weights).items():
            tensors = temporary / name
            save_file(part, tensors, metadata={"format": "pt"})
            with suppress(PermissionError):  # of some network file systems, which give no file its own
                tensors.chmod((temporary / "README.md").stat().st_mode)
            sync(tensors)
        sync(temporary)
        if out.exists():
            if not same_files(temporary, out):
                raise ConfigError(f"out={out}: contains something else; remove it, or choose another folder")
            return False
        temporary.rename(out)
        sync(out.parent)
    except SafetensorError as error:
        raise UserError(f"cannot write {out}: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def same_files(a: Path, b: Path) -> bool:
    """Whether two folders have the same files, byte for byte; evaluations of the exports do not count."""
    names, others = (sorted(p.name for p in f.iterdir() if p.name != "eval.json") if f.is_dir() else [] for f in (a, b))
    return names == others and filecmp.cmpfiles(a, b, names, shallow=False)[0] == names
