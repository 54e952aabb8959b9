"""The doctor's checks of a Gaudi host, on what such hosts say."""

import pytest

from bridgetower_train.config import DeviceConfig, TrainConfig
from bridgetower_train.devices import habana, hpu_checks, hpu_environment, network_checks
from bridgetower_train.devices.gaudi_versions import stack_of
from bridgetower_train.devices.hl_smi import Card
from bridgetower_train.findings import FAIL, OK, WARNING

CARDS = [Card(i, i, "HL-225", 98304, 768) for i in range(8)]


@pytest.mark.parametrize(
    ("software", "driver", "level", "part"),
    [
        ("1.21.1.16", "1.21.1", OK, "1.21.1.16"),
        ("1.21.0.555", "1.21.1", WARNING, "image of 1.21.1"),
        ("1.23.0.695", "1.24.0", FAIL, "synStatus 26"),
        ("1.23.0.695", None, WARNING, "see the line of the cards"),
        (None, "1.24.0", FAIL, "not on PyPI"),
    ],
)
def test_user_space_against_driver(software, driver, level, part):
    finding = hpu_checks.check_software(software, driver)
    assert finding.level == level
    assert part in finding.found + finding.todo


@pytest.mark.parametrize(
    ("software", "torch", "lazy", "compiled"),
    [
        ("1.21.1", "2.6.0a0+git30ac7d1", OK, OK),
        ("1.21.1", "2.6.0+hpu_1.21.1_16.gitabc", OK, OK),
        ("1.24.0", "2.10.0+cpu", FAIL, OK),
        ("1.24.0", "2.10.0+cu128", FAIL, FAIL),
        ("1.24.0", "2.10.0", FAIL, FAIL),
        ("1.21.1", "2.13.0+cpu", FAIL, FAIL),
        ("1.24.1", "2.10.0a0+gitc1e5ed4", FAIL, FAIL),
    ],
)
def test_torch_must_be_one_of_the_release_s_own_and_for_lazy_mode_the_fork(software, torch, lazy, compiled):
    levels = [hpu_checks.check_torch(stack_of(software), torch, execution).level for execution in ("lazy", "compile")]
    assert levels == [lazy, compiled]


def test_the_first_generation_needs_1_21():
    first = [Card(0, 0, "HL-205", 32768, 512)]
    levels = {
        software: [
            f.level
            for f in hpu_checks.check_stack(stack_of(software), software, first, "lazy")
            if f.subject == "generation"
        ]
        for software in ("1.21.1", "1.22.0")
    }
    assert levels == {"1.21.1": [], "1.22.0": [FAIL]}


def test_an_unknown_release_is_said():
    (finding,) = hpu_checks.check_stack(None, "1.25.0.1", CARDS, "lazy")
    assert (finding.level, finding.subject) == (WARNING, "release")


def test_cards():
    assert hpu_checks.check_cards([], None).level == FAIL
    assert hpu_checks.check_cards(CARDS, "1.24.0").level == OK
    busy = [*CARDS[:7], Card(7, 6, "HL-225", 98304, 80000)]
    finding = hpu_checks.check_cards(busy, "1.24.0")
    assert finding.level == WARNING
    assert "modules 6" in finding.found
    assert hpu_checks.check_cards(CARDS[:7], "1.24.0").level == WARNING


@pytest.mark.parametrize(
    ("env", "level"),
    [
        ({}, None),
        ({"HABANA_VISIBLE_MODULES": "5"}, OK),
        ({"HABANA_VISIBLE_MODULES": "2,3"}, OK),
        ({"HABANA_VISIBLE_MODULES": "5,4,7,6"}, OK),
        ({"HABANA_VISIBLE_MODULES": "0,1,2,3,4,5,6,7"}, OK),
        ({"HABANA_VISIBLE_MODULES": "1,2"}, WARNING),
        ({"HABANA_VISIBLE_MODULES": "0,0"}, WARNING),
        ({"HABANA_VISIBLE_MODULES": "0,1,2"}, WARNING),
        ({"HABANA_VISIBLE_MODULES": "2,3,4,5"}, WARNING),
        ({"HABANA_VISIBLE_MODULES": "all"}, FAIL),
        ({"HABANA_VISIBLE_MODULES": "7,8"}, FAIL),
        ({"HABANA_VISIBLE_DEVICES": "all"}, None),
        ({"HABANA_VISIBLE_DEVICES": "0,1"}, WARNING),
    ],
)
def test_visible_modules(env, level):
    found = [f.level for f in hpu_environment.check_modules(CARDS, env)]
    assert found == ([] if level is None else [level])


@pytest.mark.parametrize(
    ("execution", "mode", "level"),
    [("auto", None, OK), ("lazy", "1", OK), ("lazy", "0", FAIL), ("eager", "1", FAIL), ("compile", "0", OK)],
)
def test_execution_against_the_environment(execution, mode, level):
    env = {} if mode is None else {"PT_HPU_LAZY_MODE": mode}
    finding = hpu_environment.check_execution(execution, env)
    assert finding.level == level
    assert (finding.level == FAIL) == ("unset PT_HPU_LAZY_MODE" in finding.todo)


@pytest.mark.parametrize(
    ("env", "subject", "level"),
    [
        ({"PT_ENABLE_INT64_SUPPORT": "1", "PT_HPU_LAZY_MODE": "1"}, "PT_ENABLE_INT64_SUPPORT", WARNING),
        ({"PT_HPU_AUTOCAST_FP32_OPS_LIST": "/etc/ops.txt"}, "PT_HPU_AUTOCAST_FP32_OPS_LIST", FAIL),
        ({"HABANA_LOGS": "/proc/logs"}, "HABANA_LOGS", FAIL),
        ({"HABANA_LOGS": "/tmp/habana_logs/"}, "HABANA_LOGS", OK),
        ({"HABANA_LOGS": __file__}, "HABANA_LOGS", FAIL),
        ({"GC_KERNEL_PATH": "/nowhere/libtpc_kernels.so"}, "GC_KERNEL_PATH", FAIL),
        ({"HCCL_OVER_OFI": "1"}, "HCCL_OVER_OFI", WARNING),
        ({"PT_HPU_FORCE_TANH_FOR_GELU": "1"}, "PT_HPU_FORCE_TANH_FOR_GELU", WARNING),
    ],
)
def test_variables(env, subject, level):
    config = TrainConfig(device=DeviceConfig(execution="lazy"))
    found = {f.subject: f.level for f in hpu_environment.check_environment(config, env, "1.24.0")}
    assert found == {"execution": OK, "HABANA_LOGS": OK, subject: level}


def test_logs_of_a_user_without_a_home(monkeypatch):
    monkeypatch.setenv("HOME", "/proc/nobody")
    found = {f.subject: f.level for f in hpu_environment.check_environment(TrainConfig(), {}, None)}
    assert found["HABANA_LOGS"] == FAIL


@pytest.mark.parametrize(("closed", "level"), [((), OK), (("/dev/accel/accel1",), FAIL)])
def test_device_nodes_must_be_open_to_this_user(monkeypatch, closed, level):
    monkeypatch.setattr(hpu_environment.os, "access", lambda node, mode: node not in closed)
    (finding,) = hpu_environment.check_nodes(["/dev/accel/accel0", "/dev/accel/accel1"])
    assert finding.level == level
    assert all(node in finding.found for node in closed)


def test_without_device_nodes_the_line_of_the_cards_says_enough():
    assert not list(hpu_environment.check_nodes([]))


@pytest.mark.parametrize(
    ("kind", "fields", "software", "level"),
    [
        ("ext4", "", None, OK),
        ("ext4", ",false,1024", "1.24.0", OK),
        ("ext4", ",false,1024,false", "1.24.0", OK),
        ("ext4", ",True,1024", "1.24.0", WARNING),
        ("ext4", ",true,1024,false", "1.24.0", WARNING),
        ("nfs4", ",false,1024", "1.24.0", FAIL),
        ("nfs4", ",false,1024,false", "1.24.0", FAIL),
        ("nfs4", ",false,1024,true", "1.20.1", FAIL),
        ("nfs4", ",false,1024,true", "1.21.0.555", OK),
        ("lustre", ",true,1024,True", "1.24.0", OK),
        ("nfs4", ",false,1024,true", None, OK),
    ],
)
def test_recipe_cache(tmp_path, monkeypatch, kind, fields, software, level):
    """On NFS it needs the fourth field and software that reads it."""
    monkeypatch.setattr(hpu_environment, "file_system", lambda path, mounts: kind)
    finding = hpu_environment.check_recipe_cache(f"{tmp_path}{fields}", software)
    assert finding.level == level
    assert level != FAIL or f"{tmp_path},false,8192,true" in finding.todo


def test_file_system_of_the_longest_mount():
    mounts = "/dev/sda1 / ext4 rw 0 0\nserver:/data /mnt/data nfs4 rw 0 0\ntmpfs /mnt/data/local tmpfs rw 0 0\n"
    kinds = {
        p: hpu_environment.file_system(p, mounts)
        for p in ("/root", "/mnt/data/a", "/mnt/data/local/a", "/mnt/database")
    }
    assert kinds == {"/root": "ext4", "/mnt/data/a": "nfs4", "/mnt/data/local/a": "tmpfs", "/mnt/database": "ext4"}


@pytest.mark.parametrize(("pages", "level"), [(0, WARNING), (17599, WARNING), (17600, OK)])
def test_huge_pages_for_eight_cards(pages, level):
    meminfo = f"MemTotal: 1056000000 kB\nHugePages_Total: {pages}\nHugepagesize: 2048 kB\n"
    finding = hpu_environment.check_huge_pages(8, meminfo)
    assert finding.level == level
    assert level == OK or "vm.nr_hugepages=17600" in finding.todo


@pytest.mark.parametrize(
    ("engine", "found", "level"),
    [
        ("native", None, None),
        ("native", "0.19.8", WARNING),
        ("zero2", None, FAIL),
        ("zero2", "0.19.8", FAIL),
        ("zero2", "0.16.1+hpu.synapse.v1.21.0", OK),
        ("zero2", "0.14.4+hpu.synapse.v1.19.0", WARNING),
    ],
)
def test_deepspeed_is_the_fork_of_the_release(engine, found, level):
    assert [f.level for f in hpu_checks.check_deepspeed(engine, stack_of("1.21.1"), found)] == (
        [level] if level else []
    )


@pytest.mark.parametrize(("fork", "mode"), [(True, "1"), (False, "0")])
def test_auto_execution_is_lazy_for_the_fork_alone(monkeypatch, fork, mode):
    monkeypatch.setattr(habana, "is_fork", lambda: fork)
    finding = hpu_environment.check_execution("auto", {})
    assert f"PT_HPU_LAZY_MODE=not set: will be {mode}; " in finding.found
    assert f"is {'' if fork else 'not '}the vendor's fork" in finding.found


@pytest.mark.parametrize(
    ("answer", "level", "part"),
    [
        (None, FAIL, "execution=lazy: it crashes or hangs"),
        ("error OSError libSynapse.so\n", FAIL, "execution=lazy: OSError libSynapse.so"),
        ("cards 0\n", FAIL, "no card responds"),
        ("noise\ncards 8\nnoise\n", OK, "8 cards"),
    ],
)
def test_bridge(answer, level, part):
    finding = hpu_checks.check_bridge(lambda command: answer, "lazy")
    assert finding.level == level
    assert part in finding.found


@pytest.mark.parametrize(("given", "level"), [("lo", OK), ("=l", FAIL), ("nowhere,lo", FAIL), ("^docker", OK)])
def test_interfaces(given, level):
    (finding,) = network_checks.check_interface({"HCCL_SOCKET_IFNAME": given}, "HCCL_SOCKET_IFNAME")
    assert finding.level == level


@pytest.mark.parametrize(
    ("env", "level"),
    [
        ({}, None),
        ({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"}, None),
        ({"WORLD_SIZE": "512", "LOCAL_WORLD_SIZE": "8"}, FAIL),
        ({"WORLD_SIZE": "512", "LOCAL_WORLD_SIZE": "8", "MASTER_ADDR": "localhost"}, FAIL),
        ({"WORLD_SIZE": "512", "LOCAL_WORLD_SIZE": "8", "MASTER_ADDR": "10.0.0.1"}, OK),
        ({"WORLD_SIZE": "512", "LOCAL_WORLD_SIZE": "8", "MASTER_ADDR": "nowhere.invalid"}, OK),
        ({"WORLD_SIZE": "512", "LOCAL_WORLD_SIZE": "8", "MASTER_ADDR": "8.8.8.8"}, WARNING),
    ],
)
def test_rendezvous(env, level):
    assert [f.level for f in network_checks.check_rendezvous(env)] == ([level] if level else [])
