"""The model card of an export: what the hub shows, from what the run has recorded."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import yaml

from bridgetower_train.config import DataConfig
from bridgetower_train.data.cache import read_url
from bridgetower_train.data.manifest import Manifest
from bridgetower_train.data.roots import is_remote, plain_root
from bridgetower_train.errors import ConfigError, DataError
from bridgetower_train.evaluation.protocol import OVERVIEW, evaluations_in
from bridgetower_train.pages.markdown import table
from bridgetower_train.pages.run_folder import RunFolder, read_run
from bridgetower_train.tasks import task_class
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

USES = {
    "BridgeTowerForContrastiveLearning": "similarity of images and texts",
    "BridgeTowerForImageAndTextRetrieval": "does a text describe an image",
    "BridgeTowerForMaskedLM": "words under `<mask>`, with the image in view",
    "BridgeTowerModel": "features",
}

Manifests = dict[str, Manifest | None]


def model_card(saved: SavedModel, name: str, licence: str | None, carbon_kg: float | None, cost: str | None) -> str:
    """The text of `README.md`; None is shown as unknown. `name`: by which the model is to be loaded."""
    assert saved.run_dir is not None, "only a run is exported"
    config, run = saved.config, read_run(saved.run_dir)
    classes = loadable_classes(config)
    manifests = {corpus: read_manifest(config.data, corpus) for corpus in trained_on(config.data)}
    overview = evaluated(saved, run)
    results = "This checkpoint was not evaluated (`bridgetower eval`).\n"
    if overview:
        figures = table(["", ""], [(k, f"{v:.4f}") for k, v in overview["figures"].items()], left=2)
        corpus = overview.get("corpus", UNKNOWN)
        results = f"On the held-out corpus `{corpus}`, by `bridgetower eval`, this checkpoint.\n\n{figures}"
    missing = ", ".join(f"`{c}`" for c in USES if c not in classes)
    notes = [f"Not trained, and not to be loaded: {missing}."] if missing else []
    return _TEMPLATE.format(
        metadata=yaml.safe_dump(
            _metadata(saved, run.path.name, overview, licence, carbon_kg), sort_keys=False, allow_unicode=True
        ),
        title=run.path.name,
        name=name,
        step=f"{saved.step:,}",
        uses=table(["class", "for"], [(f"`{c}`", USES[c]) for c in classes], left=2),
        cls=classes[0],
        size=config.model.image_size,
        tokens=config.model.max_text_len,
        notes="".join(f"\n{note}\n" for note in [*notes, *task_class(config).exported(config).notes]),
        data=_data(config.data, manifests),
        recipe=table(["", ""], _recipe(saved, manifests), left=2),
        results=results,
        footprint=table(["", ""], _footprint(saved, run, carbon_kg, cost), left=2),
        licence=licence or UNKNOWN,
        more=": see the corpora above." if manifests else ".",
    )


def trained_on(data: DataConfig) -> list[str]:
    """The corpora that training shows."""
    return [corpus for corpus, weight in data.corpora.items() if weight > 0]


def read_manifest(data: DataConfig, corpus: str) -> Manifest | None:
    """A corpus's manifest; None where it cannot be read from here."""
    path = f"{plain_root(data.root)}/{corpus}/manifest.json"
    try:
        if is_remote(path):
            return Manifest.from_json(read_url(path), path)
        with open(path, "rb") as file:
            return Manifest.from_json(file.read(), path)
    except (OSError, DataError, ConfigError):
        return None


def evaluated(saved: SavedModel, run: RunFolder) -> dict[str, Any]:
    """The newest result of `bridgetower eval` on this very checkpoint; empty where there is none."""
    found = [
        entry
        for name, entry in evaluations_in(run.evaluation).items()
        if name.startswith(f"{OVERVIEW} on ") and entry.get("step") == saved.step and entry.get("figures")
    ]
    return found[-1] if found else {}


def _metadata(
    saved: SavedModel, title: str, overview: dict[str, Any], licence: str | None, carbon_kg: float | None
) -> dict[str, Any]:
    data = [HUB_DATASETS[corpus] for corpus in trained_on(saved.config.data) if corpus in HUB_DATASETS]
    results = [
        {"type": "recall" if "R@" in name else "accuracy", "value": round(float(value), 6), "name": name}
        for name, value in overview.get("figures", {}).items()
    ]
    index = {
        "name": title,
        "results": [
            {
                "task": {"type": "image-text-matching", "name": "vision-language pretraining"},
                "dataset": {"type": overview.get("corpus"), "name": overview.get("corpus")},
                "metrics": results,
            }
        ],
    }
    return {
        "language": "en",
        "license": licence or UNKNOWN,
        "library_name": "transformers",
        "tags": ["bridgetower", "vision-language", *(["gaudi"] if "gaudi" in device_name(saved).lower() else [])],
        **({"datasets": data} if data else {}),
        **({"co2_eq_emissions": {"emissions": round(carbon_kg * 1000, 3)}} if carbon_kg is not None else {}),
        **({"model-index": [index]} if results else {}),
    }


def device_name(saved: SavedModel) -> str:
    """The accelerator of the run, as it described itself."""
    return str(saved.state.get("device", UNKNOWN))


def _data(data: DataConfig, manifests: Manifests) -> str:
    rows = []
    for corpus, manifest in manifests.items():
        about = manifest.extra.get("about", {}) if manifest else {}
        title = f"[{about.get('title', corpus)}]({about['homepage']})" if about.get("homepage") else corpus
        counts = [f"{n:,}" for n in (manifest.images, manifest.captions)] if manifest else [UNKNOWN, UNKNOWN]
        rows.append([title, *counts, f"{data.corpora[corpus]:g}", str(about.get("licence", UNKNOWN))])
    known = [manifest for manifest in manifests.values() if manifest]
    if len(known) == len(manifests) > 1:
        rows.append(["together", f"{sum(m.images for m in known):,}", f"{sum(m.captions for m in known):,}", "", ""])
    return table(["corpus", "images", "captions", "passes per epoch", "licence of the data"], rows, left=5)


def _recipe(saved: SavedModel, manifests: Manifests) -> Iterator[tuple[str, str]]:
    config = saved.config
    optim, model = config.optim, config.model
    seen = (saved.step or 0) * config.global_batch
    unit = "captions" if config.data.captions == "all" else "images"
    epoch = sum(getattr(m, unit) * config.data.corpora[c] for c, m in manifests.items() if m)
    epochs = f", {seen / epoch:.2f} epochs" if epoch and None not in manifests.values() else ""
    yield from task_class(config).recipe(config)
    yield "images", f"{model.image_size} x {model.image_size} pixels, centre crop, no other augmentation"
    yield "started from", ", ".join(f"`{k}={v}`" for k, v in config.init.named.items()) or "random weights"
    yield "steps", f"{saved.step:,} of {config.steps}"
    yield "batch", f"{config.global_batch:,} pairs"
    yield "pairs seen", f"{seen:,}{epochs}"
    betas = f"betas {optim.beta1:g} and {optim.beta2:g}"
    yield "optimizer", f"AdamW, {betas}, eps {optim.eps:g}, decay {optim.weight_decay:g}"
    yield "learning rate", f"{optim.lr:g} towers, {optim.lr_fusion:g} fusion encoder, {optim.lr_heads:g} heads"
    yield "schedule", f"{optim.schedule}, warm-up {optim.warmup}"
    yield "gradient clipping", f"{optim.clip_norm:g}" if optim.clip_norm else "none"
    yield "precision", config.device.precision
    yield "seed", str(config.seed)


def _footprint(
    saved: SavedModel, run: RunFolder, carbon_kg: float | None, cost: str | None
) -> Iterator[tuple[str, str]]:
    world_size = int(saved.state.get("world_size", 1))
    seconds = training_seconds(run, saved.step or 0)
    versions = saved.state.get("versions", {})
    yield "hardware", f"{world_size} x {device_name(saved)}, at this checkpoint"
    hours = f"about {seconds * world_size / 3600:.3g} device hours in training steps"
    yield "time", hours if seconds else UNKNOWN
    shown = ("python", "torch", "bridgetower-train")
    yield "software", ", ".join(f"{k} {v}" for k, v in versions.items() if k in shown)
    yield "carbon", UNKNOWN if carbon_kg is None else f"{carbon_kg:g} kg CO2-eq"
    yield "cost", cost or UNKNOWN


def training_seconds(run: RunFolder, step: int) -> float:
    """Seconds that the steps up to `step` took by the metrics; those between two lines count as long as the later one."""
    if "step_s" not in run.metrics:
        return 0.0
    steps, seconds = (np.asarray(values, dtype=np.float64) for values in run.metrics["step_s"])
    kept = steps <= step
    return float((np.diff(steps[kept], prepend=0.0) * seconds[kept]).sum())


_TEMPLATE = """---
{metadata}---

# {title}: BridgeTower after {step} steps

A [BridgeTower](https://arxiv.org/abs/2206.08657) vision-language model: an image tower, a text tower, and a fusion encoder \
bridged to the top layers of both.

## Use

{uses}
```python
from PIL import Image
from transformers import BridgeTowerProcessor, {cls}

processor = BridgeTowerProcessor.from_pretrained("{name}")
model = {cls}.from_pretrained("{name}")
inputs = processor(Image.open("photo.jpg").convert("RGB"), "two dogs in a car", return_tensors="pt")
outputs = model(**inputs)
```

`BridgeTowerProcessor` gives images of {size} x {size} pixels. Its class shrinks images of more than 5:3 until their longer \
edge fits, and pads them with black: crop such images first.

Texts were cut to {tokens} tokens in training.
{notes}
## Training data

Counted in the shards themselves.

{data}
## Training

{recipe}
## Results

{results}
## Hardware, carbon and cost

{footprint}
## Licence

Of these weights: {licence}. The images and captions that they were trained on have licences of their own{more}

## Citation

```bibtex
@inproceedings{{xu2023bridgetower,
  title = {{BridgeTower: Building Bridges Between Encoders in Vision-Language Representation Learning}},
  author = {{Xu, Xiao and Wu, Chenfei and Rosenman, Shachar and Lal, Vasudev and Che, Wanxiang and Duan, Nan}},
  booktitle = {{AAAI}},
  year = {{2023}}
}}
```
"""
