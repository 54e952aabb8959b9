"""A trained model as a folder that transformers' BridgeTower classes load."""

import filecmp
import shutil
import tempfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from bridgetower_train.errors import ConfigError, UserError
from bridgetower_train.files import atomic_write, sync
from bridgetower_train.tasks import Task, task_class
from bridgetower_train.weights.hf_files import description_files, tokenizer_files
from bridgetower_train.weights.names import TEXT_TOWER, Tensors
from bridgetower_train.weights.trained import Trained


def exported_weights(task: type[Task], weights: Tensors) -> Tensors:
    """A checkpoint's weights as the classes expect them.

    The text pooler, which no class reads and all of them have, is zero.
    """
    words = weights[f"{TEXT_TOWER}embeddings.word_embeddings.weight"]
    width = words.shape[1]
    pooler = {"weight": words.new_zeros(width, width), "bias": words.new_zeros(width)}
    exported = {**weights, **{f"{TEXT_TOWER}pooler.dense.{kind}": tensor for kind, tensor in pooler.items()}}
    return task.released(exported)


def write_export(trained: Trained, card: str, out: Path) -> bool:
    """Write `out` whole or not at all; False where it was there already, the same in every byte.

    ConfigError where `out` holds something else.
    """
    config = trained.config
    contents = {
        **description_files(config),
        **task_class(config).exported(config).files,
        **tokenizer_files(trained.text, config.model.text_positions, f"tokenizer={config.tokenizer}"),
        "README.md": card,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        temporary.chmod(0o755)  # mkdtemp's own would lock others out
        for name, content in contents.items():
            atomic_write(temporary / name, content)
        weights = temporary / "model.safetensors"
        save_file(exported_weights(task_class(config), trained.weights), weights, metadata={"format": "pt"})
        weights.chmod((temporary / "README.md").stat().st_mode)
        sync(weights)
        sync(temporary)
        if out.exists():
            if not same_files(temporary, out):
                raise ConfigError(f"out={out}: holds something else; remove it, or choose another folder")
            return False
        temporary.rename(out)
        sync(out.parent)
    except SafetensorError as error:
        raise UserError(f"cannot write {out}: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def same_files(a: Path, b: Path) -> bool:
    """Whether two folders hold the same files, byte for byte."""
    names = sorted(path.name for path in a.iterdir())
    if not b.is_dir() or sorted(path.name for path in b.iterdir()) != names:
        return False
    return filecmp.cmpfiles(a, b, names, shallow=False)[0] == names
