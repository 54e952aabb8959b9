"""launch/kubernetes: core objects against the schemas of Kubernetes; of Kubeflow's jobs, the pods that they describe.

The schemas of PyTorchJob and MPIJob themselves are not here: what stands around their pods is not validated.
"""

import copy
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.training.runs import ROOT

validator = pytest.importorskip("kubernetes_validate")

FOLDER = ROOT / "launch" / "kubernetes"
JOBS = {"pytorchjob.yaml": "pytorchReplicaSpecs", "mpijob.yaml": "mpiReplicaSpecs"}


def pods(name: str) -> dict[str, dict]:
    """The pod template of each role of a job."""
    job = yaml.safe_load((FOLDER / name).read_text())
    return {role: spec["template"] for role, spec in job["spec"][JOBS[name]].items()}


def validate(template: dict) -> None:
    body = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
    validator.validate(body, validator.latest_version(), strict=True)


def test_volume_claims():
    claims = list(yaml.safe_load_all((FOLDER / "volumes.yaml").read_text()))
    for claim in claims:
        validator.validate(claim, validator.latest_version(), strict=True)
    mounted = {
        volume["persistentVolumeClaim"]["claimName"]
        for name in JOBS
        for template in pods(name).values()
        for volume in template["spec"].get("volumes", [])
        if "persistentVolumeClaim" in volume
    }
    assert mounted == {claim["metadata"]["name"] for claim in claims}


@pytest.mark.parametrize("name", JOBS)
def test_pods(name):
    for template in pods(name).values():
        validate(template)
        (container,) = template["spec"]["containers"]
        assert {mount["name"] for mount in container.get("volumeMounts", [])} == {
            volume["name"] for volume in template["spec"].get("volumes", [])
        }
        for script in Path(FOLDER.parent).glob("*.sh"):  # of the image, which carries launch/ there
            named = [word for part in container["command"] for word in part.split() if word.endswith(f"/{script.name}")]
            assert named in ([], [f"/opt/bridgetower/launch/{script.name}"])
    broken = copy.deepcopy(template)
    broken["spec"]["containers"][0]["resources"]["limit"] = {}
    with pytest.raises(validator.ValidationError):
        validate(broken)


def test_ranks_are_as_many_as_cards():
    master, worker = pods("pytorchjob.yaml").values()
    env = {entry["name"]: entry["value"] for entry in master["spec"]["containers"][0]["env"]}
    limits = master["spec"]["containers"][0]["resources"]["limits"]
    assert worker == master
    assert int(env["NPROC"]) == limits["habana.ai/gaudi"]
    job = yaml.safe_load((FOLDER / "pytorchjob.yaml").read_text())["spec"]["pytorchReplicaSpecs"]
    assert int(env["NODES"]) == sum(spec["replicas"] for spec in job.values())

    job = yaml.safe_load((FOLDER / "mpijob.yaml").read_text())["spec"]
    launcher, worker = pods("mpijob.yaml").values()
    env = {entry["name"]: entry["value"] for entry in launcher["spec"]["containers"][0]["env"]}
    limits = worker["spec"]["containers"][0]["resources"]["limits"]
    assert job["slotsPerWorker"] == limits["habana.ai/gaudi"] == len(env["HABANA_VISIBLE_MODULES"].split(","))


@pytest.mark.parametrize("name", JOBS)
def test_pods_have_no_more_rights_than_they_need(name):
    for template in pods(name).values():
        spec = template["spec"]
        (container,) = spec["containers"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
        assert set(container["securityContext"]["capabilities"].get("add", [])) <= {"SYS_NICE"}
        for context in (spec["securityContext"], container["securityContext"]):
            assert context.get("runAsUser") != 0
            assert "privileged" not in context
        assert not {"hostNetwork", "hostPID"} & spec.keys()
        assert spec.get("hostIPC", False) == ("habana.ai/gaudi" in container["resources"]["limits"]), "for cards alone"
        assert not any("hostPath" in volume for volume in spec.get("volumes", []))
    added = [line for line in (FOLDER / name).read_text().splitlines() if "add: [" in line or "hostIPC" in line]
    assert len(added) == 2
    assert all("#" in line for line in added), "say why"


def test_only_pods_of_a_job_reach_each_other():
    policy = yaml.safe_load((FOLDER / "networkpolicy.yaml").read_text())
    validator.validate(policy, validator.latest_version(), strict=True)
    spec = policy["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    assert spec["ingress"] == [{"from": [{"podSelector": spec["podSelector"]}]}]
    for name in JOBS:  # the operators label each pod with the name of its job
        job = yaml.safe_load((FOLDER / name).read_text())["metadata"]["name"]
        assert spec["podSelector"]["matchLabels"] == {"training.kubeflow.org/job-name": job}


def test_the_launcher_logs_in_to_workers_of_its_job_alone(tmp_path):
    """The commands of the MPIJob's pods, as this user, with a port and a home of the test's."""
    for tool in ("/usr/sbin/sshd", "ssh", "ssh-keygen"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")
    if os.geteuid() == 0:  # sshd of root wants it
        Path("/run/sshd").mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for home in ("job", "other"):
        keys = tmp_path / home / ".ssh"
        keys.mkdir(parents=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "521", "-N", "", "-f", keys / "id_rsa"], check=True)
        shutil.copy(keys / "id_rsa.pub", keys / "authorized_keys")
    launcher, worker = (template["spec"]["containers"][0] for template in pods("mpijob.yaml").values())

    def here(command: list[str], home: Path) -> list[str]:
        """A pod's command with ~ and its files in `home`: OpenSSH takes the home from the password database."""
        places = {
            "/tmp/": "~/",
            "~/": f"{home}/",
            "-p 2222": f"-p {port}",
            "-De": f"-De -o ListenAddress=127.0.0.1 -o AuthorizedKeysFile={home}/.ssh/authorized_keys",
            "exec bash /opt/bridgetower/launch/mpirun.sh": f"ssh -i {home}/.ssh/id_rsa $OMPI_MCA_plm_rsh_args 127.0.0.1",
        }
        for before, after in places.items():
            command = [part.replace(before, after) for part in command]
        return command

    server = subprocess.Popen(here(worker["command"], tmp_path / "job"), stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 20
        while socket.socket().connect_ex(("127.0.0.1", int(port))):
            assert server.poll() is None, server.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        login = [*here(launcher["command"], tmp_path / "job"), "echo", "here"]
        done = subprocess.run(login, capture_output=True, text=True, timeout=60)
        assert done.stdout == "here\n", done.stderr
        login = [*here(launcher["command"], tmp_path / "other"), "echo", "here"]
        stranger = subprocess.run(login, capture_output=True, text=True, timeout=60)
        assert stranger.stdout == ""
        assert "Host key verification failed" in stranger.stderr
    finally:
        server.terminate()
        server.wait()
