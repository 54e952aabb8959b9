"""The model card of an export, from what the run has recorded; its text is in model_card.md."""

import json
import re
from importlib.resources import files
from pathlib import PurePath
from typing import Any

import yaml

from bridgetower_train.config import DataConfig
from bridgetower_train.data.augment import in_training
from bridgetower_train.data.manifest import Manifest
from bridgetower_train.data.roots import read_manifest
from bridgetower_train.errors import FileError
from bridgetower_train.evaluation.protocol import OVERVIEW, YES, evaluations_in
from bridgetower_train.pages.markdown import Markdown, code, fill, link, table
from bridgetower_train.pages.numbers import figure, is_number
from bridgetower_train.pages.run_folder import Json, changes, read_run
from bridgetower_train.tasks import Task, task_class
from bridgetower_train.weights import hub
from bridgetower_train.weights.hf_files import loadable_classes
from bridgetower_train.weights.saved import SavedModel

HUB_DATASETS = {
    "cc3m": "conceptual_captions",
    "cc12m": "conceptual_12m",
    "sbu": "sbu_captions",
    "vg": "visual_genome",
    "coco": "mscoco_captions",
}
"""Corpus folder -> its name in the metadata of the published cards."""

UNKNOWN = "unknown"

_PROCESSOR = {
    "crop": "`BridgeTowerProcessor` gives the centre of an image, {0} pixels. Its class shrinks images of more than 5:3 until "
    "their longer edge fits, and pads them with black: crop such images first.",
    "squash": "`BridgeTowerProcessor` resizes the whole image to {0} pixels, whatever its proportions. Its class refuses images "
    "of about 2:1 and more: resize those to {0} pixels first, by `Image.resize` with `Image.Resampling.BICUBIC`.",
}
"""By `data.square`."""

USES = {
    "BridgeTowerForContrastiveLearning": "similarity of images and texts",
    "BridgeTowerForImageAndTextRetrieval": "does a text describe an image",
    "BridgeTowerForMaskedLM": Markdown("words under `<mask>`, with the image in view"),
    "BridgeTowerModel": "features",
}

_OF_TRAINING = ("steps", "optim.", "device.precision", "engine.reduce_precision", "micro_batch")
"""Keys that change what is learned, and may change at a resume."""

Manifests = dict[str, Manifest | None]
"""Of the corpora that training shows; None where one cannot be read from here."""


def model_card(
    saved: SavedModel, name: str, root: str | None, licence: str | None, carbon_kg: float | None, cost: str | None
) -> str:
    """The text of `README.md`; None is shown as unknown.

    `name`: by which the model is to be loaded. `root`: the folder or URL of the run's corpora.
    """
    assert saved.run_dir is not None, "only a run is exported"
    config, state, run = saved.config, saved.state, read_run(saved.run_dir)
    task, classes = task_class(config), loadable_classes(config)
    manifests = {corpus: read_manifest(root, corpus) if root else None for corpus in config.data.trained}
    entries = evaluations_in(run.evaluation).items()
    this = [_flat(e) for _, e in entries if e.get("step") == saved.step]
    this.sort(key=lambda e: e.get("evaluation") == OVERVIEW)
    overview: dict[str, Any] = next((e for e in reversed(this) if e["figures"]), {})
    if not all(map(is_number, overview.get("figures", {}).values())):
        raise FileError(
            f"{run.path}/eval.json: a figure of its overview is no number; restore the file, or evaluate again"
        )
    unusable = ", ".join(code(c) for c in USES if c not in classes)
    notes = [f"Not trained, and not to be loaded: {unusable}."] if unusable else []
    devices, device, seconds = (
        int(state.get("world_size", 1)),
        str(state.get("device", UNKNOWN)),
        run.seconds(saved.step),
    )
    versions = {k: v for k, v in state.get("versions", {}).items() if k in ("python", "torch", "bridgetower-train")}
    return fill(
        (files(__package__) / "model_card.md").read_text("utf-8"),
        metadata=_metadata(run.path.name, task, list(manifests), overview, licence or UNKNOWN, device, carbon_kg),
        title=run.path.name,
        name=Markdown(json.dumps(name)),
        saved=saved,
        config=config,
        uses=table(["class", "for"], [(code(c), USES[c]) for c in classes], left=2),
        cls=classes[0],
        notes=Markdown("".join(f"\n{note}\n" for note in [*notes, *task.exported(config).notes])),
        data=_data(config.data, manifests),
        processor=Markdown(
            _PROCESSOR[config.data.square].format(f"{config.model.image_size} x {config.model.image_size}")
        ),
        images=in_training(config),
        losses=table(["", ""], task.recipe(config), left=2),
        start=Markdown(", ".join(code(f"{k}={_named(v)}") for k, v in config.init.named.items()) or "random weights"),
        changed=_changed(run.starts),
        seen=_seen(saved, manifests),
        clipping=f"{config.optim.clip_norm:g}" if config.optim.clip_norm else "none",
        results=_results(overview),
        devices=devices,
        device=device,
        time=f"about {seconds * devices / 3600:.3g} device hours in training steps" if seconds else UNKNOWN,
        software=", ".join(f"{k} {v}" for k, v in versions.items()),
        carbon=UNKNOWN if carbon_kg is None else f"{carbon_kg:g} kg CO2-eq",
        cost=cost or UNKNOWN,
        licence=licence or UNKNOWN,
        more=": see the corpora above." if manifests else ".",
    )


def _flat(evaluation: Json) -> Json:
    """An evaluation with those figures that are not in groups; the overview has none."""
    figures = evaluation.get("figures")
    grouped = dict if evaluation.get("evaluation") != OVERVIEW else ()
    flat = {k: v for k, v in figures.items() if not isinstance(v, grouped)} if isinstance(figures, dict) else {}
    return {**evaluation, "figures": flat}


def _changed(starts: list[Json]) -> str:
    """What resumes changed of the training."""
    if not starts:
        return "not recorded"
    return (
        "; ".join(
            f"from step {figure(start.get('step'))} on {', '.join(found)}"
            for start in starts
            if (
                found := [f"{k} {now} instead of {was}" for k, was, now in changes(start) if k.startswith(_OF_TRAINING)]
            )
        )
        or "nothing"
    )


def _named(weights: str) -> str:
    """A name on the hub as it is; of a path its last component, since the others tell of their owner."""
    return weights if re.fullmatch(hub.NAME, weights) else PurePath(weights).name


def _metadata(
    title: str,
    task: type[Task],
    corpora: list[str],
    overview: dict[str, Any],
    licence: str,
    device: str,
    carbon_kg: float | None,
) -> Markdown:
    """The head of the card, in YAML."""
    data = [HUB_DATASETS[corpus] for corpus in corpora if corpus in HUB_DATASETS]
    corpus = f"{overview.get('corpus')}{' (trained on)' * _trained_on(overview).startswith(YES)}"
    results = {
        "task": {"type": task.hub_task, "name": f"vision-language {task.title}"},
        "dataset": {"type": overview.get("corpus"), "name": corpus},
        "metrics": [
            {"type": "recall" if "R@" in name else "accuracy", "value": round(float(value), 6), "name": name}
            for name, value in overview.get("figures", {}).items()
        ],
    }
    head = {
        "language": "en",
        "license": licence,
        "library_name": "transformers",
        "tags": ["bridgetower", "vision-language", *(["gaudi"] if "gaudi" in device.lower() else [])],
        **({"datasets": data} if data else {}),
        **({"co2_eq_emissions": {"emissions": round(carbon_kg * 1000, 3)}} if carbon_kg is not None else {}),
        **({"model-index": [{"name": title, "results": [results]}]} if overview else {}),
    }
    return Markdown(yaml.safe_dump(head, sort_keys=False, allow_unicode=True))


def _results(overview: dict[str, Any]) -> Markdown:
    if not overview:
        return Markdown("This checkpoint was not evaluated (`bridgetower eval`).\n")
    figures = table(["", ""], [(k, f"{v:.4f}") for k, v in overview["figures"].items()], left=2)
    corpus, trained = code(overview.get("corpus", UNKNOWN)), _trained_on(overview)
    about = {
        YES: "which it was trained on: these figures show what it learned by heart",
        "no": "which training did not show",
    }
    known = about.get(trained.partition(",")[0], "of which it is not known whether training showed it")
    return Markdown(f"On the corpus {corpus}, {known}; by `bridgetower eval`, this checkpoint.\n\n{figures}")


def _trained_on(overview: dict[str, Any]) -> str:
    protocol = overview.get("protocol")
    return str(protocol.get("trained on it", "")) if isinstance(protocol, dict) else ""


def _data(data: DataConfig, manifests: Manifests) -> Markdown:
    rows: list[list[str]] = []
    for corpus, manifest in manifests.items():
        noted = manifest.extra.get("about") if manifest else None
        about = noted if isinstance(noted, dict) else {}
        title = link(about.get("title", corpus), str(about["homepage"])) if about.get("homepage") else corpus
        counts = [f"{n:,}" for n in (manifest.images, manifest.captions)] if manifest else [UNKNOWN, UNKNOWN]
        rows.append([title, *counts, f"{data.corpora[corpus]:g}", str(about.get("licence", UNKNOWN))])
    known = [manifest for manifest in manifests.values() if manifest]
    if len(known) == len(manifests) > 1:
        rows.append(["together", f"{sum(m.images for m in known):,}", f"{sum(m.captions for m in known):,}", "", ""])
    return table(["corpus", "images", "captions", "passes per epoch", "licence of the data"], rows, left=5)


def _seen(saved: SavedModel, manifests: Manifests) -> str:
    """Pairs, and epochs where all corpora are known."""
    data, seen = saved.config.data, (saved.step or 0) * saved.config.global_batch
    unit = "captions" if data.per_epoch == "all" else "images"
    epoch = sum(getattr(m, unit) * data.corpora[c] for c, m in manifests.items() if m)
    return f"{seen:,}" + (f", {seen / epoch:.2f} epochs" if epoch and None not in manifests.values() else "")
