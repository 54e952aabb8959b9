"""What must be stated with a figure: what the model was trained on, and on what it was measured."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.shards import Corpus, open_corpus
from bridgetower_train.devices import Device
from bridgetower_train.errors import ConfigError, UserError
from bridgetower_train.evaluation.base import OpenModel, Result
from bridgetower_train.evaluation.eval_set import EvalSet, count_cut
from bridgetower_train.files import atomic_write
from bridgetower_train.weights.saved import SavedModel, is_run, read_config

OVERVIEW = "overview"
"""Name in eval.json of what `bridgetower eval` finds: a part of each evaluation."""


def _runs(config: TrainConfig) -> tuple[list[TrainConfig], str | None]:
    """(a run and the runs that it started from, the newest first; the weights that the first started from, if any)."""
    start = config.init.checkpoint
    folder = _run_folder(start)
    if folder is None:
        return [config], start
    before, first = _runs(read_config(folder))
    return [config, *before], first


def _run_folder(checkpoint: str | None) -> Path | None:
    """The run that a checkpoint, given as the run folder or one of its checkpoints, belongs to."""
    folders = [Path(checkpoint), *Path(checkpoint).absolute().parents[:2]] if checkpoint else []
    return next((folder for folder in folders if is_run(folder)), None)


def _saw(config: TrainConfig, title: str) -> bool:
    """Whether a run trained on the data set `title`, by the titles of its corpora or their names."""
    titles = set(config.data.trained)
    for name in config.data.trained:
        with suppress(UserError):  # moved since, or remote: its name must do
            titles.add(open_corpus(config.data.root, name, None, config.data.follow_links).manifest.title)
    return title in titles


def what_it_saw(config: TrainConfig, title: str) -> str:
    """`zero-shot`, `fine-tuned` or what else a figure on the data set `title` is, and all that the model was trained on."""
    runs, start = _runs(config)
    seen = [_saw(run, title) for run in runs]
    if seen[0]:
        kind = "fine-tuned" if len(runs) > 1 or start else "trained on this data set"
    else:
        kind = "seen in pretraining" if any(seen) else "zero-shot"
    history = "; before that on ".join(" + ".join(run.data.trained) for run in runs)
    origin = f"; started from {start}, whose own data is not known here" if start else ""
    return f"{kind}: trained on {history}{origin}"


def describe(saved: SavedModel, device: Device, corpus: Corpus) -> dict[str, Any]:
    """The part of a protocol that all evaluations share."""
    config, manifest = saved.config, corpus.manifest
    return {
        "corpus": corpus.name,
        "data set": manifest.title,
        "splits": ", ".join(manifest.splits) or "not noted in the manifest",
        "model": what_it_saw(config, manifest.title) if saved.run_dir else "not known: exported weights do not tell",
        "checkpoint": saved.name,
        "image size": config.model.image_size,
        "preprocessing": f"shorter edge to {config.model.image_size} px, centre crop",
        "text length": config.model.max_text_len,
        "device": device.name,
    }


def of_sample(model: OpenModel, images: EvalSet, captions: str) -> dict[str, Any]:
    """The part on a sample of images with their first captions; `captions` says which ones each is shown with."""
    return {
        "images": len(images),
        "captions": captions,
        "captions cut": count_cut(model.tokenizer, images.first, model.config.model.max_text_len),
        "left out": ", ".join(f"{key} ({reason})" for key, reason in images.left_out.items()) or 0,
    }


def file_of(saved: SavedModel, out: str | None) -> Path:
    """Where evaluations of a model are kept: `out`, or `eval.json` in its folder; ConfigError where it has none of its own."""
    if out:
        return Path(out)
    if not Path(saved.source).is_dir():
        raise ConfigError(f"out: {saved.source} is not a folder here; name a file for the figures, as out=eval.json")
    return Path(saved.source, "eval.json")


def keep(path: Path, name: str, saved: SavedModel, corpus: str, result: Result) -> None:
    """Keep a result in `path`, as the last, instead of the one with that name and corpus."""
    about = {"evaluation": name, "corpus": corpus, "checkpoint": saved.name, "step": saved.step}
    found = {"protocol": result.protocol, "figures": result.figures, "examples": result.examples}
    key = f"{name} on {corpus}"
    kept = {k: v for k, v in read_evaluations(path).items() if k != key} | {key: about | found}
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps({"evaluations": kept}, indent=1))


def read_evaluations(path: Path) -> dict[str, dict[str, Any]]:
    """`NAME on CORPUS` -> evaluation, as `keep` wrote them; empty where there is no file, or no such content."""
    try:
        return evaluations_in(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


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
