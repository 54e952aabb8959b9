"""`bridgetower <command> [overrides]`: one table, one line a command."""

import atexit
import errno
import importlib
import os
import subprocess
import sys
from contextlib import suppress
from typing import NamedTuple

from bridgetower_train.errors import ConfigError, UserError, nearest


class Command(NamedTuple):
    """A command: the module with its `run(config)`, the class of its configuration, and the YAML that it starts from."""

    module: str
    config: str
    base: str | None
    summary: str
    flags: tuple[str, ...] = ()
    """Keys that are true or false and may be given as flags: `--json` for `json=true`."""


COMMANDS = {
    "train": Command(
        "bridgetower_train.commands.train", "TrainConfig", "train", "train a model; the same command resumes"
    ),
    "eval": Command("bridgetower_train.commands.eval", "EvalConfig", None, "evaluate a run on its held-out corpus"),
    "export": Command(
        "bridgetower_train.commands.export",
        "ExportConfig",
        None,
        "write a run as a folder for transformers and the hub",
    ),
    "eval retrieval": Command(
        "bridgetower_train.commands.eval_retrieval", "EvalRetrievalConfig", None, "retrieval as it is published"
    ),
    "eval masked_lm": Command(
        "bridgetower_train.commands.eval_masked_lm", "EvalMaskedLMConfig", None, "masked words with and without image"
    ),
    "eval matching": Command(
        "bridgetower_train.commands.eval_matching", "EvalMatchingConfig", None, "matching: accuracy, AUC, calibration"
    ),
    "predict": Command(
        "bridgetower_train.commands.predict", "PredictConfig", None, "one image and some texts, as a page"
    ),
    "ablate": Command(
        "bridgetower_train.commands.ablate", "AblateConfig", None, "what each loss buys, as docs/results.md"
    ),
    "report": Command("bridgetower_train.commands.report", "ReportConfig", None, "write a run's report.html"),
    "view": Command("bridgetower_train.commands.view", "ViewConfig", "train", "write a page of a training batch"),
    "doctor": Command(
        "bridgetower_train.commands.doctor", "DoctorConfig", "train", "check that this machine fits a run", ("json",)
    ),
    "plan": Command("bridgetower_train.commands.plan", "PlanConfig", "train", "what a run takes on other hardware"),
    "rehearse": Command(
        "bridgetower_train.commands.rehearse", "RehearseConfig", "train", "play one rank of a large run on one CPU"
    ),
    "bench step": Command(
        "bridgetower_train.bench.step", "BenchStepConfig", "bench_step", "time the joint training step"
    ),
    "bench memory": Command(
        "bridgetower_train.bench.memory",
        "BenchMemoryConfig",
        "bench_step",
        "a step's memory, planned and measured",
    ),
    "bench data": Command("bridgetower_train.bench.data", "BenchDataConfig", None, "time the loader"),
    "bench prep": Command("bridgetower_train.bench.prep", "BenchPrepConfig", None, "time the preparation"),
    "bench fetch": Command(
        "bridgetower_train.bench.fetch", "BenchFetchConfig", None, "time fetching from a hostile server"
    ),
    "bench scale": Command(
        "bridgetower_train.bench.scale",
        "BenchScaleConfig",
        None,
        "open and walk a corpus of a billion records",
    ),
    "bench retrieval": Command(
        "bridgetower_train.bench.retrieval", "BenchRetrievalConfig", "bench_retrieval", "time retrieval"
    ),
    "bench save": Command(
        "bridgetower_train.bench.save", "BenchSaveConfig", "bench_step", "time checkpoints beside training"
    ),
    "bench ranks": Command(
        "bridgetower_train.bench.ranks",
        "BenchRanksConfig",
        "bench_ranks",
        "what engine and loop cost by ranks",
    ),
    "bench buckets": Command(
        "bridgetower_train.bench.buckets",
        "BenchBucketsConfig",
        "bench_buckets",
        "what text buckets would save on a corpus",
    ),
    "prep shapes": Command("data_prep.shapes.corpus", "ShapesConfig", None, "draw the shapes corpus"),
    "prep coco": Command("data_prep.corpora.coco", "CocoConfig", None, "write COCO captions as shards"),
    "prep visual_genome": Command(
        "data_prep.corpora.visual_genome", "VisualGenomeConfig", None, "write Visual Genome as shards"
    ),
    "prep captions": Command(
        "data_prep.corpora.captions", "CaptionsConfig", None, "write any captioned images as shards"
    ),
    "prep cc3m": Command("data_prep.corpora.conceptual", "Cc3mConfig", None, "fetch Conceptual Captions 3M as shards"),
    "prep cc12m": Command("data_prep.corpora.conceptual", "Cc12mConfig", None, "fetch Conceptual 12M as shards"),
    "prep sbu": Command("data_prep.corpora.sbu", "SbuConfig", None, "fetch the SBU captioned photographs as shards"),
    "prep index": Command("data_prep.shards.index", "IndexConfig", None, "index shards that other tools wrote"),
    "prep lint": Command(
        "data_prep.inspect.lint", "LintConfig", None, "read every record of corpora and report the bad ones"
    ),
    "prep stats": Command("data_prep.inspect.stats", "StatsConfig", None, "print and draw what corpora hold"),
    "prep card": Command("data_prep.inspect.card", "CardConfig", None, "write a dataset card of corpora"),
}

USAGE = """usage: bridgetower <command> [key=value ...]

{commands}

  <command> --help       the keys of a command
  <command> --cfg job    print the composed configuration
  <command> --multirun   one job for each combination of values: seed=0,1,2 optim.lr=1e-4,1e-3"""


def entry() -> int:
    """`main` as the whole of a process. Returns its exit code, except where the process is one of several ranks: it ends here."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return main()
    code = 1
    try:
        code = main()
    except SystemExit as error:
        if not isinstance(error.code, int):
            raise
        code = error.code
    except Exception:
        sys.excepthook(*sys.exc_info())
    # Threads of gloo live on, and let go of the tensors of the last collective when they come to it. That takes the GIL: before
    # Python 3.14, a thread that asks for it while the interpreter is finalised is unwound through noexcept C++, which aborts the
    # process ("terminate called without an active exception"). So all is done that comes at an exit, but for the finalisation.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def main(argv: list[str] | None = None) -> int:
    """Run a command. Exit code 0, 1 for a failure that its message explains, 2 for a wrong configuration."""
    try:
        return _main(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        if os.environ.get("RANK", "0") == "0":  # every rank has the same configuration
            print(f"error: {error}", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `bridgetower ... | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        print(f"error: {error}; make room, or choose another folder", file=sys.stderr)
        return 1


def _main(argv: list[str]) -> int:
    name, arguments = _split(argv)
    if name is None:
        width = max(map(len, COMMANDS))
        print(USAGE.format(commands="\n".join(f"  {n:{width}}  {c.summary}" for n, c in COMMANDS.items())))
        return 0
    flags = {a for a in arguments if a.startswith("-")}
    overrides = [a for a in arguments if not a.startswith("-") and a != "job"]
    own = {f"--{key}": f"{key}=true" for key in COMMANDS[name].flags}
    overrides += [own[flag] for flag in flags & own.keys()]
    unknown = flags - {"--help", "-h", "--cfg", "--multirun", "-m"} - own.keys()
    if unknown:
        there = ", ".join([*own, "--help", "--cfg job"])
        raise ConfigError(f"{min(unknown)}: no such flag; there are {there} and --multirun")
    if flags & {"--multirun", "-m"}:
        return _multirun(name, overrides)
    return _run(name, overrides, show_help=bool(flags & {"--help", "-h"}), show_config="--cfg" in flags)


def _split(argv: list[str]) -> tuple[str | None, list[str]]:
    """The command's name (of one or two words) and what follows it; None where help was asked for."""
    if not argv or argv[0] in ("--help", "-h"):
        return None, []
    for words in (2, 1):
        name = " ".join(argv[:words])
        if name in COMMANDS:
            return name, argv[words:]
    given = " ".join(argv[:2]) if any(c.startswith(f"{argv[0]} ") for c in COMMANDS) else argv[0]
    raise ConfigError(f"{given}: no such command{nearest(given, COMMANDS)}; `bridgetower --help` lists them")


def _run(name: str, overrides: list[str], show_help: bool, show_config: bool) -> int:
    from bridgetower_train import compose

    command = COMMANDS[name]
    module = importlib.import_module(command.module)
    schema = getattr(module, command.config)
    if show_help:
        print(_help(name, schema))
    elif show_config:
        print(compose.composed_yaml(schema, command.base, overrides), end="")
    else:
        return module.run(compose.compose(schema, command.base, overrides)) or 0
    return 0


def _help(name: str, schema: type) -> str:
    from bridgetower_train import compose

    lines = [f"usage: bridgetower {name} [key=value ...]", "", COMMANDS[name].summary, ""]
    if COMMANDS[name].base:
        lines += ["groups", *(f"  {group}={'|'.join(choices)}" for group, choices in compose.groups().items()), ""]
    lines += ["keys"]
    for key, default, text in compose.field_docs(schema):
        lines += [f"  {key}={default}", f"      {text}"]
    return "\n".join(lines)


def _multirun(name: str, overrides: list[str]) -> int:
    """Run each job of a sweep in a process of its own, each in its own folder below `run_dir`; the worst exit code."""
    from bridgetower_train import compose

    jobs = compose.sweep(overrides)
    worst = 0
    for number, job in enumerate(jobs):
        changed = [o for o in job if o not in overrides]
        if changed and COMMANDS[name].base:
            command = COMMANDS[name]
            schema = getattr(importlib.import_module(command.module), command.config)
            run_dir = compose.compose_node(schema, command.base, job).run_dir
            job = [*job, f"run_dir='{run_dir}/{','.join(changed)}'"]
        print(f"job {number + 1} of {len(jobs)}: {' '.join(job)}", flush=True)
        worst = max(worst, subprocess.run([sys.executable, "-m", "bridgetower_train", *name.split(), *job]).returncode)
    return worst
