"""How the workers of a run find each other: over the network that Ray itself uses, and with an end to waiting."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil
import ray
from ray.train._internal.base_worker_group import BaseWorkerGroup
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.util.placement_group import remove_placement_group

INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@dataclass
class OverRaysNetwork(TorchConfig):
    """Torch's process group on the interface that has the address by which Ray knows each machine.

    Left to themselves, gloo takes what the host's name resolves to, often 127.0.0.1, and NCCL the first one that is up,
    often Docker's.
    """

    check_machine: Callable[[], None] = field(kw_only=True)
    """Called in each worker's process, before it is asked to talk over its GPU; what it raises is not tried again."""

    @property
    def backend_cls(self) -> "type[_OverRaysNetwork]":
        """What Ray Train starts it with."""
        return _OverRaysNetwork


class _OverRaysNetwork(_TorchBackend):
    def on_start(self, worker_group: BaseWorkerGroup, backend_config: TorchConfig) -> None:
        assert isinstance(backend_config, OverRaysNetwork), "its own backend's"
        try:
            worker_group.execute(backend_config.check_machine)
            worker_group.execute(choose_interface)
            super().on_start(worker_group, backend_config)
        except Exception:
            # Ray Train counts the group as started, but does not know it yet: nobody would free what it holds.
            assert isinstance(worker_group, WorkerGroup), "no group of replicas"
            remove_placement_group(worker_group.get_worker_group_state().placement_group_handle.placement_group)
            raise


def choose_interface() -> None:
    """In a worker's process. Variables that a user has set count."""
    address = ray.util.get_node_ip_address()
    names = [
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(each.family in (socket.AF_INET, socket.AF_INET6) and each.address == address for each in addresses)
    ]
    for variable in INTERFACES if names else ():
        os.environ.setdefault(variable, names[0])
