"""`bridgetower eval`: what a run has learned, measured on images that it never saw."""

import base64
import io
import json
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from bridgetower_train.evaluation.heldout import HeldOut, load_held_out
from bridgetower_train.evaluation.masked_lm import probe_accuracy, probe_words
from bridgetower_train.evaluation.matching import matching_accuracy
from bridgetower_train.evaluation.predictor import Predictor
from bridgetower_train.evaluation.protocol import read_evaluation
from bridgetower_train.evaluation.retrieval import recall, similarities
from bridgetower_train.evaluation.trained import load_run
from bridgetower_train.files import atomic_write


@dataclass(frozen=True)
class EvalConfig:
    """`bridgetower eval`."""

    run_dir: str = "???"
    """Folder of the run; its newest whole checkpoint is evaluated."""
    corpus: str | None = None
    """Corpus folder below the run's `data.root`; null: its `data.validation`."""
    samples: int = 1024
    """Images to take, evenly spread over the corpus."""
    device: str = "auto"
    """As `device.name` of a run."""


def run(config: EvalConfig) -> int:
    """Print the figures, and write them with retrieval examples to `eval.json` in the run folder."""
    trained = load_run(config.run_dir, config.device)
    corpus = trained.open_corpus(config.corpus)
    held_out = load_held_out(corpus, config.samples, trained.config.model.image_size)
    words = corpus.manifest.extra.get("probe_words", [])

    print(f"{corpus.name}: {len(held_out)} images, {trained.checkpoint.name}, {trained.device.name}")
    figures, examples = evaluate(trained.predictor, held_out, words)
    for name, value in figures.items():
        print(f"  {name:44} {value:.3f}")
    found = {"step": trained.state["step"], "corpus": corpus.name, "figures": figures, "examples": examples}
    atomic_write(trained.folder / "eval.json", json.dumps(read_evaluation(trained.folder) | found, indent=1))
    return 0


def evaluate(
    predictor: Predictor, held_out: HeldOut, words: list[str]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """(figures by name, retrieval examples for the report) of whatever the model was trained for."""
    objective = predictor.task.objective
    figures: dict[str, float] = {}
    examples: list[dict[str, Any]] = []
    if objective.itm:
        figures["image-text matching accuracy"] = matching_accuracy(predictor, held_out)
    if objective.mlm and words:
        probes = probe_words(predictor.text, held_out, words, predictor.model.config.max_text_len)
        figures["masked word accuracy"] = probe_accuracy(predictor, held_out, probes)
        figures["masked word accuracy, image blanked"] = probe_accuracy(predictor, held_out, probes, blank=True)
    if objective.itc:
        similarity = similarities(predictor, held_out)
        among = min(128, len(held_out))
        image_to_text, text_to_image = recall(similarity)
        figures[f"image to text R@1 among {among}"] = image_to_text
        figures[f"text to image R@1 among {among}"] = text_to_image
        examples = retrieval_examples(similarity[:among, :among], held_out)
    return figures, examples


def retrieval_examples(similarity: Tensor, held_out: HeldOut, count: int = 6, shown: int = 3) -> list[dict[str, Any]]:
    """The best answers to the first images and the first texts."""
    examples: list[dict[str, Any]] = []
    for query in range(min(count, len(similarity))):
        for kind, scores in (("image", similarity[query]), ("text", similarity[:, query])):
            best = scores.topk(min(shown, len(scores))).indices.tolist()
            own = {"image": _thumbnail(held_out.pixels[query]), "text": held_out.captions[query][0]}
            results = [
                {
                    **(
                        {"text": held_out.captions[i][0]}
                        if kind == "image"
                        else {"image": _thumbnail(held_out.pixels[i])}
                    ),
                    "score": float(scores[i]),
                    "right": i == query,
                }
                for i in best
            ]
            examples.append({"query_kind": kind, kind: own[kind], "results": results})
    return examples


def _thumbnail(pixels_3SS: Tensor, edge: int = 128) -> str:
    """A data URI of a small JPEG."""
    image = Image.fromarray(pixels_3SS.permute(1, 2, 0).contiguous().numpy())
    image.thumbnail((edge, edge))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
