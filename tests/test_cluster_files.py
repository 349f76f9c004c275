"""The files for `ray up`: what Ray takes, and what must hold for the bill and for safety.

No cloud is asked. Each check is seen to fail on a broken copy.
"""

import json
import re
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated import instance_manager_pb2

from tests.running.conftest import ROOT

messages: Any = instance_manager_pb2

CLUSTER = ROOT / "cluster"
TOKEN = "~/.ray/auth_token"
RAY_UP = ("gpu.yaml", "onprem.yaml")


def ray_faults(text: str) -> list[str]:
    """What Ray itself has to say against a file for `ray up`."""
    try:
        validate_config(prepare_config(yaml.safe_load(text)))
    except (jsonschema.ValidationError, ValueError, KeyError, click.ClickException) as error:
        return [f"Ray refuses it: {error!r}"[:200]]
    return []


def own_faults(text: str) -> list[str]:
    """What would cost money, fail late, or let others in."""
    config: dict[str, Any] = yaml.safe_load(text)
    faults = [*_version_faults(config), *_command_faults(config)]
    if "0.0.0.0" in json.dumps(config):
        faults.append("open to everybody: 0.0.0.0")
    if re.search(r"AKIA|aws_secret|aws_access_key", text, re.IGNORECASE):
        faults.append("a key in the file")
    for remote, local in config["file_mounts"].items():
        if local != TOKEN and not (ROOT / local).exists():
            faults.append(f"not there: {local}")
        if Path(local).name in ("", ".git", ".venv", "runs"):
            faults.append(f"grows: {remote}")
    if config["file_mounts"].get(TOKEN) != TOKEN:
        faults.append("the token is not copied")
    if config["provider"]["type"] == "aws":
        faults += _aws_faults(config)
    else:
        faults += _local_faults(config)
    return faults


def _version_faults(config: dict[str, Any]) -> list[str]:
    images = [value for key, value in config.get("docker", {}).items() if key.endswith("image")]
    faults = [
        f"not Ray {ray.__version__}: {image}" for image in images if f":{ray.__version__}-py311" not in str(image)
    ]
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    if f"ray=={ray.__version__}" not in pins:
        faults.append("constraints.txt pins another Ray")
    if not any("--constraint constraints.txt --editable ." in command for command in config["setup_commands"]):
        faults.append("setup does not install by constraints.txt")
    return faults


def starts_of(config: dict[str, Any], kind: str) -> list[str]:
    return [command for command in config[f"{kind}_start_ray_commands"] if re.search(r"ray start\b", command)]


def _command_faults(config: dict[str, Any]) -> list[str]:
    faults: list[str] = []
    for kind in ("head", "worker"):
        starts = starts_of(config, kind)
        if len(starts) != 1:
            faults.append(f"{len(starts)} commands start the {kind}")
        faults += [f"no token for the {kind}" for start in starts if "RAY_AUTH_MODE=token" not in start]
        faults += [f"one thread for the {kind}" for start in starts if "unset OMP_NUM_THREADS" not in start]
    if any("--dashboard-host=127.0.0.1 " not in start for start in starts_of(config, "head")):
        faults.append("the dashboard answers others")
    return faults


def _aws_faults(config: dict[str, Any]) -> list[str]:
    faults: list[str] = []
    if "security_group" in config["provider"]:
        faults.append("Ray opens ssh to everybody in a security group that it makes")
    if config["provider"].get("cache_stopped_nodes", True):
        faults.append("stopped machines go on paying for their disks")
    for name, kind in config["available_node_types"].items():
        node = kind["node_config"]
        if not str(node.get("ImageId", "")).startswith("ami-"):
            faults.append(f"no AMI is pinned for {name}")
        if not node.get("SecurityGroupIds"):
            faults.append(f"Ray would make a security group for {name}")
        if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
            faults.append(f"credentials of {name} without a token")
        if name == config["head_node_type"]:
            if "InstanceMarketOptions" in node:
                faults.append("the head may be taken away")
            if kind["resources"].get("CPU") != 0:
                faults.append("the head trains")
        elif not kind["resources"].get("GPU") or kind.get("min_workers", 0) != 0:
            faults.append(f"{name} has no GPU, or never goes")
    return faults


def _local_faults(config: dict[str, Any]) -> list[str]:
    faults: list[str] = []
    for start in starts_of(config, "head"):
        if f"--node-ip-address={config['provider']['head_ip']} " not in start:
            faults.append("the head is said to have two addresses")
        if "RAY_enable_autoscaler_v2=0" not in start:
            faults.append("autoscaler v2 never starts workers here")
    if any("--node-ip-address=" not in start for start in starts_of(config, "worker")):
        faults.append("the workers guess their addresses")
    return faults


@pytest.mark.parametrize("name", RAY_UP)
def test_a_file_for_ray_up_is_taken_by_ray_and_has_no_fault(name: str) -> None:
    text = (CLUSTER / name).read_text()
    assert ray_faults(text) == []
    assert own_faults(text) == []


@pytest.mark.parametrize(
    ("name", "good", "bad", "fault"),
    [
        ("gpu.yaml", "max_workers: 8\n", "max_wokers: 8\n", "Ray refuses it"),
        ("gpu.yaml", "head_node_type: head", "head_node_type: haed", "Ray refuses it"),
        ("gpu.yaml", "idle_timeout_minutes: 10", "idle_timeout_minutes: soon", "Ray refuses it"),
        ("onprem.yaml", "  head_ip: 10.0.0.10\n", "", "Ray refuses it"),
        ("gpu.yaml", "docker: {}", "docker: {image: 'rayproject/ray:latest', container_name: ray}", "not Ray"),
        ("gpu.yaml", "docker: {}", "docker: {image: 'rayproject/ray:2.50.0-py311', container_name: ray}", "not Ray"),
        ("gpu.yaml", "--constraint constraints.txt --editable", "--editable", "setup does not install"),
        ("gpu.yaml", "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "open to everybody"),
        ("onprem.yaml", "--dashboard-host=127.0.0.1", "", "the dashboard answers others"),
        ("gpu.yaml", "  cache_stopped_nodes: false", "  cache_stopped_nodes: true", "stopped machines"),
        ("gpu.yaml", "  cache_stopped_nodes: false", "  security_group: {GroupName: x}", "opens ssh to everybody"),
        ("gpu.yaml", "      SecurityGroupIds: [sg-FILL_IN]\n", "", "make a security group"),
        ("gpu.yaml", "      ImageId: ami-FILL_IN\n", "", "no AMI is pinned"),
        ("gpu.yaml", "HttpTokens: required", "HttpTokens: optional", "without a token"),
        ("gpu.yaml", "m6i.xlarge", "m6i.xlarge\n      InstanceMarketOptions: {MarketType: spot}", "may be taken away"),
        ("gpu.yaml", "resources: {CPU: 0}", "resources: {CPU: 4}", "the head trains"),
        ("gpu.yaml", "    min_workers: 0\n", "    min_workers: 1\n", "never goes"),
        ("gpu.yaml", "ssh_user: ubuntu", "ssh_user: ubuntu # AKIAIOSFODNN7EXAMPLE", "a key in the file"),
        ("gpu.yaml", ": search_spaces\n", ": serach_spaces\n", "not there: serach_spaces"),
        ("gpu.yaml", ": search_spaces\n", ": .git\n", "grows"),
        ("gpu.yaml", "  ~/.ray/auth_token: ~/.ray/auth_token\n", "", "the token is not copied"),
        ("gpu.yaml", "RAY_AUTH_MODE=token;\n    ulimit", "X=1;\n    ulimit", "no token for the worker"),
        ("onprem.yaml", "RAY_AUTH_MODE=token\n    RAY_enable", "RAY_enable", "no token for the head"),
        ("onprem.yaml", "unset OMP_NUM_THREADS; ", "", "one thread"),
        ("onprem.yaml", "RAY_enable_autoscaler_v2=0", "X=0", "autoscaler v2"),
        ("onprem.yaml", "--node-ip-address=10.0.0.10", "--node-ip-address=10.0.0.9", "two addresses"),
        ("onprem.yaml", "--node-ip-address=$(ip", "--x=$(ip", "guess their addresses"),
    ],
)
def test_a_broken_copy_is_found_out(name: str, good: str, bad: str, fault: str) -> None:
    text = (CLUSTER / name).read_text()
    assert good in text
    broken = text.replace(good, bad)
    found = ray_faults(broken) if fault == "Ray refuses it" else own_faults(broken)
    assert any(fault in each for each in found), found


def started_for(num_gpus: int) -> dict[str, int]:
    """The kinds of machines that the autoscaler starts for so many trials with one GPU each, from gpu.yaml."""
    config = yaml.safe_load((CLUSTER / "gpu.yaml").read_text())
    head = config["head_node_type"]
    kinds = {
        name: NodeTypeConfig(
            name=name, min_worker_nodes=0, max_worker_nodes=1 if name == head else kind["max_workers"],
            priority=kind.get("priority", 0), resources=kind["resources"],
        )
        for name, kind in config["available_node_types"].items()
    }  # fmt: skip
    wanted = [ResourceRequestUtil.make({"CPU": 1, "GPU": 1})] * num_gpus
    request = SchedulingRequest(
        disable_launch_config_check=True, node_type_configs=kinds, max_num_nodes=config["max_workers"] + 1,
        resource_requests=ResourceRequestUtil.group_by_count(wanted),
    )  # fmt: skip
    return {each.instance_type: each.count for each in ResourceDemandScheduler().schedule(request).to_launch}


def test_spot_machines_come_first_and_others_only_beyond_their_number() -> None:
    assert started_for(1) == {"l4_spot": 1}
    assert started_for(6) == {"l4_spot": 6}
    assert started_for(20) == {"l4_spot": 6, "l4": 2}


def test_a_refused_request_does_not_turn_the_autoscaler_to_another_kind_but_a_machine_that_never_starts_does() -> None:
    monitor = CloudResourceMonitor()
    for status, known in (("ALLOCATION_FAILED", {}), ("ALLOCATION_TIMEOUT", {"l4_spot": 0.0})):
        code = messages.Instance.InstanceStatus.Value(status)
        monitor.notify([messages.InstanceUpdateEvent(instance_type="l4_spot", new_instance_status=code)])
        assert monitor.get_recoverable_resource_availabilities() == known
