"""The doctor's checks of NVIDIA and CPU machines, on what such hosts say."""

import pytest

from bridgetower_train.config import TrainConfig
from bridgetower_train.devices import checks, cpu_checks, cuda_checks, network_checks
from bridgetower_train.findings import FAIL, OK, WARNING

CARDS = "0, NVIDIA H100 80GB HBM3, 550.54.15, 81559 MiB\n1, NVIDIA H100 80GB HBM3, 550.54.15, 81559 MiB\n"
TABLE = "| NVIDIA-SMI 550.54.15    Driver Version: 550.54.15    CUDA Version: 12.4     |\n"


@pytest.mark.parametrize(
    ("cards", "driver", "torch", "level"),
    [
        (CARDS, "12.4", "12.4", OK),
        (CARDS, "12.4", "12.8", OK),
        (CARDS, "11.8", "12.4", FAIL),
        (CARDS, "12.4", None, FAIL),
        (None, None, "12.4", FAIL),
        ("", None, "12.4", FAIL),
    ],
)
def test_driver_against_the_build_of_torch(cards, driver, torch, level):
    assert cuda_checks.check_driver(cards, driver, torch).level == level


def test_cuda_version_of_the_driver():
    assert cuda_checks.parse_cuda_version(TABLE) == "12.4"
    assert cuda_checks.parse_cuda_version("NVIDIA-SMI has failed") is None


@pytest.mark.parametrize(
    ("listed", "usable", "env", "level"),
    [
        (8, 8, {}, OK),
        (8, 7, {}, WARNING),
        (8, 2, {"CUDA_VISIBLE_DEVICES": "0,1"}, OK),
        (8, 0, {"CUDA_VISIBLE_DEVICES": ""}, FAIL),
    ],
)
def test_devices(listed, usable, env, level):
    assert cuda_checks.check_devices(listed, usable, env).level == level


def test_variables_that_cost_speed():
    found = network_checks.check_set({"NCCL_IB_DISABLE": "1", "NCCL_P2P_DISABLE": "0"}, cuda_checks.NCCL)
    assert [(f.subject, f.level) for f in found] == [("NCCL_IB_DISABLE", WARNING)]


@pytest.mark.parametrize(
    ("told", "level"),
    [("10.0.0.1 fd00::2 172.17.0.1 \n", OK), ("10.0.0.1 8.8.8.8 \n", WARNING), ("2600::1\n", WARNING), (None, None)],
)
def test_public_addresses(told, level):
    assert [f.level for f in network_checks.check_addresses(lambda command: told)] == ([level] if level else [])


@pytest.mark.parametrize(("name", "part"), [("2", "2 ranks"), ("1000", "share a core")])
def test_threads(name, part):
    config = TrainConfig(run_dir="run", steps="100", tokenizer="none")
    [finding] = cpu_checks.check_cpu(config, {"LOCAL_WORLD_SIZE": name}, checks.run)
    assert part in finding.found + finding.todo


def test_a_command_that_is_missing_fails_or_hangs_has_no_answer():
    assert checks.run(["/nowhere/hl-smi"]) is None
    assert checks.run(["false"]) is None
    assert checks.run(["sleep", "60"], timeout=0.2) is None
    assert checks.run(["echo", "cards 8"]) == "cards 8\n"
