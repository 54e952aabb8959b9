"""What must be said with a figure: what the model had seen, and on what it was measured."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.shards import Corpus, open_corpus
from bridgetower_train.errors import UserError
from bridgetower_train.evaluation.captioned import count_cut
from bridgetower_train.evaluation.heldout import HeldOut
from bridgetower_train.evaluation.trained import TrainedRun, read_config
from bridgetower_train.files import atomic_write


@dataclass(frozen=True)
class TrainingStage:
    """One training run on the way to the weights."""

    corpora: list[str]
    titles: set[str]
    """Of their data sets, as far as their manifests can be read."""

    def saw(self, title: str) -> bool:
        """Whether it trained on that data set."""
        return title in self.titles


def stages(config: TrainConfig) -> tuple[list[TrainingStage], str | None]:
    """(the run and the runs that it started from, the newest first; the weights that the first started from, if any)."""
    found = [_stage(config)]
    start = config.init.checkpoint
    folder = _run_folder(start)
    if folder is None:
        return found, start
    before, first = stages(read_config(str(folder)))
    return found + before, first


def _stage(config: TrainConfig) -> TrainingStage:
    corpora = [name for name, weight in config.data.corpora.items() if weight]
    titles = set(corpora)
    for name in corpora:
        try:
            titles.add(open_corpus(config.data.root, name).manifest.title)
        except UserError:  # moved since, or remote: its name must do
            continue
    return TrainingStage(corpora, titles)


def _run_folder(checkpoint: str | None) -> Path | None:
    """The run that a checkpoint, given as the run folder or one of its checkpoints, is of."""
    folders = [Path(checkpoint), *Path(checkpoint).absolute().parents[:2]] if checkpoint else []
    return next((folder for folder in folders if (folder / "config.yaml").is_file()), None)


def what_it_saw(config: TrainConfig, title: str) -> str:
    """`zero-shot`, `fine-tuned` or what else a figure on the data set `title` is, and all that the model was trained on."""
    runs, start = stages(config)
    seen = [stage.saw(title) for stage in runs]
    if seen[0]:
        kind = "fine-tuned" if len(runs) > 1 or start else "trained on this data set"
    else:
        kind = "seen in pretraining" if any(seen) else "zero-shot"
    history = "; before that on ".join(" + ".join(stage.corpora) for stage in runs)
    origin = f"; started from {start}, whose own data is not known here" if start else ""
    return f"{kind}: trained on {history}{origin}"


def describe(run: TrainedRun, corpus: Corpus) -> dict[str, Any]:
    """The part of a protocol that all evaluations share."""
    return {
        "corpus": corpus.name,
        "data set": corpus.manifest.title,
        "splits": ", ".join(corpus.manifest.splits) or "not noted in the manifest",
        "model": what_it_saw(run.config, corpus.manifest.title),
        "checkpoint": run.checkpoint.name,
        "image size": run.config.model.image_size,
        "text length": run.config.model.max_text_len,
        "device": run.device.name,
    }


def describe_held_out(run: TrainedRun, corpus: Corpus, held_out: HeldOut, captions: str) -> dict[str, Any]:
    """The same where each image comes with its first caption; `captions` says which ones it is shown with."""
    first, length = [texts[0] for texts in held_out.captions], run.config.model.max_text_len
    return describe(run, corpus) | {
        "images": len(held_out),
        "captions": captions,
        "captions cut": count_cut(run.predictor.text, first, length),
        "left out": ", ".join(held_out.left_out) or 0,
    }


def announce(protocol: dict[str, Any]) -> None:
    """Print a protocol, a line for each part."""
    for name, value in protocol.items():
        print(f"{name:16}{f'{value:,}' if isinstance(value, int) else value}")


def show(figures: dict[str, float]) -> None:
    """Print figures, a line for each."""
    print()
    for name, value in figures.items():
        print(f"{name:32}{f'{value:,.0f}' if value == int(value) and value > 1 else f'{value:.4f}'}")
    print()


def keep(run_dir: Path, name: str, protocol: dict[str, Any], figures: dict[str, Any]) -> None:
    """Keep figures with their protocol in the run's `eval.json`, in place of those of that name."""
    path = run_dir / "eval.json"
    content = read_evaluation(run_dir)
    content["evaluations"] = content.get("evaluations", {}) | {name: {"protocol": protocol, "figures": figures}}
    atomic_write(path, json.dumps(content, indent=1))
    print(f"{'kept in':16}{path}")


def read_evaluation(run_dir: Path) -> dict[str, Any]:
    """What `eval.json` holds; empty where there is none, or none that can be read."""
    try:
        content = json.loads((run_dir / "eval.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
