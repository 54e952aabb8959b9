"""launch/kubernetes: core objects against the schemas of Kubernetes; of Kubeflow's jobs, the pods that they describe.

The schemas of PyTorchJob and MPIJob themselves are not here: what stands around their pods is not validated.
"""

import copy
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
