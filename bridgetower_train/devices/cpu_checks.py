"""The CPU: cores, threads, instructions."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from bridgetower_train.config import TrainConfig
from bridgetower_train.doctor.findings import Finding, ok, warning


def check_cpu(config: TrainConfig, env: Mapping[str, str], run: Callable[..., str | None]) -> list[Finding]:
    """What the speed of a run on the CPU hangs on."""
    info = Path("/proc/cpuinfo")
    flags = cpu_flags(info.read_text()) if info.exists() else frozenset[str]()
    return [check_threads(env), check_libraries(), *check_instructions(flags, config.device.precision)]


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Instruction sets of the first processor in /proc/cpuinfo."""
    line = next((line for line in cpuinfo.splitlines() if line.startswith(("flags", "Features"))), "")
    return frozenset(line.partition(":")[2].split())


def check_threads(env: Mapping[str, str]) -> Finding:
    """Threads of all local ranks against the cores that this process may use."""
    cores = len(os.sched_getaffinity(0))
    ranks = int(env.get("LOCAL_WORLD_SIZE", "1"))
    threads = torch.get_num_threads()
    found = f"{ranks} ranks x {threads} threads on {cores} cores (of {os.cpu_count()})"
    if ranks * threads > cores:
        return warning(
            "threads", found, f"OMP_NUM_THREADS={max(1, cores // ranks)}: threads that share a core wait for each other"
        )
    if ranks * threads < cores // 2:
        return warning("threads", found, f"OMP_NUM_THREADS={max(1, cores // ranks)} uses all cores")
    return ok("threads", found)


def check_libraries() -> Finding:
    """The mathematical libraries in this torch."""
    there = {
        "MKL": torch.backends.mkl.is_available(),
        "oneDNN": torch.backends.mkldnn.is_available(),
        "OpenMP": torch.backends.openmp.is_available(),
    }
    missing = [name for name, found in there.items() if not found]
    build = f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    if missing:
        return warning(
            "libraries", f"{build}, without {', '.join(missing)}", "take the wheel from PyTorch for this machine"
        )
    return ok("libraries", f"{build}, {', '.join(there)}")


def check_instructions(flags: frozenset[str], precision: str) -> list[Finding]:
    """Vector instructions, and those for bf16 where the run asks for it."""
    wide = next((name for name in ("avx512f", "avx2", "asimd") if name in flags), None)
    bf16 = next((name for name in ("amx_bf16", "avx512_bf16", "bf16") if name in flags), None)
    findings = [
        ok("instructions", f"{wide}, bf16: {bf16 or 'none'}")
        if wide
        else warning("instructions", "neither AVX2 nor AVX-512", "expect a fraction of the speed")
    ]
    if precision == "bf16" and bf16 is None:
        todo = "device.precision=fp32: without the instructions bf16 is emulated, and slower"
        findings.append(warning("bf16", "asked for, but the processor has no bf16 instructions", todo))
    return findings
