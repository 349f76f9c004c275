"""The file for KubeRay: its fields, and what must hold for the bill and for safety. No cluster is asked.

Each kind of fault is seen in a broken copy; cluster_schemas/README.md says where the fields come from.
"""

import json
import re
import shlex
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from slowfast_ray.run_config import RunConfig
from slowfast_ray.running.nodes.slots import Machine, Machines, share
from tests.running.conftest import ROOT

CLUSTER = ROOT / "cluster"
SCHEMA = json.loads((ROOT / "tests" / "cluster_schemas" / "rayjob.json").read_text())


def kubernetes() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / "rayjob.yaml").read_text()))


def rayjob() -> Any:
    return next(each for each in kubernetes() if each["kind"] == "RayJob")


def test_the_rayjob_has_the_fields_of_kuberay() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(rayjob(), SCHEMA)


BREAKS: dict[str, Callable[[Any], Any]] = {
    "a misspelt field of the job": lambda job: job["spec"].update(shutdownAfterJobFinish=True),
    "a misspelt field of the cluster": lambda job: job["spec"]["rayClusterSpec"].update(autoScalerOptions={}),
    "a misspelt field of a container": lambda job: _worker(job).update(volumeMount=[]),
    "a number for a text": lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"].update(
        rayStartParams={"num-cpus": 0}
    ),
    "a text for a number": lambda job: job["spec"].update(backoffLimit="0"),
    "a number below 0": lambda job: job["spec"].update(ttlSecondsAfterFinished=-1),
    "a token without a version": lambda job: job["spec"]["rayClusterSpec"].pop("rayVersion"),
    "an unknown mode": lambda job: job["spec"]["rayClusterSpec"].update(authOptions={"mode": "password"}),
    "no quantity": lambda job: _worker(job)["resources"]["limits"].update(memory="much"),
    "a group without a name": lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].pop("groupName"),
    "a cluster that stays and is to be cleaned up": lambda job: job["spec"].update(shutdownAfterJobFinishes=False),
}


def _worker(job: Any) -> Any:
    return job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_rayjob_is_found_out(what: str) -> None:
    job = rayjob()
    BREAKS[what](job)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, SCHEMA)


def test_on_kubernetes_ray_is_the_pinned_one_asks_for_a_token_and_its_gpus_go() -> None:
    cluster = rayjob()["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    assert f"FROM rayproject/ray:{ray.__version__}-py311-cpu\n" in (CLUSTER / "Dockerfile").read_text()
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    (group,) = cluster["workerGroupSpecs"]
    assert group["minReplicas"] == 0
    assert "nvidia.com/gpu" in group["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_a_worker_gets_the_cpus_and_the_gpu_of_a_pod() -> None:
    words = shlex.split(rayjob()["spec"]["entrypoint"])
    cpus, gpus = (int(words[words.index(f"--run.{flag}-per-worker") + 1]) for flag in ("cpus", "gpus"))
    resources = _worker(rayjob())["resources"]
    pod = Machine(float(resources["requests"]["cpu"]), float(resources["limits"]["nvidia.com/gpu"]))
    run = RunConfig(cpus_per_worker=cpus, gpus_per_worker=gpus)
    found = share(run, Machines((Machine(0, 0),), can_grow=True), 8)
    assert found.num_fitting((pod,)) == 1
    assert found.cpus_per_worker == pod.cpus


def test_on_kubernetes_only_mlflow_answers_on_all_addresses_and_only_to_pods_of_ray() -> None:
    text, documents = (CLUSTER / "rayjob.yaml").read_text(), {each["kind"]: each for each in kubernetes()}
    assert [line.strip() for line in text.splitlines() if "0.0.0.0" in line] == ["- --host=0.0.0.0"]
    assert "--host=0.0.0.0" in documents["Deployment"]["spec"]["template"]["spec"]["containers"][0]["args"]
    policy = documents["NetworkPolicy"]["spec"]
    labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"] == documents["Service"]["spec"]["selector"] == labels
    (rule,) = policy["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": {"ray.io/is-ray-node": "yes"}}}]


def test_all_containers_have_one_image_and_what_they_mount_is_there() -> None:
    text = (CLUSTER / "rayjob.yaml").read_text()
    assert len(set(re.findall(r"^ *image: (\S+)", text, re.MULTILINE))) == 1
    assert ":latest" not in text
    copied = re.findall(r"^COPY --chown=ray:users (.*) \S+$", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    assert all((ROOT / name).exists() for line in copied for name in line.split())
