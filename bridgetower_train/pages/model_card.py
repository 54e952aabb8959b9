"""The model card of an export: what the hub shows, from what the run knows of itself."""

from typing import Any

import numpy as np
import yaml

from bridgetower_train.config import DataConfig
from bridgetower_train.data.cache import read_url
from bridgetower_train.data.manifest import Manifest
from bridgetower_train.data.roots import is_remote
from bridgetower_train.errors import ConfigError, DataError
from bridgetower_train.pages.run_folder import RunFolder, read_run
from bridgetower_train.tasks import task_class
from bridgetower_train.weights.hf_files import loadable_classes
from bridgetower_train.weights.trained import Trained

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


def model_card(trained: Trained, name: str, licence: str | None, carbon_kg: float | None, cost: str | None) -> str:
    """The text of `README.md`; what is None is said to be unknown. `name`: by which the model is to be loaded."""
    manifests = {corpus: read_manifest(trained.config.data, corpus) for corpus in trained_on(trained.config.data)}
    run = read_run(trained.run_dir)
    sections = [
        _metadata(trained, run, licence, carbon_kg),
        f"# {trained.run_dir.resolve().name}: BridgeTower after {trained.step:,} steps",
        "A [BridgeTower](https://arxiv.org/abs/2206.08657) vision-language model: an image tower, a text tower, and a fusion "
        "encoder bridged to the top layers of both.",
        _usage(trained, name),
        _data(trained.config.data, manifests),
        _recipe(trained, manifests),
        _results(trained, run),
        _footprint(trained, run, carbon_kg, cost),
        f"## Licence\n\nOf these weights: {licence or UNKNOWN}. The images and captions that they were trained on have "
        "licences of their own" + ("." if not manifests else ": see the corpora above."),
        _CITATION,
    ]
    return "\n\n".join(sections) + "\n"


def trained_on(data: DataConfig) -> list[str]:
    """The corpora that training shows."""
    return [corpus for corpus, weight in data.corpora.items() if weight > 0]


def read_manifest(data: DataConfig, corpus: str) -> Manifest | None:
    """A corpus's manifest; None where it cannot be read from here."""
    root = data.root.removeprefix("file://").rstrip("/")
    path = f"{root}/{corpus}/manifest.json"
    try:
        if is_remote(root):
            return Manifest.from_json(read_url(path), path)
        with open(path, "rb") as file:
            return Manifest.from_json(file.read(), path)
    except (OSError, DataError, ConfigError):
        return None


def evaluated(trained: Trained, run: RunFolder) -> dict[str, float]:
    """The figures of `bridgetower eval`, where it has seen this very checkpoint."""
    figures = run.evaluation.get("figures") if run.evaluation.get("step") == trained.step else None
    return {str(k): float(v) for k, v in figures.items()} if isinstance(figures, dict) else {}


def _metadata(trained: Trained, run: RunFolder, licence: str | None, carbon_kg: float | None) -> str:
    data = [HUB_DATASETS[corpus] for corpus in trained_on(trained.config.data) if corpus in HUB_DATASETS]
    figures = evaluated(trained, run)
    results = [
        {"type": "recall" if "R@" in name else "accuracy", "value": round(value, 6), "name": name}
        for name, value in figures.items()
    ]
    corpus = str(run.evaluation.get("corpus"))
    index = {
        "name": trained.run_dir.resolve().name,
        "results": [
            {
                "task": {"type": "image-text-matching", "name": "vision-language pretraining"},
                "dataset": {"type": corpus, "name": corpus},
                "metrics": results,
            }
        ],
    }
    header: dict[str, Any] = {
        "language": "en",
        "license": licence or UNKNOWN,
        "library_name": "transformers",
        "tags": ["bridgetower", "vision-language", *(["gaudi"] if "gaudi" in device_name(trained).lower() else [])],
        **({"datasets": data} if data else {}),
        **({"co2_eq_emissions": {"emissions": round(carbon_kg * 1000, 3)}} if carbon_kg is not None else {}),
        **({"model-index": [index]} if results else {}),
    }
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---"


def device_name(trained: Trained) -> str:
    """The accelerator of the run, as it described itself."""
    return str(trained.state.get("device", UNKNOWN))


def _usage(trained: Trained, name: str) -> str:
    classes = loadable_classes(trained.config)
    size = trained.config.model.image_size
    rows = [[f"`{c}`", USES[c]] for c in classes]
    missing = [c for c in USES if c not in classes]
    notes = [
        f"`BridgeTowerProcessor` gives images of {size} x {size} pixels. Its class shrinks images of more than 5:3 until "
        "their longer edge fits, and pads them with black: crop such images first.",
        f"Texts were cut to {trained.config.model.max_text_len} tokens in training.",
    ]
    if missing:
        notes.append(f"Not trained, and not to be loaded: {', '.join(f'`{c}`' for c in missing)}.")
    notes += task_class(trained.config).exported(trained.config).notes
    example = (
        "```python\nfrom PIL import Image\nfrom transformers import BridgeTowerProcessor, "
        f'{classes[0]}\n\nprocessor = BridgeTowerProcessor.from_pretrained("{name}")\n'
        f'model = {classes[0]}.from_pretrained("{name}")\n'
        'inputs = processor(Image.open("photo.jpg").convert("RGB"), "two dogs in a car", return_tensors="pt")\n'
        "outputs = model(**inputs)\n```"
    )
    return "\n\n".join(["## Use", _table(["class", "for"], rows), example, *notes])


def _data(data: DataConfig, manifests: dict[str, Manifest | None]) -> str:
    rows = []
    for corpus, manifest in manifests.items():
        about = manifest.extra.get("about", {}) if manifest else {}
        title = f"[{about.get('title', corpus)}]({about['homepage']})" if about.get("homepage") else corpus
        counts = [f"{n:,}" for n in (manifest.images, manifest.captions)] if manifest else [UNKNOWN, UNKNOWN]
        rows.append([title, *counts, f"{data.corpora[corpus]:g}", str(about.get("licence", UNKNOWN))])
    known = [manifest for manifest in manifests.values() if manifest]
    if len(known) == len(manifests) > 1:
        rows.append(["together", f"{sum(m.images for m in known):,}", f"{sum(m.captions for m in known):,}", "", ""])
    return "## Training data\n\nCounted in the shards themselves.\n\n" + _table(
        ["corpus", "images", "captions", "passes per epoch", "licence of the data"], rows
    )


def _recipe(trained: Trained, manifests: dict[str, Manifest | None]) -> str:
    config, seen = trained.config, trained.step * trained.config.global_batch
    optim, model = config.optim, config.model
    unit = "captions" if config.data.captions == "all" else "images"
    epoch = sum(getattr(m, unit) * config.data.corpora[c] for c, m in manifests.items() if m)
    rows = [
        *map(list, task_class(config).recipe(config)),
        ["images", f"{model.image_size} x {model.image_size} pixels, centre crop, no other augmentation"],
        ["started from", ", ".join(f"`{k}={v}`" for k, v in config.init.named.items()) or "random weights"],
        ["steps", f"{trained.step:,} of {config.steps}"],
        ["batch", f"{config.global_batch:,} pairs"],
        [
            "pairs seen",
            f"{seen:,}" + (f", {seen / epoch:.2f} epochs" if epoch and None not in manifests.values() else ""),
        ],
        [
            "optimizer",
            f"AdamW, betas {optim.beta1:g} and {optim.beta2:g}, eps {optim.eps:g}, decay {optim.weight_decay:g}",
        ],
        ["learning rate", f"{optim.lr:g} towers, {optim.lr_fusion:g} fusion encoder, {optim.lr_heads:g} heads"],
        ["schedule", f"{optim.schedule}, warm-up {optim.warmup}"],
        ["gradient clipping", f"{optim.clip_norm:g}" if optim.clip_norm else "none"],
        ["precision", config.device.precision],
        ["seed", str(config.seed)],
    ]
    return "## Training\n\n" + _table(["", ""], rows)


def _results(trained: Trained, run: RunFolder) -> str:
    figures = evaluated(trained, run)
    if not figures:
        return "## Results\n\nThis checkpoint was not evaluated (`bridgetower eval`)."
    rows = [[name, f"{value:.4f}"] for name, value in figures.items()]
    corpus = run.evaluation.get("corpus", UNKNOWN)
    return f"## Results\n\nOn the held-out corpus `{corpus}`, by `bridgetower eval`, this checkpoint.\n\n" + _table(
        ["", ""], rows
    )


def _footprint(trained: Trained, run: RunFolder, carbon_kg: float | None, cost: str | None) -> str:
    world_size = int(trained.state.get("world_size", 1))
    seconds = training_seconds(run, trained.step)
    hours = f"about {seconds * world_size / 3600:.3g} device hours in training steps" if seconds else UNKNOWN
    versions = trained.state.get("versions", {})
    rows = [
        ["hardware", f"{world_size} x {device_name(trained)}, at this checkpoint"],
        ["time", hours],
        [
            "software",
            ", ".join(f"{k} {v}" for k, v in versions.items() if k in ("python", "torch", "bridgetower-train")),
        ],
        ["carbon", UNKNOWN if carbon_kg is None else f"{carbon_kg:g} kg CO2-eq"],
        ["cost", cost or UNKNOWN],
    ]
    return "## Hardware, carbon and cost\n\n" + _table(["", ""], rows)


def training_seconds(run: RunFolder, step: int) -> float:
    """Seconds that the steps up to `step` took by the metrics, what stands between two lines being as long as its end."""
    if "step_s" not in run.metrics:
        return 0.0
    steps, seconds = (np.asarray(values, dtype=np.float64) for values in run.metrics["step_s"])
    kept = steps <= step
    return float((np.diff(steps[kept], prepend=0.0) * seconds[kept]).sum())


def _table(header: list[str], rows: list[list[str]]) -> str:
    cells = [header, ["---"] * len(header), *([c.replace("|", "\\|").replace("\n", " ") for c in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


_CITATION = """## Citation

```bibtex
@inproceedings{xu2023bridgetower,
  title = {BridgeTower: Building Bridges Between Encoders in Vision-Language Representation Learning},
  author = {Xu, Xiao and Wu, Chenfei and Rosenman, Shachar and Lal, Vasudev and Che, Wanxiang and Duan, Nan},
  booktitle = {AAAI},
  year = {2023}
}
```"""
