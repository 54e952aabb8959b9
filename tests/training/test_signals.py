"""Whatever signal reaches a run, and whenever: it saves, says so, ends with the documented code, and leaves no process."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import psutil
import pytest

from bridgetower_train.evaluation.eval_set import EvalSet
from bridgetower_train.signals import Signals
from bridgetower_train.training.preemption import Preemption
from bridgetower_train.weights.checkpoint import newest, read_state, step_folders
from tests.training.runs import ROOT, final_weights, last_step, metric_lines, train_command, train_here

LONG = ["steps=4000", "checkpoint.every=100000"]

SLOW_TRACKER = """
import os, sys, time, types
class Run:
    step = 0
    def log(self, figures, step): pass
    def finish(self, exit_code):
        open(os.environ["ENDING"], "w").close()
        time.sleep(3)
sys.modules["wandb"] = types.SimpleNamespace(init=lambda **options: Run(), Settings=dict, Image=lambda *picture, **more: None)
"""
"""A W&B that takes three seconds to end."""


def hold(job, signum) -> None:
    """What a key that is held sends, until the run has ended."""
    while job.process.poll() is None:
        os.killpg(job.process.pid, signum)
        time.sleep(0.03)


def ended(processes, seconds: float = 10) -> bool:
    """Whether none of the processes is left by then."""
    return not psutil.wait_procs(processes, seconds)[1]


def saved(run_dir, among: int = 1) -> int:
    """The step of the last checkpoint, which is whole and the last of the run."""
    *others, folder = step_folders(run_dir)
    assert len(others) == among - 1
    assert newest(run_dir, print) == folder
    assert int(folder.name[5:]) == last_step(run_dir)
    return last_step(run_dir)


def test_a_run_goes_on_without_its_console(tmp_path, start):
    job = start(tmp_path, "steps=40", "log_every=1")
    assert job.wait_for_step(2)
    job.process.stdout.close()
    assert job.process.wait(100) == 0
    assert saved(tmp_path) == 40


def test_a_key_that_is_held_is_one_signal(tmp_path, start):
    job = start(tmp_path, *LONG)
    assert job.wait_for_step(3)
    family = job.family()
    hold(job, signal.SIGINT)
    output = job.finish(0)
    assert f"stopped by a signal after step {saved(tmp_path)}" in output
    assert "Traceback" not in output
    assert ended(family)


@pytest.mark.parametrize(
    "signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)], ids=["SIGINT", "SIGTERM"]
)
def test_a_sweep_hands_a_signal_on_and_ends_with_its_job(tmp_path, start, signum):
    """SIGINT goes to all of its processes, as that of a terminal does, SIGTERM to the sweep alone."""
    job = start(tmp_path, *LONG, "seed=0,1", command=[*train_command(), "--multirun"])
    first = tmp_path / "seed=0"
    assert job.wait_for(lambda: last_step(first) >= 3)
    family = job.family()
    (os.killpg if signum == signal.SIGINT else os.kill)(job.process.pid, signum)
    output = job.finish(0)
    assert f"stopped by a signal after step {saved(first)}" in output
    assert "job 2 of 2" not in output
    assert "Traceback" not in output
    assert ended(family)


def test_ranks_end_with_a_launcher_that_is_killed_while_they_import(tmp_path, start):
    job = start(tmp_path, *LONG, ranks=2)
    launcher = psutil.Process(job.process.pid)

    def importing() -> list[psutil.Process]:
        with suppress(psutil.Error):
            ranks = launcher.children()
            if len(ranks) == 2 and all(any("libtorch" in found.path for found in rank.memory_maps()) for rank in ranks):
                return ranks
        return []

    assert job.wait_for(lambda: bool(importing()))
    ranks = launcher.children()
    launcher.kill()
    assert ended(ranks)
    assert last_step(tmp_path) == 0


def test_in_a_thread_a_run_handles_no_signals(tmp_path, shapes_root):
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=train_here, args=(shapes_root, tmp_path, "steps=2"))
    thread.start()
    thread.join()
    assert saved(tmp_path) == 2
    assert signal.getsignal(signal.SIGTERM) == before


def test_ctrl_c_ends_any_command_with_a_line():
    command = [sys.executable, "-m", "bridgetower_train", "eval", "run_dir=/nonexistent"]
    source = "import os, signal, sys, time; import bridgetower_train.cli as cli\n"
    source += "cli.check_numbers = lambda: (print('there', flush=True), time.sleep(60))\nsys.exit(cli.entry())"
    process = subprocess.Popen(
        [sys.executable, "-c", source, *command[3:]],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout.readline() == "there\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "stopped by Ctrl-C\n"
    assert process.returncode == 130


def test_a_second_ctrl_c_after_a_pause_acts_as_before_and_other_signals_do_not(monkeypatch):
    monkeypatch.setattr("bridgetower_train.signals._PAUSE", 0.05)
    calls = []
    with Signals(calls.append) as signals:
        for signum in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGINT):
            os.kill(os.getpid(), signum)  # within the pause
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert calls == [signal.SIGHUP]
    assert signals.number == signal.SIGHUP
    for number, handler in signals._before.items():
        signal.signal(number, handler)


def test_what_is_ignored_stays_ignored_and_handlers_are_handed_back():
    """As nohup does."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals(lambda number: None) as signals:
            assert signal.getsignal(signal.SIGTERM) == signals._receive
            os.kill(os.getpid(), signal.SIGHUP)
        assert signals.number is None
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_exit_codes(monkeypatch):
    preemption = Preemption()
    for scheduler in ("KUBERNETES_SERVICE_HOST", "SLURM_JOB_ID"):
        monkeypatch.delenv("SLURM_JOB_ID", raising=False)
        preemption.number = signal.SIGINT
        assert preemption.exit_code == 0
        with monkeypatch.context() as patch:
            patch.setenv(scheduler, "1")
            assert preemption.exit_code == 130
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, None):  # None: of another rank
                preemption.number = number
                assert preemption.exit_code == 143


VALIDATED = ["checkpoint.every=2", "checkpoint.best=val_loss", "validation.every=2", "validation.samples=32"]
VALIDATED += ["validation.retrieval=full"]


PATIENT = ["steps=6", "checkpoint.best=val_acc_mlm", "validation.patience=1"]


@pytest.mark.parametrize(
    ("step", "killed_again", "keys"),
    [(2, False, ["steps=4"]), (4, False, ["steps=4"]), (4, True, ["steps=4"]), (4, False, PATIENT)],
)
def test_a_signal_ends_a_validation_which_the_resume_repeats(
    shapes_root, tmp_path, monkeypatch, step, killed_again, keys
):
    """The last one as well, after which no step is left, or which ends the run."""
    keys = [*VALIDATED, "validation.batch=8", *keys]
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    train_here(shapes_root, whole, *keys)
    assert last_step(whole) == 4
    read, reads = EvalSet.read, []

    def interrupted(images: EvalSet, part: slice):
        reads.append(part)
        if last_step(run_dir) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(images, part)

    with monkeypatch.context() as patch:
        patch.setattr(EvalSet, "read", interrupted)
        train_here(shapes_root, run_dir, *keys)
    assert len(reads) == (1 if step == 2 else 4 + 1)
    assert saved(run_dir, among=step // 2) == step
    if killed_again:
        lines = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)
        validated = next(line for line in lines if f'"step": {step}, "val_loss"' in line)
        with open(run_dir / "metrics.jsonl", "a") as metrics:
            metrics.write(validated)
    train_here(shapes_root, run_dir, *keys)
    assert metric_lines(run_dir) == metric_lines(whole)
    assert final_weights(run_dir) == final_weights(whole)
    states = [read_state(newest(folder, print)) for folder in (run_dir, whole)]
    assert states[0]["best"] == states[1]["best"]
    assert not states[0]["unvalidated"]


@pytest.mark.parametrize("signalled", [[0, 1], [1]], ids=["both", "one"])
def test_ranks_end_a_validation_together(tmp_path, start, customised, signalled):
    """The one that received no signal reads its share first."""
    slow = """
import time
from bridgetower_train.evaluation.eval_set import EvalSet
read = EvalSet.read
def slowly(self, part):
    print("reading\\n", end="", flush=True)
    time.sleep(0.5)
    return read(self, part)
EvalSet.read = slowly
"""
    job = start(tmp_path, *VALIDATED, "validation.batch=2", "steps=4000", ranks=2, env=customised(slow))
    said = []
    while "reading\n" not in said:
        said.append(job.process.stdout.readline())
        assert said[-1], "".join(said)
    ranks = psutil.Process(job.process.pid).children()
    for rank in signalled:
        ranks[rank].send_signal(signal.SIGTERM)
    output = job.finish(0)
    assert "stopped by a signal after step 2" in output
    assert 1 + output.count("reading") <= (4 if len(signalled) == 2 else 8 + 2)  # of 16
    assert saved(tmp_path) == 2
    assert read_state(newest(tmp_path, print))["unvalidated"]


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["starting", "first step", "validation", "saving", "ending"])
def test_at_any_moment(tmp_path, start, customised, moment, signum):
    """Before the first step there is nothing to save, and the process ends at once."""
    run_dir = tmp_path / "run"
    options = ["wandb.project=x", "validation.every=3", "validation.samples=32", "checkpoint.every=3", "steps=60"]
    job = start(run_dir, *options, env=customised(SLOW_TRACKER, WANDB_MODE="offline", ENDING=str(tmp_path / "ending")))
    happened = {
        "starting": lambda: (run_dir / "lock").exists(),
        "first step": lambda: last_step(run_dir) == 1,
        "validation": lambda: last_step(run_dir) == 3,
        "saving": lambda: any((run_dir / "checkpoints").glob("*.tmp")),
        "ending": lambda: (tmp_path / "ending").exists(),
    }
    assert job.wait_for(happened[moment])
    family = job.family()
    (os.kill if signum == signal.SIGTERM else os.killpg)(job.process.pid, signum)  # as a terminal does
    output = job.wait()
    code = job.process.returncode
    assert "Traceback" not in output
    assert ended(family)
    if moment == "starting" and last_step(run_dir) == 0:
        assert code == (130 if signum == signal.SIGINT else -signum), output
        return
    assert code == 0, output
    folder = newest(run_dir, print)
    assert int(folder.name[5:]) == last_step(run_dir)
    assert ("stopped by a signal" in output) == (last_step(run_dir) < 60)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_signals_to_every_process_of_torchrun(tmp_path, start, signum):
    """As systemd ends a service: torchrun passes on what its ranks have received already."""
    for attempt in range(5):
        run_dir = tmp_path / str(attempt)
        job = start(run_dir, *LONG, ranks=2)
        assert job.wait_for_step(2)
        family = job.family()
        for process in family:
            process.send_signal(signum)
        output = job.wait()
        assert f"stopped by a signal after step {saved(run_dir)}" in output
        assert ended(family)


@pytest.mark.slow
@pytest.mark.nightly
def test_an_ablation_hands_a_signal_on(tmp_path, shapes_root, start):
    command = [sys.executable, "-m", "bridgetower_train", "ablate", f"data={shapes_root}", f"runs={tmp_path}/runs"]
    command += [f"out={tmp_path}/results.md", "overrides=[device=cpu,steps=4000]"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True
    )
    run_dir = tmp_path / "runs" / "all_three-0"
    while last_step(run_dir) < 2:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0, output
    (step,) = re.findall(r"stopped by a signal after step (\d+)", output)
    assert newest(run_dir, print).name == f"step-{int(step):08d}"
    assert ended(family)
