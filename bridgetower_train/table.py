"""The table of commands: one line per command."""

from types import ModuleType
from typing import NamedTuple

from bridgetower_train.imports import import_command


class Command(NamedTuple):
    """A command: a module with `run(config)` and the class of its configuration, both found by its name (see `load`)."""

    summary: str
    base: str | None = None
    """The YAML in `configs` that the configuration starts from."""
    flags: tuple[str, ...] = ()
    """Keys that are true or false and may be given as flags: `--json` for `json=true`, `--first-run` for `first_run=true`."""
    module: str | None = None
    """Its module, where that does not follow from its name."""
    example: str = ""
    """Keys without a default, with values as one would give them."""


MODULES = {
    "": "bridgetower_train.commands.{}",
    "bench": "bridgetower_train.bench.{}",
    "prep": "data_prep.corpora.{}",
}
"""First of two words -> module of the command, by its last word."""

VERBS = tuple(filter(None, MODULES))
"""First words of commands of two."""

COMMANDS = {
    "train": Command("train a model; the same command resumes", "train"),
    "eval": Command("evaluate a model; `eval NAME` runs one evaluation in full", example="run_dir=runs/demo"),
    "export": Command("export a run for transformers and the hub", example="run_dir=runs/demo out=exported/demo"),
    "predict": Command(
        "score texts for one image (HTML)",
        example="run_dir=runs/demo image=dog.jpg \"texts=['a dog', 'a <mask> on the grass']\"",
    ),
    "embed": Command(
        "write the embeddings of images or texts, to search among them",
        example="run_dir=runs/demo images=photos out=photos.parquet",
    ),
    "search": Command(
        "search images or texts by a text or an image (HTML, JSON, or a local server)",
        example="index=photos.parquet text='a dog'",
    ),
    "ablate": Command("ablate the losses, or show what tiny models learn of the tasks"),
    "report": Command("write a run's report.html", example="run_dir=runs/demo"),
    "view": Command("show a training batch (HTML)", "train"),
    "doctor": Command("check that this machine fits a run", "train", ("json", "first_run")),
    "verify": Command("verify published weights", example="out=verified"),
    "plan": Command("estimate memory and time", "train"),
    "rehearse": Command("simulate one rank of a large run on one CPU", "train"),
    "bench step": Command("time the training step", "bench_step"),
    "bench memory": Command("compare a step's memory, planned and measured", "bench_step"),
    "bench attention": Command("time torch's attention kernels at the shapes of a step"),
    "bench kernels": Command("count what a compiled step launches and moves, without running it", "bench_step"),
    "bench data": Command("time the loader"),
    "bench prep": Command("time the preparation of a corpus"),
    "bench save": Command("benchmark async checkpointing", "bench_step"),
    "bench ranks": Command("measure DDP overhead", "bench_ranks"),
    "bench embed": Command("time bridgetower embed against the bare forward pass", "bench_step"),
    "bench search": Command("time an exact search"),
    "bench compare": Command("compare two results of a benchmark", example="base=before.json new=after.json"),
    "bench watchdog": Command("measure what watching many ranks takes"),
    "prep shapes": Command("draw the shapes corpus", module="data_prep.shapes.corpus", example="out=data"),
    "prep coco": Command(
        "write COCO captions as shards", example="images=train2017 annotations=captions_train2017.json out=data"
    ),
    "prep visual_genome": Command(
        "write Visual Genome as shards",
        example="images=vg regions=region_descriptions.json image_data=image_data.json out=data",
    ),
    "prep captions": Command("write any captioned images as shards", example="source=captions.csv out=data name=mine"),
    "prep shards": Command(
        "write tars that others made (img2dataset, webdataset, the hub) as shards",
        example="source=tars out=data name=mine",
    ),
    "prep cc3m": Command(
        "fetch Conceptual Captions 3M as shards",
        module="data_prep.corpora.conceptual",
        example="annotations=Train_GCC-training.tsv out=data fetch.contact=https://example.org/crawl",
    ),
    "prep cc12m": Command(
        "fetch Conceptual 12M as shards",
        module="data_prep.corpora.conceptual",
        example="annotations=cc12m.tsv out=data fetch.contact=https://example.org/crawl",
    ),
    "prep sbu": Command(
        "fetch the SBU captioned photographs as shards",
        example="annotations=sbu-captions-all.json out=data fetch.contact=https://example.org/crawl",
    ),
    "prep vqav2": Command(
        "write VQAv2's questions and answers as shards",
        module="data_prep.tasks.vqav2",
        example="images=train2014 questions=questions.json annotations=annotations.json out=data",
    ),
    "prep vgqa": Command(
        "write Visual Genome's questions as shards",
        module="data_prep.tasks.vgqa",
        example="images=vg questions=question_answers.json answers=data/vqav2_train/answers.json out=data",
    ),
    "prep snli_ve": Command(
        "write SNLI-VE's hypotheses as shards",
        module="data_prep.tasks.snli_ve",
        example="images=flickr30k-images annotations=snli_ve_train.jsonl out=data",
    ),
    "prep nlvr2": Command(
        "write NLVR2's sentences about two images as shards",
        module="data_prep.tasks.nlvr2",
        example="images=images/train annotations=train.json out=data",
    ),
    "prep classes": Command(
        "write images, or images with texts, and their classes as shards",
        module="data_prep.tasks.classes",
        example="source=photographs out=data name=mine",
    ),
    "prep index": Command(
        "index shards that other tools wrote", module="data_prep.shards.index", example="root=data/mine"
    ),
    "prep lint": Command(
        "read every record of corpora and report the bad ones", module="data_prep.inspect.lint", example="root=data"
    ),
    "prep stats": Command(
        "print and plot statistics of corpora", module="data_prep.inspect.stats", example="root=data"
    ),
    "prep card": Command("write a dataset card", module="data_prep.inspect.card", example="root=data"),
}

REMOVED = {
    "bench buckets": "what text buckets save is in benchmarks/2026-11-21-text-buckets.md (at most a tenth of a step); for the "
    "lengths of a corpus's captions in tokens, use bridgetower prep stats root=FOLDER tokenizer=FILE",
    "bench fetch": "what fetching achieves is in benchmarks/2026-11-21-cpu.md",
    "bench scale": "what a corpus of a billion records takes is in docs/scaling.md",
    "bench retrieval": "what ranking takes is in benchmarks/2026-11-21-cpu.md",
}
"""Commands of older versions, and where their answer is now."""


def command_of(name: str) -> Command:
    """The command of that name; `eval NAME` is a form of `eval`."""
    return COMMANDS["eval" if name.startswith("eval ") else name]


def load(name: str) -> tuple[ModuleType, type]:
    """Import a command: (its module, the class of its configuration), as `bench.step` and `BenchStepConfig`, or `CocoConfig`."""
    verb, _, noun = name.rpartition(" ")
    if verb == "eval":
        module = import_command("bridgetower_train.commands.eval")
        return module, module.options_of(noun)
    module = import_command(COMMANDS[name].module or MODULES[verb].format(noun))
    words = (noun if verb == "prep" else name).replace("_", " ").split()
    return module, getattr(module, "".join(map(str.capitalize, words)) + "Config")
