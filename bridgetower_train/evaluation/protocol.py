"""What must be stated with a figure: what the model was trained on, and on what it was measured."""

import json
import os
from pathlib import Path
from typing import Any

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.image import preprocessing
from bridgetower_train.data.roots import read_manifest, root_of_run
from bridgetower_train.data.shards import Corpus
from bridgetower_train.devices import Device
from bridgetower_train.display import listed, print_line
from bridgetower_train.errors import ConfigError, FileError
from bridgetower_train.evaluation.base import OpenModel, Result
from bridgetower_train.evaluation.eval_set import EvalSet, count_cut
from bridgetower_train.files import atomic_write
from bridgetower_train.foreign import read_json
from bridgetower_train.weights.checkpoint import read_state, step_folders
from bridgetower_train.weights.saved import SavedModel, is_run, read_config

OVERVIEW = "overview"
"""Name in eval.json of what `bridgetower eval` finds: a part of each evaluation."""
YES = "yes"
"""How `trained on it` of a protocol begins where training showed the corpus; else it is `no`, or begins with `not known`."""


def _runs(config: TrainConfig, run_dir: Path) -> tuple[list[TrainConfig], list[Path], str | None]:
    """(a run and those that it started from, the newest first; their folders; the weights that the first started from, if any).

    A run that was since trained anew, from one that once started from it, counts once: what its folder had before is not known.
    """
    runs, folders, known = [config], [run_dir], {os.path.realpath(run_dir)}
    while folder := _run_folder(runs[-1].init.checkpoint):
        if os.path.realpath(folder) in known:
            break
        known.add(os.path.realpath(folder))
        runs.append(read_config(folder))
        folders.append(folder)
    return runs, folders, runs[-1].init.checkpoint


def _run_folder(checkpoint: str | None) -> Path | None:
    """The run that a checkpoint, given as the run folder or one of its checkpoints, belongs to."""
    folders = [Path(checkpoint), *Path(checkpoint).absolute().parents[:2]] if checkpoint else []
    return next((folder for folder in folders if is_run(folder)), None)


def _saw(config: TrainConfig, corpus: Corpus) -> bool | None:
    """Whether a run trained on the data set of `corpus`, by the titles of its corpora or their names.

    None where no name says so, and a title is not known: its corpus lies neither where the run had it nor beside `corpus`.
    """
    titles: set[str | None] = set(config.data.trained)
    roots = [root_of_run(config.data.root, None), corpus.folder.removesuffix(f"/{corpus.name}")]
    for name in config.data.trained:
        found = (read_manifest(root, name) for root in roots if root)
        titles.add(next((manifest.title for manifest in found if manifest), None))
    return True if corpus.manifest.title in titles else None if None in titles else False


def what_it_saw(config: TrainConfig, run_dir: Path, corpus: Corpus) -> str:
    """`zero-shot`, `fine-tuned` or what else a figure on `corpus` is, and all that the run was trained on."""
    runs, _, start = _runs(config, run_dir)
    seen = [_saw(run, corpus) for run in runs]
    if seen[0]:
        kind = "fine-tuned" if len(runs) > 1 or start else "trained on this data set"
    elif any(seen):
        kind = "seen in pretraining"
    else:
        kind = "zero-shot, as far as the names of its corpora tell" if None in seen else "zero-shot"
    history = "; before that on ".join(" + ".join(run.data.trained) for run in runs)
    origin = f"; started from {start}, whose own data is not known here" if start else ""
    return f"{kind}: trained on {history}{origin}"


def _trained_on(saved: SavedModel, corpus: Corpus) -> str:
    """Whether training showed this very corpus, by the fingerprints that runs keep of theirs; of older runs, by those of the
    corpora that lie where the run had them or beside `corpus`."""
    if saved.run_dir is None:
        return "not known: exported weights do not tell"
    runs, folders, start = _runs(saved.config, saved.run_dir)
    unknown = [f"the data of {start}"] if start else []
    for run, known in zip(runs, [saved.state, *map(_newest_state, folders[1:])], strict=True):
        for name in run.data.trained:
            recorded = known.get("corpora", {}).get(name) or _fingerprints_of(run, name, corpus)
            if set(recorded) & set(corpus.manifest.fingerprints):
                return f"{YES}, as {name}: these figures show what it learned by heart"
            unknown += [] if recorded else [name]
    return f"not known: {', '.join(unknown)} cannot be compared with it" if unknown else "no"


def _fingerprints_of(config: TrainConfig, name: str, corpus: Corpus) -> list[str]:
    roots = [root_of_run(config.data.root, None), corpus.folder.removesuffix(f"/{corpus.name}")]
    found = (read_manifest(root, name) for root in roots if root)
    return next((manifest.fingerprints for manifest in found if manifest), [])


def _newest_state(folder: Path) -> dict[str, Any]:
    try:
        return read_state(step_folders(folder)[-1])
    except (IndexError, OSError, ValueError):
        return {}


def describe(saved: SavedModel, device: Device, corpus: Corpus) -> dict[str, Any]:
    """The part of a protocol that all evaluations share."""
    config, manifest, run_dir = saved.config, corpus.manifest, saved.run_dir
    return {
        "corpus": corpus.name,
        "data set": manifest.title,
        "splits": ", ".join(manifest.splits) or "not noted in the manifest",
        "model": what_it_saw(config, run_dir, corpus) if run_dir else "not known: exported weights do not tell",
        "trained on it": _trained_on(saved, corpus),
        "checkpoint": saved.name,
        "image size": config.model.image_size,
        "preprocessing": preprocessing(config.model.image_size, config.data.square),
        "text length": config.model.max_text_len,
        "device": device.name,
    }


def of_sample(model: OpenModel, images: EvalSet, captions: str) -> dict[str, Any]:
    """The part on a sample of images with their first captions; `captions` says which ones each is shown with."""
    return {
        "images": len(images),
        "captions": captions,
        "kinds": images.of_kinds,
        "captions cut": count_cut(model.tokenizer, images.first, model.config.model.max_text_len),
        "left out": listed(images.left_out),
    }


def file_of(saved: SavedModel, out: str | None) -> Path:
    """Where evaluations of a model are kept: `out`, or `eval.json` in its folder; ConfigError where it has none of its own."""
    if out:
        return Path(out)
    if not Path(saved.source).is_dir():
        raise ConfigError(f"out: {saved.source} is not a folder here; name a file for the figures, as out=eval.json")
    return Path(saved.source, "eval.json")


def keep(path: Path, name: str, saved: SavedModel, corpus: str, result: Result) -> None:
    """Keep a result in `path`, as the last, instead of the one with that name and corpus. What cannot be read is set aside."""
    about = {"evaluation": name, "corpus": corpus, "checkpoint": saved.name, "step": saved.step}
    found = {"protocol": result.protocol, "figures": result.figures, "examples": result.examples}
    key = f"{name} on {corpus}"
    kept = {k: v for k, v in read_evaluations(path).items() if k != key} | {key: about | found}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and not _is_readable(path):
        print_line(f"warning: {path} is damaged; it is renamed to {path.name}.damaged")
        path.replace(path.with_name(f"{path.name}.damaged"))
    atomic_write(path, json.dumps({"evaluations": kept}, indent=1))


def read_evaluations(path: Path) -> dict[str, dict[str, Any]]:
    """`NAME on CORPUS` -> evaluation, as `keep` wrote them; empty where there is no file, or no such content."""
    try:
        return evaluations_in(read_json(path, dict[str, Any]))
    except (OSError, FileError):
        return {}


def _is_readable(path: Path) -> bool:
    try:
        read_json(path, dict[str, Any])
    except FileError:
        return False
    return True


def evaluations_in(content: Any) -> dict[str, dict[str, Any]]:
    """The same from what a file contains; versions up to 0.1 kept the overview beside the other evaluations, not among them."""
    if not isinstance(content, dict):
        return {}
    kept = content.get("evaluations")
    found = {str(k): v for k, v in kept.items() if isinstance(v, dict)} if isinstance(kept, dict) else {}
    if isinstance(content.get("figures"), dict):
        overview = {key: content[key] for key in ("corpus", "step", "figures", "examples") if key in content}
        found[f"{OVERVIEW} on {content.get('corpus', 'unknown')}"] = {"evaluation": OVERVIEW, "protocol": {}} | overview
    return found
