"""`bridgetower eval`: what a model has learned, in short; `bridgetower eval NAME`: one evaluation in full."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from bridgetower_train.data.shards import Corpus
from bridgetower_train.display import print_line
from bridgetower_train.distributed import Ranks, init_ranks, shut_down
from bridgetower_train.errors import ConfigError, nearest
from bridgetower_train.evaluation import EVALUATIONS, Evaluation
from bridgetower_train.evaluation.base import EvalOptions, OpenModel, Result, SampledOptions, corpus_of, open_model
from bridgetower_train.evaluation.eval_set import EvalSet
from bridgetower_train.evaluation.protocol import OVERVIEW, describe, file_of, keep, of_sample
from bridgetower_train.pages.images import small
from bridgetower_train.weights.saved import SavedModel


@dataclass(frozen=True)
class EvalConfig(SampledOptions):
    """`bridgetower eval`: a part of each evaluation that the model has heads for."""


def options_of(name: str) -> type[EvalOptions]:
    """The keys of `bridgetower eval NAME`; ConfigError for an unknown name."""
    if name not in EVALUATIONS:
        raise ConfigError(f"eval {name}: must be one of {', '.join(EVALUATIONS)}{nearest(name, EVALUATIONS)}")
    return EVALUATIONS[name].options


def run(config: EvalOptions) -> int:
    """Evaluate as the class of `config` says, print figures and protocol, and keep both in `eval.json`."""
    model, saved = open_model(config.run_dir, config.step, config.device, config.tokenizer)
    path = file_of(saved, config.out)
    evaluation = next((e for e in EVALUATIONS.values() if type(config) is e.options), None)
    if evaluation and (lacking := evaluation.lacks(saved.config)):
        raise ConfigError(
            f"{saved.named}: cannot be evaluated for {evaluation.title}: it was trained without {', '.join(lacking)}; "
            "give a model that has it"
        )
    if config.corpus and config.corpora:
        raise ConfigError(f"corpora={config.corpora}: and corpus={config.corpus} exclude each other; give one of them")
    named = [replace(config, corpus=name) for name in config.corpora] or [config]
    corpora = [corpus_of(options, saved.config) for options in named]
    described = [describe(saved, model.device, corpus) for corpus in corpora]  # its errors come before the work
    ranks = init_ranks(model.device.backend, saved.config.distributed)
    found: dict[str, Result] = {}
    try:
        for corpus, protocol in zip(corpora, described, strict=True):
            result = (
                evaluation.run(model, corpus, config, ranks) if evaluation else overview(model, corpus, config, ranks)
            )
            if ranks.is_main:
                result = Result(result.figures, protocol | result.protocol, _with_thumbnails(result.examples))
                found[corpus.name] = result
                keep(path, evaluation.title if evaluation else OVERVIEW, saved, corpus.name, result)
        if ranks.is_main:
            _show(evaluation, found, saved)
            if evaluation:
                print()
                print_line(f"{'kept in':16}{path}")
    finally:
        shut_down()
    return 0


def overview(model: OpenModel, corpus: Corpus, config: EvalOptions, ranks: Ranks) -> Result:
    """The brief form of each evaluation that the model has heads for, all on the same sample; in full where there is none."""
    assert isinstance(config, SampledOptions)
    images = EvalSet(corpus, model.config, config.samples, kind=config.kind).load()
    whole = Result({}, of_sample(model, images, "the first of each image"))
    for evaluation in EVALUATIONS.values():
        if evaluation.lacks(model.config):
            continue
        if evaluation.brief:
            found = evaluation.brief(model, images)
        else:
            found = evaluation.run(model, corpus, evaluation.options(run_dir=config.run_dir), ranks)
        whole = Result(whole.figures | found.figures, found.protocol | whole.protocol, whole.examples + found.examples)
    return whole


def _show(evaluation: Evaluation | None, found: dict[str, Result], saved: SavedModel) -> None:
    """Print the results by corpus; those of an `evaluation` in one table."""
    for result in found.values():
        protocol = result.protocol
        if evaluation:
            for part, value in protocol.items():
                print_line(f"{part:16}{f'{value:,}' if isinstance(value, int) else value}")
            print()
            continue
        print_line(f"{protocol['corpus']}: {protocol['images']} images, {saved.name}, {protocol['device']}")
        print_line(f"  {'trained on it':44} {protocol['trained on it']}")
        for name, value in result.figures.items():
            print(f"  {name:44} {value:.3f}")
    if evaluation and len(found) == 1:
        evaluation.show(next(iter(found.values())).figures)
    elif evaluation:
        evaluation.show({f"{name}: {key}": value for name, r in found.items() for key, value in r.figures.items()})


def _with_thumbnails(value: Any) -> Any:
    """The same with small JPEGs, as data URIs, in place of images."""
    if isinstance(value, Tensor):
        return small(value.numpy(), 128)
    if isinstance(value, dict):
        return {key: _with_thumbnails(inner) for key, inner in value.items()}
    return [_with_thumbnails(inner) for inner in value] if isinstance(value, list) else value
