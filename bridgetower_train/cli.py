"""`bridgetower <command> [overrides]`: from the arguments to the command and its configuration, to an exit code."""

import atexit
import os
import platform
import re
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from bridgetower_train import __version__
from bridgetower_train.display import guard_streams, output_fault, print_line, without_secrets
from bridgetower_train.errors import ConfigError, UserError, nearest, remedy
from bridgetower_train.imports import OURS
from bridgetower_train.jobs import end_with_parent, run_job
from bridgetower_train.launched import check_numbers, is_first
from bridgetower_train.signals import ASKING, Signals
from bridgetower_train.table import COMMANDS, REMOVED, VERBS, Command, command_of, load
from bridgetower_train.usage import of_command, overview

__all__ = ["COMMANDS", "REMOVED", "Command", "entry", "load", "main", "process"]

_FIRST_SPEAKS = 10.0
"""Seconds that other ranks leave the first to say what is wrong: a launcher ends all where one has ended."""


def entry() -> NoReturn:
    """`main` as a whole process, which exits here.

    Threads in C++ outlive what they worked for: gloo's release the tensors of the last collective late, for one. That takes the
    GIL: before Python 3.14, a thread that asks for it while the interpreter is finalised is unwound through noexcept C++, which
    aborts the process ("terminate called without an active exception"). So everything that belongs to an exit is done here,
    except finalisation.
    """
    code = process()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def process() -> int:
    """`main` with all that belongs to a process but its exit. Returns the exit code."""
    end_with_parent()
    guard_streams()
    arguments = sys.argv[1:]
    sys.argv[1:] = map(without_secrets, arguments)  # which W&B stores
    try:
        with Signals(_interrupt, (signal.SIGINT,)):
            return _code_of(arguments)
    finally:
        for number in ASKING:
            signal.signal(number, signal.SIG_IGN)  # what is repeated would end the process's end, with another code


def _interrupt(number: int) -> None:
    raise KeyboardInterrupt


def _guarded(arguments: list[str]) -> int:
    """`main`, which fails where its output is not complete."""
    code = main(arguments)
    if code == 0 and (fault := output_fault()):
        print_line(f"error: not all output could be written: {fault.strerror}; all else is done", sys.stderr)
        return 1
    return code


def _code_of(arguments: list[str]) -> int:
    try:
        return _guarded(arguments)
    except SystemExit as error:
        if isinstance(error.code, int):
            return error.code
        raise
    except Exception:
        sys.excepthook(*sys.exc_info())
        return 1


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
    except ImportError as error:
        package = (error.name or __package__).partition(".")[0]
        if package in OURS:
            raise
        print_line(
            f"error: {error}: {package} is missing or damaged; `bridgetower doctor` says what to install", sys.stderr
        )
        return 1
    except OSError as error:
        todo = remedy(error)
        if todo is None:
            raise
        print_line(f"error: {error}; {todo}", sys.stderr)
        return 1


def _main(argv: list[str]) -> int:
    if argv[:1] == ["help"]:
        argv = [*argv[1:], "--help"]
    if argv[:1] == ["--version"]:
        print(f"bridgetower-train {__version__}, Python {platform.python_version()}")
        return 0
    if argv[:1] and argv[0].partition("=")[0] in ("--shell-completion", "-sc"):
        from bridgetower_train.completion import shell_completion

        shell_completion(" ".join(argv[1:2]))
        return 0
    about = [argument for argument in argv if argument not in ("--help", "-h")]
    if not about or (len(argv) > 1 and about in [[verb] for verb in VERBS]):
        print(
            overview({name: c.summary for name, c in COMMANDS.items() if not about or name.startswith(f"{about[0]} ")})
        )
        return 0
    name, arguments = _split(argv)
    asked = _parse(name, arguments)
    if asked.multirun:
        return _multirun(name, asked)
    return _run(name, asked)


@dataclass
class _Asked:
    """The arguments behind a command's name."""

    overrides: list[str] = field(default_factory=list)
    help: bool = False
    config: bool = False
    multirun: bool = False
    folder: str | None = None


def _parse(name: str, arguments: list[str]) -> _Asked:
    own = {f"--{key.replace('_', '-')}": f"{key}=true" for key in command_of(name).flags}
    asked, rest = _Asked(), list(arguments)
    while rest:
        argument = rest.pop(0)
        flag, equals, value = argument.partition("=")
        if not argument.startswith("-"):
            asked.overrides.append(argument)
        elif argument in ("--help", "-h"):
            asked.help = True
        elif argument in ("--multirun", "-m"):
            asked.multirun = True
        elif argument in ("--cfg", "-c"):
            asked.config = True
            rest = rest[rest[:1] == ["job"] :]
        elif flag in ("--config-dir", "-cd"):
            asked.folder = _folder(name, value if equals else rest.pop(0) if rest else "")
        elif argument in own:
            asked.overrides.append(own[argument])
        else:
            raise ConfigError(_no_flag(name, asked, argument, rest, list(own)))
    return asked


def _folder(name: str, given: str) -> str:
    if not command_of(name).base:
        raise ConfigError(f"--config-dir={given}: {name} has no groups to choose from; leave it out")
    if not os.path.isdir(given):
        raise ConfigError(f"--config-dir={given}: no such folder; give one with folders such as experiment/ in it")
    return given


def _no_flag(name: str, asked: _Asked, flag: str, rest: list[str], own: list[str]) -> str:
    """The message for an unknown flag, which may be a key with dashes."""
    from bridgetower_train import compose

    value = rest[0] if rest and "=" not in f"{flag}{rest[0]}" and not rest[0].startswith("-") else None
    meant = compose.of_flag(load(name)[1], command_of(name).base, asked.overrides, asked.folder, flag, value)
    if meant:
        return f"{flag}{f' {value}' if value else ''}: keys have no dashes; {meant}"
    there = [*own, "--help", "--cfg job", "--multirun"]
    return f"{flag}: no such flag; the flags are {', '.join(there)} and --config-dir FOLDER{nearest(flag, there)}"


def _split(argv: list[str]) -> tuple[str, list[str]]:
    """The command's name (one or two words) and what follows it."""
    if argv[0] == "eval" and "".join(argv[1:2]).isidentifier():
        return " ".join(argv[:2]), argv[2:]
    for words in (2, 1):
        name = " ".join(argv[:words])
        if name in COMMANDS:
            return name, argv[words:]
        if name in REMOVED:
            raise ConfigError(f"{name}: was removed; {REMOVED[name]}")
    if argv[0] in VERBS:
        nouns = [name.partition(" ")[2] for name in COMMANDS if name.startswith(f"{argv[0]} ")]
        near = nearest(" ".join(argv[1:2]), nouns)
        raise ConfigError(
            f"{' '.join(argv[:2])}: no such command; after {argv[0]} comes one of {', '.join(nouns)}{near}"
        )
    raise ConfigError(f"{argv[0]}: no such command{nearest(argv[0], COMMANDS)}; `bridgetower --help` lists them")


def _run(name: str, asked: _Asked) -> int:
    from bridgetower_train import compose

    config: Any
    (module, schema), command = load(name), command_of(name)
    given = (schema, command.base, asked.overrides, asked.folder)
    if asked.help:
        print(of_command(name, command.summary, command.example, *given))
    elif asked.config:
        print(compose.composed_yaml(*given), end="")
    else:
        try:
            config = compose.compose(*given)
        except compose.MissingKeysError as error:
            raise ConfigError(f"{error}, as in: bridgetower {name} {command.example}") from None
        return module.run(config) or 0
    return 0


def _multirun(name: str, asked: _Asked) -> int:
    """Run each job of a sweep in its own process and its own folder below `run_dir`; the worst exit code."""
    from bridgetower_train import compose

    schema, base = load(name)[1], command_of(name).base
    overrides = compose.as_they_stand(schema, asked.overrides)
    jobs = compose.sweep(overrides)
    if asked.help:
        return _run(name, replace(asked, overrides=jobs[0]))
    worst = 0
    for number, job in enumerate(jobs):
        changed = [o for o in job if o not in overrides]
        if changed and base:
            run_dir = compose.compose_node(schema, base, job, asked.folder).run_dir
            folder = re.sub(r"['\"]", "", without_secrets(",".join(changed))).replace("/", "_")
            job = [*job, f"run_dir={run_dir}/{folder}"]
        print_line(f"{'# ' * asked.config}job {number + 1} of {len(jobs)}: {' '.join(job)}")
        if asked.config:
            _run(name, replace(asked, overrides=job))
        else:
            more = [f"--config-dir={asked.folder}"] if asked.folder else []
            worst = max(worst, run_job(*name.split(), *job, *more))
    return worst
