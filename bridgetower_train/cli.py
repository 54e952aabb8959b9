"""`bridgetower <command> [overrides]`: one table, one line per command."""

import atexit
import os
import re
import signal
import sys
import time
from contextlib import suppress
from types import ModuleType
from typing import NamedTuple

from bridgetower_train.display import guard_streams, output_fault, print_line, without_secrets
from bridgetower_train.errors import ConfigError, UserError, nearest, remedy
from bridgetower_train.imports import import_command
from bridgetower_train.jobs import end_with_parent, run_job
from bridgetower_train.launched import check_numbers, is_first, several_ranks
from bridgetower_train.signals import ASKING, Signals


class Command(NamedTuple):
    """A command: a module with `run(config)` and the class of its configuration, both found by its name (see `load`)."""

    summary: str
    base: str | None = None
    """The YAML in `configs` that the configuration starts from."""
    flags: tuple[str, ...] = ()
    """Keys that are true or false and may be given as flags: `--json` for `json=true`, `--first-run` for `first_run=true`."""
    module: str | None = None
    """Its module, where that does not follow from its name."""


MODULES = {
    "": "bridgetower_train.commands.{}",
    "bench": "bridgetower_train.bench.{}",
    "prep": "data_prep.corpora.{}",
}
"""First of two words -> module of the command, by its last word."""

COMMANDS = {
    "train": Command("train a model; the same command resumes", "train"),
    "eval": Command("evaluate a model; `eval NAME` runs one evaluation in full"),
    "export": Command("export a run for transformers and the hub"),
    "predict": Command("score texts for one image (HTML)"),
    "embed": Command("write the embeddings of images or texts, to search among them"),
    "search": Command("search images or texts by a text or an image (HTML, JSON, or a local server)"),
    "ablate": Command("ablate the losses, or show what tiny models learn of the tasks"),
    "report": Command("write a run's report.html"),
    "view": Command("show a training batch (HTML)", "train"),
    "doctor": Command("check that this machine fits a run", "train", ("json", "first_run")),
    "verify": Command("verify published weights"),
    "plan": Command("estimate memory and time", "train"),
    "rehearse": Command("simulate one rank of a large run on one CPU", "train"),
    "bench step": Command("time the training step", "bench_step"),
    "bench memory": Command("compare a step's memory, planned and measured", "bench_step"),
    "bench data": Command("time the loader"),
    "bench prep": Command("time the preparation of a corpus"),
    "bench save": Command("benchmark async checkpointing", "bench_step"),
    "bench ranks": Command("measure DDP overhead", "bench_ranks"),
    "bench embed": Command("time bridgetower embed against the bare forward pass", "bench_step"),
    "bench search": Command("time an exact search"),
    "bench compare": Command("compare two results of a benchmark"),
    "bench watchdog": Command("measure what watching many ranks takes"),
    "prep shapes": Command("draw the shapes corpus", module="data_prep.shapes.corpus"),
    "prep coco": Command("write COCO captions as shards"),
    "prep visual_genome": Command("write Visual Genome as shards"),
    "prep captions": Command("write any captioned images as shards"),
    "prep shards": Command("write tars that others made (img2dataset, webdataset, the hub) as shards"),
    "prep cc3m": Command("fetch Conceptual Captions 3M as shards", module="data_prep.corpora.conceptual"),
    "prep cc12m": Command("fetch Conceptual 12M as shards", module="data_prep.corpora.conceptual"),
    "prep sbu": Command("fetch the SBU captioned photographs as shards"),
    "prep vqav2": Command("write VQAv2's questions and answers as shards", module="data_prep.tasks.vqav2"),
    "prep vgqa": Command("write Visual Genome's questions as shards", module="data_prep.tasks.vgqa"),
    "prep snli_ve": Command("write SNLI-VE's hypotheses as shards", module="data_prep.tasks.snli_ve"),
    "prep nlvr2": Command("write NLVR2's sentences about two images as shards", module="data_prep.tasks.nlvr2"),
    "prep classes": Command(
        "write images, or images with texts, and their classes as shards", module="data_prep.tasks.classes"
    ),
    "prep index": Command("index shards that other tools wrote", module="data_prep.shards.index"),
    "prep lint": Command("read every record of corpora and report the bad ones", module="data_prep.inspect.lint"),
    "prep stats": Command("print and plot statistics of corpora", module="data_prep.inspect.stats"),
    "prep card": Command("write a dataset card", module="data_prep.inspect.card"),
}


_FIRST_SPEAKS = 10.0
"""Seconds that other ranks leave the first to say what is wrong: a launcher ends all where one has ended."""

REMOVED = {
    "bench buckets": "what text buckets save is in benchmarks/2026-11-21-text-buckets.md (at most a tenth of a step); for the "
    "lengths of a corpus's captions in tokens, use bridgetower prep stats root=FOLDER tokenizer=FILE",
    "bench fetch": "what fetching achieves is in benchmarks/2026-11-21-cpu.md",
    "bench scale": "what a corpus of a billion records takes is in docs/scaling.md",
    "bench retrieval": "what ranking takes is in benchmarks/2026-11-21-cpu.md",
}
"""Commands of older versions, and where their answer is now."""

USAGE = """usage: bridgetower <command> [key=value ...]

{commands}

  <command> --help       the keys of a command
  <command> --cfg job    print the composed configuration
  <command> --multirun   one job for each combination of values: seed=0,1,2 optim.lr=1e-4,1e-3"""


def entry() -> int:
    """`main` as a whole process. Returns its exit code; a process that is one of several ranks exits here instead."""
    end_with_parent()
    guard_streams()
    arguments = sys.argv[1:]
    sys.argv[1:] = map(without_secrets, arguments)  # which W&B stores
    try:
        with Signals(_interrupt, (signal.SIGINT,)):
            return _as_a_rank(arguments) if several_ranks() else _guarded(arguments)
    finally:
        for number in ASKING:
            signal.signal(number, signal.SIG_IGN)  # what is repeated would end the interpreter's end, with another code


def _interrupt(number: int) -> None:
    raise KeyboardInterrupt


def _guarded(arguments: list[str]) -> int:
    """`main`, which fails where its output is not complete."""
    code = main(arguments)
    if code == 0 and (fault := output_fault()):
        print_line(f"error: not all output could be written: {fault.strerror}; all else is done", sys.stderr)
        return 1
    return code


def _as_a_rank(arguments: list[str]) -> int:
    code = 1
    try:
        code = _guarded(arguments)
    except SystemExit as error:
        if not isinstance(error.code, int):
            raise
        code = error.code
    except Exception:
        sys.excepthook(*sys.exc_info())
    # Threads of gloo outlive the group, and release the tensors of the last collective late. That takes the GIL: before Python
    # 3.14, a thread that asks for it while the interpreter is finalised is unwound through noexcept C++, which aborts the process
    # ("terminate called without an active exception"). So everything that belongs to an exit is done here, except finalisation.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def main(argv: list[str] | None = None) -> int:
    """Run a command. Exit code 0, 1 for a failure that the message explains, 2 for a wrong configuration."""
    try:
        check_numbers()
        return _main(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        if not is_first():  # every rank has the same configuration
            time.sleep(_FIRST_SPEAKS)
            return 2
        print_line(f"error: {error}", sys.stderr)
        return 2
    except UserError as error:
        print_line(f"error: {error}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        if is_first():
            print_line("stopped by Ctrl-C", sys.stderr)
        return 128 + signal.SIGINT
    except OSError as error:
        todo = remedy(error)
        if todo is None:
            raise
        print_line(f"error: {error}; {todo}", sys.stderr)
        return 1


def _main(argv: list[str]) -> int:
    name, arguments = _split(argv)
    if name is None:
        width = max(map(len, COMMANDS))
        print(USAGE.format(commands="\n".join(f"  {n:{width}}  {c.summary}" for n, c in COMMANDS.items())))
        return 0
    flags = {a for a in arguments if a.startswith("-")}
    overrides = [a for a in arguments if not a.startswith("-") and a != "job"]
    own = {f"--{key.replace('_', '-')}": f"{key}=true" for key in _command(name).flags}
    overrides += [own[flag] for flag in flags & own.keys()]
    unknown = flags - {"--help", "-h", "--cfg", "--multirun", "-m"} - own.keys()
    if unknown:
        there = ", ".join([*own, "--help", "--cfg job"])
        raise ConfigError(f"{min(unknown)}: no such flag; the flags are {there} and --multirun")
    if flags & {"--multirun", "-m"}:
        return _multirun(name, overrides)
    return _run(name, overrides, show_help=bool(flags & {"--help", "-h"}), show_config="--cfg" in flags)


def _split(argv: list[str]) -> tuple[str | None, list[str]]:
    """The command's name (one or two words) and what follows it; None for a request for help."""
    if not argv or argv[0] in ("--help", "-h"):
        return None, []
    if argv[0] == "eval" and "".join(argv[1:2]).isidentifier():
        return " ".join(argv[:2]), argv[2:]
    for words in (2, 1):
        name = " ".join(argv[:words])
        if name in COMMANDS:
            return name, argv[words:]
        if name in REMOVED:
            raise ConfigError(f"{name}: was removed; {REMOVED[name]}")
    given = " ".join(argv[:2]) if any(c.startswith(f"{argv[0]} ") for c in COMMANDS) else argv[0]
    raise ConfigError(f"{given}: no such command{nearest(given, COMMANDS)}; `bridgetower --help` lists them")


def _command(name: str) -> Command:
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


def _run(name: str, overrides: list[str], show_help: bool, show_config: bool) -> int:
    from bridgetower_train import compose

    (module, schema), base = load(name), _command(name).base
    if show_help:
        print(_help(name, schema))
    elif show_config:
        print(compose.composed_yaml(schema, base, overrides), end="")
    else:
        return module.run(compose.compose(schema, base, overrides)) or 0
    return 0


def _help(name: str, schema: type) -> str:
    from bridgetower_train import compose

    lines = [f"usage: bridgetower {name} [key=value ...]", "", _command(name).summary, ""]
    if _command(name).base:
        lines += ["groups", *(f"  {group}={'|'.join(choices)}" for group, choices in compose.groups().items()), ""]
    if name == "eval":
        from bridgetower_train.evaluation import EVALUATIONS

        lines += ["evaluations", *(f"  bridgetower eval {given} --help" for given in EVALUATIONS), ""]
    lines += ["keys"]
    for key, default, text in compose.field_docs(schema):
        lines += [f"  {key}={default}", f"      {text}"]
    return "\n".join(lines)


def _multirun(name: str, overrides: list[str]) -> int:
    """Run each job of a sweep in its own process and its own folder below `run_dir`; the worst exit code."""
    from bridgetower_train import compose

    schema, base = load(name)[1], _command(name).base
    overrides = compose.as_they_stand(schema, overrides)
    jobs = compose.sweep(overrides)
    worst = 0
    for number, job in enumerate(jobs):
        changed = [o for o in job if o not in overrides]
        if changed and base:
            run_dir = compose.compose_node(schema, base, job).run_dir
            folder = re.sub(r"['\"]", "", without_secrets(",".join(changed))).replace("/", "_")
            job = [*job, f"run_dir={run_dir}/{folder}"]
        print_line(f"job {number + 1} of {len(jobs)}: {' '.join(job)}")
        worst = max(worst, run_job(*name.split(), *job))
    return worst
