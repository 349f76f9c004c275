"""Asks Ray which machines a cluster has now, and its autoscaler's file how many it may have."""

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
import yaml
from ray._private import state
from ray._private.utils import get_num_cpus
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # pyright: ignore[reportAttributeAccessIssue]

from slowfast_ray.data.loading import num_usable_cpus
from slowfast_ray.running.nodes.slots import Machine, Machines

MONITOR_FLAG = "--autoscaling-config="
"""Of Ray's monitor, on the head of a cluster that `ray up` made: it names the file that says how far it may grow."""
ON_KUBERNETES = "KUBERAY_GEN_RAY_START_CMD"
"""KubeRay sets this variable in its containers, to their `ray start`; how far a cluster may grow is written where only
its autoscaler reads."""
GROWS_ON_KUBERNETES = "--no-monitor"
"""In the `ray start` of a head whose cluster KubeRay scales, by a container of its own, not Ray's monitor; without
`enableInTreeAutoscaling`, KubeRay's default, it is missing, and no machine ever comes. From KubeRay's source:
DefaultHeadPodTemplate in ray-operator/controllers/ray/common/pod.go; Ray's own source knows the flag alone."""


def here() -> Machines:
    """What this process may use of this machine: what Ray is told to have when it is started on it."""
    # Ray alone counts by control groups, which batch systems may leave as they are, and not by what a process may use.
    num_cpus = max(1, min(num_usable_cpus(), int(get_num_cpus(override_docker_cpu_warning=True))))
    return Machines((Machine(num_cpus, torch.cuda.device_count()),))


def joined() -> Machines:
    """Those of the connected Ray."""
    most = _most(ray.get_runtime_context().gcs_address)
    can_grow = bool(most) or GROWS_ON_KUBERNETES in os.environ.get(ON_KUBERNETES, "").split()
    return Machines(now(), most, can_grow=can_grow)


def now() -> tuple[Machine, ...]:
    """Those that are alive and stay."""
    return tuple(machine_of(node) for node in staying().values())


def staying() -> dict[str, Mapping[str, Any]]:
    """Those that are alive and stay, by their ids: one that is being drained takes no more work."""
    leaving = state.state.get_draining_nodes()
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving}


def machine_of(node: Mapping[str, Any]) -> Machine:
    """As ray.nodes() describes it."""
    return Machine(node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0))


def are_held() -> bool:
    """Whether this job holds room on them for a process that trains, or for a group of workers: it waits otherwise."""
    table = state.state._connect_and_get_accessor().get_placement_group_table()
    groups = [PlacementGroupTableData.FromString(each) for each in table]
    # That of a process which only waits for a group of workers holds no CPU.
    return any(
        each.state == PlacementGroupTableData.CREATED
        and each.creator_job_id.hex() == ray.get_runtime_context().get_job_id()
        and any(bundle.unit_resources.get("CPU") for bundle in each.bundles)
        for each in groups
    )


@lru_cache(maxsize=1)
def _most(gcs_address: str) -> tuple[Machine, ...]:
    """All that the autoscaler of this machine may have at once; none where there is no autoscaler here. It is looked
    for once a cluster.
    """
    path = _autoscaler_file()
    if path is None:
        return ()
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    if config["provider"]["type"] == "local":  # all that are named are started at once
        return ()
    kinds = config.get("available_node_types", {})
    head = config.get("head_node_type")
    found: list[Machine] = []
    for name, kind in kinds.items():
        resources = kind.get("resources", {})
        machine = Machine(resources.get("CPU", 0), resources.get("GPU", 0))
        num = 1 if name == head else min(kind.get("max_workers", 0), config.get("max_workers", 0))
        found += [machine] * num
    # Of different kinds together it may have fewer than of each alone: those that hold most are counted.
    found.sort(key=lambda each: (each.gpus, each.cpus), reverse=True)
    return tuple(found[: config.get("max_workers", 0) + 1])


def _autoscaler_file() -> Path | None:
    for process in psutil.process_iter(["cmdline"]):
        for word in process.info["cmdline"] or []:
            if word.startswith(MONITOR_FLAG):
                path = Path(word.removeprefix(MONITOR_FLAG)).expanduser()
                return path if path.is_file() else None
    return None
